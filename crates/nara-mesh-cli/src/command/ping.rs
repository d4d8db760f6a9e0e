//! `ping`: the round trip to peers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use hdrhistogram::Histogram;
use nara_mesh::client::{ClientError, MeshClient, PeerRef, PingReport};
use nara_mesh::defaults;
use nara_mesh::registry::{KeyConflict, KeySource};
use nara_proto::clock_offset::ClockOffset;
use nara_proto::identity::{KeyId, PublicKey};
use nara_proto::v1::FRESHNESS_WINDOW;
use serde_json::{Value, json};

use crate::cli::PingArgs;
use crate::connect::{self, hint};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::network::{Network, Way};
use crate::printer::{Printer, harmless, human, micros, render, table};
use crate::remedy;
use crate::settings::Settings;

/// Round trips are recorded in microseconds, up to this.
const MAX_RTT_US: u64 = 3_600_000_000;

/// From which uncertainty on a clock offset is shown with it.
const COARSE: Duration = Duration::from_millis(100);

pub(super) fn run(args: &PingArgs, settings: &Settings, printer: Printer) -> Outcome {
    let network = Network::resolve(&args.on);
    let client = connect::anonymous_client_on(settings, Arc::new(network.clone()))?;
    let named = args.peers.clone();
    let results = connect::block_on_looking(&client, settings, async {
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
            let mut peers = client.registry().peers();
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
        let calls = peers.iter().map(|peer| async {
            let mut result = ping_peer(&client, peer, args.count, args.interval).await;
            if settings.has_soul() {
                result.prove_clock(&client, peer).await;
            }
            result.way = network.way_to(&client, peer).await;
            result
        });
        Ok(stream::iter(calls)
            .buffered(defaults::FAN_OUT)
            .collect::<Vec<_>>()
            .await)
    })?;
    if let ([result], Some(error)) = (
        &results[..],
        results.first().and_then(|result| result.error.as_ref()),
    ) && result.rtts.is_empty()
        && error.is_unknown_peer()
    {
        return Err(connect::unknown_peer(error));
    }
    print(&results, printer)?;
    printer.json(json!({ "peers": results.iter().map(PeerResult::to_json).collect::<Vec<_>>() }))?;
    Ok(exit(&results))
}

/// What the pings of one peer gave.
#[derive(Debug)]
pub(super) struct PeerResult {
    pub(super) label: String,
    pub(super) rtts: Histogram<u64>,
    pub(super) sent: u32,
    pub(super) last: Option<PingReport>,
    /// Which way its packets take, if the network says so.
    pub(super) way: Option<Way>,
    /// How far the clock of the peer is ahead of ours.
    pub(super) clock: Option<ToldClock>,
    pub(super) error: Option<ClientError>,
    /// The key that it told, and the pinned one, if they differ.
    pub(super) conflict: Option<KeyConflict>,
}

/// How far a clock is ahead of ours, and what that rests on.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToldClock {
    pub(super) offset: ClockOffset,
    /// Whether the peer has proven it; otherwise it is what its quickest ping says, unsigned.
    pub(super) proven: bool,
}

/// Pings a peer, one ping after the other.
pub(super) async fn ping_peer(
    client: &MeshClient,
    peer: &PeerRef,
    count: u32,
    interval: Duration,
) -> PeerResult {
    let mut result = PeerResult {
        label: client
            .peer(peer)
            .known()
            .map_or_else(|| peer.to_string(), |peer| peer.info().label()),
        rtts: Histogram::new_with_max(MAX_RTT_US, 3).expect("the bounds of the histogram are valid"),
        sent: 0,
        last: None,
        way: None,
        clock: None,
        error: None,
        conflict: None,
    };
    let mut quickest = Duration::MAX;
    for number in 0..count {
        if number > 0 {
            tokio::time::sleep(interval).await;
        }
        result.sent += 1;
        match client.ping(peer).await {
            Ok(report) => {
                let rtt_us = u64::try_from(report.rtt.as_micros()).unwrap_or(MAX_RTT_US);
                result.rtts.saturating_record(rtt_us.clamp(1, MAX_RTT_US));
                if report.clock_proven || report.rtt < quickest {
                    quickest = report.rtt;
                    result.clock = report.clock_offset.map(|offset| ToldClock {
                        offset,
                        proven: report.clock_proven,
                    });
                }
                result.conflict = conflict(client, peer, &report);
                result.last = Some(report);
            }
            Err(error) => result.error = Some(error),
        }
    }
    result
}

