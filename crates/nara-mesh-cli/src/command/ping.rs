//! `ping`: measures the round trip to peers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use nara_local_api::client::{CallError, LocalClient};
use nara_local_api::model::{Conflict, Peer, Pong, Way};
use nara_local_api::{Problem, ProblemClass};
use nara_mesh::client::{InvalidPeerRef, MeshClient, PeerRef};
use nara_mesh::defaults;
use nara_mesh::registry::{PeerInfo, Verdict};
use nara_proto::time::UnixMillis;
use nara_proto::v1::FRESHNESS_WINDOW;
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::PingArgs;
use crate::connect::{self, block_on};
use crate::exit::Exit;
use crate::explain;
use crate::failure::{Failure, Outcome};
use crate::network::Network;
use crate::printer::{Printer, harmless, human, micros, render, table};
use crate::remedy;
use crate::running::{self, hint, is_unknown_peer};
use crate::settings::Settings;

/// The largest recorded round trip, in microseconds.
const MAX_RTT_US: u64 = 3_600_000_000;

/// Show the uncertainty of a clock offset from this value on.
const COARSE: Duration = Duration::from_millis(100);

pub(super) fn run(args: &PingArgs, settings: &Settings, printer: Printer) -> Outcome {
    let results = match running::find(&args.running, settings)? {
        Some(nara) => block_on(through(&nara, args))?,
        None => directly(args, settings)?,
    };
    if let ([result], Some(problem)) = (
        &results[..],
        results.first().and_then(|result| result.error.as_ref()),
    ) && result.rtts.is_empty()
        && is_unknown_peer(problem)
    {
        return Err(problem.clone().into());
    }
    print(&results, printer)?;
    printer.json(Printed {
        peers: results.iter().map(PeerResult::printed).collect(),
    })?;
    Ok(exit(&results))
}

/// The output of `ping`.
#[derive(Serialize, ToSchema)]
pub(super) struct Printed {
    peers: Vec<PingedPeer>,
}

/// A peer and its answers.
#[derive(Serialize, ToSchema)]
struct PingedPeer {
    peer: String,
    sent: u32,
    received: u64,
    rtt_us: RoundTrips,
    clock_offset_us: Option<i64>,
    clock_uncertainty_us: Option<u64>,
    clock_proven: Option<bool>,
    name: Option<String>,
    key_id: Option<String>,
    key_matches: Option<bool>,
    security: Option<String>,
    signs: Option<String>,
    path: Option<String>,
    host_name: Option<String>,
    error: Option<String>,
    /// Why none of its keys is valid, if so: `retired` or `two-successors`.
    keyless: Option<String>,
    /// When the operator of this nara banned it, in Unix milliseconds.
    banned_at_ms: Option<i64>,
}

/// Round trips in microseconds; `null` without an answer.
#[derive(Serialize, ToSchema)]
struct RoundTrips {
    min: Option<u64>,
    mean: Option<f64>,
    p99: Option<u64>,
    max: Option<u64>,
}

/// Pings over the connections of a running nara.
async fn through(nara: &LocalClient, args: &PingArgs) -> Outcome<Vec<PeerResult>> {
    let chosen = if args.all { None } else { Some(&args.peers[..]) };
    let peers = running::peers(nara, chosen, "ping").await?;
    let calls = peers
        .iter()
        .map(|peer| ping_label(Pinger::Insisting(nara), peer, args.count, args.interval));
    stream::iter(calls)
        .buffered(MeshClient::FAN_OUT)
        .try_collect()
        .await
}

