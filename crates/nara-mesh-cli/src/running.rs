//! The nara that runs on this machine, through which commands work.

mod sockets;

pub(crate) use self::sockets::{runtime_folder, socket_in};

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use nara_local_api::client::{CallError, LocalClient, ServerEvent};
use nara_local_api::model::{Event, Reloaded, Status};
use nara_local_api::{Problem, ProblemClass};
use nara_mesh::client::PeerRef;
use nara_mesh::identity::LocalNara;
use nara_proto::event::SyncEvent;
use nara_proto::identity::KeyId;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use self::sockets::{check, is_served, may_be, shown, sockets};
use crate::cli::RunningArgs;
use crate::connect::block_on;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::{harmless, human};
use crate::remedy;
use crate::settings::Settings;

/// How long a command waits for a nara that went away, and how long it pauses between two looks.
const AWAY: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long one such look may take.
const LOOK: Duration = Duration::from_secs(5);

/// What to do about a nara that hangs.
const END_IT: &str = "see its log, then end it and start it again";

/// Arguments that describe another way to the mesh than the one of a running nara: id and flag.
const ANOTHER_WAY: [(&str, &str); 4] = [
    ("peers_file", "--peers"),
    ("tls", "--tls"),
    ("trust", "--trust"),
    ("network", "--network"),
];

/// Arguments that on the command line win over a socket in the environment.
const BEFORE_SOCKET: [&str; 3] = ["name", "soul_file", "data_dir"];

/// A nara that takes connections and does not answer.
#[derive(Debug, thiserror::Error)]
#[error(
    "the nara behind {} has not answered for {}: it hangs, or somebody stopped it",
    socket.display(),
    human(*patience)
)]
struct Hangs {
    socket: PathBuf,
    patience: Duration,
}

/// The running nara to work through; `None`: there is none, or the command line describes another way.
///
/// With a data folder it is the one that runs on it, with a soul the one that has it, with a name the one of that name, else the
/// one that runs for this user.
///
/// # Errors
/// Several naras run, or none is the one that is meant while others run.
pub(crate) fn find(args: &RunningArgs, settings: &Settings) -> Outcome<Option<LocalClient>> {
    dispensable(|| search(args, settings))
}

/// Whether the command does without the running nara through which it works, if it is told to.
static IS_DISPENSABLE: AtomicBool = AtomicBool::new(false);

/// Looks for the running nara, for a command that can do without it.
fn dispensable(search: impl FnOnce() -> Outcome<Option<LocalClient>>) -> Outcome<Option<LocalClient>> {
    IS_DISPENSABLE.store(true, Ordering::Relaxed);
    let found = search();
    if matches!(found, Ok(None)) {
        // What such a command still tells a running nara goes through it alone.
        IS_DISPENSABLE.store(false, Ordering::Relaxed);
    }
    found
}

/// A hint about the running nara, with the way around it where this command has one.
fn or_direct(hint: &str) -> String {
    match IS_DISPENSABLE.load(Ordering::Relaxed) {
        true => format!("{hint}, or pass --direct"),
        false => hint.to_owned(),
    }
}

