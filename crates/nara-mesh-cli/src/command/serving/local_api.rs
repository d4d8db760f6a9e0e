//! The local API of a running nara: its sockets, and the answers of the program.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use nara_local_api::client::socket_file;
use nara_local_api::model::{Check, ConflictList, Reloaded, Way};
use nara_local_api::server::{
    DatabaseError, Host, Inbox, Journeys, ListenError, LocalApi, LoopbackError, Outbox, OutboxError, Rights,
};
use nara_mesh::Nara;
use nara_mesh::server::expose::{Backend, Services};
use tokio::sync::{mpsc, oneshot};

use super::exposition::Exposition;
use crate::cli::ServingArgs;
use crate::failure::{Failure, Outcome};
use crate::network::{self, OnNetwork};
use crate::running::{runs_already, runtime_folder, socket_in};
use crate::settings::Settings;

/// Capacity of the queue of questions to the program.
const WAITING: usize = 16;

/// A question of the API to the program.
#[derive(Debug)]
pub(super) enum Question {
    Doctor(oneshot::Sender<Vec<Check>>),
    End,
    Reload(oneshot::Sender<Reloaded>),
}

/// How to open the API.
#[derive(Debug)]
pub(super) struct Opening {
    is_on: bool,
    group: Option<(u32, Rights)>,
    listen: Option<SocketAddr>,
    services: Services,
}

impl Opening {
    pub(super) fn new(args: &ServingArgs) -> Outcome<Self> {
        let services = Services::default();
        for (index, exposed) in args.expose.iter().enumerate() {
            // `put` replaces a program of the same path.
            let prefix = &exposed.prefix;
            if args.expose[..index].iter().any(|other| other.prefix == *prefix) {
                return Err(Failure::usage(format!("--expose: {prefix} has two programs")));
            }
            let put = services.put(prefix, exposed.backend.clone(), Backend::ANSWER_TIMEOUT);
            put.map_err(|error| Failure::usage(format!("--expose: {error}")))?;
        }
        Ok(Self {
            is_on: !args.no_api,
            group: args.api_group.as_deref().map(group).transpose()?,
            listen: args.api_listen,
            services,
        })
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Returns the programs that peers reach, if there are any or there may be later.
    pub(super) fn services(&self) -> Option<Services> {
        let is_used = self.is_on || !self.services.programs().is_empty();
        is_used.then(|| self.services.clone())
    }

    /// Opens the sockets. A socket that cannot be opened is reported, and the nara serves its peers without
    /// it, unless another nara serves the one in the data folder. A requested loopback address is mandatory.
    pub(super) async fn open(
        self,
        nara: &Arc<Nara>,
        network: Option<OnNetwork>,
        exposition: Option<Exposition>,
        (journeys, inbox): (Journeys, Inbox),
        settings: &Settings,
    ) -> Outcome<Option<Api>> {
        if !self.is_on {
            return Ok(None);
        }
        let (asked, questions) = mpsc::channel(WAITING);
        let program = Program {
            asked,
            network,
            exposition,
        };
        let folder = settings.running_folder()?;
        let mut builder = LocalApi::builder(nara.clone())
            .host(Arc::new(program))
            .services(self.services)
            .folder(folder.clone())
            .journeys(journeys)
            .inbox(inbox)
            .outbox(Outbox::open(folder.join("outbox.db")).await?);
        if let Some((group, rights)) = self.group {
            builder = builder.group(group, rights);
        }
        let api = builder.start();
        let mut sockets = Vec::new();
        let own = socket_in(&folder);
        let places = [Some(own.clone()), socket_for_user(nara)];
        for socket in places.into_iter().flatten() {
            match api.listen(&socket) {
                Ok(()) => sockets.push(socket),
                Err(ListenError::InUse { path }) if path == own => return Err(runs_already(&folder)),
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(cause, "other programs cannot use this nara there: {error}");
                }
            }
        }
        let loopback = match self.listen {
            Some(address) => Some(api.listen_on_loopback(address).await?),
            None => None,
        };
        api.resume_page().await;
        Ok(Some(Api {
            api,
            questions,
            sockets,
            loopback,
        }))
    }
}

/// Returns the socket path by which other programs of the user find this nara by name.
fn socket_for_user(nara: &Nara) -> Option<PathBuf> {
    let folder = runtime_folder()?;
    if let Err(error) = make_private(&folder) {
        tracing::warn!(%error, "the folder {} cannot be created", folder.display());
        return None;
    }
    Some(folder.join(socket_file(nara.name().as_str())))
}

fn make_private(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}

/// Parses a group and its rights, as `GROUP` or `GROUP:RIGHTS`.
fn group(text: &str) -> Outcome<(u32, Rights)> {
    let Some((group, word)) = text.split_once(':') else {
        return Ok((group_id(text)?, Rights::Messages));
    };
    let mut known = [Rights::Read, Rights::Messages, Rights::All].into_iter();
    let rights = known.find(|rights| rights.as_str() == word).ok_or_else(|| {
        Failure::usage(format!("api_group: {word:?} is not a right"))
            .hint("write GROUP, or GROUP:read, GROUP:messages or GROUP:all")
    })?;
    Ok((group_id(group)?, rights))
}

