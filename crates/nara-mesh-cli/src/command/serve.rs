//! `serve`: a nara that runs until it is told to end.

mod exposition;
pub(super) mod feed;
mod signals;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nara_mesh::client::MeshClient;
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::gossip::{GossipConfig, GossipService};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::Ledger;
use nara_mesh::registry::{PeerEvent, PeerKeeper, PeerRegistry, PinnedNames, Recalled};
use nara_mesh::server::{MeshServer, Shutdown};
use nara_mesh::transport::{TcpTransport, Transport};
use nara_proto::event::{ChauPayload, HeyTherePayload, Payload, SyncEvent};
use nara_proto::identity::KeyId;
use serde_json::json;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use self::feed::{Feed, FeedHandler};
use self::signals::{Signal, Signals};
use super::up::{Finding, Join, Joined};
use crate::cli::{ServeArgs, ServingArgs};
use crate::connect::block_on;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::keeping;
use crate::ledger_file;
use crate::peer_events::{self, Told};
use crate::peers_file::PeerEntry;
use crate::printer::{Printer, count};
use crate::settings::{Settings, parse_duration};

pub(super) fn run(args: &ServeArgs, settings: &Settings, printer: Printer) -> Outcome {
    let nara = settings.local_nara()?;
    let listen = settings.listen(args.listen.as_ref())?;
    start(nara, &args.serving, Place::Here(listen), settings, printer)
}

/// Where to serve.
pub(super) enum Place {
    /// On an address of this machine.
    Here(SocketAddr),
    /// On a network that has to be joined first.
    Network(Box<Join>),
}

/// Opens the ledger, joins the network if there is one to join, and serves.
pub(super) fn start(
    nara: LocalNara,
    args: &ServingArgs,
    place: Place,
    settings: &Settings,
    printer: Printer,
) -> Outcome {
    let metrics = settings.metrics(args.metrics.as_ref(), args.metrics_public)?;
    let grace = parse_duration(&args.grace)
        .ok_or_else(|| Failure::usage(format!("--grace: {:?} is not a length of time", args.grace)))?;
    let folder = settings.data_dir(&nara)?;
    std::fs::create_dir_all(&folder).map_err(|error| {
        Failure::failed(format!("the data folder {} cannot be made", folder.display())).caused_by(error)
    })?;
    block_on(async {
        // Before anything that counts.
        let metrics = match metrics {
            Some(address) => Some(exposition::start(address).await?),
            None => None,
        };
        let registry = settings.registry();
        let known = Arc::new(PinnedNames::new(registry.clone(), nara.name().clone()));
        let ledger = ledger_file::open_knowing(&folder.join("ledger.db"), known).await?;
        // The peers file before the ledger: it counts more.
        register_peers(&registry, &nara, settings)?;
        let started = PeerKeeper::start(registry.clone(), ledger.clone()).await;
        let (keeper, recalled) = started.map_err(ledger_file::failed)?;
        keeping::log(&recalled);
        let gossip = (!args.no_gossip).then(|| GossipConfig::with_degree(args.gossip_degree.into()));
        let (listen, joined) = match place {
            Place::Here(listen) => (listen, None),
            Place::Network(join) => {
                let joined = join.run(&nara, printer).await?;
                (joined.address, Some(joined))
            }
        };
        let plan = Plan {
            listen,
            grace,
            gossip,
            joined: joined.clone(),
            metrics,
        };
        let outcome = serve(nara, plan, &registry, &keeper, ledger, settings, printer).await;
        if let Some(joined) = joined {
            joined.leave(printer).await;
        }
        keeper.finish().await;
        outcome
    })
}

/// How to serve.
struct Plan {
    listen: SocketAddr,
    grace: Duration,
    gossip: Option<GossipConfig>,
    joined: Option<Joined>,
    /// Where metrics are served, if they are.
    metrics: Option<SocketAddr>,
}

