//! A nara in a process of its own on one of the machines. It reads commands as lines and answers each with a line.

use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::try_join;
use nara_mesh::client::{SubscribeOptions, SyncOptions, SyncReport};
use nara_mesh::ledger::{EventStore as _, MemoryLedger};
use nara_proto::identity::NaraName;
use nara_proto::sync::EventFilter;
use nara_tailnet::status::PathKind;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep, timeout};

use super::world::World;
use crate::echo::{Echo, exchange};
use crate::kind::Kind;
use crate::nara::{Nara, story, story_number};
use crate::network::Network;
use crate::process::Process;
use crate::settings::Settings;

/// The number of bytes exchanged in each direction on a new connection.
const BYTES: usize = 64 * 1024;
const ECHO_PORT: u16 = 9700;
/// The timeout for the naras to find each other.
const MEET: Duration = Duration::from_secs(30);
/// The timeout of a transfer.
const TRANSFER: Duration = Duration::from_secs(25);
/// The timeout for the answer of a nara process.
const ANSWER: Duration = Duration::from_secs(60);
/// The interval between two events of a stream.
const TELL: Duration = Duration::from_millis(100);
/// The pause before a failed sync is retried.
const AGAIN: Duration = Duration::from_millis(200);

/// The results of a ping and a transfer.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Round {
    /// A ping on the persistent connection; `None` if it failed.
    pub(super) ping_ms: Option<f64>,
    /// An exchange of bytes on a new connection.
    pub(super) exchange_ms: Option<f64>,
    pub(super) is_direct: bool,
    pub(super) error: Option<String>,
}

/// A stream of events since its last mark.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Heard {
    pub(super) events: usize,
    /// The longest interval without an event.
    pub(super) longest_s: f64,
    /// The time since the last event.
    pub(super) silent_s: f64,
    /// The number of the next expected event, once one has arrived.
    pub(super) next: Option<u32>,
    /// The first lost or duplicate event, or error, since the beginning.
    pub(super) wrong: Option<String>,
    pub(super) is_direct: bool,
}

/// A sync of a whole ledger.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Synced {
    pub(super) events: usize,
    pub(super) tries: usize,
    /// The duration, once the sync is complete.
    pub(super) took_s: Option<f64>,
    /// Duplicate or refused events.
    pub(super) wrong: Option<String>,
    /// The error of the last failed attempt.
    pub(super) failed: Option<String>,
}

/// Starts a nara of this kind on each machine, and lets them find each other.
pub(super) async fn start_both(network: &Network, world: &World, kind: Kind) -> Result<[Process; 2], String> {
    let ourselves = std::env::current_exe().map_err(|error| error.to_string())?;
    let (programs, control, kind) = (
        network.programs.to_string_lossy(),
        network.control_url(),
        kind.to_string(),
    );
    let names = ["side-a", "side-b"];
    let start = |n: usize| {
        let folder = network.folder_of(names[n]);
        let args = [
            &*programs,
            "side",
            &programs,
            &kind,
            &folder.to_string_lossy(),
            names[n],
            &control,
        ];
        Process::start_in(Some(&world.machines[n]), &ourselves, &args)
    };
    let (mut a, mut b) = (start(0)?, start(1)?);
    let (at_a, at_b) = try_join(a.ready(), b.ready()).await?;
    let (meet_a, meet_b) = (
        format!("meet {} {at_a}", names[0]),
        format!("meet {} {at_b}", names[1]),
    );
    try_join(tell::<()>(&mut a, &meet_b), tell::<()>(&mut b, &meet_a)).await?;
    Ok([a, b])
}

/// Sends a command to a nara process and returns the answer.
pub(super) async fn tell<T: DeserializeOwned>(side: &mut Process, command: &str) -> Result<T, String> {
    side.ask::<Result<T, String>>(command, ANSWER).await?
}

/// Runs the nara process: see [`Told::obey`].
pub(crate) async fn child(args: &[String]) -> Result<(), String> {
    let [programs, kind, folder, name, control_url] = args else {
        return Err("side FOLDER-OF-PROGRAMS KIND FOLDER NAME CONTROL-URL".to_owned());
    };
    let (begin, kind) = (Instant::now(), Kind::named(kind)?);
    let settings = Settings::ephemeral(name, control_url);
    let node = kind
        .start_in(Path::new(programs), folder.into(), settings)
        .await?;
    let nara = Nara::on(node, kind, name, begin).await?;
    let address = nara.address()?;
    // A tsnet node has an echo server of its own.
    let _echo = match kind {
        Kind::Tsnet => None,
        _ => Some(Echo::start(nara.node.clone(), SocketAddr::new(address, ECHO_PORT)).await?),
    };
    println!("{address}");
    let mut told = Told {
        nara: Arc::new(nara),
        peer: None,
        telling: None,
        heard: Arc::default(),
        synced: Arc::default(),
        ledger: Arc::default(),
        tasks: Vec::new(),
    };
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = input.next_line().await {
        let words: Vec<_> = line.split(' ').collect();
        let answer = told.obey(&words).await;
        println!("{}", json(&answer)?);
    }
    Ok(())
}

