//! The running nara on this machine, through which commands work.

mod ledger;
mod sockets;

pub(crate) use self::ledger::ledger_path;
pub(crate) use self::sockets::{folder_behind, runs_already, runtime_folder, socket_in};

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

/// How long a command waits for a nara that stopped, and the pauses between its attempts.
const AWAY: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Time limit for one such attempt.
const LOOK: Duration = Duration::from_secs(5);

/// The hint for a nara that hangs.
const END_IT: &str = "see its log, then restart it";

/// Arguments that imply another way to the mesh than the running nara: id and flag.
const ANOTHER_WAY: [(&str, &str); 4] = [
    ("peers_file", "--peers"),
    ("tls", "--tls"),
    ("trust", "--trust"),
    ("network", "--network"),
];

/// Arguments that take precedence over a socket in the environment if they are on the command line.
const BEFORE_SOCKET: [&str; 3] = ["name", "soul_file", "data_dir"];

/// A nara that accepts connections but does not answer.
#[derive(Debug, thiserror::Error)]
#[error(
    "the nara behind {} has not answered for {}: it hangs or was suspended",
    socket.display(),
    human(*patience)
)]
struct Hangs {
    socket: PathBuf,
    patience: Duration,
}

/// Finds the running nara to work through; `None` if none runs, or the command line implies another way.
///
/// A data folder selects the nara that runs on it, a soul the one that has it, a name the one with that name;
/// otherwise the one that runs for this user is used.
///
/// # Errors
/// Several naras run, or only naras other than the requested one.
pub(crate) fn find(args: &RunningArgs, settings: &Settings) -> Outcome<Option<LocalClient>> {
    optional(|| search(args, settings))
}

/// Whether the command can do without the running nara, with `--direct`.
static IS_OPTIONAL: AtomicBool = AtomicBool::new(false);

/// Looks for the running nara, for a command that can do without it.
fn optional(search: impl FnOnce() -> Outcome<Option<LocalClient>>) -> Outcome<Option<LocalClient>> {
    IS_OPTIONAL.store(true, Ordering::Relaxed);
    let found = search();
    if matches!(found, Ok(None)) {
        // Later calls of this command to a running nara have no `--direct` alternative.
        IS_OPTIONAL.store(false, Ordering::Relaxed);
    }
    found
}

/// Adds `--direct` to a hint about the running nara, if this command has that option.
fn or_direct(hint: &str) -> String {
    match IS_OPTIONAL.load(Ordering::Relaxed) {
        true => format!("{hint}, or pass --direct"),
        false => hint.to_owned(),
    }
}

fn search(args: &RunningArgs, settings: &Settings) -> Outcome<Option<LocalClient>> {
    let is_given = |id: &&str| settings.sources.is_on_command_line(id);
    if args.direct || another_way(settings).is_some() {
        return Ok(None);
    }
    let is_selected = BEFORE_SOCKET.iter().any(is_given);
    if let Some(socket) = args
        .api_socket
        .as_ref()
        .filter(|_| !is_selected || is_given(&"api_socket"))
    {
        check(socket, is_given(&"api_socket"))?;
        return match is_selected {
            true => matching_at(socket, settings).map(Some),
            false => answering(socket, settings).map(Some),
        };
    }
    if let Some(folder) = settings.given_data_dir() {
        let socket = socket_in(folder);
        return match is_served(&socket) {
            true if is_given(&"name") => matching_at(&socket, settings).map(Some),
            true => answering(&socket, settings).map(Some),
            false => Ok(None),
        };
    }
    if settings.has_soul() {
        match settings.local_nara() {
            Ok(nara) => return with_soul(&nara, settings),
            // Nobody chose the soul in the default place: a name may choose another nara.
            Err(_) if settings.is_default_soul() && settings.name().is_some() => {}
            // The command itself reports that the soul cannot be read.
            Err(_) => return Ok(None),
        }
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
                    "no nara {name} runs for this user; other naras run on these sockets: {}",
                    shown(&served)
                );
                Failure::new(Exit::Unreachable, message).hint("check --name, or start it: `nara-mesh serve`")
            })
        }
    }
}

