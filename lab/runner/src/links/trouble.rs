//! Measures how two naras tolerate changes of the path and the line: a live event stream while UDP is blocked and while
//! addresses change, and a sync while the line is interrupted.

use std::path::Path;
use std::time::{Duration, Instant};

use nara_proto::sync::MAX_EVENTS;
use tokio::time::{sleep, timeout};

use super::grade::{Grade, Nat, Place};
use super::rounds::{self, Figures, Options, ratio};
use super::side::{Heard, Synced, start_both, tell};
use super::usable;
use super::world::{SERVERS, World};
use crate::bench::median;
use crate::kind::Kind;
use crate::network::{ControlKind, Network};
use crate::process::Process;

/// The timeout of one pair.
const ROUND: Duration = Duration::from_secs(900);
/// The time for which a stream is observed after a change.
const WATCH: Duration = Duration::from_secs(20);
/// A stream continues if its last event is at most this many seconds old.
const LATELY: f64 = 2.0;
/// The timeout for a direct path, and for a stream to continue.
const PATIENCE: Duration = Duration::from_secs(60);
/// The polling interval.
const LOOK: Duration = Duration::from_millis(50);
/// The size of a story on the wire in bytes.
const STORY_BYTES: usize = 400;
/// The minimum number of pages of a sync, so that a page arrives within the timeout of a call on a lossy line too.
const PAGES: usize = 32;
/// The number and length of the interruptions of a sync.
const CUTS: usize = 3;
const CUT: Duration = Duration::from_secs(3);
/// The timeout of a sync.
const SYNC: Duration = Duration::from_secs(300);

/// Measures each line: see [`Options`].
pub(crate) async fn run(programs: &Path, args: &[String]) -> Result<(), String> {
    let options = Options::parse(args)?;
    usable()?;
    let grades = &options.grades;
    let names: Vec<_> = grades.iter().map(|grade| vec![grade.name.to_owned()]).collect();
    rounds::run(&options, &["line"], &names, async |n, kind, seed| {
        measure(programs, &grades[n], kind, seed).await
    })
    .await
}

/// The longest silences of streams and the durations of syncs, in seconds.
#[derive(Clone, Debug, Default)]
struct TroubleFigures {
    undisturbed: f64,
    blocked: f64,
    allowed: f64,
    /// The time until packets stopped using the relay, if they did.
    direct_again: Option<f64>,
    router_moved: f64,
    machine_moved: f64,
    sync: f64,
    cut: f64,
    /// The attempts of the interrupted sync.
    tries: usize,
}

impl Figures for TroubleFigures {
    const COLUMNS: &[&str] = &[
        "quiet undisturbed s",
        "UDP blocked s",
        "UDP allowed s (direct after)",
        "router moves s",
        "machine moves s",
        "sync s",
        "cut three times s (tries)",
        "to tsnet: blocked, router, machine, sync, cut",
    ];

    /// Returns the worst silences and the median durations.
    fn cells(all: &[Self], standard: Option<&[Self]>) -> Vec<String> {
        let worst = |all: &[Self], field: fn(&Self) -> f64| all.iter().map(field).fold(0.0, f64::max);
        let middle = |all: &[Self], field: fn(&Self) -> f64| median(all.iter().map(field));
        let direct: Option<Vec<_>> = all.iter().map(|figures| figures.direct_again).collect();
        let direct = direct.map_or_else(
            || "relay".to_owned(),
            |all| format!("{:.1}", median(all.into_iter())),
        );
        let ratios = standard.map(|other| {
            let worst = |field| ratio(Some(worst(other, field)), Some(worst(all, field)));
            let middle = |field| ratio(Some(middle(other, field)), Some(middle(all, field)));
            [
                worst(|figures| figures.blocked),
                worst(|figures| figures.router_moved),
                worst(|figures| figures.machine_moved),
                middle(|figures| figures.sync),
                middle(|figures| figures.cut),
            ]
            .join(", ")
        });
        let tries = all.iter().map(|figures| figures.tries).max().unwrap_or_default();
        vec![
            format!("{:.1}", worst(all, |figures| figures.undisturbed)),
            format!("{:.1}", worst(all, |figures| figures.blocked)),
            format!("{:.1} ({direct})", worst(all, |figures| figures.allowed)),
            format!("{:.1}", worst(all, |figures| figures.router_moved)),
            format!("{:.1}", worst(all, |figures| figures.machine_moved)),
            format!("{:.1}", middle(all, |figures| figures.sync)),
            format!("{:.1} ({tries})", middle(all, |figures| figures.cut)),
            ratios.unwrap_or_default(),
        ]
    }
}

async fn measure(programs: &Path, grade: &Grade, kind: Kind, seed: u64) -> Result<TroubleFigures, String> {
    let world = World::start(grade, Place::apart(Nat::Easy, Nat::Easy), seed).await?;
    let measured = timeout(ROUND, async {
        let network = Network::start_at(programs, ControlKind::Test, SERVERS, None).await?;
        let [a, b] = start_both(&network, &world, kind).await?;
        let mut pair = Pair { world: &world, a, b };
        let figures = pair.stream().await?;
        pair.syncs(grade, figures).await
    })
    .await;
    world.end().await;
    measured.map_err(|_| format!("the measurement did not end within {ROUND:?}"))?
}