fn json(answer: impl Serialize) -> Result<Value, String> {
    serde_json::to_value(answer).map_err(|error| error.to_string())
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Telling = JoinHandle<Result<u32, String>>;

/// A nara and the state of its commands.
struct Told {
    nara: Arc<Nara>,
    peer: Option<(NaraName, IpAddr)>,
    /// The flag that ends the stream, and the task that returns the number of events.
    telling: Option<(Arc<AtomicBool>, Telling)>,
    heard: Arc<Mutex<Hearing>>,
    synced: Arc<Mutex<Synced>>,
    /// The destination of synced events.
    ledger: Arc<MemoryLedger>,
    tasks: Vec<JoinHandle<()>>,
}

impl Told {
    /// Runs a command. `meet NAME ADDRESS` comes first. Then: `ping`; `round` for a ping and a transfer; `tell` to
    /// publish stories until `hush`; `follow` for the stories of the other nara, `mark` to start an interval, and
    /// `heard` for the events in it; `fill N` to add events to the ledger; `sync PAGE-SIZE` to copy the ledger of the
    /// other nara into an empty one, and `synced` for the progress.
    async fn obey(&mut self, words: &[&str]) -> Result<Value, String> {
        match (words, &self.peer) {
            (["meet", name, address], _) => {
                let name: NaraName = name.parse().map_err(|error| format!("{name}: {error}"))?;
                let address = address
                    .parse()
                    .map_err(|error: AddrParseError| format!("{address}: {error}"))?;
                self.nara.discover(&[&name], MEET).await?;
                self.peer = Some((name, address));
                json(())
            }
            (["ping"], Some((name, _))) => {
                let mut round = Round::default();
                round.error = ping(&self.nara, name, &mut round).await.err();
                json(round)
            }
            (["round"], Some((name, address))) => {
                let mut round = Round::default();
                let pinged = ping(&self.nara, name, &mut round).await;
                let sent = transfer(&self.nara, *address, &mut round).await;
                round.is_direct = is_direct(&self.nara, *address).await;
                round.error = pinged.and(sent).err();
                json(round)
            }
            (["tell"], _) => {
                let is_over = Arc::<AtomicBool>::default();
                let telling = tokio::spawn(tell_stories(self.nara.clone(), is_over.clone()));
                self.telling = Some((is_over, telling));
                json(())
            }
            (["hush"], _) => {
                let (is_over, telling) = self.telling.take().ok_or("no stream is running")?;
                is_over.store(true, Ordering::Relaxed);
                json(telling.await.map_err(|error| error.to_string())??)
            }
            (["follow"], Some((name, _))) => {
                let events = self.nara.client.peer(name).subscribe(SubscribeOptions::default());
                let heard = Arc::clone(&self.heard);
                self.tasks.push(tokio::spawn(async move {
                    let mut events = events;
                    while let Some(item) = events.next().await {
                        let number = item.map(|verified| story_number(&verified.event));
                        locked(&heard).take(number.map_err(|error| error.to_string()), Instant::now());
                    }
                }));
                json(())
            }
            (["mark"], _) => {
                let mut hearing = locked(&self.heard);
                hearing.heard.events = 0;
                hearing.longest = Duration::ZERO;
                hearing.last = Some(Instant::now());
                json(())
            }
            (["heard"], Some((_, address))) => {
                let is_direct = is_direct(&self.nara, *address).await;
                let mut heard = locked(&self.heard).so_far();
                heard.is_direct = is_direct;
                json(heard)
            }
            (["fill", count], _) => {
                let count = count.parse().map_err(|_| format!("{count} is not a number"))?;
                self.nara.remember(self.nara.events(count, story)).await?;
                json(self.count(&self.nara.ledger).await?)
            }
            (["sync", page], Some((name, _))) => {
                let page = page.parse().map_err(|_| format!("{page} is not a number"))?;
                self.ledger = Arc::default();
                *locked(&self.synced) = Synced::default();
                let (nara, name) = (self.nara.clone(), name.clone());
                let sync = sync(nara, name, self.ledger.clone(), page, self.synced.clone());
                self.tasks.push(tokio::spawn(sync));
                json(())
            }
            (["synced"], _) => {
                let events = self.count(&self.ledger).await?;
                let mut synced = locked(&self.synced).clone();
                synced.events = events;
                json(synced)
            }
            _ => Err(format!("unknown command {words:?}")),
        }
    }

    async fn count(&self, ledger: &MemoryLedger) -> Result<usize, String> {
        ledger.count().await.map_err(|error| error.to_string())
    }
}

async fn is_direct(nara: &Nara, peer: IpAddr) -> bool {
    matches!(nara.node.path_to(peer).await, PathKind::Direct { .. })
}

async fn ping(nara: &Nara, peer: &NaraName, round: &mut Round) -> Result<(), String> {
    let begin = Instant::now();
    let answered = nara.client.ping(peer).await;
    answered.map_err(|error| format!("ping: {error}"))?;
    round.ping_ms = Some(begin.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

async fn transfer(nara: &Nara, peer: IpAddr, round: &mut Round) -> Result<(), String> {
    let begin = Instant::now();
    let sent = exchange(&*nara.node, SocketAddr::new(peer, ECHO_PORT), BYTES);
    let sent = timeout(TRANSFER, sent).await;
    sent.map_err(|_| format!("a transfer did not end within {TRANSFER:?}"))??;
    round.exchange_ms = Some(begin.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// Returns the number of stories.
async fn tell_stories(nara: Arc<Nara>, is_over: Arc<AtomicBool>) -> Result<u32, String> {
    let mut ticks = interval(TELL);
    let mut told = 0;
    while !is_over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let event = nara.event(story(&nara.name, told));
        nara.remember(vec![event]).await?;
        told += 1;
    }
    Ok(told)
}

/// A stream of stories.
#[derive(Default)]
struct Hearing {
    heard: Heard,
    longest: Duration,
    /// The time of the last event or mark.
    last: Option<Instant>,
}

impl Hearing {
    /// Processes the number of a story; `None` for another event.
    fn take(&mut self, number: Result<Option<u32>, String>, now: Instant) {
        let last = self.last.replace(now).unwrap_or(now);
        self.longest = self.longest.max(now - last);
        let heard = &mut self.heard;
        heard.events += 1;
        let is_next = |number: u32| heard.next.is_none_or(|next| next == number);
        match number {
            Ok(Some(number)) if is_next(number) => heard.next = Some(number + 1),
            // Errors after the first one carry no information.
            other if heard.wrong.is_none() => {
                heard.wrong = Some(format!("{other:?} arrived instead of event {:?}", heard.next));
            }
            _ => {}
        }
    }

    fn so_far(&self) -> Heard {
        let silent = self.last.map_or(Duration::ZERO, |last| last.elapsed());
        Heard {
            longest_s: self.longest.max(silent).as_secs_f64(),
            silent_s: silent.as_secs_f64(),
            ..self.heard.clone()
        }
    }
}

/// Retries until the sync is complete.
async fn sync(
    nara: Arc<Nara>,
    peer: NaraName,
    ledger: Arc<MemoryLedger>,
    page: usize,
    synced: Arc<Mutex<Synced>>,
) {
    let begin = Instant::now();
    let peer = nara.client.peer(&peer);
    loop {
        let options = SyncOptions::default().page_size(page);
        let done = peer.sync_into(&*ledger, EventFilter::default(), options).await;
        let (report, error) = match done {
            Ok(report) => (report, None),
            Err(interrupted) => {
                let why = interrupted.to_string();
                (interrupted.report, Some(why))
            }
        };
        {
            let mut synced = locked(&synced);
            synced.tries += 1;
            synced.wrong = synced.wrong.take().or_else(|| wrong(&report));
            synced.failed = error;
            if synced.failed.is_none() {
                synced.took_s = Some(begin.elapsed().as_secs_f64());
                return;
            }
        }
        sleep(AGAIN).await;
    }
}

fn wrong(report: &SyncReport) -> Option<String> {
    let progress = &report.progress;
    let is_right = progress.duplicates == 0 && progress.verified == progress.received;
    (!is_right).then(|| format!("{progress:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_duplicate_events_and_errors_are_reported() {
        let begin = Instant::now();
        for (numbers, is_wrong) in [
            (&[Ok(Some(3)), Ok(Some(4)), Ok(Some(5))][..], false),
            (&[Ok(Some(3)), Ok(Some(5))], true),
            (&[Ok(Some(3)), Ok(Some(4)), Ok(Some(4))], true),
            (&[Ok(Some(3)), Ok(None)], true),
            (&[Err("refused".to_owned())], true),
        ] {
            let mut hearing = Hearing::default();
            for (n, number) in (0_u32..).zip(numbers) {
                hearing.take(number.clone(), begin + Duration::from_secs(u64::from(n * n)));
            }
            assert_eq!(hearing.heard.wrong.is_some(), is_wrong, "{numbers:?}");
            let slowest = numbers.len() as u64 * 2;
            assert_eq!(
                hearing.longest.as_secs(),
                slowest.saturating_sub(3),
                "{numbers:?}"
            );
        }
    }
}
