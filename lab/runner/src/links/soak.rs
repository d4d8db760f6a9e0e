//! Minutes of traffic on a direct path over a lossy line, with WireGuard rekeying and sleeps.
//!
//! Each machine has a nara in a process of its own, controlled by commands: see `side`. A machine cannot be suspended
//! here, so its nara is stopped (SIGSTOP) for longer than a WireGuard session and a NAT mapping last.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use super::grade::{GRADES, Grade, Nat, Place};
use super::side::{Round, start_both, tell};
use super::usable;
use super::world::{SERVERS, World};
use crate::bench::median;
use crate::kind::Kind;
use crate::network::{ControlKind, Network};
use crate::process::{Process, memory_mb};
use crate::space::shell;

/// The default of `--seconds`: two key changes and a sleep.
const SECONDS: u64 = 600;
/// The default of `--sleep`: longer than a WireGuard session (180 s).
const SLEEP: u64 = 200;
/// The default of `--sleeps`.
const SLEEPS: u64 = 2;
/// The default of `--grade`.
const GRADE: &str = "mobile";
/// After this time, all persistent state has been allocated.
const SETTLED: u64 = 60;
/// The length of the two compared memory samples, after that and at the end, at most a third of the run. Memory varies
/// with each transfer, so a single reading is not meaningful.
const WINDOW: u64 = 300;
/// The interval between progress lines.
const REPORT: u64 = 60;
/// The timeout for a direct path.
const MEET: Duration = Duration::from_secs(30);

/// The targets of the run.
const FIRST_CALL: Duration = Duration::from_secs(2);
const GROWTH: f64 = 1.03;
/// The maximum fraction of rounds in which packets use the relay.
const RELAYED: f64 = 0.02;

/// Runs the soak and prints the results. Failed calls are only counted, since the line loses packets. A missed target
/// is an error.
pub(crate) async fn run(programs: &Path, args: &[String]) -> Result<(), String> {
    let (mut seconds, mut sleep, mut sleeps, mut name) = (SECONDS, SLEEP, SLEEPS, GRADE);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} takes a value"))?;
        let number = || value.parse().map_err(|_| format!("{arg} takes a number"));
        match arg.as_str() {
            "--seconds" => seconds = number()?,
            "--sleep" => sleep = number()?,
            "--sleeps" => sleeps = number()?,
            "--grade" => name = value,
            _ => return Err(format!("unknown option {arg}")),
        }
    }
    if seconds < 3 * SETTLED {
        return Err(format!(
            "--seconds must be at least {}: memory is compared after {SETTLED} s",
            3 * SETTLED
        ));
    }
    let grade = GRADES.iter().find(|grade| grade.name == name);
    let grade = grade.ok_or_else(|| format!("unknown line {name}"))?;
    usable()?;
    let world = World::start(grade, Place::apart(Nat::Easy, Nat::Easy), 1).await?;
    let outcome = soak(
        programs,
        &world,
        grade,
        seconds,
        Sleeps::new(seconds, sleep, sleeps),
    )
    .await;
    world.end().await;
    outcome
}