/// The naras at both ends of a line: the first is the client, the second the source.
struct Pair<'a> {
    world: &'a World,
    a: Process,
    b: Process,
}

impl Pair<'_> {
    /// Runs an event stream through changes of the path.
    async fn stream(&mut self) -> Result<TroubleFigures, String> {
        let world = self.world;
        tell::<()>(&mut self.b, "tell").await?;
        tell::<()>(&mut self.a, "follow").await?;
        self.until("no event arrived", |heard| heard.next.is_some())
            .await?;
        self.until(NO_DIRECT_PATH, |heard| heard.is_direct).await?;
        let undisturbed = self.quiet_after(async { Ok(()) }).await?;
        let blocked = self.quiet_after(world.drop_packets("ip protocol udp")).await?;
        tell::<()>(&mut self.a, "mark").await?;
        world.drop_nothing().await?;
        let direct_again = self.until(NO_DIRECT_PATH, |heard| heard.is_direct).await.ok();
        let allowed = self.heard().await?.longest_s;
        let router_moved = self.quiet_after(world.move_router(3)).await?;
        // The comparison value is a move from a direct path.
        self.until(NO_DIRECT_PATH, |heard| heard.is_direct).await?;
        let moved = async {
            world.move_router(4).await?;
            world.move_machine(11).await
        };
        let machine_moved = self.quiet_after(moved).await?;
        let told: u32 = tell(&mut self.b, "hush").await?;
        self.until("events are missing at the end", |heard| heard.next == Some(told))
            .await?;
        if let Some(wrong) = self.heard().await?.wrong {
            return Err(wrong);
        }
        Ok(TroubleFigures {
            undisturbed,
            blocked,
            allowed,
            direct_again,
            router_moved,
            machine_moved,
            ..TroubleFigures::default()
        })
    }

    async fn heard(&mut self) -> Result<Heard, String> {
        tell(&mut self.a, "heard").await
    }

    /// Polls until the stream meets a condition. Returns the time taken, in seconds.
    async fn until(&mut self, or: &str, is_met: impl Fn(&Heard) -> bool) -> Result<f64, String> {
        let begin = Instant::now();
        loop {
            let heard = self.heard().await?;
            if is_met(&heard) {
                return Ok(begin.elapsed().as_secs_f64());
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("{or} within {PATIENCE:?}: {heard:?}"));
            }
            sleep(LOOK).await;
        }
    }

    /// Returns the longest silence after a change, in seconds.
    async fn quiet_after(&mut self, change: impl Future<Output = Result<(), String>>) -> Result<f64, String> {
        tell::<()>(&mut self.a, "mark").await?;
        change.await?;
        sleep(WATCH).await;
        let goes_on = |heard: &Heard| heard.events > 0 && heard.silent_s < LATELY;
        self.until("the stream did not continue", goes_on).await?;
        Ok(self.heard().await?.longest_s)
    }

    /// Syncs a whole ledger without and with interruptions.
    async fn syncs(&mut self, grade: &Grade, mut figures: TroubleFigures) -> Result<TroubleFigures, String> {
        let count = grade.blob / STORY_BYTES;
        let all: usize = tell(&mut self.b, &format!("fill {count}")).await?;
        let page = (count / PAGES).min(MAX_EVENTS);
        (figures.sync, _) = self.sync(page, all, 0).await?;
        (figures.cut, figures.tries) = self.sync(page, all, CUTS).await?;
        Ok(figures)
    }

    /// Returns the duration in seconds and the number of attempts.
    async fn sync(&mut self, page: usize, all: usize, cuts: usize) -> Result<(f64, usize), String> {
        tell::<()>(&mut self.a, &format!("sync {page}")).await?;
        let begin = Instant::now();
        let mut done = 0;
        loop {
            let synced: Synced = tell(&mut self.a, "synced").await?;
            if let Some(wrong) = synced.wrong {
                return Err(format!("events were duplicated or refused: {wrong}"));
            }
            if let Some(took) = synced.took_s {
                return match (synced.events == all, done == cuts) {
                    (true, true) => Ok((took, synced.tries)),
                    (true, false) => Err(format!("the sync ended after {done} interruptions")),
                    (false, _) => Err(format!("{} of {all} events arrived", synced.events)),
                };
            }
            if begin.elapsed() > SYNC {
                return Err(format!("a sync did not end within {SYNC:?}: {synced:?}"));
            }
            if done < cuts && synced.events > all * done / (cuts + 1) {
                done += 1;
                self.world.drop_packets("").await?;
                sleep(CUT).await;
                self.world.drop_nothing().await?;
            }
            sleep(LOOK).await;
        }
    }
}

const NO_DIRECT_PATH: &str = "no direct path was found";
