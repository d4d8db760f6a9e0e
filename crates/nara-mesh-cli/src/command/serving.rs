//! What `serve` and `up` share: a nara that runs until it is told to end, and what is printed meanwhile.

mod exposition;
mod feed;
mod journeys;
mod listen;
mod questions;
mod reload;
mod signals;
mod work;

pub(super) use feed::Feed;

use std::net::SocketAddr;
use std::time::Duration;

use nara_mesh::gossip::GossipConfig;
use nara_mesh::nara::{NaraBuilder, ReconfigureError, StartError};
use nara_mesh::peers_file::PeerEntry;
use nara_mesh::registry::PeerEvent;
use nara_mesh::server::{BuildError, ServeError, ServerLimits, Shutdown, expose};
use nara_mesh::{Nara, defaults};
use nara_proto::identity::KeyId;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use self::exposition::Exposition;
use self::feed::{FeedHandler, Lines};
use self::journeys::Journeys;
use self::reload::{Files, reload};
use self::signals::{Signal, Signals};
use self::work::Work;
use crate::cli::{Expose, Listen, ServingArgs};
use crate::control::{Asked, Control, Question};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::hosts;
use crate::keeping;
use crate::open_files;
use crate::peer_events::{self, Told};
use crate::printer::Printer;
use crate::service_manager;
use crate::settings::Settings;

/// A nara that is about to run.
pub(super) struct Serving {
    expose: Vec<Expose>,
    gossip: Option<GossipConfig>,
    limits: ServerLimits,
    catch_up: bool,
    grace: Duration,
    metrics: Option<Exposition>,
    signals: Signals,
    feed: Feed,
    journeys: Journeys,
    lines: Lines,
    /// The peers whose host names are looked up.
    hosts: watch::Sender<Vec<PeerEntry>>,
    printer: Printer,
}

impl Serving {
    /// Checks the arguments, and begins what must be there before the nara: metrics, signals and output.
    pub(super) async fn prepare(args: &ServingArgs, printer: Printer) -> Outcome<Self> {
        let signals = Signals::new()?;
        open_files::raise(args.limits.0.connections);
        let metrics = args.metrics()?;
        let gossip = (!args.no_gossip).then(|| GossipConfig::with_degree(args.gossip_degree.into()));
        let metrics = match metrics {
            Some(address) => Some(Exposition::start(address).await?),
            None => None,
        };
        let (feed, lines) = Feed::new();
        Ok(Self {
            expose: args.expose.clone(),
            gossip,
            limits: args.limits.0.clone(),
            catch_up: !args.no_catch_up,
            grace: args.grace,
            metrics,
            signals,
            feed,
            journeys: Journeys::default(),
            lines,
            hosts: watch::Sender::default(),
            printer,
        })
    }

    /// Prints lines beside those of the nara.
    pub(super) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Waits until an address to listen on is there. `None`: a signal ended the wait.
    pub(super) async fn wait_for(&mut self, listen: &Listen) -> Outcome<Option<SocketAddr>> {
        listen::wait(listen, &mut self.signals, self.printer).await
    }

    /// Starts the nara and says so. `v1`: where it also listens, if that is free.
    pub(super) async fn start(
        &mut self,
        builder: NaraBuilder,
        v1: Option<SocketAddr>,
        settings: &Settings,
    ) -> Outcome<Nara> {
        let registry = settings.registry();
        let events = registry.subscribe();
        let builder = builder
            .registry(registry)
            .handler(FeedHandler::new(self.feed.clone(), self.journeys.clone()));
        let exposed = std::mem::take(&mut self.expose);
        let limits = self.limits.clone();
        let builder = builder.configure_server(|server| {
            let server = server.limits(limits);
            exposed.into_iter().fold(server, |server, exposed| {
                server.nest_routes(
                    &exposed.prefix,
                    expose::router(exposed.backend, expose::ANSWER_TIMEOUT),
                )
            })
        });
        let builder = match self.gossip.take() {
            Some(config) => builder.gossip(config),
            None => builder.without_gossip(),
        };
        let builder = v1.into_iter().fold(builder, NaraBuilder::also_listen);
        let builder = builder.catch_up(self.catch_up);
        let nara = builder.start().await?;
        self.hosts.send_replace(settings.peers()?);
        tokio::spawn(hosts::follow(
            nara.registry().clone(),
            self.hosts.subscribe(),
            hosts::look_up,
        ));
        tokio::spawn(show_peer_events(events, self.feed.clone()));
        keeping::log(nara.recalled());
        if let Some(metrics) = &self.metrics {
            let file = settings.running_folder()?.join("ledger.db");
            metrics.measure(nara.ledger().clone(), file);
        }
        announce(
            &nara,
            v1,
            self.metrics.as_ref().map(Exposition::address),
            self.printer,
        )?;
        Ok(nara)
    }

