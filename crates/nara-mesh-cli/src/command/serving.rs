//! Runs a nara until interrupted and prints its events: shared by `serve` and `up`.

mod exposition;
mod feed;
mod listen;
mod local_api;
mod moving;
mod opening;
mod reload;
mod signals;
mod work;

pub(super) use feed::Feed;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use nara_local_api::model::{Check, ConflictList};
use nara_local_api::server::{Inbox, Journeys};
use nara_mesh::gossip::GossipConfig;
use nara_mesh::ledger::LedgerError;
use nara_mesh::nara::{NaraBuilder, NaraError};
use nara_mesh::peers_file::PeerEntry;
use nara_mesh::registry::PeerEvent;
use nara_mesh::server::{ServeError, ServerLimits, Shutdown};
use nara_mesh::tls::ChannelTrust;
use nara_mesh::{Nara, defaults};
use nara_proto::identity::KeyId;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use self::exposition::Exposition;
use self::feed::{FeedHandler, Lines};
use self::local_api::{Api, Opening, Question};
use self::moving::MovingTcp;
use self::reload::{Files, reload};
use self::signals::{Signal, Signals};
use self::work::Work;
use crate::cli::{Listen, ServingArgs};
use crate::command::doctor;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::hosts;
use crate::keeping;
use crate::ledger_file::{self, InUse};
use crate::lines::NaraLine;
use crate::network::OnNetwork;
use crate::open_files;
use crate::peer_events::{self, Told};
use crate::printer::{Printer, harmless};
use crate::running;
use crate::service_manager;
use crate::settings::Settings;

/// A nara that is about to run.
pub(super) struct Serving {
    gossip: Option<GossipConfig>,
    limits: ServerLimits,
    catch_up: bool,
    trust: ChannelTrust,
    grace: Duration,
    metrics: Option<SocketAddr>,
    exposition: Option<Exposition>,
    opening: Option<Opening>,
    network: Option<OnNetwork>,
    api: Option<Api>,
    signals: Signals,
    feed: Feed,
    journeys: Journeys,
    inbox: Inbox,
    lines: Lines,
    /// The peers whose host names are resolved.
    hosts: watch::Sender<Vec<PeerEntry>>,
    /// The value of `--listen`, its address at the start, and the movable listeners.
    listening: Option<(Listen, IpAddr, MovingTcp)>,
    /// The ledger file of the started nara.
    ledger: Option<InUse>,
    printer: Printer,
}

impl Serving {
    /// Checks the arguments, and starts what must precede the nara: metrics, signals and output.
    pub(super) async fn prepare(args: &ServingArgs, settings: &Settings, printer: Printer) -> Outcome<Self> {
        let signals = Signals::new()?;
        open_files::raise(args.limits.0.connections);
        let metrics = args.metrics()?;
        let gossip = (!args.no_gossip).then(|| GossipConfig::with_degree(args.gossip_degree.into()));
        let opening = Opening::new(args)?;
        let exposition = (opening.is_on() || metrics.is_some())
            .then(Exposition::start)
            .transpose()?;
        let metrics = match (metrics, &exposition) {
            (Some(address), Some(exposition)) => {
                let served = exposition.clone().serve(address).await;
                Some(served.map_err(|failure| already_running(settings).unwrap_or(failure))?)
            }
            _ => None,
        };
        let (feed, lines) = Feed::new();
        Ok(Self {
            gossip,
            limits: args.limits.0.clone(),
            catch_up: !args.no_catch_up,
            trust: if args.handshake_proof {
                ChannelTrust::Handshake
            } else {
                ChannelTrust::default()
            },
            grace: args.grace,
            metrics,
            exposition,
            opening: Some(opening),
            network: None,
            api: None,
            signals,
            feed,
            journeys: Journeys::default(),
            inbox: Inbox::default(),
            lines,
            hosts: watch::Sender::default(),
            listening: None,
            ledger: None,
            printer,
        })
    }

    /// Returns the feed, to print lines beside those of the nara.
    pub(super) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Sets the network of the nara.
    pub(super) fn on(&mut self, network: OnNetwork) {
        self.network = Some(network);
    }

    /// Waits until the address to listen on exists. `None` if a signal ended the wait.
    pub(super) async fn wait_for(&mut self, listen: &Listen) -> Outcome<Option<SocketAddr>> {
        let address = listen::wait(listen, &mut self.signals, self.printer).await?;
        self.listening = address.map(|address| (listen.clone(), address.ip(), MovingTcp::default()));
        Ok(address)
    }