fn search(args: &RunningArgs, settings: &Settings) -> Outcome<Option<LocalClient>> {
    let is_given = |id: &&str| settings.sources.is_on_command_line(id);
    if args.direct || another_way(settings).is_some() {
        return Ok(None);
    }
    let is_said = BEFORE_SOCKET.iter().any(is_given);
    if let Some(socket) = args
        .api_socket
        .as_ref()
        .filter(|_| !is_said || is_given(&"api_socket"))
    {
        check(socket, is_given(&"api_socket"))?;
        return match is_said {
            true => the_one_behind(socket, settings).map(Some),
            false => answering(socket, settings).map(Some),
        };
    }
    if let Some(folder) = settings.given_data_dir() {
        let socket = socket_in(folder);
        return match is_served(&socket) {
            true if is_given(&"name") => the_one_behind(&socket, settings).map(Some),
            true => answering(&socket, settings).map(Some),
            false => Ok(None),
        };
    }
    if settings.has_soul() {
        // Without a soul that can be read, the command says so itself.
        return settings
            .local_nara()
            .map_or(Ok(None), |nara| with_soul(&nara, settings));
    }
    let served = || Some(sockets()).filter(|served| !served.is_empty());
    match (settings.name(), served()) {
        (_, None) => Ok(None),
        (None, Some(served)) => match &served[..] {
            [only] => answering(only, settings).map(Some),
            several => Err(
                Failure::usage(format!("several naras run: {}", shown(several))).hint(or_direct(
                    "choose one with --name NAME or --api-socket FILE (NARA_MESH_SOCKET)",
                )),
            ),
        },
        (Some(name), Some(served)) => {
            let possible = served.iter().filter(|socket| may_be(socket, name.as_str(), None));
            let possible: Vec<PathBuf> = possible.cloned().collect();
            let is_named = |status: &Status| status.name == name.as_str();
            let found = first(&possible, settings, is_named)?;
            found.map(Some).ok_or_else(|| {
                let message = format!(
                    "no nara {name} runs for this user; on these sockets others do: {}",
                    shown(&served)
                );
                Failure::new(Exit::Unreachable, message).hint("check --name, or start it: `nara-mesh serve`")
            })
        }
    }
}

/// The running nara that has a soul, wherever its data is.
fn with_soul(nara: &LocalNara, settings: &Settings) -> Outcome<Option<LocalClient>> {
    let usual = settings.data_dir(nara).ok().map(|folder| socket_in(&folder));
    if let Some(socket) = usual.filter(|socket| is_served(socket)) {
        return answering(&socket, settings).map(Some);
    }
    let (key, name) = (nara.public_key(), nara.name().as_str());
    let mut sockets = sockets();
    sockets.retain(|socket| may_be(socket, name, Some(KeyId::from(&key))));
    let key = key.to_base64();
    first(&sockets, settings, |status| status.public_key == key)
}

/// The first of the running naras of which this is true. One that fails is none of them; one that hangs may be.
fn first(
    sockets: &[PathBuf],
    settings: &Settings,
    is_meant: impl Fn(&Status) -> bool,
) -> Outcome<Option<LocalClient>> {
    if sockets.is_empty() {
        return Ok(None);
    }
    block_on(async {
        let asking = sockets.iter().map(|socket| async move {
            let client = client_of(socket, settings);
            let status = timeout(settings.timeout, client.status()).await;
            (client, status)
        });
        // All at once: the one that is meant does not wait for one that hangs.
        let mut asking: FuturesUnordered<_> = asking.collect();
        let mut hanging = None;
        while let Some((client, status)) = asking.next().await {
            match status {
                Ok(Ok(status)) if is_meant(&status) => return Ok(Some(client)),
                Ok(_) => {}
                Err(_) => hanging = Some(client),
            }
        }
        // It may be the one.
        hanging.map_or(Ok(None), |client| Err(hangs(&client, settings.timeout)))
    })
}

/// What a running nara answers within a time limit: one that hangs still takes connections.
pub(crate) async fn within<T>(
    patience: Duration,
    client: &LocalClient,
    call: impl Future<Output = Result<T, CallError>>,
) -> Outcome<T> {
    match timeout(patience, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(hangs(client, patience)),
    }
}

/// What the nara behind a socket says of itself.
pub(crate) async fn status_of(client: &LocalClient, settings: &Settings) -> Outcome<Status> {
    within(settings.timeout, client, client.status()).await
}

fn hangs(client: &LocalClient, patience: Duration) -> Failure {
    let hangs = Hangs {
        socket: client.socket().to_owned(),
        patience,
    };
    Failure::new(Exit::Unreachable, hangs.to_string())
        .caused_by(hangs)
        .hint(or_direct(END_IT))
}

/// Whether a command failed because a running nara hangs.
pub(crate) fn is_hanging(failure: &Failure) -> bool {
    failure.source.as_ref().is_some_and(|source| source.is::<Hangs>())
}

/// The nara behind a socket, if it answers.
fn answering(socket: &Path, settings: &Settings) -> Outcome<LocalClient> {
    let client = client_of(socket, settings);
    block_on(status_of(&client, settings)).map(|_| client)
}