fn directly(args: &PingArgs, settings: &Settings) -> Outcome<Vec<PeerResult>> {
    let network = Network::resolve(&args.on);
    let client = connect::anonymous_client_on(settings, Arc::new(network.clone()))?;
    let named = args.peers.clone();
    connect::block_on_looking(&client, settings, async {
        network.attach(&args.on, settings).await?;
        let is_nowhere = |peer: &PeerRef| {
            client
                .peer(peer)
                .known()
                .is_none_or(|peer| peer.info().address.is_none())
        };
        if args.all || named.iter().any(is_nowhere) {
            network.find_peers(&client, &args.on).await;
        }
        let peers = if args.all {
            let mut peers = connect::others(&client);
            peers.retain(|peer| peer.info().address.is_some());
            peers.into_iter().map(PeerRef::from).collect()
        } else {
            named
        };
        if peers.is_empty() {
            return Err(Failure::usage("there is no peer to ping").hint(
                "add peers to the peers file (--peers), or name a --network on which naras are found",
            ));
        }
        let pinger = Pinger::Direct {
            client: &client,
            prove_clocks: settings.has_soul(),
        };
        let (client, network) = (&client, &network);
        let calls = peers.iter().map(|peer| async move {
            let mut result = ping_peer(pinger, peer, args.count, args.interval).await?;
            result.way = network.way_to(client, peer).await.map(Into::into);
            Ok::<_, Failure>(result)
        });
        stream::iter(calls)
            .buffered(MeshClient::FAN_OUT)
            .try_collect()
            .await
    })
}

/// The results of the pings of one peer.
#[derive(Debug)]
pub(super) struct PeerResult {
    pub(super) label: String,
    pub(super) rtts: Histogram<u64>,
    pub(super) sent: u32,
    pub(super) last: Option<Pong>,
    /// The path of its packets, if the network reports it.
    pub(super) way: Option<Way>,
    /// How far its clock is ahead of ours.
    pub(super) clock: Option<ToldClock>,
    pub(super) error: Option<Problem>,
    /// When the operator banned it, if it was not called for that reason.
    banned_at: Option<UnixMillis>,
    /// The reported key and the pinned one, if they differ.
    pub(super) conflict: Option<Conflict>,
}

/// How far a clock is ahead of ours, with uncertainty and proof.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToldClock {
    /// In nanoseconds.
    pub(super) offset: i64,
    pub(super) uncertainty: Duration,
    /// Whether a signature proves it; otherwise it is taken from the fastest unsigned ping.
    pub(super) proven: bool,
}

impl ToldClock {
    fn of(pong: &Pong) -> Option<Self> {
        Some(Self {
            offset: pong.clock_offset_ns?,
            uncertainty: Duration::from_nanos(pong.clock_uncertainty_ns.unwrap_or_default()),
            proven: pong.clock_proven,
        })
    }

    /// Returns the absolute offset between the two clocks.
    const fn magnitude(self) -> Duration {
        Duration::from_nanos(self.offset.unsigned_abs())
    }

    /// Returns a lower bound of the absolute offset.
    pub(super) const fn at_least(self) -> Duration {
        self.magnitude().saturating_sub(self.uncertainty)
    }
}

/// The sender of the pings.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pinger<'a> {
    /// This process.
    Direct {
        client: &'a MeshClient,
        /// Whether to request a signed answer if a ping does not prove the clock.
        prove_clocks: bool,
    },
    /// A running nara.
    Running(&'a LocalClient),
    /// A running nara, which also calls peers that did not answer its last calls.
    Insisting(&'a LocalClient),
}

impl Pinger<'_> {
    async fn ping(self, peer: &PeerRef, label: &str, is_last: bool) -> Outcome<Result<Pong, Problem>> {
        match self {
            Self::Direct { client, prove_clocks } => {
                let handle = client.peer(peer);
                let report = match handle.ping().await {
                    Ok(report) => report,
                    Err(error) => return Ok(Err(error.into())),
                };
                let known = handle.known().map(|peer| peer.info());
                let mut pong = Pong::of(label, &report, known.as_ref()).stated(client.registry());
                // The peer may refuse a signed request if it does not know us; then the unsigned clock is
                // used.
                let is_open = !pong.clock_proven && pong.key_matches == Some(true);
                if prove_clocks
                    && is_last
                    && is_open
                    && let Ok(Some(offset)) = handle.measure_clock().await
                {
                    pong.set_clock(offset, true);
                }
                Ok(Ok(pong))
            }
            Self::Running(nara) | Self::Insisting(nara) => match nara
                .ping(label, is_last, matches!(self, Self::Insisting(_)))
                .await
            {
                Ok(pong) => Ok(Ok(pong)),
                Err(CallError::Problem(problem)) => Ok(Err(*problem)),
                Err(error) => Err(error.into()),
            },
        }
    }
}

