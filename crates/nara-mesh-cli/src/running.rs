//! The nara that runs on this machine, through which commands work.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use nara_local_api::client::{CallError, LocalClient};
use nara_local_api::model::Status;
use nara_local_api::{Problem, ProblemClass};
use nara_mesh::client::PeerRef;
use nara_mesh::identity::LocalNara;
use tokio::time::timeout;

use crate::cli::RunningArgs;
use crate::connect::block_on;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::places::{home_folder, variable};
use crate::printer::{harmless, human};
use crate::remedy;
use crate::settings::Settings;

/// How long a command waits for a nara that went away, and how long it pauses between two looks.
const AWAY: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Arguments that describe another way to the mesh than the one of a running nara.
const ANOTHER_WAY: [&str; 4] = ["peers_file", "tls", "trust", "network"];

/// Arguments that say which nara is meant. On the command line they win over a socket in the environment.
const WHICH: [&str; 3] = ["name", "soul_file", "data_dir"];

/// The running nara to work through; `None`: there is none, or the command line describes another way.
///
/// With a data folder it is the one that runs on it, with a soul the one that has it, with a name the one of that name, else the
/// one that runs for this user.
///
/// # Errors
/// Several naras run, or none is the one that is meant while others run.
pub(crate) fn find(args: &RunningArgs, settings: &Settings) -> Outcome<Option<LocalClient>> {
    let is_given = |id: &&str| settings.sources.is_on_command_line(id);
    if args.direct || ANOTHER_WAY.iter().any(is_given) {
        return Ok(None);
    }
    let is_said = WHICH.iter().any(is_given);
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
            several => Err(Failure::usage(format!("several naras run: {}", shown(several))).hint(
                "choose one with --name NAME or --api-socket FILE (NARA_MESH_SOCKET), or pass --direct to use none",
            )),
        },
        (Some(name), Some(served)) => {
            let is_named = |status: &Status| status.name == name.as_str();
            let found = first(&served, settings, is_named)?;
            found.map(Some).ok_or_else(|| {
                let message = format!("no nara {name} runs for this user; on these sockets others do: {}", shown(&served));
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
    let key = nara.public_key().to_base64();
    first(&sockets(), settings, |status| status.public_key == key)
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
        hanging.map_or(Ok(None), |client| Err(hangs(&client, settings)))
    })
}

/// What the nara behind a socket says of itself, within a time: one that hangs still takes connections.
async fn status_of(client: &LocalClient, settings: &Settings) -> Outcome<Status> {
    match timeout(settings.timeout, client.status()).await {
        Ok(status) => Ok(status?),
        Err(_) => Err(hangs(client, settings)),
    }
}

