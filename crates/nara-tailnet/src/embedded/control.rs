//! The client of the control server: reconnects for as long as the node lives.
//!
//! While the control server is unreachable, the last map stays in force and packets keep flowing.

mod apply;
mod connection;
mod error;
mod register;
mod stream;

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use jiff::Timestamp;
use nara_mesh::proto::backoff::Backoff;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use ts_control::client::HttpConn;
use ts_control::{Endpoint, MapRequestBuilder};

pub(super) use self::apply::Parts;
use self::connection::{ANSWER, Dialer};
use self::error::ControlError;
use self::register::{APP, Registered};
use self::stream::MapStream;
use super::chain::chain;
use super::keys::Keys;
use super::netmap::Netmap;
use super::settings::EmbeddedSettings;
use super::sleep::{Sleeps, slept};
use super::tls::Tls;
use super::underlay::RegionId;
use crate::random::random;
use crate::status::NotReadyReason;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The session length after which the pause is reset to the minimum.
const GOOD: Duration = Duration::from_secs(10);
/// The timeout for a login with a browser.
const LOGIN: Duration = Duration::from_secs(600);
/// The read timeout of the map stream. The control server sends a message about every 60 s.
const SILENCE: Duration = Duration::from_secs(150);
/// The timeout of a logout.
const GOODBYE: Duration = Duration::from_secs(5);

/// The state of the connection to the control server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum ControlState {
    /// Not connected yet.
    #[default]
    Connecting,
    Online,
    /// Disconnected, for this reason.
    Away(NotReadyReason),
    /// The node has left the tailnet.
    Left,
}

/// A request to leave the tailnet; the control task answers when it has left.
pub(super) type Leave = oneshot::Sender<std::io::Result<()>>;

/// The task that talks to the control server.
pub(super) struct Control {
    settings: EmbeddedSettings,
    dialer: Dialer,
    keys: Keys,
    netmap: Netmap,
    parts: Parts,
    registered: bool,
    /// The last expiry of our key that the clock has reached. If the control server then accepts the key, the clock is
    /// wrong.
    checked_expiry: Option<Timestamp>,
    state: watch::Sender<ControlState>,
}

/// The reason for the end of a session without an error.
enum End {
    Leave(Leave),
    /// The node was dropped.
    Dropped,
}

impl Control {
    pub(super) fn new(
        settings: EmbeddedSettings,
        tls: Tls,
        keys: Keys,
        parts: Parts,
        state: watch::Sender<ControlState>,
    ) -> Self {
        Self {
            dialer: Dialer::new(settings.control_url.clone(), tls),
            settings,
            keys,
            netmap: Netmap::default(),
            parts,
            registered: false,
            checked_expiry: None,
            state,
        }
    }

    /// Runs until the node leaves.
    pub(super) async fn run(mut self, mut leave: mpsc::Receiver<Leave>, mut sleeps: Sleeps) {
        let mut backoff = Backoff::new(FIRST_PAUSE, self.settings.max_backoff);
        loop {
            let begin = tokio::time::Instant::now();
            let session = std::panic::AssertUnwindSafe(self.session(&mut leave)).catch_unwind();
            let session = tokio::select! {
                session = session => session,
                // After a sleep the server has closed or dropped the connection.
                () = slept(&mut sleeps) => {
                    backoff.reset();
                    continue;
                }
            };
            let error = match session {
                Ok(Ok(End::Dropped)) => return,
                Ok(Ok(End::Leave(done))) => return self.leave(done).await,
                Ok(Err(error)) => error,
                // The libraries parse input of the server: a panic in them must not end the node.
                Err(_) => ControlError::Protocol {
                    step: "session",
                    detail: "a library panicked".to_owned(),
                },
            };
            if begin.elapsed() >= GOOD {
                backoff.reset();
            }
            let pause = backoff.after_failure(random());
            tracing::info!(
                error = chain(&error),
                ?pause,
                "disconnected from the control server"
            );
            self.state.send_replace(ControlState::Away(error.reason()));
            tokio::select! {
                () = sleep(pause) => {}
                () = slept(&mut sleeps) => backoff.reset(),
                request = leave.recv() => match request {
                    Some(done) => return self.leave(done).await,
                    None => return,
                },
            }
        }
    }

    /// Connects, and runs the connection until it ends.
    async fn session(&mut self, leave: &mut mpsc::Receiver<Leave>) -> Result<End, ControlError> {
        let connection = tokio::select! {
            connection = within("connect", ANSWER, self.dialer.connect(self.keys.state())) => connection?,
            request = leave.recv() => return Ok(request.map_or(End::Dropped, End::Leave)),
        };
        self.follow(&connection, leave).await
    }