async fn serve(
    nara: LocalNara,
    plan: Plan,
    registry: &PeerRegistry,
    keeper: &PeerKeeper,
    ledger: Arc<dyn Ledger>,
    settings: &Settings,
    printer: Printer,
) -> Outcome {
    let Plan {
        listen,
        grace,
        gossip,
        joined,
        metrics,
    } = plan;
    let transport = joined
        .as_ref()
        .map_or_else(|| Arc::new(TcpTransport) as Arc<dyn Transport>, Joined::transport);
    let client = MeshClient::builder(nara.clone())
        .registry(registry.clone())
        .transport(transport.clone())
        .call_timeout(settings.timeout)
        .dial_timeout(settings.timeout)
        .tls(settings.tls)
        .build();
    // Before listening: whoever starts us may tell us to end as soon as we are reachable.
    let mut signals = Signals::new()?;
    let (feed, printing) = Feed::start(printer);
    let showing = tokio::spawn(show_peer_events(registry.subscribe(), feed.clone()));
    let mesh_ip = if listen.ip().is_unspecified() {
        String::new()
    } else {
        listen.ip().to_string()
    };
    let discovery = joined
        .as_ref()
        .and_then(|joined| joined.discovery(client.clone()));
    let mut server = MeshServer::builder(nara.clone(), ledger.clone());
    if let Some(discovery) = &discovery {
        server = server.peer_source(Arc::new(discovery.confirmed_peers()));
    }
    let server = server
        .client(client.clone())
        .transport(transport)
        .handler(FeedHandler::new(feed.clone()))
        .mesh_ip(mesh_ip.as_str())
        .mesh_port(listen.port())
        .tls(settings.tls)
        .serve(listen)
        .await
        .map_err(|error| Failure::failed(error.to_string()).caused_by(error))?;
    let address = server.local_addr();
    remember(&*ledger, introduction(&nara, &mesh_ip)).await?;
    announce(&nara, address, metrics, printer)?;
    let mut finding = joined
        .map(|joined| joined.keep_finding(discovery, address, feed.clone(), printer))
        .transpose()?;
    let gossip = gossip.map(|config| {
        GossipService::builder(client, ledger.clone())
            .config(config)
            .start()
    });
    loop {
        tokio::select! {
            () = server.finished() => {
                return Err(Failure::failed("the listener is gone").hint("start it again"));
            }
            address = moved(finding.as_mut()) => {
                let mesh_ip = address.ip().to_string();
                server.set_mesh_ip(mesh_ip.as_str());
                // Peers that listen to us learn it at once, others find it on the network.
                remember(&*ledger, introduction(&nara, &mesh_ip)).await?;
            }
            signal = signals.next() => match signal {
                Signal::End => break,
                Signal::Reload => match reload(registry, keeper, &nara, settings).await {
                    Ok(recalled) => tell_reloaded(&recalled, printer)?,
                    Err(failure) => printer.warn(failure.message),
                },
            },
        }
    }
    printer.note(format_args!("ending within {} s", grace.as_secs_f64()));
    if let Some(finding) = finding {
        finding.end();
    }
    if let Some(gossip) = gossip {
        gossip.stop().await;
    }
    // Before the streams end, so that whoever listens hears it.
    remember(&*ledger, goodbye(&nara)).await?;
    // A second signal does not wait.
    let outcome = tokio::select! {
        outcome = server.shutdown(grace) => outcome,
        () = signals.next_end() => Shutdown::Forced,
    };
    showing.abort();
    drop(feed);
    printing.finish().await;
    printer.json_line(json!({ "event": "stopped", "graceful": outcome == Shutdown::Graceful }))?;
    if outcome == Shutdown::Graceful {
        Ok(Exit::Ok)
    } else {
        Err(Failure::failed("requests that had begun were cut off").hint("--grace allows more time"))
    }
}

/// Waits until this nara is served at another address.
async fn moved(finding: Option<&mut Finding>) -> SocketAddr {
    match finding {
        Some(finding) => finding.moved().await,
        None => std::future::pending().await,
    }
}

