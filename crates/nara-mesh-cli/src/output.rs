//! Stdout and stderr. Once [`detach`] was called, a reader that is slow, stuck or gone never holds up the program:
//! lines wait in a bounded queue for a thread that writes them, and are left out when it is full.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anstream::AutoStream;
use nara_proto::identity::escape;

/// Lines that wait for a reader. Each has a few hundred bytes.
const MOST_LINES: usize = 4096;

static STDOUT: OnceLock<Arc<Queue>> = OnceLock::new();
static STDERR: OnceLock<Arc<Queue>> = OnceLock::new();
static JOURNAL: OnceLock<Arc<Queue>> = OnceLock::new();

/// From now on, no line waits for the reader of its stream: for programs that serve others.
pub(crate) fn detach() -> io::Result<()> {
    // Descriptors of our own: the streams of the standard library hold a lock while they write.
    #[cfg(unix)]
    let (stdout, stderr) = {
        use std::os::fd::AsFd as _;
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        (
            AutoStream::auto(std::fs::File::from(stdout)),
            AutoStream::auto(std::fs::File::from(stderr)),
        )
    };
    #[cfg(not(unix))]
    let (stdout, stderr) = (anstream::stdout(), anstream::stderr());
    STDOUT.get_or_init(|| Queue::start("stdout", stdout));
    STDERR.get_or_init(|| Queue::start("stderr", stderr));
    Ok(())
}

/// From now on, [`journal`] sends records there: each write is one.
pub(crate) fn open_journal(journal: impl Write + Send + 'static) {
    JOURNAL.get_or_init(|| Queue::start("the journal", journal));
}

/// Sends a record to the journal, if it is open. It never waits.
pub(crate) fn journal(record: Vec<u8>) {
    if let Some(queue) = JOURNAL.get() {
        queue.push(record);
    }
}

/// Whether the program runs on a terminal.
pub(crate) fn on_terminal() -> bool {
    use io::IsTerminal as _;
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}

/// Waits until all lines are written, but not longer than `limit` for each stream.
pub(crate) fn flush(limit: Duration) {
    for queue in [&STDOUT, &STDERR, &JOURNAL].into_iter().filter_map(OnceLock::get) {
        queue.flush(limit);
    }
}

/// Writes a line to stdout.
///
/// # Errors
/// If the stream is not detached and cannot be written.
pub(crate) fn stdout(line: &str) -> io::Result<()> {
    match STDOUT.get() {
        Some(queue) => queue.push(with_end(line)),
        None => {
            let mut stdout = anstream::stdout().lock();
            writeln!(stdout, "{line}")?;
            stdout.flush()?;
        }
    }
    Ok(())
}

/// Writes bytes to stdout as they are, for commands that are not detached.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn stdout_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Writes a line to stderr, if that is possible.
pub(crate) fn stderr(line: &str) {
    stderr_bytes(with_end(line));
}

fn stderr_bytes(bytes: Vec<u8>) {
    match STDERR.get() {
        Some(queue) => queue.push(bytes),
        // If stderr is gone there is nobody left to tell.
        None => drop(anstream::stderr().lock().write_all(&bytes)),
    }
}

fn with_end(line: &str) -> Vec<u8> {
    [line.as_bytes(), b"\n"].concat()
}

/// A text of a peer with every character escaped that is not seen or changes how the text around it is seen: nothing in it
/// begins a line, steers a terminal or reorders what stands beside it. What joins emoji and spaces of other widths stay, as
/// people write them in texts; names are shown by [`escape`] alone.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Cow::Borrowed(text);
    }
    let parts = text.split_inclusive(is_usual_in_texts);
    Cow::Owned(
        parts
            .flat_map(|part| {
                let plain = part.trim_end_matches(is_usual_in_texts);
                [escape(plain).to_string(), part[plain.len()..].to_owned()]
            })
            .collect(),
    )
}

fn is_usual_in_texts(c: char) -> bool {
    matches!(
        c,
        '\u{a0}' | '\u{200c}' | '\u{200d}' | '\u{3000}' | '\u{fe0e}' | '\u{fe0f}'
    )
}

