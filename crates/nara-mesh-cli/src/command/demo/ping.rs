use std::time::Duration;

use serde_json::{Value, json};

use super::nara::Mesh;
use super::step::{Report, Step};
use crate::printer::{human, micros, render, table_of};

pub(super) const STEP: Step = Step {
    name: "ping",
    title: "every nara pings every other; the round trip, row to column",
};

pub(super) async fn run(mesh: &Mesh) -> Report {
    let naras = mesh.naras();
    let mut table = table_of(std::iter::once("").chain(naras.iter().map(|nara| nara.name())));
    let mut rtts: Vec<Duration> = Vec::new();
    let mut failed = 0;
    let mut pairs: Vec<Value> = Vec::new();
    for nara in naras {
        // The first ping dials; the second measures an open connection.
        nara.client.ping_all().await;
        let mut row = vec![nara.name().to_owned()];
        let outcomes = nara.client.ping_all().await;
        for other in naras {
            let outcome = outcomes
                .iter()
                .find(|(info, _)| info.id.as_ref() == Some(other.local.id()));
            row.push(match outcome {
                None => "·".to_owned(),
                Some((_, Ok(report))) if report.key_matches == Some(true) => {
                    rtts.push(report.rtt);
                    pairs.push(json!({
                        "from": nara.name(), "to": other.name(), "rtt_us": micros(report.rtt),
                    }));
                    human(report.rtt)
                }
                Some(_) => {
                    failed += 1;
                    "failed".to_owned()
                }
            });
        }
        table.add_row(row);
    }
    rtts.sort_unstable();
    let expected = naras.len() * (naras.len() - 1);
    let median = rtts.get(rtts.len() / 2).copied().unwrap_or_default();
    let ok = failed == 0 && rtts.len() == expected;
    Report::new(
        ok,
        format!(
            "{} of {expected} pings answered, median round trip {}",
            rtts.len(),
            human(median)
        ),
    )
    .lines(render(&table).lines().map(str::to_owned))
    .figure("pings", expected)
    .figure("answered", rtts.len())
    .figure("rtt_min_us", rtts.first().copied().map(micros))
    .figure("rtt_median_us", micros(median))
    .figure("rtt_max_us", rtts.last().copied().map(micros))
    .figure("pairs", pairs)
}
