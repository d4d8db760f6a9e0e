//! Pairs of machines with a line between them that is worse than a loopback device, and with NATs.
//!
//! | file | is |
//! |---|---|
//! | `line` | the emulator, without I/O |
//! | `emulator` | the emulator between two network devices |
//! | `grade` | which lines, and which NATs |
//! | `mapper` | what maps ports on a router |
//! | `world` | the machines: network namespaces |
//! | `soak` | minutes of traffic on one of the lines |
//!
//! What is measured is in `bench/line.rs`.

mod emulator;
mod grade;
mod line;
mod mapper;
pub(crate) mod soak;
mod world;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::timeout;

pub(crate) use self::grade::{GRADES, Grade, Nat};
use self::world::{SERVERS, World};
use crate::bench::line::LineFigures;
use crate::bench::{median, serving, start};
use crate::kind::Kind;
use crate::network::{ControlKind, Network};
use crate::space::tun_usable;

/// How long one pair may take.
const ROUND: Duration = Duration::from_secs(180);
/// What rows are compared with.
const STANDARD: Kind = Kind::Tsnet;

/// Measures all lines and prints the table. `--grade a,b`, `--only NEAR-FAR,…` for pairs of NATs (`hard-easy`, `no-udp-easy`),
/// `--kinds a,b`, `--rounds N`, `--file PATH`. The file is written after each measurement.
pub(crate) async fn run(programs: &Path, args: &[String]) -> Result<(), String> {
    let mut kinds = Kind::ALL.to_vec();
    let mut pairs: Option<Vec<&str>> = None;
    let mut grades = GRADES.to_vec();
    let mut rounds = 1;
    let mut file = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} takes a value"))?;
        let is_wanted = |name: &str| value.split(',').any(|wanted| wanted == name);
        match arg.as_str() {
            "--grade" => grades.retain(|grade| is_wanted(grade.name)),
            "--only" => pairs = Some(value.split(',').collect()),
            "--kinds" => kinds.retain(|kind| is_wanted(&kind.to_string())),
            "--rounds" => rounds = value.parse().map_err(|_| "--rounds takes a number".to_owned())?,
            "--file" => file = Some(value),
            _ => return Err(format!("there is no option {arg}")),
        }
    }
    usable()?;
    kinds.sort_by_key(|kind| *kind != STANDARD);
    let rows: Vec<_> = grades
        .iter()
        .flat_map(|grade| grade::nats(grade).iter().map(move |nats| (grade, *nats)))
        .filter(|(_, nats)| {
            pairs
                .as_ref()
                .is_none_or(|pairs| pairs.contains(&&*pair_name(*nats)))
        })
        .collect();
    if rows.is_empty() || kinds.is_empty() {
        return Err("no line is left to be measured: see the options".to_owned());
    }
    let mut found: Found = BTreeMap::new();
    let mut failures = 0;
    for round in 0..rounds {
        for (n, (grade, nats)) in rows.iter().enumerate() {
            // Kinds alternate, so that a change of the machine's pace hits all of them.
            for kind in &kinds {
                let seed = round * 1000 + n as u64;
                let begin = Instant::now();
                let measured = measure(programs, grade, *nats, *kind, seed).await;
                let (near, far) = nats;
                let took = begin.elapsed();
                println!(
                    "{:<10} {near:<6} {far:<6} {kind:<9} {took:.0?} {measured:?}",
                    grade.name
                );
                failures += usize::from(measured.is_err());
                let all = found.entry((n, *kind)).or_default();
                all.extend(measured);
                if let Some(file) = file {
                    std::fs::write(file, table(&rows, &kinds, &found))
                        .map_err(|error| format!("{file}: {error}"))?;
                }
            }
        }
    }
    println!("\n{}", table(&rows, &kinds, &found));
    match failures {
        0 => Ok(()),
        failures => Err(format!("{failures} measurements failed")),
    }
}

/// What was measured, by row and kind; empty if all measurements failed.
type Found = BTreeMap<(usize, Kind), Vec<LineFigures>>;