/// The nara behind a socket, if it answers, and is the one that the command line names besides.
fn the_one_behind(socket: &Path, settings: &Settings) -> Outcome<LocalClient> {
    let client = client_of(socket, settings);
    let status = block_on(status_of(&client, settings))?;
    let is_given = |id: &str| settings.sources.is_on_command_line(id);
    let other_name = settings
        .name()
        .filter(|name| is_given("name") && name.as_str() != status.name);
    let soul = if is_given("soul_file") {
        Some(settings.local_nara()?)
    } else {
        None
    };
    let other_soul = soul.filter(|nara| nara.public_key().to_base64() != status.public_key);
    match other_name.or_else(|| other_soul.as_ref().map(LocalNara::name)) {
        Some(other) => {
            let (runs, socket) = (harmless(&status.name), socket.display());
            Err(Failure::usage(format!(
                "the nara behind {socket} is {runs} with key {}, not {other}",
                status.key_id
            ))
            .hint("say which one is meant only once: by --name, --soul-file, --data-dir, or --api-socket"))
        }
        None => Ok(client),
    }
}

fn client_of(socket: &Path, settings: &Settings) -> LocalClient {
    LocalClient::new(socket).with_timeout(settings.timeout)
}

/// Whether a nara runs on a data folder.
pub(crate) fn runs_on(folder: &Path) -> bool {
    is_served(&socket_in(folder))
}

/// The client of the nara that runs on a data folder; `None`: none runs there.
///
/// # Errors
/// It does not answer.
pub(crate) async fn on(folder: &Path, settings: &Settings) -> Outcome<Option<LocalClient>> {
    if !runs_on(folder) {
        return Ok(None);
    }
    let client = client_of(&socket_in(folder), settings);
    status_of(&client, settings).await.map(|_| Some(client))
}

/// Lets the nara that runs on a data folder read again what was stored there; `None`: none runs there.
///
/// # Errors
/// It does not answer, or refuses.
pub(crate) async fn reload_on(folder: &Path, settings: &Settings) -> Outcome<Option<Reloaded>> {
    match on(folder, settings).await? {
        Some(nara) => within(settings.timeout, &nara, nara.reload()).await.map(Some),
        None => Ok(None),
    }
}

/// The flag on the command line that describes another way to the mesh.
fn another_way(settings: &Settings) -> Option<&'static str> {
    let mut given = ANOTHER_WAY
        .iter()
        .filter(|(id, _)| settings.sources.is_on_command_line(id));
    given.next().map(|(_, flag)| *flag)
}

/// The nara that a command acts as without the running one. `apart`: its own flag that asks for that.
pub(crate) fn instead(
    args: &RunningArgs,
    settings: &Settings,
    apart: Option<&'static str>,
) -> Outcome<LocalNara> {
    if args.direct || settings.has_soul() {
        return settings.local_nara();
    }
    if let Some(flag) = apart.or_else(|| another_way(settings)) {
        let problem = format!("this command needs a soul, because {flag} does not use the running nara");
        return Err(Failure::usage(problem).hint(format!(
            "omit {flag} to work through the nara that runs, or pass --soul-file FILE (create one with `nara-mesh id new --name \
             NAME --out FILE`)"
        )));
    }
    let problem = "no nara runs for this user, and without one this command needs a soul";
    Err(Failure::usage(problem).hint(
        "start a nara with `nara-mesh serve` or `up`, or pass --soul-file FILE (create one with `nara-mesh id new --name \
         NAME --out FILE`); if a nara runs, say where with --data-dir or --api-socket",
    ))
}

/// What a running nara tells in a stream.
///
/// # Errors
/// It is something else.
pub(crate) fn decoded<T: DeserializeOwned>(told: &ServerEvent) -> Outcome<T> {
    told.decode()
        .map_err(|error| Failure::failed("the running nara is of another version").caused_by(error))
}

/// An event of the mesh that a running nara tells.
///
/// # Errors
/// It is none.
pub(crate) fn event_of(told: &Event) -> Outcome<SyncEvent> {
    told.decode()
        .map_err(|error| Failure::failed("an event is malformed").caused_by(error))
}

