//! An active man in the middle of plain HTTP: a proxy between a client and a server, controlled by the attacker.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncWriteExt as _, BufReader, copy};
use tokio::net::{TcpListener, TcpStream};

use crate::message::Message;
use crate::support::free_port;

/// The attacker's action on a request.
#[derive(Debug)]
pub(crate) enum Fate {
    /// Forwards it, changed or not.
    Forward,
    /// Sends it to another server, whose answer is returned.
    Divert(SocketAddr),
    /// Sends it twice; the second answer is returned.
    Twice,
    /// Answers it without forwarding.
    Answer(Message),
    /// Closes the connection.
    Drop,
}

type OnRequest = Box<dyn FnMut(&mut Message) -> Fate + Send>;
type OnAnswer = Box<dyn FnMut(&mut Message) + Send>;

/// A proxy that runs until the test ends.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    behind: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    on_request: OnRequest,
    on_answer: OnAnswer,
    requests: Vec<Message>,
    answers: Vec<Message>,
}

impl Proxy {
    /// Starts a proxy before `behind` that changes nothing yet.
    pub(crate) async fn before(behind: SocketAddr) -> Self {
        let listener = TcpListener::bind(free_port()).await.unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            behind,
            state: Arc::new(Mutex::new(State {
                on_request: Box::new(|_| Fate::Forward),
                on_answer: Box::new(|_| ()),
                requests: Vec::new(),
                answers: Vec::new(),
            })),
        };
        let running = proxy.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let running = running.clone();
                // Both ends notice a broken connection.
                tokio::spawn(async move { running.serve(stream).await });
            }
        });
        proxy
    }

    /// Sets the action on requests from now on.
    pub(crate) fn on_request(&self, act: impl FnMut(&mut Message) -> Fate + Send + 'static) {
        self.state().on_request = Box::new(act);
    }

    /// Sets the action on answers from now on.
    pub(crate) fn on_answer(&self, act: impl FnMut(&mut Message) + Send + 'static) {
        self.state().on_answer = Box::new(act);
    }

    /// Returns the requests to `path` so far, as sent.
    pub(crate) fn requests(&self, path: &str) -> Vec<Message> {
        let state = self.state();
        let to_path = state
            .requests
            .iter()
            .filter(|sent| sent.target().starts_with(path));
        to_path.cloned().collect()
    }

    /// Returns the answers so far, as sent.
    pub(crate) fn answers(&self) -> Vec<Message> {
        self.state().answers.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        while let Some(mut request) = Message::read(&mut read).await? {
            self.state().requests.push(request.clone());
            let fate = (self.state().on_request)(&mut request);
            let (mut answer, rest) = match fate {
                Fate::Forward => exchange(self.behind, &request).await?,
                Fate::Divert(elsewhere) => exchange(elsewhere, &request).await?,
                Fate::Twice => {
                    exchange(self.behind, &request).await?;
                    exchange(self.behind, &request).await?
                }
                Fate::Answer(answer) => {
                    write.write_all(&answer.to_bytes()).await?;
                    continue;
                }
                Fate::Drop => return Ok(()),
            };
            self.state().answers.push(answer.clone());
            (self.state().on_answer)(&mut answer);
            write.write_all(&answer.to_bytes()).await?;
            if answer.is_stream() {
                let mut rest = rest;
                copy(&mut rest, &mut write).await?;
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Sends a request on a new connection. Returns the answer, and the connection after it.
async fn exchange(to: SocketAddr, request: &Message) -> io::Result<(Message, BufReader<TcpStream>)> {
    let mut stream = BufReader::new(TcpStream::connect(to).await?);
    stream.write_all(&request.to_bytes()).await?;
    let answer = Message::read(&mut stream).await?;
    let answer = answer.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    Ok((answer, stream))
}

/// Sends a recorded request, and returns the answer.
pub(crate) async fn send(to: SocketAddr, request: &Message) -> Message {
    exchange(to, request).await.unwrap().0
}
