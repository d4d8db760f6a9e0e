//! Pairs of machines connected over emulated bad lines and NATs.
//!
//! | file | is |
//! |---|---|
//! | `line` | the line emulator, without I/O |
//! | `emulator` | the emulator between two network devices |
//! | `grade` | the lines and NATs that are measured |
//! | `mapper` | the port mapping daemon of a router |
//! | `world` | the machines, as network namespaces |
//! | `rounds` | rounds of measurements, and their table |
//! | `side` | a nara on one of the machines |
//! | `trouble` | changes of the path and the line between two naras |
//! | `soak` | minutes of traffic over one of the lines |
//!
//! The measurements themselves are in `bench/line.rs`.

mod emulator;
mod grade;
mod line;
mod mapper;
mod rounds;
pub(crate) mod side;
pub(crate) mod soak;
pub(crate) mod trouble;
mod world;

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

pub(crate) use self::grade::{GRADES, Grade, Nat, Place};
use self::grade::{WAYS, pairs};
use self::rounds::{Figures, Options, ratio};
use self::world::{SERVERS, World};
use crate::bench::line::LineFigures;
use crate::bench::{median, serving, start};
use crate::kind::Kind;
use crate::network::{ControlKind, Network};
use crate::space::tun_usable;

/// The timeout of one pair.
const ROUND: Duration = Duration::from_secs(180);
/// The line used to measure places other than pairs of NATs.
const HOME: &str = "home";

/// Measures each line with each pair of NATs: see [`Options`]. `--only` selects pairs (`hard-easy`, `no-udp-easy`).
pub(crate) async fn run(programs: &Path, args: &[String]) -> Result<(), String> {
    let options = Options::parse(args)?;
    let rows = options.grades.iter();
    let rows = rows.flat_map(|grade| pairs(grade).iter().map(move |place| (grade, *place)));
    let named = |(grade, place): &(&Grade, Place)| vec![grade.name.to_owned(), place.nats_text()];
    run_rows(programs, &options, "line", rows.collect(), named).await
}

/// Measures the places other than pairs of NATs. `--only` selects some of them (`one-lan`, `mtu-1280`).
pub(crate) async fn run_ways(programs: &Path, args: &[String]) -> Result<(), String> {
    let options = Options::parse(args)?;
    let grades = options.grades.iter().filter(|grade| grade.name == HOME);
    let rows = grades.flat_map(|grade| WAYS.iter().map(move |place| (grade, *place)));
    let named = |(_, place): &(&Grade, Place)| vec![place.way.to_string(), place.nats_text()];
    run_rows(programs, &options, "way", rows.collect(), named).await
}

async fn run_rows(
    programs: &Path,
    options: &Options<'_>,
    first: &str,
    mut rows: Vec<(&Grade, Place)>,
    named: impl Fn(&(&Grade, Place)) -> Vec<String>,
) -> Result<(), String> {
    rows.retain(|row| named(row).iter().any(|name| options.wants(name)));
    usable()?;
    let names: Vec<_> = rows.iter().map(named).collect();
    rounds::run(options, &[first, "NATs"], &names, async |n, kind, seed| {
        let (grade, place) = rows[n];
        measure(programs, grade, place, kind, seed).await
    })
    .await
}

/// Fails with the reason if no router can map ports on this machine.
pub(crate) fn mapping_usable() -> Result<(), String> {
    usable()?;
    mapper::usable()
}

/// Fails with the reason if this machine cannot run the measurements.
pub(crate) fn usable() -> Result<(), String> {
    tun_usable()?;
    let found = std::process::Command::new("nft").arg("--version").output();
    found
        .map(drop)
        .map_err(|error| format!("the program `nft` cannot be run: {error}"))
}

/// Runs two new nodes of a kind, and returns the measurements of the one behind the line.
pub(crate) async fn measure(
    programs: &Path,
    grade: &Grade,
    place: Place,
    kind: Kind,
    seed: u64,
) -> Result<LineFigures, String> {
    let world = World::start(grade, place, seed).await?;
    let measured = timeout(ROUND, async {
        let network = Network::start_at(programs, ControlKind::Test, SERVERS, world.host6).await?;
        let [a, b] = &world.machines;
        let (_serving, address) = serving(&network, kind, Some(b)).await?;
        let blob = grade.blob.to_string();
        let mut asking = start(&network, kind, Some(a), "bench-client", &[&address, &blob])?;
        asking.json(ROUND).await
    })
    .await;
    world.end().await;
    measured.map_err(|_| format!("the measurement did not end within {ROUND:?}"))?
}

impl Figures for LineFigures {
    const COLUMNS: &[&str] = &[
        "direct after s",
        "first request ms",
        "p50 ms",
        "p99 ms",
        "down MB/s",
        "up MB/s",
        "to tsnet: p50, p99, down, up",
        "eight at once MB/s",
        "beside them p50, p99 ms",
    ];

    fn cells(all: &[Self], standard: Option<&[Self]>) -> Vec<String> {
        let standard = standard.map(Summary::of);
        Summary::of(all).row(standard.as_ref())
    }
}

/// The medians of several rounds. `None` if any round timed out.
struct Summary {
    direct_s: Option<f64>,
    first_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
    down_mb_s: Option<f64>,
    up_mb_s: Option<f64>,
    together_mb_s: Option<f64>,
    beside_p50_ms: f64,
    beside_p99_ms: f64,
}

impl Summary {
    fn of(all: &[LineFigures]) -> Self {
        let of = |field: fn(&LineFigures) -> f64| median(all.iter().map(field));
        let in_time = |field: fn(&LineFigures) -> Option<f64>| {
            let values: Option<Vec<_>> = all.iter().map(field).collect();
            values.map(|values| median(values.into_iter()))
        };
        Self {
            direct_s: in_time(|figures| figures.direct_ms).map(|ms| ms / 1e3),
            first_ms: of(|figures| figures.first_ms),
            p50_ms: of(|figures| figures.p50_ms),
            p99_ms: of(|figures| figures.p99_ms),
            down_mb_s: in_time(|figures| figures.down_mb_s),
            up_mb_s: in_time(|figures| figures.up_mb_s),
            together_mb_s: in_time(|figures| figures.together_mb_s),
            beside_p50_ms: of(|figures| figures.beside_p50_ms),
            beside_p99_ms: of(|figures| figures.beside_p99_ms),
        }
    }

    fn row(&self, standard: Option<&Self>) -> Vec<String> {
        let rate =
            |rate: Option<f64>| rate.map_or_else(|| "too slow".to_owned(), |rate| format!("{rate:.3}"));
        let ratios = standard.map(|other| {
            [
                ratio(Some(other.p50_ms), Some(self.p50_ms)),
                ratio(Some(other.p99_ms), Some(self.p99_ms)),
                ratio(self.down_mb_s, other.down_mb_s),
                ratio(self.up_mb_s, other.up_mb_s),
            ]
            .join(", ")
        });
        let direct = self.direct_s.map(|seconds| format!("{seconds:.1}"));
        vec![
            direct.unwrap_or_else(|| "relay".to_owned()),
            format!("{:.0}", self.first_ms),
            format!("{:.1}", self.p50_ms),
            format!("{:.1}", self.p99_ms),
            rate(self.down_mb_s),
            rate(self.up_mb_s),
            ratios.unwrap_or_default(),
            rate(self.together_mb_s),
            format!("{:.0}, {:.0}", self.beside_p50_ms, self.beside_p99_ms),
        ]
    }
}