    /// Serves until a signal ends it.
    pub(super) async fn run(mut self, nara: Nara, settings: &Settings) -> Outcome {
        let printer = self.printer;
        let printing = self.lines.print(printer);
        let mut control = listen_for_questions(settings).await?;
        until_told_to_end(
            &nara,
            &mut self.signals,
            control.as_mut(),
            &self.feed,
            &self.journeys,
            &Files {
                started: settings,
                hosts: &self.hosts,
                printer,
            },
        )
        .await?;
        drop(control);
        service_manager::stopping(format_args!("ending within {} s", self.grace.as_secs_f64()));
        printer.note(format_args!("ending within {} s", self.grace.as_secs_f64()));
        // A second signal does not wait.
        let outcome = tokio::select! {
            outcome = nara.shutdown(self.grace) => outcome,
            () = self.signals.next_end() => Shutdown::Forced,
        };
        drop(self.feed);
        printing.finish().await;
        printer.json_line(json!({ "event": "stopped", "graceful": outcome == Shutdown::Graceful }))?;
        if outcome == Shutdown::Graceful {
            Ok(Exit::Ok)
        } else {
            Err(Failure::failed("requests in flight were aborted").hint("allow more time with --grace"))
        }
    }
}

async fn until_told_to_end(
    nara: &Nara,
    signals: &mut Signals,
    mut control: Option<&mut Control>,
    feed: &Feed,
    journeys: &Journeys,
    files: &Files<'_>,
) -> Outcome<()> {
    let mut address = nara.watch_address();
    let mut before = *address.borrow_and_update();
    let mut work = Work::new(nara);
    service_manager::ready(work.status());
    loop {
        tokio::select! {
            () = nara.finished() => {
                return Err(Failure::failed("the listener failed").hint("start the nara again"));
            }
            Ok(()) = address.changed() => {
                let now = *address.borrow_and_update();
                let json = json!({ "event": "address_changed", "address": now, "before": before });
                if let Some(now) = now {
                    feed.send(format!("network  the node has a new address: serving {now} now"), json);
                }
                before = now;
            }
            () = work.report() => {}
            signal = signals.next() => match signal {
                Signal::End => return Ok(()),
                Signal::Reload => {
                    reload(nara, files, &work).await?;
                }
            },
            asked = next_question(control.as_deref_mut()) => match asked.question {
                Question::Reload => {
                    let answer = reload(nara, files, &work).await?;
                    asked.answer(answer);
                }
                _ => questions::answer(nara, journeys, asked).await,
            }
        }
    }
}

/// The control socket in the data folder; without one, only signals are heard.
async fn listen_for_questions(settings: &Settings) -> Outcome<Option<Control>> {
    let folder = settings.running_folder()?;
    match Control::listen(&folder).await {
        Ok(control) => Ok(Some(control)),
        Err(failure) => {
            tracing::warn!(
                "`nara-mesh reload` does not reach this nara, a SIGHUP does: {}",
                failure.message
            );
            Ok(None)
        }
    }
}

async fn next_question(control: Option<&mut Control>) -> Asked {
    match control {
        Some(control) => control.next().await,
        None => std::future::pending().await,
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Peer(error) => error.into(),
            StartError::Serve(ServeError::Build(BuildError::Routes(error))) => {
                Self::usage(format!("--expose: {error}"))
            }
            StartError::Serve(ServeError::Build(BuildError::Stash(error))) => {
                Self::failed("stash.db in the data folder cannot be used").caused_by(error)
            }
            StartError::Serve(error) => Self::failed(error.to_string()).caused_by(error),
            error => Self::failed("the ledger cannot be opened").caused_by(error),
        }
    }
}

impl From<ReconfigureError> for Failure {
    fn from(error: ReconfigureError) -> Self {
        match error {
            ReconfigureError::Peer { peer, source } => {
                Self::usage(format!("the peer {peer} of the peers file: {source}"))
            }
            error => Self::failed("the ledger failed").caused_by(error),
        }
    }
}

/// Tells what happens to peers, until the registry is gone.
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

/// The address at which v1 peers call, if this nara is to listen there, too.
pub(super) fn v1_address(args: &ServingArgs, by_default: bool, listen: SocketAddr) -> Option<SocketAddr> {
    let address = SocketAddr::new(listen.ip(), defaults::LEGACY_MESH_PORT);
    (args.v1_port.unwrap_or(by_default) && address != listen).then_some(address)
}

fn announce(
    nara: &Nara,
    v1: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
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
            "V1 peers do not reach it: {v1} is taken (--v1-port=false leaves it alone)."
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
    printer.note("Its peers need this stanza in their peers file, and it needs theirs (--peers):\n");
    printer.line(&stanza)?;
    printer.json_line(json!({
        "event": "listening",
        "name": name.as_str(),
        "id": id.as_str(),
        "address": address,
        "v1_address": nara.other_address(),
        "public_key": key.to_base64(),
        "key_id": KeyId::from(&key).to_string(),
        "metrics": metrics,
        "stanza": stanza,
    }))
}