/// Returns the running nara that has a soul, wherever its data is.
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

/// Returns the first running nara for which `is_meant` holds. A nara that fails is skipped; one that hangs
/// may be the one.
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
        // Concurrently: a nara that hangs must not delay the one that is meant.
        let mut asking: FuturesUnordered<_> = asking.collect();
        let mut hanging = None;
        while let Some((client, status)) = asking.next().await {
            match status {
                Ok(Ok(status)) if is_meant(&status) => return Ok(Some(client)),
                Ok(_) => {}
                Err(_) => hanging = Some(client),
            }
        }
        // The one that hangs may be it.
        hanging.map_or(Ok(None), |client| Err(hangs(&client, settings.timeout)))
    })
}

/// Limits the time of a call to a running nara: one that hangs still accepts connections.
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

/// Returns the status of the nara behind a socket.
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

/// Returns the socket of the running nara that hangs, if a command failed because of that.
pub(crate) fn hanging(failure: &Failure) -> Option<&Path> {
    let hangs = failure.source.as_ref()?.downcast_ref::<Hangs>()?;
    Some(&hangs.socket)
}

/// Returns the nara behind a socket, if it answers.
fn answering(socket: &Path, settings: &Settings) -> Outcome<LocalClient> {
    let client = client_of(socket, settings);
    block_on(status_of(&client, settings)).map(|_| client)
}

/// Returns the nara behind a socket, if it answers and matches the other arguments.
fn matching_at(socket: &Path, settings: &Settings) -> Outcome<LocalClient> {
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
            .hint("pass only one of --name, --soul-file, --data-dir and --api-socket"))
        }
        None => Ok(client),
    }
}

fn client_of(socket: &Path, settings: &Settings) -> LocalClient {
    LocalClient::new(socket).with_timeout(settings.timeout)
}

/// Returns whether a nara runs on a data folder.
pub(crate) fn runs_on(folder: &Path) -> bool {
    is_served(&socket_in(folder))
}

/// Returns a client of the nara that runs on a data folder; `None` if none does.
///
/// # Errors
/// The nara does not answer.
pub(crate) async fn on(folder: &Path, settings: &Settings) -> Outcome<Option<LocalClient>> {
    if !runs_on(folder) {
        return Ok(None);
    }
    let client = client_of(&socket_in(folder), settings);
    status_of(&client, settings).await.map(|_| Some(client))
}

/// Makes the nara that runs on a data folder reload it; `None` if none does.
///
/// # Errors
/// The nara does not answer, or refuses.
pub(crate) async fn reload_on(folder: &Path, settings: &Settings) -> Outcome<Option<Reloaded>> {
    match on(folder, settings).await? {
        Some(nara) => within(settings.timeout, &nara, nara.reload()).await.map(Some),
        None => Ok(None),
    }
}

/// Returns the flag on the command line that implies another way to the mesh.
fn another_way(settings: &Settings) -> Option<&'static str> {
    let mut given = ANOTHER_WAY
        .iter()
        .filter(|(id, _)| settings.sources.is_on_command_line(id));
    given.next().map(|(_, flag)| *flag)
}

/// Returns the nara as which a command acts without the running one. `apart`: the command's own flag that
/// implies this.
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
            "omit {flag} to work through the running nara, or pass --soul-file FILE (create one with `nara-mesh id new --name \
             NAME --out FILE`)"
        )));
    }
    let problem = "no nara runs for this user, and without a running nara this command needs a soul";
    Err(Failure::usage(problem).hint(
        "start a nara with `nara-mesh serve` or `up`, or pass --soul-file FILE (create one with `nara-mesh id new --name \
         NAME --out FILE`); if a nara runs, locate it with --data-dir or --api-socket",
    ))
}