/// How `--only` names a pair of NATs.
fn pair_name((near, far): (Nat, Nat)) -> String {
    format!("{near}-{far}").to_lowercase().replace(' ', "-")
}

/// The rows that were measured so far.
fn table(rows: &[(&Grade, (Nat, Nat))], kinds: &[Kind], found: &Found) -> String {
    let mut text =
        "| line | NATs | nodes | direct after s | first request ms | p50 ms | p99 ms | down MB/s | up MB/s \
                    | to tsnet: p50, p99, down, up | eight at once MB/s | beside them p50, p99 ms |\n\
                    |---|---|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for (n, (grade, (near, far))) in rows.iter().enumerate() {
        let standard = found.get(&(n, STANDARD)).filter(|all| !all.is_empty());
        let standard = standard.map(|all| Summary::of(all));
        for kind in kinds {
            let row = match found.get(&(n, *kind)) {
                Some(all) if all.is_empty() => "**failed** | | | | | | | | |".to_owned(),
                Some(all) => Summary::of(all).row(standard.as_ref().filter(|_| *kind != STANDARD)),
                None => continue,
            };
            text.push_str(&format!("| {} | {near} – {far} | {kind} | {row}\n", grade.name));
        }
    }
    text
}

/// Why no router can map ports here, if none can.
pub(crate) fn mapping_usable() -> Result<(), String> {
    usable()?;
    mapper::usable()
}

/// Why nothing of this can be done here, if it cannot.
pub(crate) fn usable() -> Result<(), String> {
    tun_usable()?;
    let found = std::process::Command::new("nft").arg("--version").output();
    found
        .map(drop)
        .map_err(|error| format!("the program `nft` cannot be run: {error}"))
}

/// Two fresh nodes of a kind: what the one behind the line finds when it asks the other.
pub(crate) async fn measure(
    programs: &Path,
    grade: &Grade,
    (near, far): (Nat, Nat),
    kind: Kind,
    seed: u64,
) -> Result<LineFigures, String> {
    let world = World::start(grade, [near, far], seed).await?;
    let measured = timeout(ROUND, async {
        let network = Network::start_at(programs, ControlKind::Test, SERVERS).await?;
        let [a, b] = &world.machines;
        let (_serving, address) = serving(&network, kind, Some(b)).await?;
        let blob = grade.blob.to_string();
        let mut asking = start(&network, kind, Some(a), "bench-client", &[&address, &blob])?;
        asking.json(ROUND).await
    })
    .await;
    world.end().await;
    measured.map_err(|_| format!("it did not end within {ROUND:?}"))?
}

/// Medians of some rounds. `None`: in one of them it did not come about in time.
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

    /// The cells of a row. Above 1 we are better than the standard.
    fn row(&self, standard: Option<&Self>) -> String {
        let rate =
            |rate: Option<f64>| rate.map_or_else(|| "too slow".to_owned(), |rate| format!("{rate:.3}"));
        let ratio = |above: Option<f64>, below: Option<f64>| match (above, below) {
            (Some(above), Some(below)) if below > 0.0 => format!("{:.2}", above / below),
            _ => "–".to_owned(),
        };
        let ratios = standard.map_or_else(String::new, |other| {
            [
                ratio(Some(other.p50_ms), Some(self.p50_ms)),
                ratio(Some(other.p99_ms), Some(self.p99_ms)),
                ratio(self.down_mb_s, other.down_mb_s),
                ratio(self.up_mb_s, other.up_mb_s),
            ]
            .join(", ")
        });
        format!(
            "{} | {:.0} | {:.1} | {:.1} | {} | {} | {ratios} | {} | {:.0}, {:.0} |",
            self.direct_s
                .map_or_else(|| "relay".to_owned(), |seconds| format!("{seconds:.1}")),
            self.first_ms,
            self.p50_ms,
            self.p99_ms,
            rate(self.down_mb_s),
            rate(self.up_mb_s),
            rate(self.together_mb_s),
            self.beside_p50_ms,
            self.beside_p99_ms,
        )
    }
}