impl Pinger<'_> {
    /// Returns when the operator banned a peer.
    async fn banned_at(self, peer: &PeerRef, label: &str) -> Outcome<Option<UnixMillis>> {
        Ok(match self {
            Self::Direct { client, .. } => client.peer(peer).known().and_then(|peer| banned_at(&peer.info())),
            Self::Running(nara) | Self::Insisting(nara) => {
                let peers = nara.peers().await?;
                let names = |peer: &Peer| {
                    [
                        Some(&peer.label),
                        peer.name.as_ref(),
                        peer.id.as_ref(),
                        peer.address.as_ref(),
                    ]
                    .into_iter()
                    .flatten()
                    .any(|name| name == label)
                };
                let banned = peers.into_iter().filter(Peer::is_untrusted).find(names);
                banned.and_then(|peer| peer.decided_at_ms).map(UnixMillis::new)
            }
        })
    }
}

/// Returns when the operator banned a nara, if so.
pub(super) fn banned_at(info: &PeerInfo) -> Option<UnixMillis> {
    let decision = info
        .decision
        .filter(|decision| decision.verdict == Verdict::Untrusted)?;
    Some(decision.at)
}

/// Pings a peer repeatedly.
pub(super) async fn ping_peer(
    pinger: Pinger<'_>,
    peer: &PeerRef,
    count: u32,
    interval: Duration,
) -> Outcome<PeerResult> {
    let label = match pinger {
        Pinger::Direct { client, .. } => client.peer(peer).known().map(|peer| peer.info().label()),
        Pinger::Running(_) | Pinger::Insisting(_) => None,
    };
    ping_as(
        pinger,
        peer,
        label.unwrap_or_else(|| peer.to_string()),
        count,
        interval,
    )
    .await
}

/// As [`ping_peer`], for a peer named by a user or a nara.
pub(super) async fn ping_label(
    pinger: Pinger<'_>,
    label: &str,
    count: u32,
    interval: Duration,
) -> Outcome<PeerResult> {
    let peer = label.parse().map_err(|error: InvalidPeerRef| {
        Failure::usage(format!("{label:?} is not a valid peer")).caused_by(error)
    })?;
    ping_as(pinger, &peer, label.to_owned(), count, interval).await
}

async fn ping_as(
    pinger: Pinger<'_>,
    peer: &PeerRef,
    label: String,
    count: u32,
    interval: Duration,
) -> Outcome<PeerResult> {
    let mut result = PeerResult {
        label: label.clone(),
        rtts: Histogram::new_with_max(MAX_RTT_US, 3).expect("the bounds of the histogram are valid"),
        sent: 0,
        last: None,
        way: None,
        clock: None,
        error: None,
        banned_at: None,
        conflict: None,
    };
    let mut quickest = u64::MAX;
    for number in 0..count {
        if number > 0 {
            tokio::time::sleep(interval).await;
        }
        result.sent += 1;
        match pinger.ping(peer, &label, number + 1 == count).await? {
            Ok(pong) => {
                result.rtts.saturating_record(pong.rtt_us.clamp(1, MAX_RTT_US));
                if pong.clock_proven || pong.rtt_us < quickest {
                    quickest = pong.rtt_us;
                    result.clock = ToldClock::of(&pong);
                }
                result.conflict.clone_from(&pong.conflict);
                if let Some(path) = pong.path.clone() {
                    let host_name = pong.host_name.clone();
                    result.way = Some(Way { path, host_name });
                }
                result.label.clone_from(&pong.peer);
                result.last = Some(pong);
            }
            Err(problem) => result.error = Some(problem),
        }
    }
    if result
        .error
        .as_ref()
        .is_some_and(|problem| problem.name() == "untrusted")
    {
        result.banned_at = pinger.banned_at(peer, &label).await?;
    }
    Ok(result)
}

