//! Subscribers that only count. One thread reads all of their streams, to leave the machine to the server.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use memchr::memmem::Finder;
use mio::{Events, Interest, Poll, Token};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_proto::v1::{RequestAuth, Stamp};
use tokio::sync::mpsc;

use super::{Measured, Plan};
use crate::mesh::{Error, Naras};

/// More than a timely reader ever has pending.
const BUFFER: usize = 64 << 10;

struct Stream {
    socket: mio::net::TcpStream,
    /// The incomplete message at the end of the input.
    rest: Vec<u8>,
    opened: bool,
    seen: usize,
    /// The sum of the latencies of its paced events, in microseconds.
    waited: u64,
}

/// Byte patterns that identify messages.
struct Marks {
    end: Finder<'static>,
    event: Finder<'static>,
    ping: Finder<'static>,
    time: Finder<'static>,
}

/// Reads this many streams until all events have arrived. Each signals on `ready` when it is live. Also
/// returns the sorted mean latencies in milliseconds, which show whether some subscribers are always served
/// last.
pub(super) fn read(
    address: SocketAddr,
    naras: &Naras,
    count: usize,
    plan: &Plan,
    ready: &mpsc::UnboundedSender<()>,
) -> Result<(Measured, Vec<f64>), Error> {
    let mut poll = Poll::new()?;
    let mut streams = Vec::new();
    // Shared, as in one nara: two signers would produce equal requests within one millisecond.
    let mut stamp = Stamp::default();
    for number in 0..count {
        let mut socket = std::net::TcpStream::connect(address)?;
        socket.write_all(request(naras, &mut stamp).as_bytes())?;
        socket.set_nonblocking(true)?;
        let mut socket = mio::net::TcpStream::from_std(socket);
        poll.registry()
            .register(&mut socket, Token(number), Interest::READABLE)?;
        streams.push(Stream {
            socket,
            rest: Vec::new(),
            opened: false,
            seen: 0,
            waited: 0,
        });
    }
    let marks = Marks {
        end: Finder::new("\n\n"),
        event: Finder::new("event: event\n"),
        ping: Finder::new("event: ping\n"),
        time: Finder::new("\"ts\":"),
    };
    let mut measured = Measured::new(plan)?;
    let mut buffer = vec![0; BUFFER];
    let mut events = Events::with_capacity(256);
    let mut open = count;
    while open > 0 {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            let stream = &mut streams[event.token().0];
            if measured.is_complete(stream.seen) {
                continue;
            }
            stream.take(&mut buffer, &marks, &mut measured, ready)?;
            if measured.is_complete(stream.seen) {
                open -= 1;
            }
        }
    }
    let mean = |stream: &Stream| stream.waited as f64 / 1e3 / plan.paced as f64;
    let mut means: Vec<_> = streams.iter().map(mean).collect();
    means.sort_by(f64::total_cmp);
    Ok((measured, means))
}

fn request(naras: &Naras, stamp: &mut Stamp) -> String {
    let now = stamp.next(SystemClock.now_millis());
    let bob = &naras.bob;
    let auth = RequestAuth::sign(bob.keypair(), bob.name(), now, "GET", "/events/stream");
    format!(
        "GET /events/stream HTTP/1.1\r\nhost: bob\r\nx-nara-name: bob\r\n\
         x-nara-timestamp: {now}\r\nx-nara-signature: {}\r\n\r\n",
        auth.signature().to_base64()
    )
}

impl Stream {
    /// Processes received bytes.
    fn take(
        &mut self,
        buffer: &mut [u8],
        marks: &Marks,
        measured: &mut Measured,
        ready: &mpsc::UnboundedSender<()>,
    ) -> Result<(), Error> {
        loop {
            let before = self.rest.len();
            buffer[..before].copy_from_slice(&self.rest);
            let read = match self.socket.read(&mut buffer[before..]) {
                Ok(0) => return Err("a stream ended".into()),
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let filled = &buffer[..before + read];
            if !self.opened && !filled.starts_with(b"HTTP/1.1 200") && filled.starts_with(b"HTTP/1.1 ") {
                return Err(String::from_utf8_lossy(filled).into());
            }
            let mut left = filled;
            while let Some(end) = marks.end.find(left) {
                let block;
                (block, left) = left.split_at(end + 2);
                if marks.event.find(block).is_some() {
                    let time = marks.time.find(block).ok_or("an event without a time")? + 5;
                    let digits = block[time..].iter().take_while(|byte| byte.is_ascii_digit());
                    let appended = digits.fold(0, |ts, digit| ts * 10 + i64::from(digit - b'0'));
                    self.seen += 1;
                    self.waited += measured.take(self.seen, appended);
                } else if !self.opened && marks.ping.find(block).is_some() {
                    // It has caught up and is live.
                    self.opened = true;
                    ready.send(())?;
                }
            }
            self.rest.clear();
            self.rest.extend_from_slice(left);
            // A read that fills the buffer may have left more, which edge triggering does not report again.
            if filled.len() < BUFFER {
                return Ok(());
            }
        }
    }
}
