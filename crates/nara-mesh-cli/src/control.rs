//! The control socket: how other commands talk to the nara that runs on a data folder.
//!
//! It is `run/control.sock` in the data folder, in a folder that only the owner can enter. A question is one line of JSON,
//! and so is its answer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nara_proto::runtime_message::REPLY_TIMEOUT;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::harmless;

/// How long an answer may take: a peer has [`REPLY_TIMEOUT`] to reply to a message, and a reload reads files and the
/// ledger.
const ANSWER: Duration = REPLY_TIMEOUT.saturating_add(Duration::from_secs(15));

/// Questions that are answered at once.
const AT_ONCE: usize = 8;

/// The most bytes of a question or an answer.
const MOST: u64 = 1 << 20;

/// The longest path of a socket that every Unix takes.
const LONGEST_PATH: usize = 103;

/// What is asked of a nara that runs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "question", rename_all = "kebab-case")]
pub(crate) enum Question {
    /// Tell what happened to the clock of this machine.
    Clock,
    /// Read the files again, and the decisions in the ledger.
    Reload,
    /// Leave data with a peer, sealed.
    StashPut {
        /// A name, an id or an address.
        peer: String,
        /// The data, base64.
        data: String,
    },
    /// Fetch what was left with a peer.
    StashGet {
        /// A name, an id or an address.
        peer: String,
    },
    /// Forget what a peer left here.
    StashDrop {
        /// The id of the owner.
        owner: String,
    },
    /// Send a postcard, to the first peer that takes it if none is named.
    WorldSend {
        /// The text.
        message: String,
        /// A name, an id or an address.
        to: Option<String>,
    },
    /// What became of the postcards that were sent.
    WorldList,
    /// Where this nara is in the network.
    Coordinates,
}

/// A question, and the way to answer it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) question: Question,
    answer: oneshot::Sender<Value>,
}

impl Asked {
    /// Answers. Who asked may be gone.
    pub(crate) fn answer(self, answer: Value) {
        let _ = self.answer.send(answer);
    }
}

/// The control socket of this nara, until it is dropped.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    asked: mpsc::Receiver<Asked>,
    task: JoinHandle<()>,
}

