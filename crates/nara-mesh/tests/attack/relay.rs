//! An active man in the middle of TLS, whose bytes he cannot read.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::free_port;

type Change = Box<dyn FnMut(usize, &mut Vec<u8>) -> bool + Send>;

/// A TCP relay that runs until the test ends. It records the bytes of clients per connection.
#[derive(Clone)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    behind: SocketAddr,
    /// Called with the offset of each piece in its direction; may change it, and returns whether the connection
    /// continues.
    to_server: Change,
    to_client: Change,
    sent: Vec<Vec<u8>>,
}

impl Relay {
    /// Starts a relay before `behind` that changes nothing yet.
    pub(crate) async fn before(behind: SocketAddr) -> Self {
        let listener = TcpListener::bind(free_port()).await.unwrap();
        let relay = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::new(Mutex::new(State {
                behind,
                to_server: Box::new(|_, _| true),
                to_client: Box::new(|_, _| true),
                sent: Vec::new(),
            })),
        };
        let running = relay.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let index = {
                    let mut state = running.state();
                    state.sent.push(Vec::new());
                    state.sent.len() - 1
                };
                tokio::spawn(running.clone().pass_on(index, near));
            }
        });
        relay
    }

    /// Redirects new connections to another server.
    pub(crate) fn divert(&self, behind: SocketAddr) {
        self.state().behind = behind;
    }

    pub(crate) fn to_server(&self, change: impl FnMut(usize, &mut Vec<u8>) -> bool + Send + 'static) {
        self.state().to_server = Box::new(change);
    }

    pub(crate) fn to_client(&self, change: impl FnMut(usize, &mut Vec<u8>) -> bool + Send + 'static) {
        self.state().to_client = Box::new(change);
    }

    /// Returns the bytes of clients, per connection.
    pub(crate) fn sent(&self) -> Vec<Vec<u8>> {
        self.state().sent.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass_on(self, index: usize, near: TcpStream) {
        let behind = self.state().behind;
        let far = TcpStream::connect(behind).await.unwrap();
        let (mut from_near, mut to_near) = near.into_split();
        let (mut from_far, mut to_far) = far.into_split();
        let out = async {
            let mut place = 0;
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from_near.read(&mut buffer).await {
                let mut piece = buffer[..count].to_vec();
                let goes_on = {
                    let mut state = self.state();
                    state.sent[index].extend_from_slice(&piece);
                    (state.to_server)(place, &mut piece)
                };
                place += count;
                if to_far.write_all(&piece).await.is_err() || !goes_on {
                    break;
                }
            }
        };
        let back = async {
            let mut place = 0;
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from_far.read(&mut buffer).await {
                let mut piece = buffer[..count].to_vec();
                let goes_on = (self.state().to_client)(place, &mut piece);
                place += count;
                if to_near.write_all(&piece).await.is_err() || !goes_on {
                    break;
                }
            }
        };
        // When one direction ends, so does the other: a connection is cut as a whole.
        tokio::select! {
            () = out => {}
            () = back => {}
        }
    }
}