    /// Starts the nara and prints its addresses. `v1`: the additional address for v1 peers, if free. `None`
    /// if a signal ended the start.
    pub(super) async fn start(
        &mut self,
        builder: NaraBuilder,
        v1: Option<SocketAddr>,
        settings: &Settings,
    ) -> Outcome<Option<Arc<Nara>>> {
        let file = settings.running_folder()?.join("inbox.db");
        keeping::make_folder_of(&file)?;
        if self.opening.as_ref().is_some_and(Opening::is_on) {
            self.inbox = Inbox::open(file).await.map_err(local_api::inbox_unusable)?;
        }
        let registry = settings.registry();
        let events = registry.subscribe();
        let builder = builder.registry(registry).handler(FeedHandler::new(
            self.feed.clone(),
            self.journeys.clone(),
            self.inbox.clone(),
        ));
        let opening = self.opening.take();
        let services = opening.as_ref().and_then(Opening::services);
        let limits = self.limits.clone();
        let builder = builder.configure_server(move |server| {
            let server = server.limits(limits);
            match services {
                Some(services) => server.services(services),
                None => server,
            }
        });
        let builder = match self.gossip.take() {
            Some(config) => builder.gossip(config),
            None => builder.without_gossip(),
        };
        let builder = v1.into_iter().fold(builder, NaraBuilder::also_listen);
        let builder = builder.catch_up(self.catch_up).channel_trust(self.trust);
        let builder = match &self.listening {
            Some((.., transport)) => builder.transport(Arc::new(transport.clone())),
            None => builder,
        };
        let ledger = settings.running_folder()?.join("ledger.db");
        let Some(nara) = self.start_unless_ended(builder, &ledger).await? else {
            return Ok(None);
        };
        self.ledger = Some(InUse::new(ledger.clone()));
        self.hosts.send_replace(settings.peers_of(nara.local())?);
        tokio::spawn(hosts::follow(nara.registry().clone(), self.hosts.subscribe(), hosts::look_up).boxed());
        tokio::spawn(show_peer_events(events, self.feed.clone()).boxed());
        keeping::log(nara.recalled());
        if let Some(exposition) = &self.exposition {
            exposition.measure(&nara, ledger);
        }
        if let Some(opening) = opening {
            let (network, exposition) = (self.network.clone(), self.exposition.clone());
            let kept = (self.journeys.clone(), self.inbox.clone());
            self.api = opening.open(&nara, network, exposition, kept, settings).await?;
        }
        announce(&nara, v1, self.metrics, self.api.as_ref(), self.printer)?;
        Ok(Some(nara))
    }

    /// Starts the nara. `None` if a signal ended the start, which is slow while the ledger is converted.
    async fn start_unless_ended(
        &mut self,
        builder: NaraBuilder,
        ledger: &Path,
    ) -> Outcome<Option<Arc<Nara>>> {
        let ended = Arc::new(AtomicBool::new(false));
        let builder = builder.on_opening(opening::watch(ended.clone(), self.printer));
        let mut starting = pin!(builder.start());
        let started = loop {
            tokio::select! {
                started = &mut starting => break started,
                () = self.signals.next_end() => ended.store(true, Ordering::Relaxed),
            }
        };
        match started {
            Err(NaraError::Ledger(LedgerError::Stopped)) => Ok(None),
            Err(NaraError::Ledger(error @ (LedgerError::Database(_) | LedgerError::ReadOnly(_)))) => {
                let failure = Failure::failed(format!("the ledger {} cannot be used", ledger.display()));
                Err(ledger_file::not_opened(failure, ledger, error))
            }
            Ok(nara) if ended.load(Ordering::Relaxed) => {
                nara.shutdown(self.grace).await;
                Ok(None)
            }
            started => Ok(Some(Arc::new(started?))),
        }
    }

    /// Serves until a signal ends it.
    pub(super) async fn run(mut self, nara: Arc<Nara>, settings: &Settings) -> Outcome {
        let printer = self.printer;
        let printing = self.lines.print(printer);
        let ledger = self.ledger.take().expect("the nara was started");
        let keeping = keep_in_place(ledger.clone(), self.feed.clone());
        let keeping = AbortOnDropHandle::new(tokio::spawn(keeping.boxed()));
        let reloaded = Arc::new(Notify::new());
        let following = follow(self.listening.take(), reloaded.clone(), self.feed.clone());
        let following = AbortOnDropHandle::new(tokio::spawn(following.boxed()));
        let around = Around {
            nara: &nara,
            ledger: &ledger,
            reloaded: &reloaded,
            network: self.network.as_ref(),
            files: &Files {
                started: settings,
                hosts: &self.hosts,
                printer,
            },
        };
        around
            .until_told_to_end(&mut self.signals, self.api.as_mut(), &self.feed)
            .await?;
        drop((following, keeping));
        if let Some(api) = self.api.take() {
            api.shutdown().await;
        }
        service_manager::stopping(format_args!("stopping within {} s", self.grace.as_secs_f64()));
        printer.note(format_args!("stopping within {} s", self.grace.as_secs_f64()));
        let outcome = match Arc::into_inner(nara) {
            Some(nara) => signals::or_aborted(nara.shutdown(self.grace), self.signals.next_end()).await,
            // Not expected: after the API has ended, nothing else holds a reference.
            None => Shutdown::Forced,
        };
        self.inbox.settled().await;
        drop(self.feed);
        printing.finish().await;
        let graceful = outcome == Shutdown::Graceful;
        printer.json_line(NaraLine::Stopped { graceful })?;
        if graceful {
            Ok(Exit::Ok)
        } else {
            Err(Failure::failed("requests in flight were aborted").hint("allow more time with --grace"))
        }
    }
}