impl PeerResult {
    fn received(&self) -> u64 {
        self.rtts.len()
    }

    /// Returns whether the reported key differs from the pinned one.
    fn key_differs(&self) -> bool {
        self.last
            .as_ref()
            .is_some_and(|report| report.key_matches == Some(false))
    }

    /// Describes the key that the peer reported.
    pub(super) fn key_state(&self) -> &'static str {
        match self.last.as_ref().map(|report| report.key_matches) {
            None => "-",
            Some(Some(true)) => "matches",
            Some(Some(false)) => "DIFFERS",
            Some(None) => "not pinned",
        }
    }

    /// Returns why none of the peer's keys is valid, if so.
    fn keyless(&self) -> Option<&str> {
        self.last.as_ref()?.keyless.as_deref()
    }

    /// Returns the key id of the reported key.
    pub(super) fn told_key(&self) -> Option<&str> {
        self.last.as_ref()?.key_id.as_deref()
    }

    /// Returns the protection of the connection: `plain`, `tls x509` or `tls raw key`.
    fn security(&self) -> Option<&str> {
        Some(&self.last.as_ref()?.security)
    }

    /// Returns the signature profile that the peer announces with its key: `v2`, else `v1`.
    fn signs(&self) -> Option<&str> {
        Some(&self.last.as_ref()?.signs)
    }

    fn status(&self) -> String {
        match &self.error {
            None if self.keyless().is_some() => self.keyless().unwrap_or_default().replace('-', " "),
            None if self.key_differs() => "another key".to_owned(),
            None => "ok".to_owned(),
            Some(problem) => problem.title.clone(),
        }
    }

    fn printed(&self) -> PingedPeer {
        let some = !self.rtts.is_empty();
        let figure = |value: u64| some.then_some(value);
        PingedPeer {
            peer: self.label.clone(),
            sent: self.sent,
            received: self.received(),
            rtt_us: RoundTrips {
                min: figure(self.rtts.min()),
                mean: some.then(|| self.rtts.mean()),
                p99: figure(self.rtts.value_at_quantile(0.99)),
                max: figure(self.rtts.max()),
            },
            clock_offset_us: self.clock.map(|clock| clock.offset / 1_000),
            clock_uncertainty_us: self.clock.map(|clock| micros(clock.uncertainty)),
            clock_proven: self.clock.map(|clock| clock.proven),
            name: self.last.as_ref().map(|pong| pong.name.clone()),
            key_id: self.told_key().map(str::to_owned),
            key_matches: self.last.as_ref().and_then(|report| report.key_matches),
            security: self.security().map(str::to_owned),
            signs: self.signs().map(str::to_owned),
            path: self.way.as_ref().map(|way| way.path.clone()),
            host_name: self.way.as_ref().and_then(|way| way.host_name.clone()),
            error: self.error.as_ref().map(ToString::to_string),
            keyless: self.keyless().map(str::to_owned),
            banned_at_ms: self.banned_at.map(UnixMillis::get),
        }
    }
}