impl Control {
    /// Listens in a data folder.
    pub(crate) async fn listen(folder: &Path) -> Outcome<Self> {
        let path = socket_in(folder);
        let failed = |error: io::Error| {
            Failure::failed(format!("the control socket {} cannot be made", path.display())).caused_by(error)
        };
        check_length(&path)?;
        if UnixStream::connect(&path).await.is_ok() {
            return Err(
                Failure::failed(format!("another process serves the nara of {}", folder.display()))
                    .hint("end it first, or pass another --data-dir"),
            );
        }
        make_private(folder.join("run")).map_err(failed)?;
        // What an earlier process left.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        let (sender, asked) = mpsc::channel(1);
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let task = tokio::spawn(async move {
            loop {
                let place = places.clone().acquire_owned().await;
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let sender = sender.clone();
                        tokio::spawn(async move {
                            let _place = place;
                            drop(tokio::time::timeout(ANSWER, answer(stream, &sender)).await);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the control socket does not accept");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        });
        Ok(Self { path, asked, task })
    }

    /// Waits for the next question. Cancel safe.
    pub(crate) async fn next(&mut self) -> Asked {
        match self.asked.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Asks the nara that runs on a data folder. `None`: none runs.
pub(crate) async fn ask(folder: &Path, question: Question) -> Outcome<Option<Value>> {
    let path = socket_in(folder);
    check_length(&path)?;
    let mut stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => {
            return Err(
                Failure::failed(format!("the control socket {} cannot be used", path.display()))
                    .caused_by(error),
            );
        }
    };
    let asking = async {
        let line = serde_json::to_string(&question).map_err(io::Error::other)?;
        stream.write_all(format!("{line}\n").as_bytes()).await?;
        read_line(&mut stream).await
    };
    let line = tokio::time::timeout(ANSWER, asking).await;
    let failed = || Failure::failed("the nara that runs does not answer on its control socket");
    let line = line
        .map_err(|_| failed())?
        .map_err(|error| failed().caused_by(error))?;
    serde_json::from_str(&line)
        .map(Some)
        .map_err(|error| failed().caused_by(error))
}

/// As [`ask`], where nothing can be done without the nara that runs.
pub(crate) async fn ask_running(folder: &Path, question: Question) -> Outcome<Value> {
    match ask(folder, question).await? {
        Some(answer) => checked(answer),
        None => Err(not_running(folder)),
    }
}

/// The answer of the nara that runs, or its failure.
pub(crate) fn checked(answer: Value) -> Outcome<Value> {
    let Some(error) = answer["error"].as_str() else {
        return Ok(answer);
    };
    let codes = [Exit::Usage, Exit::Unreachable, Exit::Unauthenticated];
    let exit = codes.into_iter().find(|exit| answer["exit"] == *exit as u8);
    let mut failure = Failure::new(exit.unwrap_or(Exit::Failed), harmless(error));
    failure.hint = answer["hint"].as_str().map(ToOwned::to_owned);
    Err(failure)
}

/// The failure of a command that needs the running nara.
pub(crate) fn not_running(folder: &Path) -> Failure {
    Failure::new(Exit::Unreachable, format!("no nara runs on {}", folder.display())).hint(
        "start it with `nara-mesh serve` or `up`, because peers answer with a request of their own; check --data-dir and \
         --soul-file",
    )
}

async fn answer(mut stream: UnixStream, sender: &mpsc::Sender<Asked>) -> io::Result<()> {
    let line = read_line(&mut stream).await?;
    let (answer, answered) = oneshot::channel();
    let unknown = || serde_json::json!({ "error": "this nara does not know the question" });
    let ended = |_| serde_json::json!({ "error": "the nara ends" });
    let answer = match serde_json::from_str(&line) {
        // Dropped unsent, the question takes the way to answer it along.
        Ok(question) => {
            let _ = sender.send(Asked { question, answer }).await;
            answered.await.unwrap_or_else(ended)
        }
        Err(_) => unknown(),
    };
    stream.write_all(format!("{answer}\n").as_bytes()).await
}

async fn read_line(stream: impl AsyncRead + Unpin) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream.take(MOST)).read_line(&mut line).await?;
    Ok(line)
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("run/control.sock")
}

/// Refuses a path that the operating system cuts or refuses without a reason.
pub(crate) fn check_length(path: &Path) -> Outcome<()> {
    let length = path.as_os_str().len();
    if length <= LONGEST_PATH {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "the socket {} has a path of {length} bytes, and a socket may have {LONGEST_PATH}",
        path.display()
    ))
    .hint("pass a data folder with a shorter path (--data-dir)"))
}

fn make_private(folder: PathBuf) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};

    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_is_answered_while_a_nara_runs_and_only_then() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ask(folder.path(), Question::Reload).await.unwrap(), None);
        let mut control = Control::listen(folder.path()).await.unwrap();
        let second = Control::listen(folder.path()).await.unwrap_err();
        assert!(second.message.contains("another process"), "{second:?}");
        let answering = async {
            // The second question does not wait for the answer to the first.
            let (first, second) = (control.next().await, control.next().await);
            for asked in [second, first] {
                let answer = serde_json::json!({ "asked": asked.question });
                asked.answer(answer);
            }
        };
        let get = Question::StashGet {
            peer: "bob \" of\n".to_owned(),
        };
        let (answer, other, ()) = tokio::join!(
            ask(folder.path(), Question::Reload),
            ask(folder.path(), get),
            answering
        );
        assert_eq!(answer.unwrap().unwrap()["asked"]["question"], "reload");
        assert_eq!(other.unwrap().unwrap()["asked"]["peer"], "bob \" of\n");
        drop(control);
        assert_eq!(ask(folder.path(), Question::Reload).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("run")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(socket_in(folder.path())).unwrap());
        Control::listen(folder.path()).await.unwrap();
        let long = folder.path().join("x".repeat(100));
        let refused = Control::listen(&long).await.unwrap_err();
        assert!(refused.message.contains("may have 103"), "{refused:?}");
    }
}