fn hangs(client: &LocalClient, settings: &Settings) -> Failure {
    let (socket, patience) = (client.socket().display(), human(settings.timeout));
    let message =
        format!("the nara behind {socket} has not answered for {patience}: it hangs, or somebody stopped it");
    Failure::new(Exit::Unreachable, message)
        .hint("see its log, then end it and start it again; --direct does without it")
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

fn shown(sockets: &[PathBuf]) -> String {
    let shown: Vec<String> = sockets
        .iter()
        .map(|socket| socket.display().to_string())
        .collect();
    shown.join(", ")
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

/// The nara that a command acts as where none runs.
pub(crate) fn instead(args: &RunningArgs, settings: &Settings) -> Outcome<LocalNara> {
    if args.direct || settings.has_soul() {
        return settings.local_nara();
    }
    let problem = "no nara runs for this user, and without one this command needs a soul";
    Err(Failure::usage(problem).hint(
        "start a nara with `nara-mesh serve` or `up`, or pass --soul-file FILE (create one with `nara-mesh id new --name \
         NAME --out FILE`); if a nara runs, say where with --data-dir or --api-socket",
    ))
}

/// Waits until a nara that went away is back: it may have been started again.
///
/// # Errors
/// The last failure, after 30 s.
pub(crate) async fn until_back(nara: &LocalClient) -> Result<(), CallError> {
    let waiting = async {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            match nara.status().await {
                Err(error) if error.is_gone() => {}
                outcome => return outcome.map(drop),
            }
        }
    };
    match timeout(AWAY, waiting).await {
        Ok(outcome) => outcome,
        Err(_) => nara.status().await.map(drop),
    }
}

/// As [`find`], for what the running nara does best: with a data folder, also if the command line describes another way to
/// the mesh.
pub(crate) fn preferred(args: &RunningArgs, settings: &Settings) -> Outcome<Option<LocalClient>> {
    match find(args, settings)? {
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
    match preferred(args, settings)? {
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
    let status = block_on(async { Ok(nara.status().await?) })?;
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

/// The socket in a data folder.
pub(crate) fn socket_in(folder: &Path) -> PathBuf {
    folder.join("nara.sock")
}

/// The folder for the sockets of this user's naras, if the system has one for running programs.
pub(crate) fn runtime_folder() -> Option<PathBuf> {
    let folder = PathBuf::from(variable("XDG_RUNTIME_DIR")?);
    folder.is_absolute().then(|| folder.join("nara-mesh"))
}

/// The sockets of the naras that run for this user: those in the folder for running programs or, if there is none there, those in
/// its data folders.
fn sockets() -> Vec<PathBuf> {
    let served = |sockets: Vec<PathBuf>| -> BTreeMap<PathBuf, PathBuf> {
        let served = sockets.into_iter().filter(|socket| is_served(socket));
        // Once each: the folder of a key that was replaced leads to the same one as that of the new key.
        served
            .map(|socket| (socket.canonicalize().unwrap_or_else(|_| socket.clone()), socket))
            .collect()
    };
    let here = served(
        runtime_folder()
            .map(|folder| sockets_in(&folder))
            .unwrap_or_default(),
    );
    let found = if here.is_empty() {
        served(sockets_of_data_folders())
    } else {
        here
    };
    found.into_values().collect()
}

/// The sockets in a folder that nobody else can write to.
fn sockets_in(folder: &Path) -> Vec<PathBuf> {
    let is_private = || {
        let found = std::fs::symlink_metadata(folder).ok()?;
        (found.is_dir() && found.mode() & 0o022 == 0).then_some(())
    };
    if is_private().is_none() {
        return Vec::new();
    }
    let is_socket = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "sock");
    entries(folder).filter(is_socket).collect()
}

/// The sockets in the data folders of this user, in which each nara has one of its own.
fn sockets_of_data_folders() -> Vec<PathBuf> {
    let folder = home_folder("XDG_DATA_HOME", ".local/share");
    let folders = folder.iter().flat_map(|folder| entries(folder));
    folders.map(|folder| socket_in(&folder)).collect()
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

/// Whether a nara listens on the socket that was chosen. `on_command_line`: by an argument, and not by the environment.
fn check(socket: &Path, on_command_line: bool) -> Outcome<()> {
    let Err(error) = UnixStream::connect(socket) else {
        return Ok(());
    };
    let shown = socket.display();
    let found = std::fs::metadata(socket);
    let (exit, message) = match (&found, error.kind()) {
        (Err(_), io::ErrorKind::NotFound) => (Exit::Unreachable, format!("there is no socket {shown}")),
        (Ok(found), _) if !found.file_type().is_socket() => {
            let what = if found.is_dir() { "a folder" } else { "a file" };
            (
                Exit::Usage,
                format!("{shown} is {what}, and not the socket of a nara"),
            )
        }
        (Ok(_), io::ErrorKind::ConnectionRefused) => (
            Exit::Unreachable,
            format!("no nara listens on {shown} any more: one that was killed left the socket behind"),
        ),
        (_, io::ErrorKind::PermissionDenied) => {
            let owner = found.map(|found| format!("it belongs to user {}", found.uid()));
            let owner = owner.unwrap_or_else(|_| "its folder belongs to another user".to_owned());
            (
                Exit::Usage,
                format!("this user may not use the nara behind {shown}: {owner}"),
            )
        }
        _ => (Exit::Failed, format!("the socket {shown} cannot be used")),
    };
    let hint = if on_command_line {
        "omit --api-socket, and the nara that runs for this user is used"
    } else {
        "run `unset NARA_MESH_SOCKET`, and the nara that runs for this user is used"
    };
    Err(Failure::new(exit, message).caused_by(error).hint(hint))
}

fn is_served(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
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
                .hint("see the log of that nara, or pass --direct"),
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