/// Returns the id of a group, given by id or by name in `/etc/group`.
fn group_id(text: &str) -> Outcome<u32> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let id = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (name == text).then_some(fields.nth(1)?.parse().ok()?)
    });
    id.ok_or_else(|| {
        Failure::usage(format!("api_group: this machine has no group {text}"))
            .hint("`getent group` lists the groups; a group id works too")
    })
}

/// The open API and its questions.
#[derive(Debug)]
pub(super) struct Api {
    api: LocalApi,
    questions: mpsc::Receiver<Question>,
    pub(super) sockets: Vec<PathBuf>,
    /// The loopback address, and the file with the token.
    pub(super) loopback: Option<(SocketAddr, PathBuf)>,
}

impl Api {
    /// Returns the next question; pends forever if the API has ended.
    pub(super) async fn next(&mut self) -> Question {
        match self.questions.recv().await {
            Some(question) => question,
            None => std::future::pending().await,
        }
    }

    /// Returns the conflicts that the operator has to decide.
    pub(super) fn conflicts(&self) -> ConflictList {
        self.api.conflicts()
    }

    pub(super) async fn shutdown(self) {
        self.api.shutdown().await;
    }
}

/// The program as seen by the API.
struct Program {
    asked: mpsc::Sender<Question>,
    network: Option<OnNetwork>,
    exposition: Option<Exposition>,
}

impl Program {
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> BoxFuture<'_, Option<T>> {
        let (answer, answered) = oneshot::channel();
        let question = question(answer);
        async move {
            self.asked.send(question).await.ok()?;
            answered.await.ok()
        }
        .boxed()
    }
}

impl Host for Program {
    fn network(&self) -> Option<String> {
        Some(self.network.as_ref()?.kind.to_owned())
    }

    fn way(&self, address: IpAddr) -> BoxFuture<'_, Option<Way>> {
        async move {
            let node = self.network.as_ref()?.node.as_ref()?;
            Some(network::Way::to(&**node, address).await.into())
        }
        .boxed()
    }

    fn metrics(&self) -> BoxFuture<'_, Option<String>> {
        async move { Some(self.exposition.as_ref()?.render().await) }.boxed()
    }

    fn doctor(&self) -> BoxFuture<'_, Option<Vec<Check>>> {
        self.ask(Question::Doctor)
    }

    fn reload(&self) -> BoxFuture<'_, Option<Reloaded>> {
        self.ask(Question::Reload)
    }

    fn end(&self) -> bool {
        self.asked.try_send(Question::End).is_ok()
    }
}

impl From<OutboxError> for Failure {
    fn from(error: OutboxError) -> Self {
        let hint = match &error {
            OutboxError::Store(error) => unusable_hint(error),
            _ => CHECK_THE_FOLDER,
        };
        Self::failed("outbox.db in the data folder cannot be used")
            .caused_by(error)
            .hint(hint)
    }
}

/// The failure of opening the inbox.
pub(super) fn inbox_unusable(error: DatabaseError) -> Failure {
    let hint = unusable_hint(&error);
    Failure::failed("inbox.db in the data folder cannot be used")
        .caused_by(error)
        .hint(hint)
}

const CHECK_THE_FOLDER: &str = "check the permissions and the free space of the data folder";

const MAKE_ROOM: &str =
    "the disk of the data folder is full: free space there, and start the nara again; stored data is safe";

fn unusable_hint(error: &DatabaseError) -> &'static str {
    match error {
        DatabaseError::Damaged(_) => {
            "the file is damaged: move it aside, and the nara starts with an empty one; messages stored only there (those that \
             wait or are not acknowledged) are lost; the ledger is not affected"
        }
        DatabaseError::Full(_) => MAKE_ROOM,
        DatabaseError::File(error) if error.kind() == io::ErrorKind::StorageFull => MAKE_ROOM,
        _ => CHECK_THE_FOLDER,
    }
}

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        let failure = match &error {
            ListenError::TooLong { .. } => {
                Self::usage(error.to_string()).hint("pass a data folder with a shorter path (--data-dir)")
            }
            _ => Self::failed(error.to_string()),
        };
        failure.caused_by(error)
    }
}

impl From<LoopbackError> for Failure {
    fn from(error: LoopbackError) -> Self {
        let hint = match &error {
            LoopbackError::Io { .. } => {
                "choose another port (--api-listen), or stop the program that uses this one"
            }
            LoopbackError::NotLoopback { .. } => "use an address such as 127.0.0.1:9635 (--api-listen)",
            _ => "check the data folder (--data-dir), and the space on its disk",
        };
        Self::failed(error.to_string()).caused_by(error).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_a_number_or_has_a_name() {
        assert_eq!(group_id("100").unwrap(), 100);
        assert_eq!(group_id("root").unwrap(), 0);
        let unknown = group_id("no-such-group").unwrap_err();
        assert!(unknown.message.contains("no-such-group"), "{unknown:?}");
    }
}
