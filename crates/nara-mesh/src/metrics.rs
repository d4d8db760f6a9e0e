//! All metrics, for the recorder (crate `metrics`) that the application installs.
//!
//! Without a recorder they cost almost nothing. Names end in their unit, names of counters in `_total`. No label has a
//! value that a peer can choose freely: names of peers are in the log. [`Metric::describe_all`] registers the
//! descriptions.

use std::time::Duration;

use ::metrics::{Counter, Gauge, Key, Label, Level, Metadata, SharedString};
use nara_proto::endpoint::PATHS;

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricKind {
    /// It only increases, until the program ends.
    Counter,
    /// The current value.
    Gauge,
    /// The distribution of values: count, sum and buckets.
    Histogram,
}

/// A metric of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// The kind.
    pub kind: MetricKind,
    /// The meaning, with the labels.
    pub help: &'static str,
    /// The labels and all values of each, if there are few: each combination exists from the start.
    pub labels: &'static [(&'static str, &'static [&'static str])],
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $kind:ident $constant:ident = $name:literal $(by $($label:literal $values:expr),+)?;)+) => {
        $(
            $(#[doc = $help])+
            pub(crate) const $constant: &str = $name;
        )+

        impl Metric {
            /// All metrics.
            pub const ALL: &[Self] = &[$(Self {
            name: $name,
            kind: MetricKind::$kind,
            help: concat!($($help),+),
            labels: &[$($(($label, &$values)),+)?],
            }),+];
        }
    };
}

/// The paths of our endpoints, and `other` for any other path.
pub(crate) const ENDPOINTS: [&str; PATHS.len() + 1] = {
    let mut endpoints = ["other"; PATHS.len() + 1];
    let mut index = 0;
    while index < PATHS.len() {
        endpoints[index] = PATHS[index];
        index += 1;
    }
    endpoints
};

/// The reasons for refusals.
pub(crate) const REASONS: [&str; 53] = [
    "address_mismatch",
    "answer_too_large",
    "auth_headers",
    "bad_signature",
    "before_start",
    "body_broken",
    "body_bytes",
    "body_bytes_of_peer",
    "body_too_large",
    "body_too_slow",
    "busy",
    "chain",
    "clock_set_back",
    "connections_of_address",
    "downgrade",
    "forged_id",
    "handler_too_slow",
    "in_flight_of_peer",
    "inner_signature",
    "invalid_request",
    "key_of_connection",
    "key_replaced",
    "ledger",
    "malformed_body",
    "method_not_allowed",
    "not_found",
    "not_whole",
    "other_body",
    "other_connection",
    "other_key",
    "other_recipient",
    "overloaded",
    "owner_unavailable",
    "panicked",
    "rate_of_address",
    "rate_of_checkpoints",
    "rate_of_peer",
    "reconcile",
    "replay_cache_full",
    "replayed",
    "retired",
    "sender_mismatch",
    "stale",
    "streamed_body",
    "stuck_journey",
    "tls_required",
    "too_many_streams",
    "two_successors",
    "unauthenticated",
    "unknown_emitter",
    "unknown_sender",
    "unsigned_event",
    "untrusted",
];