/// Returns the failure for an address that is in use by a nara on this data folder.
fn already_running(settings: &Settings) -> Option<Failure> {
    let folder = settings.running_folder().ok()?;
    running::runs_on(&folder).then(|| running::runs_already(&folder))
}

/// The context for answering questions of the local API.
#[derive(Clone, Copy)]
struct Around<'a> {
    nara: &'a Arc<Nara>,
    ledger: &'a InUse,
    /// Notified on each reload.
    reloaded: &'a Notify,
    network: Option<&'a OnNetwork>,
    files: &'a Files<'a>,
}

impl Around<'_> {
    async fn until_told_to_end(
        self,
        signals: &mut Signals,
        mut api: Option<&mut Api>,
        feed: &Feed,
    ) -> Outcome<()> {
        let Self { nara, files, .. } = self;
        let mut address = nara.watch_address();
        let mut before = *address.borrow_and_update();
        let mut answering = FuturesUnordered::new();
        let mut work = Work::new(nara);
        service_manager::ready(work.status());
        loop {
            tokio::select! {
                () = nara.finished() => {
                    return Err(Failure::failed("the listener failed").hint("start the nara again"));
                }
                Ok(()) = address.changed() => {
                    let now = *address.borrow_and_update();
                    if let Some(now) = now {
                        let line = NaraLine::AddressChanged {
                            address: Some(now.to_string()),
                            before: before.map(|before| before.to_string()),
                            v1_address: nara.other_address().map(|v1| v1.to_string()),
                        };
                        feed.send(format!("network  the address of this nara changed: it now serves on {now}"), line);
                    }
                    before = now;
                }
                () = work.report() => {}
                signal = signals.next() => match signal {
                    Signal::End => return Ok(()),
                    Signal::Reload => {
                        reload(nara, files, &work).await?;
                        self.reloaded.notify_one();
                    }
                },
                question = next_question(api.as_deref_mut()) => match question {
                    Question::End => return Ok(()),
                    // The requester may have disconnected.
                    Question::Reload(answer) => {
                        let _ = answer.send(reload(nara, files, &work).await?);
                        self.reloaded.notify_one();
                    }
                    Question::Doctor(answer) => {
                        let open = api.as_deref().map(Api::conflicts).unwrap_or_default();
                        answering.push(self.examine(open, answer));
                    }
                },
                Some(answered) = answering.next(), if !answering.is_empty() => answered?,
            }
        }
    }

    /// Runs the checks of the nara. The requester may have disconnected.
    async fn examine(self, open: ConflictList, answer: oneshot::Sender<Vec<Check>>) -> Outcome<()> {
        // Read again, because files may have been added since the start.
        let settings = reload::read_again().ok();
        let settings = settings.as_ref().unwrap_or(self.files.started);
        let checks = doctor::running(self.nara, self.network, self.ledger, settings, &open).await?;
        let _ = answer.send(checks);
        Ok(())
    }
}

async fn next_question(api: Option<&mut Api>) -> Question {
    match api {
        Some(api) => api.next().await,
        None => std::future::pending().await,
    }
}

impl From<NaraError> for Failure {
    fn from(error: NaraError) -> Self {
        match error {
            NaraError::Peer { peer, source } => {
                Self::usage(format!("the peer {peer} of the peers file: {source}"))
            }
            NaraError::Serve(ServeError::Stash(error)) => {
                let failure = Self::failed("stash.db in the data folder cannot be used");
                failure.caused_by(error).hint(
                    "check the permissions and the free space of the data folder; a damaged file can be moved aside, which loses the data that peers \
                     stored here",
                )
            }
            NaraError::Serve(error) => Self::failed(error.to_string()).caused_by(error),
            NaraError::Ledger(LedgerError::File { path, source }) => {
                Self::failed(format!("{} cannot be used", path.display())).caused_by(source)
            }
            NaraError::Ledger(error) => {
                ledger_file::because(Self::failed("the ledger cannot be used"), error)
            }
            error => Self::failed("the nara cannot start").caused_by(error),
        }
    }
}

/// How often the ledger file is checked.
const LOOK: Duration = Duration::from_secs(5);