async fn soak(
    programs: &Path,
    world: &World,
    grade: &Grade,
    seconds: u64,
    mut sleeps: Sleeps,
) -> Result<(), String> {
    let network = Network::start_at(programs, ControlKind::Test, SERVERS, None).await?;
    let [a, b] = start_both(&network, world, Kind::Embedded).await?;
    let mut sides = [Side::new("side-a", a), Side::new("side-b", b)];
    let begin = Instant::now();
    while !both(&mut sides, None).await? {
        if begin.elapsed() > MEET {
            return Err(format!("the path is not direct after {MEET:?}"));
        }
    }
    println!(
        "{}: direct after {:.1} s, {seconds} s to go",
        grade.name,
        begin.elapsed().as_secs_f64()
    );

    let begin = Instant::now();
    let (mut woken, mut missed) = (Vec::new(), Vec::new());
    let (mut memories, mut next_report) = (Vec::new(), REPORT);
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while begin.elapsed().as_secs() < seconds {
        ticks.tick().await;
        both(&mut sides, Some(begin)).await?;
        let now = begin.elapsed().as_secs();
        memories.push((now, sleeps.slept, memory(&sides)));
        if now >= next_report {
            next_report = now + REPORT;
            println!("after {now} s: MB {:.2?}, {}", memory(&sides), progress(&sides));
        }
        if let Some((sleep, sleeper_first)) = sleeps.next(now) {
            let woke = slept(&mut sides, sleep, sleeper_first).await?;
            println!("after {now} s: {woke}");
            sleeps.awake_since = begin.elapsed().as_secs();
            missed.extend(woke.missed());
            woken.push(woke);
        }
    }
    let window = WINDOW.min(seconds / 3);
    let between = |n: usize, from: u64, to: u64| {
        let looks = memories.iter().filter(|(at, ..)| (from..to).contains(at));
        median(looks.map(|(.., memory)| memory[n]))
    };
    let between_sleeps = |n: usize, slept: u64| {
        let looks = memories
            .iter()
            .filter(|(at, after, _)| *after == slept && *at >= SETTLED);
        median(looks.map(|(.., memory)| memory[n]))
    };
    println!("\n{} s, line {}:", begin.elapsed().as_secs(), grade.name);
    for (n, side) in sides.iter().enumerate() {
        let settled = between(n, SETTLED, SETTLED + window);
        let end = between(n, seconds.saturating_sub(window), u64::MAX);
        let ratio = end / settled;
        println!(
            "{} memory in {window} s after {SETTLED} s and at the end {settled:.2} MB, {end:.2} MB: {ratio:.3}",
            side.summary()
        );
        if sleeps.slept > 0 {
            let memories: Vec<_> = (0..=sleeps.slept).map(|slept| between_sleeps(n, slept)).collect();
            println!(
                "{}: MB before, between and after the sleeps: {memories:.2?}",
                side.name
            );
        }
        if ratio > GROWTH {
            missed.push(format!("the memory of {} grew to {ratio:.3}", side.name));
        }
        let relayed = side.relayed as f64 / side.rounds as f64;
        if relayed > RELAYED {
            missed.push(format!(
                "{} used the relay in {:.1} % of the rounds",
                side.name,
                relayed * 100.0
            ));
        }
    }
    woken.iter().for_each(|woke| println!("{woke}"));
    if missed.is_empty() {
        return Ok(());
    }
    Err(format!("missed: {}", missed.join("; ")))
}

/// Runs a round of both naras at the same time. Returns whether both use the direct path. Without `begin`, the round
/// does not count.
async fn both(sides: &mut [Side; 2], begin: Option<Instant>) -> Result<bool, String> {
    let [a, b] = sides;
    let (one, two) = futures_util::future::try_join(a.ask("round"), b.ask("round")).await?;
    let is_direct = one.is_direct && two.is_direct;
    if let Some(begin) = begin {
        a.note(one, begin);
        b.note(two, begin);
    }
    Ok(is_direct)
}

/// Returns the memory of both processes in MB.
fn memory(sides: &[Side; 2]) -> [f64; 2] {
    [0, 1].map(|n| memory_mb(sides[n].process.pid()))
}

fn progress(sides: &[Side; 2]) -> String {
    let [a, b] = sides;
    format!(
        "rounds {}, failed pings {} and {}, failed transfers {} and {}, relayed {} and {}",
        a.rounds,
        a.failed_pings,
        b.failed_pings,
        a.failed_exchanges,
        b.failed_exchanges,
        a.relayed,
        b.relayed
    )
}

/// When the first nara sleeps: after awake periods of equal length. The first sleep is the longest.
struct Sleeps {
    left: u64,
    slept: u64,
    longest: u64,
    awake: u64,
    awake_since: u64,
}

impl Sleeps {
    fn new(seconds: u64, longest: u64, sleeps: u64) -> Self {
        let left = if longest == 0 { 0 } else { sleeps };
        let asleep: u64 = (0..left).map(|n| Self::nth(n, longest)).sum();
        Self {
            left,
            slept: 0,
            longest,
            awake: seconds.saturating_sub(asleep) / (left + 1),
            awake_since: 0,
        }
    }

    fn nth(n: u64, longest: u64) -> u64 {
        if n == 0 { longest } else { longest.min(SLEEP) }
    }

    /// Returns the length of the sleep that is due now, if any, and whether the sleeper makes the first call, which
    /// alternates.
    fn next(&mut self, now: u64) -> Option<(u64, bool)> {
        if self.left == 0 || now < self.awake_since + self.awake {
            return None;
        }
        let next = (Self::nth(self.slept, self.longest), self.slept.is_multiple_of(2));
        self.left -= 1;
        self.slept += 1;
        Some(next)
    }
}