metrics! {
    /// Requests answered, by `endpoint` (a path, or `other`) and `status` (`2xx` to `5xx`).
    Counter REQUESTS = "nara_mesh_requests_total" by "endpoint" ENDPOINTS, "status" ["2xx", "3xx", "4xx", "5xx"];
    /// Time from the end of a request header to the beginning of its answer, by `endpoint`.
    Histogram REQUEST_SECONDS = "nara_mesh_request_duration_seconds";
    /// Requests in progress.
    Gauge REQUESTS_IN_FLIGHT = "nara_mesh_requests_in_flight";
    /// Bytes of request bodies held in memory until their requests are answered.
    Gauge BODY_BYTES = "nara_mesh_request_body_bytes";
    /// Requests refused, by `reason`: one of a fixed set of words.
    Counter REQUESTS_REFUSED = "nara_mesh_requests_refused_total" by "reason" REASONS;
    /// Connections of peers open at the server.
    Gauge CONNECTIONS = "nara_mesh_connections";
    /// Connections of peers accepted, by `security` (`plain`, `tls`, or `failed` before either).
    Counter CONNECTIONS_ACCEPTED = "nara_mesh_connections_accepted_total" by "security" ["plain", "tls", "failed"];
    /// Connections refused because their address is at its limit.
    Counter CONNECTIONS_REFUSED = "nara_mesh_connections_refused_total";
    /// Signed requests remembered against replay. At the limit, signed requests are refused with the reason
    /// `replay_cache_full`.
    Gauge REPLAY_ENTRIES = "nara_mesh_replay_cache_entries";
    /// Messages of peers that do less than they have proven to support, by `direction` (`request`, `response`).
    Counter DOWNGRADES = "nara_mesh_downgrades_total" by "direction" ["request", "response"];
    /// Requests whose source address belongs to another nara than the claimed sender.
    Counter ADDRESS_MISMATCHES = "nara_mesh_address_mismatches_total";
    /// Unknown senders asked for their key, by `outcome` (`pinned`, `conflict`, `refused`, `unknown`, `busy`: too many
    /// at once).
    Counter KEY_DISCOVERIES = "nara_mesh_key_discoveries_total" by "outcome" ["pinned", "conflict", "refused", "unknown", "busy"];
    /// Events received in direct messages, zines and imports, by `outcome` (`new`, `known`, `refused`).
    Counter EVENTS_TAKEN = "nara_mesh_events_taken_total" by "outcome" ["new", "known", "refused"];
    /// Operations that failed on a ledger in a file, by `reason`: `full` (the disk), `read_only`, `busy` (another process
    /// writes), `corrupt`, `other`.
    Counter LEDGER_ERRORS = "nara_mesh_ledger_errors_total" by "reason" ["full", "read_only", "busy", "corrupt", "other"];
    /// Streams open for peers.
    Gauge STREAMS = "nara_mesh_streams";
    /// Messages written to streams.
    Counter STREAM_MESSAGES = "nara_mesh_stream_messages_total";
    /// Times that the reader of a stream fell behind and was served from the ledger instead.
    Counter STREAM_LAGS = "nara_mesh_stream_lags_total";
    /// Calls to peers, by `endpoint` and `outcome` (`ok`, or the kind of the error).
    Counter CALLS = "nara_mesh_calls_total";
    /// Duration of calls to peers, failed ones included, by `endpoint`.
    Histogram CALL_SECONDS = "nara_mesh_call_duration_seconds";
    /// Connections dialled to peers, by `outcome` (`ok`, `failed`, `timeout`).
    Counter DIALS = "nara_mesh_dials_total" by "outcome" ["ok", "failed", "timeout"];
    /// Idle connections to peers kept open for the next call.
    Gauge POOL_IDLE = "nara_mesh_pool_idle_connections";
    /// Calls that reused an idle connection.
    Counter POOL_REUSED = "nara_mesh_pool_reused_total";
    /// Peers in the registry.
    Gauge PEERS = "nara_mesh_peers";
    /// Changes of circuit breakers, by `to` (`open`: the peer is down; `closed`: it is called again).
    Counter BREAKER_CHANGES = "nara_mesh_breaker_changes_total" by "to" ["open", "closed"];
    /// Keys pinned, by `source` (`configured`, `operator`, `hey-there`, `ping`, `peer-query`, `tls`, `own`, `succession`).
    Counter KEYS_PINNED = "nara_mesh_keys_pinned_total" by "source" ["configured", "operator", "hey-there", "ping", "peer-query", "tls", "own", "succession"];
    /// Keys offered and not pinned, by `reason`: `conflict` (another key is pinned), `policy` (the trust policy refused it),
    /// `untrusted` (the operator banned the nara or the key), `hidden_name` (the name has a character that cannot be seen),
    /// `address` (it did not come from the configured address, or of a configured nara from another one), `no_key_holds` (the key ended, and none follows).
    Counter KEYS_REFUSED = "nara_mesh_keys_refused_total" by "reason" ["conflict", "policy", "untrusted", "hidden_name", "address", "no_key_holds"];
    /// Statements of succession about keys of peers, by `effect` (`followed`, `retired`, `conflict`: no key holds until the
    /// operator decides, `asked`: the operator must decide whether to follow).
    Counter SUCCESSIONS = "nara_mesh_successions_total" by "effect" ["followed", "retired", "conflict", "asked"];
    /// Peers whose clock differs from ours by 5 s or more, by proven times where available.
    Gauge CLOCKS_SKEWED = "nara_mesh_clocks_skewed";
    /// Median offset of the clocks of recently called peers from ours, in seconds, by proven times where available; of two in
    /// the middle, the one nearer to 0. If it is not near 0, our own clock is wrong, or the clock of the only peer.
    Gauge CLOCK_OFFSET_SECONDS = "nara_mesh_clock_offset_seconds";
    /// Times that the clock of this machine was set by a second or more while the server ran, by `direction` (`back`,
    /// `forward`: also after the machine slept).
    Counter CLOCK_STEPS = "nara_mesh_clock_steps_total" by "direction" ["back", "forward"];
    /// Peers that send us events by gossip, by `link` (`stream`, `zines`).
    Gauge GOSSIP_PEERS = "nara_mesh_gossip_peers" by "link" ["stream", "zines"];
    /// Events received by gossip, by `outcome` (`new`, `duplicate`, `not_kept`, `refused`).
    Counter GOSSIP_EVENTS = "nara_mesh_gossip_events_total" by "outcome" ["new", "duplicate", "not_kept", "refused"];
    /// Zines exchanged by gossip, by `outcome` (`ok`, `failed`).
    Counter GOSSIP_ZINES = "nara_mesh_gossip_zines_total" by "outcome" ["ok", "failed"];
}