/// The conflict between the pinned key of a peer and the one that it tells.
fn conflict(client: &MeshClient, peer: &PeerRef, report: &PingReport) -> Option<KeyConflict> {
    let info = client.peer(peer).known()?.info();
    let pinned = info.key.filter(|_| report.key_matches == Some(false))?;
    Some(KeyConflict {
        name: pinned.name.clone(),
        pinned: Box::new(pinned),
        offered: PublicKey::from_base64(&report.response.public_key).ok()?,
        offered_by: KeySource::Ping(info.address?),
    })
}

impl PeerResult {
    /// Asks the peer for one signed answer, if its clock is not proven by its pings and it tells the pinned key. It may
    /// refuse, if it does not know us; then what is unsigned has to do.
    pub(super) async fn prove_clock(&mut self, client: &MeshClient, peer: &PeerRef) {
        let is_known = self.last.as_ref().and_then(|report| report.key_matches) == Some(true);
        if !is_known || self.clock.is_some_and(|clock| clock.proven) {
            return;
        }
        if let Ok(Some(offset)) = client.peer(peer).measure_clock().await {
            self.clock = Some(ToldClock { offset, proven: true });
        }
    }

    fn received(&self) -> u64 {
        self.rtts.len()
    }

    /// Whether the key it told is another one than the pinned one.
    fn key_differs(&self) -> bool {
        self.last
            .as_ref()
            .is_some_and(|report| report.key_matches == Some(false))
    }

    /// What the key that the peer told says.
    pub(super) fn key_state(&self) -> &'static str {
        match self.last.as_ref().map(|report| report.key_matches) {
            None => "-",
            Some(Some(true)) => "matches",
            Some(Some(false)) => "DIFFERS",
            Some(None) => "not pinned",
        }
    }

    /// The key id of the key that the peer told.
    pub(super) fn told_key(&self) -> Option<KeyId> {
        let report = self.last.as_ref()?;
        PublicKey::from_base64(&report.response.public_key)
            .ok()
            .map(|key| KeyId::from(&key))
    }

    /// How the connection was protected: `plain`, `tls x509` or `tls raw key`.
    fn security(&self) -> Option<String> {
        self.last.as_ref().map(|report| report.security.to_string())
    }

    /// With which profile the peer signs, as it says with its key: `v2`, or `v1` if it says nothing.
    fn signs(&self) -> Option<&'static str> {
        let report = self.last.as_ref()?;
        let v2 = report.capability.as_ref().is_some_and(|capability| capability.v2);
        Some(if v2 { "v2" } else { "v1" })
    }

    fn status(&self) -> String {
        match &self.error {
            None if self.key_differs() => "another key".to_owned(),
            None => "ok".to_owned(),
            Some(error) => short(error),
        }
    }

    fn to_json(&self) -> Value {
        let some = !self.rtts.is_empty();
        let figure = |value: u64| some.then_some(value);
        json!({
            "peer": self.label,
            "sent": self.sent,
            "received": self.received(),
            "rtt_us": {
                "min": figure(self.rtts.min()),
                "mean": some.then(|| self.rtts.mean()),
                "p99": figure(self.rtts.value_at_quantile(0.99)),
                "max": figure(self.rtts.max()),
            },
            "clock_offset_us": self.clock.map(|clock| clock.offset.nanos() / 1_000),
            "clock_uncertainty_us": self.clock.map(|clock| micros(clock.offset.uncertainty())),
            "clock_proven": self.clock.map(|clock| clock.proven),
            "name": self.last.as_ref().map(|report| report.response.from.as_str()),
            "key_id": self.told_key().map(|key| key.to_string()),
            "key_matches": self.last.as_ref().and_then(|report| report.key_matches),
            "security": self.security(),
            "signs": self.signs(),
            "path": self.way.as_ref().map(|way| way.path.to_string()),
            "host_name": self.way.as_ref().and_then(|way| way.granted_name.as_deref()),
            "error": self.error.as_ref().map(ToString::to_string),
        })
    }
}