/// Decodes an event of a stream of the running nara.
///
/// # Errors
/// It has another form.
pub(crate) fn decoded<T: DeserializeOwned>(told: &ServerEvent) -> Outcome<T> {
    told.decode()
        .map_err(|error| Failure::failed("the running nara has an incompatible version").caused_by(error))
}

/// Decodes a mesh event from the running nara.
///
/// # Errors
/// It is malformed.
pub(crate) fn event_of(told: &Event) -> Outcome<SyncEvent> {
    told.decode()
        .map_err(|error| Failure::failed("an event is malformed").caused_by(error))
}

/// Retries a call until the nara is back: it may be restarting.
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

/// As [`find`], for commands that should use the running nara: with a data folder, also if the command line
/// implies another way to the mesh.
pub(crate) fn preferred(args: &RunningArgs, settings: &Settings) -> Outcome<Option<LocalClient>> {
    optional(|| only(args, settings))
}

/// As [`preferred`], for commands that fail if there is none.
pub(crate) fn only(args: &RunningArgs, settings: &Settings) -> Outcome<Option<LocalClient>> {
    match search(args, settings)? {
        None if !args.direct => match settings.running_folder() {
            Ok(folder) => block_on(on(&folder, settings)),
            Err(_) => Ok(None),
        },
        found => Ok(found),
    }
}

/// As [`preferred`], for commands that only the running nara can execute.
pub(crate) fn required(args: &RunningArgs, settings: &Settings) -> Outcome<LocalClient> {
    if args.direct {
        return Err(Failure::usage("only the running nara can do this")
            .hint("omit --direct, or start it: `nara-mesh serve`"));
    }
    match only(args, settings)? {
        Some(client) => Ok(client),
        None if settings.has_identity() => Err(not_running(&settings.running_folder()?)),
        None => Err(Failure::new(Exit::Unreachable, "no nara runs for this user")
            .hint("start it with `nara-mesh serve` or `up`; if it runs, locate it with --data-dir or --api-socket")),
    }
}

/// The failure of a command that needs a nara running on a data folder.
pub(crate) fn not_running(folder: &Path) -> Failure {
    Failure::new(Exit::Unreachable, format!("no nara runs on {}", folder.display()))
        .hint("start it with `nara-mesh serve` or `up`; check --data-dir and --soul-file")
}

/// Returns the peers of a command as the running nara names them: the chosen ones, or all with a known
/// address. `purpose` completes the error message.
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
            .hint("the running nara knows no peer with an address"));
    }
    Ok(peers)
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Problem(problem) => (*problem).into(),
            error if error.is_not_running() => Self::new(Exit::Unreachable, error.to_string())
                .caused_by(error)
                .hint("it has just stopped; restart it with `nara-mesh up` or `nara-mesh serve`"),
            error if error.is_gone() => Self::new(Exit::Unreachable, error.to_string())
                .caused_by(error)
                .hint("run the command again; its log says why it stopped"),
            error => Self::failed(error.to_string())
                .caused_by(error)
                .hint(or_direct("see its log")),
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

/// Returns the exit code for a problem.
pub(crate) fn exit_of(problem: &Problem) -> Exit {
    match problem.class {
        ProblemClass::Usage => Exit::Usage,
        ProblemClass::Untrusted => Exit::Unauthenticated,
        ProblemClass::Unreachable => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

/// Returns whether a problem means that the peer is unknown.
pub(crate) fn is_unknown_peer(problem: &Problem) -> bool {
    matches!(
        problem.name(),
        "unknown_peer" | "invalid_peer" | "nobody_knows" | "own_nara"
    )
}

/// Returns what to do about a problem, with the command where there is one.
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

/// A chain of causes as texts.
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
        assert!(hanging(&failure).is_some(), "{failure:?}");
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