/// Tells the registry the peers of the peers file, but not this nara itself.
fn register_peers(registry: &PeerRegistry, nara: &LocalNara, settings: &Settings) -> Outcome<()> {
    for entry in settings.peers()? {
        if entry.name == *nara.name() {
            continue;
        }
        registry
            .reconfigure(entry.to_info())
            .map_err(|error| Failure::usage(format!("the peer {} of the peers file: {error}", entry.name)))?;
    }
    Ok(())
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
            Err(RecvError::Lagged(missed)) => tracing::warn!("{missed} events of peers were missed"),
            Err(RecvError::Closed) => return,
        }
    }
}

/// Reads the peers file again, and what was decided with `peers trust`, `untrust` and `reset`.
async fn reload(
    registry: &PeerRegistry,
    keeper: &PeerKeeper,
    nara: &LocalNara,
    settings: &Settings,
) -> Outcome<Recalled> {
    register_peers(registry, nara, settings)?;
    let recalled = keeper.reload().await.map_err(ledger_file::failed)?;
    keeping::log(&recalled);
    Ok(recalled)
}

fn tell_reloaded(recalled: &Recalled, printer: Printer) -> Outcome<()> {
    let decided: Vec<&str> = recalled.decided.iter().map(|name| name.as_str()).collect();
    printer.note(format_args!(
        "the peers file was read again, and {} taken over",
        count(decided.len(), "decision")
    ));
    printer.json_line(json!({ "event": "reloaded", "decided": decided }))
}

fn announce(
    nara: &LocalNara,
    address: SocketAddr,
    metrics: Option<SocketAddr>,
    printer: Printer,
) -> Outcome<()> {
    let stanza_address = (!address.ip().is_unspecified()).then_some(address);
    let stanza = PeerEntry::of(nara, stanza_address).to_toml();
    printer.note(format_args!("{} listens on {address}.", nara.name()));
    printer.note(format_args!(
        "Its id is {}, its key {}.",
        nara.id(),
        KeyId::from(&nara.public_key())
    ));
    if address.ip().is_loopback() {
        printer.note(
            "It is reached from this machine only (--listen sets another address, `up` joins a tailnet).",
        );
    }
    if let Some(metrics) = metrics {
        printer.note(format_args!("Metrics: http://{metrics}/metrics"));
    }
    printer.note("Its peers need this stanza in their peers file, and it needs theirs (--peers):\n");
    printer.line(&stanza)?;
    printer.json_line(json!({
        "event": "listening",
        "name": nara.name().as_str(),
        "id": nara.id().as_str(),
        "address": address,
        "public_key": nara.public_key().to_base64(),
        "key_id": KeyId::from(&nara.public_key()).to_string(),
        "metrics": metrics,
        "stanza": stanza,
    }))
}

async fn remember(ledger: &dyn Ledger, event: SyncEvent) -> Outcome<()> {
    ledger
        .insert_verified(vec![event])
        .await
        .map(drop)
        .map_err(ledger_file::failed)
}

fn introduction(nara: &LocalNara, mesh_ip: &str) -> SyncEvent {
    let payload = HeyTherePayload {
        from: nara.name().to_string(),
        public_key: nara.public_key().to_base64(),
        mesh_ip: mesh_ip.to_owned(),
        id: nara.id().to_string(),
        ..HeyTherePayload::default()
    };
    signed(nara, Payload::HeyThere(payload))
}

fn goodbye(nara: &LocalNara) -> SyncEvent {
    let payload = ChauPayload {
        from: nara.name().to_string(),
        public_key: nara.public_key().to_base64(),
        id: nara.id().to_string(),
        ..ChauPayload::default()
    };
    signed(nara, Payload::Chau(payload))
}

fn signed(nara: &LocalNara, payload: Payload) -> SyncEvent {
    SyncEvent::signed(
        SystemClock.now_nanos(),
        payload,
        nara.name().as_str(),
        nara.keypair(),
    )
}
