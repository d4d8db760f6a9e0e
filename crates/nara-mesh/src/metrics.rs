//! The names of all metrics, for the recorder of whoever runs the program (crate `metrics`).
//!
//! Without a recorder they cost next to nothing. Names end in their unit; counters end in `_total`. No label ever
//! has a value that a peer chooses freely: names of peers are in the log. [`describe`] tells a recorder what they
//! mean; `nara-mesh serve --metrics` does so.

/// What a metric does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricKind {
    /// It only grows, until the program ends.
    Counter,
    /// It is what it is now.
    Gauge,
    /// How often, and how much in all and in each range.
    Histogram,
}

/// A metric of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub kind: MetricKind,
    /// What it means, with its labels.
    pub help: &'static str,
    /// Its label and all values of it, if there are few.
    pub label: Option<(&'static str, &'static [&'static str])>,
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $kind:ident $constant:ident = $name:literal $(by $label:literal [$($value:literal),+])?;)+) => {
        $(
            $(#[doc = $help])+
            pub const $constant: &str = $name;
        )+

        /// All metrics of this crate.
        pub const ALL: &[Metric] = &[$(Metric {
            name: $name,
            kind: MetricKind::$kind,
            help: concat!($($help),+),
            label: metrics!(@label $($label [$($value),+])?),
        }),+];
    };
    (@label) => { None };
    (@label $label:literal [$($value:literal),+]) => { Some(($label, &[$($value),+])) };
}

metrics! {
    /// Requests that were answered, by `endpoint` (a path, or `other`) and `status` (`2xx` to `5xx`).
    Counter REQUESTS = "nara_mesh_requests_total";
    /// How long requests took from the end of their header to the beginning of their answer, by `endpoint`.
    Histogram REQUEST_SECONDS = "nara_mesh_request_duration_seconds";
    /// Requests that are worked on now.
    Gauge REQUESTS_IN_FLIGHT = "nara_mesh_requests_in_flight";
    /// Bytes of request bodies that are held now, until their requests are answered.
    Gauge BODY_BYTES = "nara_mesh_request_body_bytes";
    /// Requests that were refused, by `reason`: one of a fixed set of words.
    Counter REQUESTS_REFUSED = "nara_mesh_requests_refused_total";
    /// Connections of peers that are open at the server now.
    Gauge CONNECTIONS = "nara_mesh_connections";
    /// Connections of peers that were accepted, by `security` (`plain`, `tls`, `failed`: neither came about).
    Counter CONNECTIONS_ACCEPTED = "nara_mesh_connections_accepted_total" by "security" ["plain", "tls", "failed"];
    /// Connections that were closed at once because their address has as many as it may have.
    Counter CONNECTIONS_REFUSED = "nara_mesh_connections_refused_total";
    /// Signed requests that are remembered against replay, after the last one. When they reach the limit, signed
    /// requests are refused with the reason `replay_cache_full`.
    Gauge REPLAY_ENTRIES = "nara_mesh_replay_cache_entries";
    /// Messages of peers that do less than they have proven that they can, by `direction` (`request`, `response`).
    Counter DOWNGRADES = "nara_mesh_downgrades_total" by "direction" ["request", "response"];
    /// Requests that claimed to come from another nara than the one to which their source address belongs.
    Counter ADDRESS_MISMATCHES = "nara_mesh_address_mismatches_total";
    /// Unknown senders that were asked for their key, by `outcome` (`pinned`, `conflict`, `refused`, `unknown`, `busy`: too
    /// many).
    Counter KEY_DISCOVERIES = "nara_mesh_key_discoveries_total" by "outcome" ["pinned", "conflict", "refused", "unknown", "busy"];
    /// Events that peers sent in direct messages, zines and imports, by `outcome` (`new`, `known`, `refused`).
    Counter EVENTS_TAKEN = "nara_mesh_events_taken_total" by "outcome" ["new", "known", "refused"];
    /// Streams that peers have open here now.
    Gauge STREAMS = "nara_mesh_streams";
    /// Messages that were written to streams.
    Counter STREAM_MESSAGES = "nara_mesh_stream_messages_total";
    /// Times that the reader of a stream fell behind and was served from the ledger instead.
    Counter STREAM_LAGS = "nara_mesh_stream_lags_total";
    /// Calls to peers, by `endpoint` and `outcome` (`ok`, or the kind of the error).
    Counter CALLS = "nara_mesh_calls_total";
    /// How long calls to peers took, failed ones too, by `endpoint`.
    Histogram CALL_SECONDS = "nara_mesh_call_duration_seconds";
    /// Connections to peers that were dialled, by `outcome` (`ok`, `failed`, `timeout`).
    Counter DIALS = "nara_mesh_dials_total" by "outcome" ["ok", "failed", "timeout"];
    /// Connections to peers that are kept open for the next call, now.
    Gauge POOL_IDLE = "nara_mesh_pool_idle_connections";
    /// Calls that found a connection that was kept open.
    Counter POOL_REUSED = "nara_mesh_pool_reused_total";
    /// Peers in the registry now.
    Gauge PEERS = "nara_mesh_peers";
    /// Changes of circuit breakers, by `to` (`open`: the peer is known to be down; `closed`: it is called again).
    Counter BREAKER_CHANGES = "nara_mesh_breaker_changes_total" by "to" ["open", "closed"];
    /// Keys that were pinned, by `source` (`configured`, `operator`, `hey-there`, `ping`, `peer-query`, `tls`, `own`).
    Counter KEYS_PINNED = "nara_mesh_keys_pinned_total" by "source" ["configured", "operator", "hey-there", "ping", "peer-query", "tls", "own"];
    /// Keys that were offered for a nara and not pinned, by `reason`: `conflict` (another key is pinned), `policy` (the
    /// trust policy refused it), `untrusted` (the operator does not trust the nara).
    Counter KEYS_REFUSED = "nara_mesh_keys_refused_total" by "reason" ["conflict", "policy", "untrusted"];
    /// Peers whose clock is 5 s or more from ours, now.
    Gauge CLOCKS_SKEWED = "nara_mesh_clocks_skewed";
    /// How far the clocks of the peers that were called last are ahead of ours, the median, in seconds: what most of
    /// them share is an error of ours.
    Gauge CLOCK_OFFSET_SECONDS = "nara_mesh_clock_offset_seconds";
    /// Peers whose events gossip gets, now, by `link` (`stream`, `zines`).
    Gauge GOSSIP_PEERS = "nara_mesh_gossip_peers" by "link" ["stream", "zines"];
    /// Events that came by gossip, by `outcome` (`new`, `duplicate`, `not_kept`, `refused`).
    Counter GOSSIP_EVENTS = "nara_mesh_gossip_events_total" by "outcome" ["new", "duplicate", "not_kept", "refused"];
    /// Zines that gossip exchanged, by `outcome` (`ok`, `failed`).
    Counter GOSSIP_ZINES = "nara_mesh_gossip_zines_total" by "outcome" ["ok", "failed"];
}