/// The results after a sleep.
struct Woken {
    slept: Duration,
    sleeper_first: bool,
    /// The first call, and then the call in the other direction. An error comes from the first attempt.
    calls: [Result<Duration, String>; 2],
    /// The time until both had a direct path again.
    direct: Duration,
}

/// Returns the duration or the failure of a call by this nara.
async fn called(side: &mut Side) -> Result<Result<Duration, String>, String> {
    let asked = Instant::now();
    let round = side.ask("ping").await?;
    Ok(match round.ping_ms {
        Some(_) => Ok(asked.elapsed()),
        None => Err(round.error.unwrap_or_default()),
    })
}

/// Stops the first nara for a while, and lets one call the other as soon as it continues.
async fn slept(sides: &mut [Side; 2], seconds: u64, sleeper_first: bool) -> Result<Woken, String> {
    let [a, b] = sides;
    let pid = a.process.pid();
    shell(&format!("kill -STOP {pid}")).await?;
    let begin = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let slept = begin.elapsed();
    shell(&format!("kill -CONT {pid}")).await?;
    let begin = Instant::now();
    let (first, second) = if sleeper_first {
        (&mut *a, &mut *b)
    } else {
        (&mut *b, &mut *a)
    };
    let calls = [called(first).await?, called(second).await?];
    while !both(sides, None).await? {
        if begin.elapsed() > MEET {
            return Err(format!("the path is not direct {MEET:?} after a sleep"));
        }
    }
    Ok(Woken {
        slept,
        sleeper_first,
        calls,
        direct: begin.elapsed(),
    })
}

impl Woken {
    fn missed(&self) -> Option<String> {
        let is_met = |call: &Result<Duration, String>| call.as_ref().is_ok_and(|took| *took <= FIRST_CALL);
        (!self.calls.iter().all(is_met)).then(|| self.to_string())
    }
}

impl std::fmt::Display for Woken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let call = |call: &Result<Duration, String>| match call {
            Ok(took) => format!("{:.2} s", took.as_secs_f64()),
            Err(error) => format!("failed ({error})"),
        };
        let from = if self.sleeper_first {
            ["the sleeper", "the peer"]
        } else {
            ["the peer", "the sleeper"]
        };
        write!(
            f,
            "slept {:.0} s: first call, from {}, {}; then from {}, {}; direct again and idle after {:.1} s",
            self.slept.as_secs_f64(),
            from[0],
            call(&self.calls[0]),
            from[1],
            call(&self.calls[1]),
            self.direct.as_secs_f64()
        )
    }
}

/// A nara process and its results.
#[derive(Debug)]
struct Side {
    name: &'static str,
    process: Process,
    rounds: usize,
    pings_ms: Vec<f64>,
    exchanges_ms: Vec<f64>,
    failed_pings: usize,
    failed_exchanges: usize,
    relayed: usize,
}

impl Side {
    const fn new(name: &'static str, process: Process) -> Self {
        Self {
            name,
            process,
            rounds: 0,
            pings_ms: Vec::new(),
            exchanges_ms: Vec::new(),
            failed_pings: 0,
            failed_exchanges: 0,
            relayed: 0,
        }
    }

    async fn ask(&mut self, command: &str) -> Result<Round, String> {
        tell(&mut self.process, command).await
    }

    fn note(&mut self, round: Round, begin: Instant) {
        self.rounds += 1;
        self.failed_pings += usize::from(round.ping_ms.is_none());
        self.failed_exchanges += usize::from(round.exchange_ms.is_none());
        self.relayed += usize::from(!round.is_direct);
        self.pings_ms.extend(round.ping_ms);
        self.exchanges_ms.extend(round.exchange_ms);
        if let Some(error) = round.error {
            println!(
                "after {:.0} s: {}: {error}",
                begin.elapsed().as_secs_f64(),
                self.name
            );
        }
    }

    fn summary(&self) -> String {
        let slowest = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
        let figures = |all: &[f64]| {
            format!(
                "p50 {:.0} ms, slowest {:.0} ms",
                median(all.iter().copied()),
                slowest(all)
            )
        };
        format!(
            "{}: {} rounds, {} on the relay; {} pings failed, {}; {} transfers failed, {};",
            self.name,
            self.rounds,
            self.relayed,
            self.failed_pings,
            figures(&self.pings_ms),
            self.failed_exchanges,
            figures(&self.exchanges_ms),
        )
    }
}