impl Metric {
    /// Describes all metrics to the recorder. Call it once, after you installed the recorder.
    pub fn describe_all() {
        for metric in Self::ALL {
            let help = metric.help.trim_start();
            let unit = if metric.name.ends_with("_seconds") {
                ::metrics::Unit::Seconds
            } else {
                ::metrics::Unit::Count
            };
            match metric.kind {
                MetricKind::Counter => ::metrics::describe_counter!(metric.name, unit, help),
                MetricKind::Gauge => ::metrics::describe_gauge!(metric.name, unit, help),
                MetricKind::Histogram => ::metrics::describe_histogram!(metric.name, unit, help),
            }
            metric.begin();
        }
    }

    /// Registers it with the value 0, for each combination of its label values, so that a rate differs from a missing
    /// series. Other series begin when they are first counted.
    fn begin(&self) {
        if self.labels.is_empty() && self.help.contains(" by `") {
            return;
        }
        let mut series: Vec<Vec<(&str, &str)>> = vec![Vec::new()];
        for (label, values) in self.labels {
            let with = |labels: &Vec<_>, value| [&labels[..], &[(*label, value)]].concat();
            series = series
                .iter()
                .flat_map(|labels| values.iter().map(move |value| with(labels, *value)))
                .collect();
        }
        for labels in series {
            match self.kind {
                MetricKind::Counter => ::metrics::counter!(self.name, &labels).increment(0),
                MetricKind::Gauge => ::metrics::gauge!(self.name, &labels).increment(0),
                MetricKind::Histogram => {}
            }
        }
    }
}