/// Tells the recorder what the metrics mean. To be called once, behind its installation.
pub fn describe() {
    for metric in ALL {
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

impl Metric {
    /// Makes it exist with the value 0, for each value of its label: a rate can then be told from nothing. Metrics by
    /// endpoint or reason begin when they are first counted.
    fn begin(&self) {
        if self.label.is_none() && self.help.contains(" by `") {
            return;
        }
        let (label, values) = self.label.unwrap_or(("", &[""]));
        for value in values {
            let labels: Vec<(&str, &str)> = if label.is_empty() { Vec::new() } else { vec![(label, *value)] };
            match self.kind {
                MetricKind::Counter => ::metrics::counter!(self.name, &labels).increment(0),
                MetricKind::Gauge => ::metrics::gauge!(self.name, &labels).increment(0),
                MetricKind::Histogram => {}
            }
        }
    }
}

/// Increments a gauge for as long as this guard lives.
#[derive(Debug)]
pub(crate) struct Counted(&'static str);

impl Counted {
    pub(crate) fn new(gauge: &'static str) -> Self {
        ::metrics::gauge!(gauge).increment(1);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        ::metrics::gauge!(self.0).decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The row of the README that documents a metric.
    fn row(metric: &Metric) -> String {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let help = metric.help.trim().replace('|', "\\|");
        format!("| `{}` | {kind} | {help} |", metric.name)
    }

    #[test]
    fn the_readme_documents_every_metric_and_no_other() {
        let readme = include_str!("../../../README.md");
        let documented: Vec<&str> = readme
            .lines()
            .filter(|line| line.starts_with("| `nara_mesh_"))
            .collect();
        let all: Vec<String> = ALL.iter().map(row).collect();
        assert_eq!(documented, all, "the table must be:\n{}", all.join("\n"));
    }

    #[test]
    fn every_metric_is_in_the_list() {
        let source = include_str!("metrics.rs");
        let in_source = source
            .lines()
            .filter(|line| line.contains(" = \"nara_mesh_"))
            .count();
        assert_eq!(in_source, ALL.len());
        let mut names: Vec<_> = ALL.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn names_end_in_their_unit_and_help_says_what_they_mean() {
        for metric in ALL {
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