/// Stderr for the log. It never fails. Each write is an event, which stays on one line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let event = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let mut line = Vec::with_capacity(bytes.len() + 16);
        for byte in event {
            match byte {
                b'\n' => line.extend_from_slice(b"\\n"),
                b'\r' => line.extend_from_slice(b"\\r"),
                byte => line.push(*byte),
            }
        }
        line.push(b'\n');
        stderr_bytes(line);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines that wait for a stream, and the thread that writes them.
#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    writing: bool,
    /// Lines that were left out since the last one that was written.
    lost: u64,
}

impl Queue {
    fn start(name: &'static str, stream: impl Write + Send + 'static) -> Arc<Self> {
        let queue = Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let writing = queue.clone();
        let spawned = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || writing.run(name, stream));
        if let Err(error) = spawned {
            // The queue fills, and the program goes on.
            tracing::error!(%error, "no thread writes {name}");
        }
        queue
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: Vec<u8>) {
        let mut state = self.lock();
        if state.lines.len() < MOST_LINES {
            state.lines.push_back(line);
        } else {
            state.lost += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    fn flush(&self, limit: Duration) {
        let unwritten = |state: &mut State| state.writing || !state.lines.is_empty();
        // Whether it was in time makes no difference now.
        drop(self.changed.wait_timeout_while(self.lock(), limit, unwritten));
    }

    /// Writes what comes, for ever: a disk that is full or a reader that is gone may come back.
    fn run(&self, name: &'static str, mut stream: impl Write) {
        let mut failing = false;
        loop {
            let empty = |state: &mut State| state.lines.is_empty();
            let waiting = self.changed.wait_while(self.lock(), empty);
            let mut state = waiting.unwrap_or_else(PoisonError::into_inner);
            let Some(line) = state.lines.pop_front() else {
                continue;
            };
            state.writing = true;
            let lost = std::mem::take(&mut state.lost);
            drop(state);
            let outcome = stream.write_all(&line).and_then(|()| stream.flush());
            let mut state = self.lock();
            state.writing = false;
            if outcome.is_err() {
                state.lost += lost + 1;
            }
            drop(state);
            self.changed.notify_all();
            // About stdout, stderr can be told; about stderr, nobody until it is read again.
            match &outcome {
                Ok(()) if lost > 0 => {
                    tracing::warn!("{lost} lines of {name} were dropped: the reader is too slow")
                }
                Err(error) if !failing => {
                    tracing::warn!(%error, "{name} cannot be written: its lines are lost")
                }
                _ => {}
            }
            failing = outcome.is_err();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A reader that takes a line when it is told to.
    struct Reader {
        taken: mpsc::Sender<Vec<u8>>,
        turns: mpsc::Receiver<io::Result<()>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Without somebody who tells, all is taken.
            self.turns.recv().unwrap_or(Ok(()))?;
            self.taken.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_text_with_control_characters_stays_on_its_line() {
        assert_eq!(printable("plain é"), "plain é");
        assert_eq!(printable("a\nb\x1b[2J\u{9b}"), "a\\nb\\u{1b}[2J\\u{9b}");
        assert_eq!(
            printable("a\u{202e}b\u{2028}c\u{200b}"),
            "a\\u{202e}b\\u{2028}c\\u{200b}"
        );
        assert_eq!(
            printable("👩\u{200d}🚀 ❤\u{fe0f}\u{fe0f}!"),
            "👩\u{200d}🚀 ❤\u{fe0f}\u{fe0f}!"
        );
    }

    #[test]
    fn a_reader_that_stops_costs_lines_and_nothing_else() {
        let (taken, lines) = mpsc::channel();
        let (turn, turns) = mpsc::channel();
        let queue = Queue::start("test", Reader { taken, turns });
        // Nobody reads, and nothing waits.
        for number in 0..2 * MOST_LINES {
            queue.push(number.to_string().into_bytes());
        }
        // A write that fails loses its line, and the next one is tried.
        turn.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        drop(turn);
        assert_eq!(lines.recv().unwrap(), b"1");
        queue.flush(Duration::from_secs(60));
        queue.push(b"again".to_vec());
        queue.flush(Duration::from_secs(60));
        let read: Vec<_> = lines.try_iter().collect();
        assert!(read.len() <= MOST_LINES, "{}", read.len());
        assert_eq!(read.last().unwrap(), b"again");
        assert_eq!(queue.lock().lost, 0);
    }
}