/// An error of the client in few words.
pub(super) fn short(error: &ClientError) -> String {
    if error.is_unknown_peer() {
        "unknown peer".to_owned()
    } else if error.is_circuit_open() {
        "down, not called".to_owned()
    } else if error.is_timeout() {
        "timeout".to_owned()
    } else if error.is_unreachable() {
        "unreachable".to_owned()
    } else if error.is_unauthenticated() {
        "not authenticated".to_owned()
    } else if error.is_rate_limited() {
        "asked to wait".to_owned()
    } else if let Some(status) = error.status() {
        format!("status {}", status.as_u16())
    } else {
        "failed".to_owned()
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
                .map_or_else(|| "-".to_owned(), |report| harmless(&report.response.from)),
            format!("{}/{}", result.received(), result.sent),
            figure(result.rtts.min() as f64),
            figure(result.rtts.mean()),
            figure(result.rtts.value_at_quantile(0.99) as f64),
            figure(result.rtts.max() as f64),
            result.clock.map_or_else(|| "-".to_owned(), told_clock),
            result.key_state().to_owned(),
            result.signs().unwrap_or("-").to_owned(),
            result.security().unwrap_or_else(|| "-".to_owned()),
            result.status(),
        ]);
    }
    printer.line(render(&table))?;
    for result in results {
        if let Some(way) = &result.way {
            let host_name = way.granted_name.as_deref().unwrap_or("a node without a name");
            printer.line(format_args!(
                "{} is on {}, path: {}",
                harmless(&result.label),
                harmless(host_name),
                harmless(&way.path.to_string())
            ))?;
        }
        if let Some(error) = &result.error {
            match hint(error) {
                Some(hint) => printer.note(format_args!("{error}; {hint}")),
                None => printer.note(error),
            }
            // Which keys there are, and what to do about it.
            if error.is_unauthenticated()
                && let Some(cause) = std::error::Error::source(error)
            {
                printer.note(cause);
            }
        }
        warn_of_clock(&result.label, result.clock, printer);
        if let Some(conflict) = &result.conflict {
            printer.warn(format_args!("{conflict}: {}", remedy::of_conflict(conflict)));
        } else if result.key_differs() {
            printer.warn(format_args!(
                "{} answers without a valid key, but a key is pinned for it: another nara is at its address",
                harmless(&result.label)
            ));
        }
    }
    Ok(())
}

/// A clock offset with its sign, and how sure it is: signed answers tell whole seconds only, and what is not proven
/// says so.
pub(super) fn told_clock(clock: ToldClock) -> String {
    let ToldClock { offset, proven } = clock;
    let sign = if offset.nanos() < 0 { "-" } else { "+" };
    let mut text = format!("{sign}{}", human(offset.magnitude()));
    if offset.uncertainty() >= COARSE {
        text.push_str(&format!(" ± {}", human(offset.uncertainty())));
    }
    if !proven {
        text.push_str(" (unsigned)");
    }
    text
}

/// Says it if the clock of a peer is too far from ours.
pub(super) fn warn_of_clock(label: &str, clock: Option<ToldClock>, printer: Printer) {
    if let Some(ToldClock { offset: far, proven }) =
        clock.filter(|clock| clock.offset.at_least() >= defaults::CLOCK_WARNING)
    {
        printer.warn(format_args!(
            "the clock of {} is {} {} ours{}: from {} s on, it refuses our requests, and we refuse its \
             answers; set the wrong clock",
            harmless(label),
            human(far.magnitude()),
            if far.nanos() < 0 { "behind" } else { "ahead of" },
            if proven {
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
            Some(error) => Some(connect::exit_of(error)),
            None => None,
        })
        .collect();
    // One answer of a peer makes it partly reached.
    let reached = results
        .iter()
        .filter(|result| !result.rtts.is_empty() && !result.key_differs())
        .count();
    Exit::of_many(reached, &failed)
}