/// Calls a nara that went away until it is back: it may have been started again.
///
/// # Errors
/// The last failure, after 30 s; at once if the nara is back and refuses.
pub(crate) async fn until_back<T, F>(nara: &LocalClient, call: impl Fn() -> F) -> Outcome<T>
where
    F: Future<Output = Result<T, CallError>>,
{
    let (end, mut pause) = (Instant::now() + AWAY, FIRST_PAUSE);
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        let failure: Failure = match timeout(LOOK, call()).await {
            Ok(Err(error)) if error.is_gone() => error.into(),
            Ok(outcome) => return Ok(outcome?),
            Err(_) => hangs(nara, LOOK),
        };
        if Instant::now() >= end {
            return Err(failure);
        }
    }
}

/// As [`find`], for what the running nara does best: with a data folder, also if the command line describes another way to
/// the mesh.
pub(crate) fn preferred(args: &RunningArgs, settings: &Settings) -> Outcome<Option<LocalClient>> {
    dispensable(|| only(args, settings))
}

/// As [`preferred`], for commands that fail if it gives none.
pub(crate) fn only(args: &RunningArgs, settings: &Settings) -> Outcome<Option<LocalClient>> {
    match search(args, settings)? {
        None if !args.direct => match settings.running_folder() {
            Ok(folder) => block_on(on(&folder, settings)),
            Err(_) => Ok(None),
        },
        found => Ok(found),
    }
}

/// As [`preferred`], for commands that nothing else can do.
pub(crate) fn required(args: &RunningArgs, settings: &Settings) -> Outcome<LocalClient> {
    if args.direct {
        return Err(Failure::usage("only the running nara can do this")
            .hint("omit --direct, or start it: `nara-mesh serve`"));
    }
    match only(args, settings)? {
        Some(client) => Ok(client),
        None if settings.has_identity() => Err(not_running(&settings.running_folder()?)),
        None => Err(Failure::new(Exit::Unreachable, "no nara runs for this user")
            .hint("start it with `nara-mesh serve` or `up`; if it runs, say where with --data-dir or --api-socket")),
    }
}

/// The ledger that a command is about, whether its nara runs or not.
///
/// # Errors
/// It is not known which one is meant, or it does not exist.
pub(crate) fn ledger_path(args: &RunningArgs, settings: &Settings) -> Outcome<PathBuf> {
    let path = meant_ledger(args, settings)?;
    // One that cannot be looked at is told when it is opened.
    if !matches!(path.try_exists(), Ok(false)) {
        return Ok(path);
    }
    Err(Failure::usage(format!("there is no ledger {}", path.display()))
        .hint("it is made when the nara first runs, or by the first `sync`"))
}

/// The ledger of the nara that [`find`] gives, else the one that belongs to the soul or the data folder.
fn meant_ledger(args: &RunningArgs, settings: &Settings) -> Outcome<PathBuf> {
    const WHOSE: &str = "pass --data-dir DIR or --soul-file FILE, as for its `serve`";
    let by_socket = settings.sources.is_on_command_line("api_socket");
    if let Some(folder) = settings.given_data_dir().filter(|_| !by_socket) {
        return Ok(folder.join("ledger.db"));
    }
    let Some(nara) = find(args, settings)? else {
        if settings.has_identity() {
            return Ok(settings.running_folder()?.join("ledger.db"));
        }
        let problem =
            "no nara runs for this user, and neither a soul nor a data folder says whose ledger is meant";
        return Err(Failure::usage(problem).hint(WHOSE));
    };
    let status = block_on(status_of(&nara, settings))?;
    let Some(folder) = status.data_dir else {
        return Err(Failure::failed("the running nara has no data folder").hint(WHOSE));
    };
    Ok(Path::new(&folder).join("ledger.db"))
}

/// The failure of a command that needs the nara that runs on a data folder.
pub(crate) fn not_running(folder: &Path) -> Failure {
    Failure::new(Exit::Unreachable, format!("no nara runs on {}", folder.display()))
        .hint("start it with `nara-mesh serve` or `up`; check --data-dir and --soul-file")
}

