//! Simulates how fast an event reaches every nara.

mod plot;

use std::path::Path;
use std::time::{Duration, Instant};

use nara_proto::gossip::GossipConfig;
use nara_proto::gossip::simulation::{self, Plan, Report};
use serde_json::{Map, Value, json};

/// The degrees to compare.
const DEGREES: [usize; 6] = [2, 3, 4, 6, 8, 12];

/// The mesh size at which degrees are compared.
const DEGREES_AT: usize = 1_000;

/// The parameters of a simulation.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    pub(crate) naras: &'a [usize],
    pub(crate) seeds: u64,
    pub(crate) events: usize,
    pub(crate) plot: Option<&'a Path>,
}

pub(crate) fn measure(settings: &Settings<'_>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
    let start = Instant::now();
    let mut sizes = Map::new();
    let mut curves = Vec::new();
    for &naras in settings.naras {
        let quiet = simulate(settings, naras, |_| {});
        let dead = simulate(settings, naras, |plan| plan.dead = 0.05);
        let cut = simulate(settings, naras, |plan| plan.cut = 0.05);
        curves.push(plot::Curve::new(naras, &quiet));
        let figures = json!({
            "all_live": figures(&quiet),
            "dead_5_percent": figures(&dead),
            "cut_off_5_percent": figures(&cut),
        });
        sizes.insert(naras.to_string(), figures);
    }
    let mut degrees = Map::new();
    for degree in DEGREES {
        let reports = simulate(settings, DEGREES_AT, |plan| {
            plan.config = GossipConfig::with_degree(degree);
            plan.dead = 0.05;
        });
        degrees.insert(degree.to_string(), figures(&reports));
    }
    if let Some(file) = settings.plot {
        plot::draw(file, &curves)?;
    }
    let plan = Plan::new(0, 0);
    Ok(json!({
        "latency_min_ms": milliseconds(plan.latency.0),
        "latency_max_ms": milliseconds(plan.latency.1),
        "processing_ms": milliseconds(plan.processing),
        "degree": plan.config.degree,
        "events": settings.events,
        "seeds": settings.seeds,
        "growth_per_tenfold_ms": growth(settings.naras, &sizes),
        "naras": sizes,
        "degrees_at_1000_dead_5_percent": degrees,
        "seconds": start.elapsed().as_secs_f64(),
    }))
}

/// Returns one report per seed.
fn simulate(settings: &Settings<'_>, naras: usize, change: impl Fn(&mut Plan)) -> Vec<Report> {
    (1..=settings.seeds)
        .map(|seed| {
            let mut plan = Plan::new(naras, seed);
            plan.events = settings.events;
            change(&mut plan);
            simulation::run(&plan)
        })
        .collect()
}

fn figures(reports: &[Report]) -> Value {
    let events: Vec<_> = reports.iter().flat_map(|report| &report.events).collect();
    let times = |part: f64| {
        let mut times: Vec<Duration> = events.iter().map(|event| event.time_to(part)).collect();
        times.sort();
        times
    };
    let of = |times: &[Duration], part: f64| {
        let last = times.len().saturating_sub(1);
        times
            .get((part * last as f64).round() as usize)
            .map(|&time| milliseconds(time))
    };
    let all = times(1.0);
    let copies: u64 = events.iter().map(|event| event.copies).sum();
    json!({
        "half_ms": of(&times(0.5), 0.5),
        "p99_ms": of(&times(0.99), 0.5),
        "all_ms": of(&all, 0.5),
        "all_p99_ms": of(&all, 0.99),
        "all_max_ms": of(&all, 1.0),
        "hops_max": events.iter().map(|event| event.hops).max(),
        "messages_per_event": copies as f64 / events.len().max(1) as f64,
        "redundancy": mean(reports.iter().map(Report::redundancy)),
        "missing": reports.iter().map(|report| report.missing).sum::<usize>(),
        "connected": reports.iter().all(|report| report.connected),
        "subscriptions_per_nara": mean(reports.iter().map(|report| report.subscriptions as f64 / report.live as f64)),
        "zines_per_nara": mean(reports.iter().map(|report| report.zines as f64 / report.live as f64)),
    })
}

/// Returns how much the time to reach all grows when the mesh grows tenfold, from the smallest to the largest
/// size.
fn growth(naras: &[usize], sizes: &Map<String, Value>) -> Option<f64> {
    let (smallest, largest) = (naras.iter().min()?, naras.iter().max()?);
    let time = |naras: &usize| sizes.get(&naras.to_string())?["all_live"]["all_ms"].as_f64();
    let tenfold = (*largest as f64 / *smallest as f64).log10();
    (tenfold > 0.0).then_some((time(largest)? - time(smallest)?) / tenfold)
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1);
    values.sum::<f64>() / count as f64
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
