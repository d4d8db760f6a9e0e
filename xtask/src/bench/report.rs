//! The report: one JSON object, and a table.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

type Samples = Map<String, Value>;

fn values(samples: &Samples, key: &str) -> Vec<f64> {
    let list = samples.get(key).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_f64).collect()
}

/// Returns the median; NaN for no values, which is `null` in the report.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Returns the median of the per-round ratios: less noisy than the ratio of medians.
fn ratio(samples: &Samples, ours: &str, theirs: &str) -> f64 {
    let rounds = values(samples, ours).into_iter().zip(values(samples, theirs));
    median(rounds.map(|(ours, theirs)| ours / theirs).collect())
}

fn at(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

pub(super) fn report(samples: &Samples, once: &Value) -> Value {
    let of = |key: &str| median(values(samples, key));
    let go_fetch =
        (at(once, "/go_fetch_before/events_per_s") + at(once, "/go_fetch_after/events_per_s")) / 2.0;
    let each = |what: &str| {
        let kinds = ["bare", "signed", "bare_mtls", "tls", "tls_handshake_only"];
        let figures = kinds.map(|kind| (kind.to_owned(), json!(of(&format!("{kind}.{what}")))));
        Value::Object(figures.into_iter().collect())
    };
    let mut report = json!({
        "schema": "nara-mesh/bench/1",
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "signed_rps": of("signed"),
        "signed_p50_us": of("signed.p50_us"),
        "signed_p99_us": of("signed.p99_us"),
        "go_signed_rps": of("go_signed"),
        "go_signed_p50_us": of("go_signed.p50_us"),
        "go_signed_p99_us": of("go_signed.p99_us"),
        "go_signed_without_inner_rps": of("go_signed_without_inner"),
        "ratio_to_go": ratio(samples, "signed", "go_signed"),
        "ratio_to_go_without_inner": ratio(samples, "signed", "go_signed_without_inner"),
        "p99_ratio_to_go": ratio(samples, "signed.p99_us", "go_signed.p99_us"),
        "tls_rps": of("tls"),
        "tls_p50_us": of("tls.p50_us"),
        "tls_p99_us": of("tls.p99_us"),
        "tls_ratio_to_go": ratio(samples, "tls", "go_signed"),
        "bare_rps": of("bare"),
        "bare_mtls_rps": of("bare_mtls"),
        "signed_share_of_bare": ratio(samples, "signed", "bare"),
        "tls_share_of_bare_mtls": ratio(samples, "tls", "bare_mtls"),
        "cpu_us_per_round_trip": each("cpu_us"),
        "allocations_per_round_trip": each("allocations"),
        "future_bytes": of("tls.future_bytes"),
        "tls_handshake_us": at(once, "/handshake/handshake_us"),
        "tls_resumption_us": at(once, "/handshake/resumption_us"),
        "unsigned_rps": of("unsigned"),
        "go_unsigned_rps": of("go_unsigned"),
        "unsigned_ratio_to_go": ratio(samples, "unsigned", "go_unsigned"),
        "sync_events_per_s": of("sync_all_cores"),
        "sync_events_per_s_one_core": of("sync_one_core"),
        "go_sync_events_per_s": of("go_sync_all_cores"),
        "go_sync_events_per_s_one_core": of("go_sync_one_core"),
        "sync_ratio_to_go": ratio(samples, "sync_all_cores", "go_sync_all_cores"),
        "sync_ratio_to_go_per_core": ratio(samples, "sync_one_core", "go_sync_one_core"),
        "bulk_events_per_s": at(once, "/bulk/events_per_s"),
        "go_fetch_events_per_s": go_fetch,
        "bulk_ratio_to_go": at(once, "/bulk/events_per_s") / go_fetch,
        "ledger_page_ratio":
            at(once, "/store/ledger_page_large_us") / at(once, "/store/ledger_page_small_us"),
        "once": once,
        "samples": samples,
    });
    // `json!` has a recursion limit.
    report["tls_handshake_only_rps"] = json!(of("tls_handshake_only"));
    report["tls_handshake_only_share"] = json!(ratio(samples, "tls_handshake_only", "bare_mtls"));
    report
}

/// A row of the table: figure, ours, the baseline's, the ratio, the target.
struct Row(&'static str, String, Option<f64>, Option<f64>, &'static str);

pub(super) fn table(report: &Value) -> String {
    let number = |pointer: &str| at(report, pointer);
    let whole = |pointer: &str| format!("{:.0}", number(pointer));
    let pair = |a: &str, b: &str| format!("{:.0} and {:.0}", number(a), number(b));
    let each = |group: &str| {
        let of = |kind| number(&format!("{group}/{kind}"));
        format!(
            "{:.0}, {:.0}; {:.0}, {:.0}, {:.0}",
            of("bare"),
            of("signed"),
            of("bare_mtls"),
            of("tls"),
            of("tls_handshake_only")
        )
    };
    let mebibytes = |pointer: &str| format!("{:.0}", number(pointer) / f64::from(1 << 20));
    let kibibytes = |pointer: &str| format!("{:.1}", number(pointer) / 1024.0);
    let some = |pointer: &str| Some(number(pointer));
    let rows = [
        Row(
            "signed round trips per second",
            whole("/signed_rps"),
            some("/go_signed_rps"),
            some("/ratio_to_go"),
            "≥ 3",
        ),
        Row(
            "… beside the baseline with as many signatures as v2 needs",
            whole("/signed_rps"),
            some("/go_signed_without_inner_rps"),
            some("/ratio_to_go_without_inner"),
            "",
        ),
        Row(
            "… p50, µs",
            whole("/signed_p50_us"),
            some("/go_signed_p50_us"),
            None,
            "",
        ),
        Row(
            "… p99, µs",
            whole("/signed_p99_us"),
            some("/go_signed_p99_us"),
            some("/p99_ratio_to_go"),
            "≤ 0.5",
        ),
        Row(
            "round trips per second over TLS that both ends trust",
            whole("/tls_rps"),
            some("/go_signed_rps"),
            some("/tls_ratio_to_go"),
            "≥ 8",
        ),
        Row(
            "… p50 and p99, µs",
            pair("/tls_p50_us", "/tls_p99_us"),
            None,
            None,
            "",
        ),
        Row(
            "share of the machine's limit: signed of bare hyper; TLS of bare hyper over TLS with client certificates",
            format!(
                "{:.2}; {:.2}",
                number("/signed_share_of_bare"),
                number("/tls_share_of_bare_mtls")
            ),
            None,
            None,
            "; ≥ 0.5",
        ),
        Row(
            "… with the handshake alone as proof",
            format!("{:.2}", number("/tls_handshake_only_share")),
            None,
            None,
            "≥ 0.7",
        ),
        Row(
            "processor time a round trip, µs: bare, signed; bare over TLS, TLS, TLS with the handshake alone",
            each("/cpu_us_per_round_trip"),
            None,
            None,
            "",
        ),
        Row(
            "allocations a round trip, both ends: the same",
            each("/allocations_per_round_trip"),
            None,
            None,
            "≤ 80",
        ),
        Row(
            "the future of a call, bytes",
            whole("/future_bytes"),
            None,
            None,
            "",
        ),
        Row(
            "a new connection: what TLS adds to the first call, raw keys and certificates, µs",
            pair("/tls_handshake_us", "/once/handshake/x509_handshake_us"),
            None,
            None,
            "",
        ),
        Row(
            "… with a resumed session, µs",
            pair("/tls_resumption_us", "/once/handshake/x509_resumption_us"),
            None,
            None,
            "",
        ),
        Row(
            "unsigned round trips per second, bare hyper and axum",
            whole("/unsigned_rps"),
            some("/go_unsigned_rps"),
            some("/unsigned_ratio_to_go"),
            "",
        ),
        Row(
            "page of 5,000 events decoded and verified, events per second, one core",
            whole("/sync_events_per_s_one_core"),
            some("/go_sync_events_per_s_one_core"),
            some("/sync_ratio_to_go_per_core"),
            "≥ 6",
        ),
        Row(
            "… all cores",
            whole("/sync_events_per_s"),
            some("/go_sync_events_per_s"),
            some("/sync_ratio_to_go"),
            "",
        ),
        Row(
            "whole ledger of 320,000 events fetched, verified and stored, events per second",
            whole("/bulk_events_per_s"),
            some("/go_fetch_events_per_s"),
            some("/bulk_ratio_to_go"),
            "≥ 3",
        ),
        Row(
            "… peak memory, MiB",
            mebibytes("/once/bulk/peak_rss_bytes"),
            None,
            None,
            "≤ 200",
        ),
        Row(
            "… 1,000,000 events, events per second",
            whole("/once/bulk_large/events_per_s"),
            None,
            None,
            "complete",
        ),
        Row(
            "page of 1,000 from a ledger of 10,000 and of 1,000,000, µs",
            pair(
                "/once/store/ledger_page_small_us",
                "/once/store/ledger_page_large_us",
            ),
            None,
            some("/ledger_page_ratio"),
            "≤ 1.2",
        ),
        Row(
            "inserted into a ledger up to 1,000,000, events per second",
            whole("/once/store/ledger_insert_per_s"),
            None,
            None,
            "",
        ),
        Row(
            "registry lookup among 10 and 100,000 peers, ns",
            pair(
                "/once/store/registry_lookup_10_ns",
                "/once/store/registry_lookup_100000_ns",
            ),
            None,
            None,
            "",
        ),
        Row(
            "memory per registered peer, bytes",
            whole("/once/store/registry_bytes_per_peer"),
            None,
            None,
            "",
        ),
        Row(
            "replay cache, one of 100,000 insertions, ns",
            whole("/once/store/replay_insert_ns"),
            None,
            None,
            "",
        ),
        Row(
            "stream, 1 subscriber, append to verified, p99, ms",
            format!("{:.1}", number("/once/stream/stream_p99_ms_1")),
            None,
            None,
            "",
        ),
        Row(
            "stream, 1,000 subscribers at 100 events/s, p50, ms",
            format!("{:.1}", number("/once/stream/stream_p50_ms")),
            None,
            None,
            "",
        ),
        Row(
            "… p99 of subscribers that verify, and of those that only count, ms",
            format!(
                "{:.1} and {:.1}",
                number("/once/stream/stream_p99_ms"),
                number("/once/stream/stream_raw_p99_ms")
            ),
            None,
            None,
            "≤ 20",
        ),
        Row(
            "… processors to spare",
            format!("{:.1}", number("/once/stream/stream_processors_to_spare")),
            None,
            None,
            "≥ 0.5",
        ),
        Row(
            "… processor time a delivery, µs: the server, the readers",
            format!(
                "{:.1}, {:.1}",
                number("/once/stream/stream_server_us_per_delivery"),
                number("/once/stream/stream_readers_us_per_delivery")
            ),
            None,
            None,
            "",
        ),
        Row(
            "… deliveries per second at full speed",
            whole("/once/stream/stream_deliveries_per_s"),
            None,
            None,
            "",
        ),
        Row(
            "… memory per subscriber, KiB",
            kibibytes("/once/stream/stream_bytes_per_subscriber"),
            None,
            None,
            "≤ 32",
        ),
        Row(
            "reconcile 50,000 events: equal, bytes",
            whole("/once/reconcile/equal_bytes"),
            None,
            None,
            "≤ 400",
        ),
        Row(
            "… 10 newest missing, bytes (and rounds)",
            format!(
                "{} ({})",
                whole("/once/reconcile/newest10_bytes"),
                whole("/once/reconcile/newest10_rounds")
            ),
            None,
            None,
            "≤ 2,048",
        ),
        Row(
            "… 100 scattered missing, bytes (and rounds)",
            format!(
                "{} ({})",
                whole("/once/reconcile/random100_bytes"),
                whole("/once/reconcile/random100_rounds")
            ),
            None,
            None,
            "",
        ),
        Row(
            "reconcile 1,000,000 events, 100 scattered missing, ms",
            whole("/once/reconcile_large/random100_ms"),
            None,
            None,
            "",
        ),
    ];
    let mut text = String::from("| figure | here | Go baseline | ratio | target |\n|---|---|---|---|---|\n");
    // Figures that this run did not measure have no row.
    let measured = rows.into_iter().filter(|row| !row.1.contains("NaN"));
    for Row(what, ours, baseline, ratio, target) in measured {
        let baseline = baseline.map(|value| format!("{value:.0}")).unwrap_or_default();
        let ratio = ratio.map(|value| format!("{value:.2}")).unwrap_or_default();
        let _ = writeln!(text, "| {what} | {ours} | {baseline} | {ratio} | {target} |");
    }
    let _ = writeln!(
        text,
        "\n{} cores; both ends of a round trip share them.",
        number("/cores")
    );
    text
}