    /// Registers if needed, and follows the map until the connection ends.
    async fn follow(
        &mut self,
        connection: &HttpConn,
        leave: &mut mpsc::Receiver<Leave>,
    ) -> Result<End, ControlError> {
        if !self.registered {
            tokio::select! {
                registered = self.register(connection) => registered?,
                request = leave.recv() => return Ok(request.map_or(End::Dropped, End::Leave)),
            }
        }
        let mut home = self.parts.relays.home();
        let preferred = *home.borrow_and_update();
        let mut own = self.parts.direct.own();
        let endpoints = own.borrow_and_update().clone();
        let stream = within("map", ANSWER, self.map(connection, preferred, endpoints, true)).await;
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                // A control server that no longer knows us refuses the map: register again on the next attempt.
                self.registered = false;
                return Err(error);
            }
        };
        loop {
            tokio::select! {
                message = timeout(SILENCE, stream.next()) => {
                    let message = message.map_err(|_| ControlError::TimedOut { step: "map", after: SILENCE })??;
                    if let Some(ping) = &message.ping {
                        self.dialer.answer(ping, connection).await;
                    }
                    self.netmap.fold(message);
                    let at_home = *home.borrow();
                    self.parts.apply(&self.netmap, at_home).await;
                    self.check_expiry()?;
                    self.state.send_replace(ControlState::Online);
                }
                Ok(()) = home.changed() => {
                    let home = *home.borrow_and_update();
                    self.parts.apply(&self.netmap, home).await;
                    let endpoints = own.borrow_and_update().clone();
                    within("map", ANSWER, self.map(connection, home, endpoints, false)).await?;
                }
                Ok(()) = own.changed() => {
                    let endpoints = own.borrow_and_update().clone();
                    let at_home = *home.borrow();
                    within("map", ANSWER, self.map(connection, at_home, endpoints, false)).await?;
                }
                request = leave.recv() => return Ok(request.map_or(End::Dropped, End::Leave)),
            }
        }
    }

    /// Fails if our key seems to have expired, to ask the control server with another registration.
    fn check_expiry(&mut self) -> Result<(), ControlError> {
        let Some(own) = &self.netmap.own else {
            return Ok(());
        };
        let now = self.netmap.time.unwrap_or_else(time_of_day);
        let is_reached = own.key_expiry.is_some_and(|expiry| expiry <= now);
        if own.expired || is_reached && own.key_expiry != self.checked_expiry {
            self.checked_expiry = own.key_expiry;
            self.registered = false;
            return Err(ControlError::KeyExpired);
        }
        Ok(())
    }

    /// Registers the node, with a new key if the control server answers that the old one has expired: a new key needs an
    /// auth key or a login.
    async fn register(&mut self, connection: &HttpConn) -> Result<(), ControlError> {
        let mut followup: Option<String> = None;
        let mut renewed = false;
        loop {
            let limit = if followup.is_some() { LOGIN } else { ANSWER };
            let register = self
                .dialer
                .register(connection, &self.settings, &self.keys, followup.take());
            match within("register", limit, register).await? {
                Registered::Done => break,
                Registered::Login { url } => {
                    let error = ControlError::LoginNeeded { url: url.clone() };
                    self.state.send_replace(ControlState::Away(error.reason()));
                    followup = Some(url);
                }
                Registered::Expired if renewed => return Err(ControlError::KeyExpired),
                Registered::Expired => {
                    self.renew_key()?;
                    renewed = true;
                }
            }
        }
        self.keys.rotated();
        self.registered = true;
        Ok(())
    }

    /// Rotates the node key, unless a new key is already waiting for the control server to accept it.
    fn renew_key(&mut self) -> Result<(), ControlError> {
        if self.keys.previous().is_none() {
            self.keys.rotate()?;
            self.parts.set_keys(self.keys.state().node_keys.clone());
        }
        Ok(())
    }

    /// Requests the map, or only reports our home region and our endpoints.
    async fn map(
        &self,
        connection: &HttpConn,
        home: Option<RegionId>,
        endpoints: Vec<Endpoint>,
        as_stream: bool,
    ) -> Result<MapStream, ControlError> {
        let builder = MapRequestBuilder::new(self.keys.state())
            .hostname(&self.settings.host_name)
            .endpoints(endpoints);
        let builder = if as_stream {
            builder.as_stream()
        } else {
            builder.as_request()
        };
        let mut request = builder.build();
        if let Some(host) = &mut request.host_info {
            host.app = APP;
            host.os = std::env::consts::OS;
            let net = host.net_info.get_or_insert_default();
            net.preferred_derp = home.and_then(NonZeroU32::new).map(Into::into);
        }
        self.dialer.map(connection, &request).await
    }

    /// Logs out an ephemeral node, so that the control server removes it.
    async fn leave(self, done: Leave) {
        let result = if self.settings.ephemeral && self.registered {
            let goodbye = async {
                let connection = self.dialer.connect(self.keys.state()).await?;
                self.dialer.log_out(&connection, &self.settings, &self.keys).await
            };
            within("log out", GOODBYE, goodbye)
                .await
                .map_err(std::io::Error::other)
        } else {
            Ok(())
        };
        self.state.send_replace(ControlState::Left);
        // The requester may have given up.
        drop(done.send(result));
    }
}

async fn within<T>(
    step: &'static str,
    after: Duration,
    work: impl Future<Output = Result<T, ControlError>>,
) -> Result<T, ControlError> {
    match timeout(after, work).await {
        Ok(result) => result,
        Err(_) => Err(ControlError::TimedOut { step, after }),
    }
}

/// Returns the time of day of this machine, clamped to the maximum timestamp.
fn time_of_day() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