fn print(results: &[PeerResult], printer: Printer) -> Outcome<()> {
    let mut table = table([
        "PEER", "NAME", "PINGS", "MIN", "MEAN", "P99", "MAX", "CLOCK", "KEY", "SIGNS", "SECURITY", "STATUS",
    ]);
    for result in results {
        let figure = |us: f64| match result.rtts.is_empty() {
            true => "-".to_owned(),
            false => human(Duration::from_secs_f64(us / 1e6)),
        };
        table.add_row([
            harmless(&result.label),
            result
                .last
                .as_ref()
                .map_or_else(|| "-".to_owned(), |pong| harmless(&pong.name)),
            format!("{}/{}", result.received(), result.sent),
            figure(result.rtts.min() as f64),
            figure(result.rtts.mean()),
            figure(result.rtts.value_at_quantile(0.99) as f64),
            figure(result.rtts.max() as f64),
            result.clock.map_or_else(|| "-".to_owned(), told_clock),
            result.key_state().to_owned(),
            result.signs().unwrap_or("-").to_owned(),
            result.security().unwrap_or("-").to_owned(),
            result.status(),
        ]);
    }
    printer.line(render(&table))?;
    for result in results {
        if let Some(way) = &result.way {
            let host_name = way.host_name.as_deref().unwrap_or("a node without a name");
            printer.line(format_args!(
                "{} is on {}, path: {}",
                harmless(&result.label),
                harmless(host_name),
                harmless(&way.path)
            ))?;
        }
        if let Some(error) = &result.error {
            let since = result.banned_at.map(|at| format!(" on {}", explain::date(at)));
            let error_text = format!("{error}{}", since.unwrap_or_default());
            match hint(error) {
                Some(hint) => printer.note(format_args!("{error_text}; {hint}")),
                None => printer.note(error_text),
            }
            // Lists the keys and the remedy.
            if error.class == ProblemClass::Untrusted
                && let Some(cause) = error.causes.first()
            {
                printer.note(cause);
            }
        }
        warn_of_clock(&result.label, result.clock, printer);
        if let Some(why) = result.keyless() {
            let label = harmless(&result.label);
            printer.warn(match why {
                "retired" => format!(
                    "{label} stated that it is retired: signatures of its keys are refused, and you need not do anything; if its \
                     operator disagrees, it needs a new soul"
                ),
                _ => format!(
                    "two statements name different successors of the key of {label}: none of its keys is valid until you decide; ask its \
                     operator for the correct key"
                ),
            });
        } else if let Some(conflict) = &result.conflict {
            match remedy::of_told(conflict) {
                Some(remedy) => printer.warn(format_args!("{}: {remedy}", conflict.text)),
                None => printer.warn(&conflict.text),
            }
        } else if result.key_differs() {
            printer.warn(format_args!(
                "{} answers without a valid key, but a key is pinned for it: another nara may have its address",
                harmless(&result.label)
            ));
        }
    }
    Ok(())
}

/// Formats a clock offset with its sign and uncertainty: signed answers have a resolution of seconds, and
/// unsigned offsets are marked.
pub(super) fn told_clock(clock: ToldClock) -> String {
    let sign = if clock.offset < 0 { "-" } else { "+" };
    let mut text = format!("{sign}{}", human(clock.magnitude()));
    if clock.uncertainty >= COARSE {
        text.push_str(&format!(" ± {}", human(clock.uncertainty)));
    }
    if !clock.proven {
        text.push_str(" (unsigned)");
    }
    text
}

/// Warns if the clock of a peer is too far from ours.
pub(super) fn warn_of_clock(label: &str, clock: Option<ToldClock>, printer: Printer) {
    if let Some(far) = clock.filter(|clock| clock.at_least() >= defaults::CLOCK_WARNING) {
        printer.warn(format_args!(
            "the clock of {} is {} {} ours{}: beyond {} s, it refuses our requests, and we refuse its \
             answers; set the wrong clock",
            harmless(label),
            human(far.magnitude()),
            if far.offset < 0 { "behind" } else { "ahead of" },
            if far.proven {
                ""
            } else {
                ", according to its unsigned ping"
            },
            FRESHNESS_WINDOW.as_secs(),
        ));
    }
}

fn exit(results: &[PeerResult]) -> Exit {
    let failed: Vec<Exit> = results
        .iter()
        .filter_map(|result| match &result.error {
            _ if result.key_differs() => Some(Exit::Unauthenticated),
            Some(problem) => Some(running::exit_of(problem)),
            None => None,
        })
        .collect();
    // A peer that answered at least once counts as partly reached.
    let reached = results
        .iter()
        .filter(|result| !result.rtts.is_empty() && !result.key_differs())
        .count();
    Exit::of_many(reached, &failed)
}