/// The peers that a command means, as a running nara names them: those chosen, or all that it knows an address of. `purpose`
/// says what is to be done with them.
pub(crate) async fn peers(
    nara: &LocalClient,
    chosen: Option<&[PeerRef]>,
    purpose: &str,
) -> Outcome<Vec<String>> {
    let peers: Vec<String> = match chosen {
        Some(chosen) => chosen.iter().map(ToString::to_string).collect(),
        None => {
            let known = nara.peers().await?.into_iter();
            known
                .filter(|peer| peer.address.is_some())
                .map(|peer| peer.reference().to_owned())
                .collect()
        }
    };
    if peers.is_empty() {
        return Err(Failure::usage(format!("there is no peer to {purpose}"))
            .hint("the running nara knows none with an address"));
    }
    Ok(peers)
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Problem(problem) => (*problem).into(),
            error if error.is_not_running() => Self::new(Exit::Unreachable, error.to_string())
                .caused_by(error)
                .hint("it has just ended; start it again with `nara-mesh up` or `nara-mesh serve`"),
            error if error.is_gone() => Self::new(Exit::Unreachable, error.to_string())
                .caused_by(error)
                .hint("run the command again; the log of that nara says why it ended"),
            error => Self::failed(error.to_string())
                .caused_by(error)
                .hint(or_direct("see the log of that nara")),
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let mut failure = Self::new(exit_of(&problem), problem.detail.clone());
        failure.hint = hint(&problem);
        let cause = Cause::of(&problem.causes);
        failure.source = cause.map(|cause| cause as Box<dyn Error + Send + Sync>);
        failure
    }
}

/// The exit code for a problem.
pub(crate) fn exit_of(problem: &Problem) -> Exit {
    match problem.class {
        ProblemClass::Usage => Exit::Usage,
        ProblemClass::Untrusted => Exit::Unauthenticated,
        ProblemClass::Unreachable => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

/// Whether a problem is that nobody knows the peer.
pub(crate) fn is_unknown_peer(problem: &Problem) -> bool {
    matches!(problem.name(), "unknown_peer" | "invalid_peer" | "nobody_knows")
}

/// What to do about a problem, with the command where there is one.
pub(crate) fn hint(problem: &Problem) -> Option<String> {
    if let Some(remedy) = remedy::of_problem(problem) {
        return Some(remedy);
    }
    let command = match problem.name() {
        "downgrade" => {
            "if the peer went back to an older version on purpose, run `nara-mesh peers trust NAME --replace`"
        }
        "tls_gone" => {
            "try again; if the peer went back to plain connections on purpose, forget it with `nara-mesh peers reset \
             NAME`"
        }
        "unknown_peer" | "invalid_peer" => "add it to the peers file (--peers), or give its address",
        "untrusted" => {
            let name = problem.nara.as_ref().and_then(|name| name.parse().ok())?;
            return Some(format!(
                "to lift the ban, run `{}`",
                remedy::trust_again(&name, false)
            ));
        }
        _ => return problem.hint.clone(),
    };
    Some(command.to_owned())
}

/// A chain of causes, as texts.
#[derive(Debug)]
struct Cause {
    text: String,
    source: Option<Box<Self>>,
}

impl Cause {
    fn of(texts: &[String]) -> Option<Box<Self>> {
        let (first, rest) = texts.split_first()?;
        Some(Box::new(Self {
            text: first.clone(),
            source: Self::of(rest),
        }))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let source = self.source.as_deref()?;
        Some(source)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_nara_that_comes_back_and_hangs_is_not_waited_for_for_ever() {
        let nara = LocalClient::new("bob/nara.sock");
        let begun = Instant::now();
        let failure = until_back(&nara, pending::<Result<(), CallError>>)
            .await
            .unwrap_err();
        assert!(is_hanging(&failure), "{failure:?}");
        assert!(begun.elapsed() <= AWAY + LOOK + LONGEST_PAUSE);
        let calls = Cell::new(0);
        let answer = until_back(&nara, || {
            calls.set(calls.get() + 1);
            let call = calls.get();
            async move {
                match call {
                    1 => pending().await,
                    _ => Ok(call),
                }
            }
        });
        assert_eq!(answer.await.unwrap(), 2);
    }
}