/// The metrics that every request to one endpoint writes. The keys are made once, because the macros would make them
/// each time.
#[derive(Debug)]
pub(crate) struct Series<const N: usize> {
    seconds: Key,
    /// By the value of the other label.
    counted: [(&'static str, Key); N],
}

/// The metadata of all writes.
const WRITTEN: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

impl<const N: usize> Series<N> {
    pub(crate) fn new(
        endpoint: impl Into<SharedString>,
        seconds: &'static str,
        total: &'static str,
        (label, values): (&'static str, [&'static str; N]),
    ) -> Self {
        let endpoint = Label::new("endpoint", endpoint.into());
        let counted = values.map(|value| {
            let labels = vec![endpoint.clone(), Label::from_static_parts(label, value)];
            (value, Key::from_parts(total, labels))
        });
        Self {
            seconds: Key::from_parts(seconds, vec![endpoint]),
            counted,
        }
    }

    /// Records the duration, and counts it under this label value. Returns whether that series exists.
    pub(crate) fn write(&self, took: Duration, value: &str) -> bool {
        ::metrics::with_recorder(|recorder| {
            recorder.register_histogram(&self.seconds, &WRITTEN).record(took);
            let counted = self.counted.iter().find(|(known, _)| *known == value);
            counted.is_some_and(|(_, key)| {
                recorder.register_counter(key, &WRITTEN).increment(1);
                true
            })
        })
    }
}

/// A metric without labels that every request writes. Its key is made once, because the macros would make it each time.
#[derive(Debug)]
pub(crate) struct Plain(Key);

impl Plain {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self(Key::from_static_name(name))
    }

    pub(crate) fn counter(&self) -> Counter {
        ::metrics::with_recorder(|recorder| recorder.register_counter(&self.0, &WRITTEN))
    }

    pub(crate) fn gauge(&self) -> Gauge {
        ::metrics::with_recorder(|recorder| recorder.register_gauge(&self.0, &WRITTEN))
    }
}

/// Increments a gauge for as long as this guard lives.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(gauge: &'static str) -> Self {
        Self::begin(::metrics::gauge!(gauge))
    }

    pub(crate) fn begin(gauge: Gauge) -> Self {
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the row of `docs/operate.md` that documents a metric.
    fn row(metric: &Metric) -> String {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let help = metric.help.trim().replace('|', "\\|");
        format!("| `{}` | {kind} | {help} |", metric.name)
    }

    #[test]
    fn the_operators_manual_documents_every_metric_and_no_other() {
        let manual = include_str!("../../../docs/operate.md");
        // The metrics of the program have their own table.
        let (_, manual) = manual.split_once("\n## Metrics\n").unwrap();
        let (table, _) = manual.split_once("\n## ").unwrap();
        let (table, _) = table.split_once("\n### ").unwrap_or((table, ""));
        let documented: Vec<&str> = table
            .lines()
            .filter(|line| line.starts_with("| `nara_mesh_"))
            .collect();
        let all: Vec<String> = Metric::ALL.iter().map(row).collect();
        assert_eq!(documented, all, "the table must be:\n{}", all.join("\n"));
    }

    #[test]
    fn every_metric_is_in_the_list() {
        let source = include_str!("metrics.rs");
        let in_source = source
            .lines()
            .filter(|line| line.contains(" = \"nara_mesh_"))
            .count();
        assert_eq!(in_source, Metric::ALL.len());
        let mut names: Vec<_> = Metric::ALL.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Metric::ALL.len());
    }

    #[test]
    fn names_end_in_their_unit_and_have_a_help_text() {
        for metric in Metric::ALL {
            assert!(metric.name.starts_with("nara_mesh_"));
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.kind == MetricKind::Counter,
                "{}",
                metric.name
            );
            if metric.kind == MetricKind::Histogram {
                assert!(metric.name.ends_with("_seconds"), "{}", metric.name);
            }
            assert!(
                metric.help.trim().ends_with('.') && metric.help.len() > 20,
                "{}",
                metric.name
            );
        }
    }
}