/// Reports when the ledger file is deleted, moved or replaced, until dropped.
async fn keep_in_place(ledger: InUse, feed: Feed) {
    let mut told = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let problem = ledger.problem();
        if problem != told
            && let Some(problem) = &problem
        {
            let text = format!(
                "{problem}: new data is lost when the nara stops; restore the old file, or restart the nara"
            );
            tracing::error!("{text}");
            let ledger = ledger.path().display().to_string();
            feed.send(
                format!("ledger  {text}"),
                NaraLine::LedgerGone {
                    ledger,
                    problem: problem.clone(),
                },
            );
        }
        told = problem;
    }
}

/// Follows the address of `--listen`.
async fn follow(listening: Option<(Listen, IpAddr, MovingTcp)>, reloaded: Arc<Notify>, feed: Feed) {
    let Some((listen, bound, transport)) = listening else {
        return;
    };
    let tell = |line: NaraLine| {
        if let NaraLine::ListenMoved {
            listen,
            now,
            bound,
            reason,
        } = &line
        {
            let text = format!(
                "network  {} now has the address {now}, on which this nara cannot listen ({}): it still listens on {bound} and retries",
                harmless(listen),
                reason.as_deref().unwrap_or_default()
            );
            tracing::warn!("{text}");
            feed.send(text, line);
        }
    };
    let look = || hosts::addresses_of(&listen);
    let move_to = |ip| transport.move_to(ip);
    listen::follow(&listen, bound, &reloaded, look, move_to, tell).await;
}

/// Prints peer events until the registry is dropped.
async fn show_peer_events(mut events: broadcast::Receiver<PeerEvent>, feed: Feed) {
    let mut told = Told::default();
    loop {
        match events.recv().await {
            Ok(event) => {
                if let Some((text, json)) = peer_events::line(&event)
                    && told.is_news(&event)
                {
                    feed.send(text, json);
                }
            }
            Err(RecvError::Lagged(missed)) => tracing::warn!("{missed} peer events were dropped"),
            Err(RecvError::Closed) => return,
        }
    }
}

/// Returns the address for v1 peers, if this nara is to listen there too.
pub(super) fn v1_address(args: &ServingArgs, by_default: bool, listen: SocketAddr) -> Option<SocketAddr> {
    let address = SocketAddr::new(listen.ip(), defaults::LEGACY_MESH_PORT);
    (args.v1_port.unwrap_or(by_default) && address != listen).then_some(address)
}

fn announce(
    nara: &Nara,
    v1: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    api: Option<&Api>,
    printer: Printer,
) -> Outcome<()> {
    let Some(address) = nara.address() else {
        return Ok(());
    };
    let (name, id, key) = (nara.name(), nara.id(), nara.local().public_key());
    let stanza_address = (!address.ip().is_unspecified()).then_some(address);
    let stanza = PeerEntry::of(nara.local(), stanza_address).to_toml();
    printer.note(format_args!("{name} listens on {address}."));
    match (v1, nara.other_address()) {
        (_, Some(other)) => printer.note(format_args!("V1 peers reach it on {other}.")),
        (Some(v1), None) => printer.note(format_args!(
            "V1 peers cannot reach it: {v1} is in use (--v1-port=false disables this)."
        )),
        (None, None) => {}
    }
    printer.note(format_args!("Its id is {id}, its key {}.", KeyId::from(&key)));
    if address.ip().is_loopback() {
        printer.note("Only this machine can reach it (--listen sets another address, `up` joins a tailnet).");
    }
    if let Some(metrics) = metrics {
        printer.note(format_args!("Metrics: http://{metrics}/metrics"));
    }
    let sockets = api.map_or(&[][..], |api| &api.sockets);
    let loopback = api.and_then(|api| api.loopback.as_ref());
    if let Some((address, file)) = loopback {
        printer.note(format_args!(
            "Programs with the token in {} use it through http://{address}.",
            file.display()
        ));
    }
    if let Some(socket) = sockets.last() {
        printer.note(format_args!(
            "Programs of this machine use it through {}.",
            socket.display()
        ));
    }
    printer.note("Its peers need this stanza in their peers file, and it needs theirs (--peers):\n");
    printer.line(&stanza)?;
    let text = |address: SocketAddr| address.to_string();
    printer.json_line(NaraLine::Listening {
        name: name.to_string(),
        id: id.to_string(),
        address: address.to_string(),
        v1_address: nara.other_address().map(text),
        public_key: key.to_base64(),
        key_id: KeyId::from(&key).to_string(),
        metrics: metrics.map(text),
        sockets: sockets
            .iter()
            .map(|socket| socket.display().to_string())
            .collect(),
        api_listen: loopback.map(|(address, _)| address.to_string()),
        stanza,
    })
}
