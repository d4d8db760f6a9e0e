//! Builds the client of a command: registers peers, sets limits, and converts errors to failures.

use std::future::Future;
use std::io;
use std::num::NonZero;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use nara_mesh::client::{ClientError, ClientErrorKind, MeshClient, MeshClientBuilder, PeerRef};
use nara_mesh::identity::LocalNara;
use nara_mesh::registry::Peer;
use nara_mesh::transport::{TcpTransport, Transport};
use nara_proto::identity::{NaraName, Soul};
use zeroize::Zeroizing;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::hosts;
use crate::keeping::{Keeping, Without};
use crate::panics;
use crate::remedy;
use crate::settings::Settings;

/// Runs the asynchronous part of a command that mostly waits, on the current thread.
pub(crate) fn block_on<'a, T: 'a>(future: impl Future<Output = Outcome<T>> + 'a) -> Outcome<T> {
    run_on(tokio::runtime::Builder::new_current_thread(), Box::pin(future))
}

/// As [`block_on`], on all cores, for commands that serve or verify.
pub(crate) fn block_on_all_cores<'a, T: 'a>(future: impl Future<Output = Outcome<T>> + 'a) -> Outcome<T> {
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    // One for work that blocks, and one more: those that have ended are not gone at once.
    spare_threads(workers + 2).map_err(panics::refused)?;
    run_on(tokio::runtime::Builder::new_multi_thread(), Box::pin(future))
}

/// Checks that the system grants this many threads at once. If tokio gets only some of its threads, it waits for the rest forever.
fn spare_threads(threads: usize) -> io::Result<()> {
    let Some(others) = threads.checked_sub(1) else {
        return Ok(());
    };
    let first = std::thread::Builder::new().spawn(move || spare_threads(others))?;
    first.join().unwrap_or(Ok(()))
}

/// Boxed, because otherwise the runtime would be compiled twice for each type of future.
fn run_on<T>(mut runtime: tokio::runtime::Builder, future: LocalBoxFuture<'_, Outcome<T>>) -> Outcome<T> {
    let runtime = runtime.enable_all().build().map_err(panics::refused)?;
    runtime.block_on(future)
}

/// Creates a client that acts as `nara` and knows the peers of the peers file.
pub(crate) fn client(nara: LocalNara, settings: &Settings) -> Outcome<MeshClient> {
    client_on(nara, settings, Arc::new(TcpTransport))
}

/// As [`client`], with further settings.
pub(crate) fn client_with(
    nara: LocalNara,
    settings: &Settings,
    adjust: impl FnOnce(MeshClientBuilder) -> MeshClientBuilder,
) -> Outcome<MeshClient> {
    Ok(adjust(client_builder(nara, settings, Arc::new(TcpTransport))?).build())
}

/// As [`client`], over a network.
pub(crate) fn client_on(
    nara: LocalNara,
    settings: &Settings,
    transport: Arc<dyn Transport>,
) -> Outcome<MeshClient> {
    Ok(client_builder(nara, settings, transport)?.build())
}

fn client_builder(
    nara: LocalNara,
    settings: &Settings,
    transport: Arc<dyn Transport>,
) -> Outcome<MeshClientBuilder> {
    let registry = settings.registry();
    let mut peers = settings.peers_of(&nara)?;
    hosts::locate(&mut peers, settings.timeout);
    for entry in peers {
        registry
            .register(entry.to_info())
            .map_err(|error| Failure::usage(format!("the peer {} of the peers file: {error}", entry.name)))?;
    }
    Ok(MeshClient::builder(nara)
        .registry(registry)
        .transport(transport)
        .call_timeout(settings.timeout)
        .dial_timeout(settings.timeout)
        .tls(settings.tls))
}

/// Runs the asynchronous part of a command that calls peers, with stored peer data loaded and new peer data
/// stored.
pub(crate) fn block_on_keeping<'a, T: 'a>(
    client: &MeshClient,
    settings: &Settings,
    future: impl Future<Output = Outcome<T>> + 'a,
) -> Outcome<T> {
    keep_while(client, settings, Without::Fail, Box::pin(future))
}

/// As [`block_on_keeping`], for read-only commands: they work without a usable ledger.
pub(crate) fn block_on_looking<'a, T: 'a>(
    client: &MeshClient,
    settings: &Settings,
    future: impl Future<Output = Outcome<T>> + 'a,
) -> Outcome<T> {
    keep_while(client, settings, Without::GoOn, Box::pin(future))
}

fn keep_while<T>(
    client: &MeshClient,
    settings: &Settings,
    without: Without,
    future: LocalBoxFuture<'_, Outcome<T>>,
) -> Outcome<T> {
    // Without a data folder, nothing is stored.
    let path = settings.ledger_path().unwrap_or_default();
    block_on_all_cores(async {
        let keeping = Keeping::start(client.registry(), path, without).await?;
        let outcome = future.await;
        keeping.finish().await;
        outcome
    })
}

/// Creates a client for commands that sign nothing: it acts as the configured nara, or else as an unknown
/// one.
pub(crate) fn anonymous_client(settings: &Settings) -> Outcome<MeshClient> {
    anonymous_client_on(settings, Arc::new(TcpTransport))
}

/// As [`anonymous_client`], over a network.
pub(crate) fn anonymous_client_on(settings: &Settings, transport: Arc<dyn Transport>) -> Outcome<MeshClient> {
    let nara = if settings.has_soul() {
        settings.local_nara()?
    } else {
        guest()?
    };
    client_on(nara, settings, transport)
}

/// Creates a nara that no peer knows, for commands that need no identity.
pub(crate) fn guest() -> Outcome<LocalNara> {
    let name: NaraName = "guest".parse().map_err(|_| Failure::failed("guest is no name"))?;
    let soul = new_soul(&name)?;
    LocalNara::new(&soul, name).map_err(|error| Failure::failed(error.to_string()))
}

/// Creates a new soul for a name.
pub(crate) fn new_soul(name: &NaraName) -> Outcome<Soul> {
    let mut seed = Zeroizing::new([0; Soul::SEED_LEN]);
    getrandom::fill(&mut *seed).map_err(|error| {
        Failure::failed("the operating system provides no random bytes").caused_by(error.to_string())
    })?;
    Ok(Soul::bond(*seed, name.as_str()))
}

/// Returns the known peers of a client without its own nara: several naras may share a peers file.
pub(crate) fn others(client: &MeshClient) -> Vec<Arc<Peer>> {
    let own = client.local();
    let mut peers = client.registry().peers();
    peers.retain(|peer| {
        let info = peer.info();
        info.name.as_ref() != Some(own.name()) || info.key.is_some_and(|key| key.key != own.public_key())
    });
    peers
}

/// Returns the name of a peer: as registered, else from its unsigned `/ping`.
pub(crate) async fn name_of(client: &MeshClient, peer: &PeerRef) -> Outcome<String> {
    if let Some(name) = client.peer(peer).known().and_then(|peer| peer.info().name) {
        return Ok(name.to_string());
    }
    let report = client.ping(peer).await.map_err(Failure::from)?;
    Ok(report.response.from)
}

/// Returns the exit code for a client error.
pub(crate) fn exit_of(error: &ClientError) -> Exit {
    if error.is_unknown_peer() {
        Exit::Usage
    } else if error.is_unauthenticated() || error.status().is_some_and(|status| status == 403) {
        // The peer refused us: it does not trust our key, or its operator banned us.
        Exit::Unauthenticated
    } else if error.is_timeout() || error.is_unreachable() || has_no_answer(error.kind()) {
        Exit::Unreachable
    } else {
        Exit::Failed
    }
}

/// Returns whether the address answers, but not as a nara.
fn has_no_answer(kind: ClientErrorKind) -> bool {
    matches!(
        kind,
        ClientErrorKind::Broken | ClientErrorKind::NotHttp | ClientErrorKind::Tls
    )
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        if error.is_unknown_peer() {
            return unknown_peer(&error);
        }
        let mut failure = Self::new(exit_of(&error), error.to_string());
        failure.hint = hint(&error);
        failure.source = Some(Box::new(error));
        failure
    }
}

/// Returns the hint for a client error, with the command where there is one.
pub(crate) fn hint(error: &ClientError) -> Option<String> {
    if let Some(remedy) = remedy::of_error(error) {
        return Some(remedy);
    }
    match (error.kind(), error.nara()) {
        (ClientErrorKind::Downgrade, _) => Some(
            "if the peer went back to an older version on purpose, run `nara-mesh peers trust NAME --replace`".to_owned(),
        ),
        (ClientErrorKind::TlsGone, _) => Some(
            "try again; if the peer went back to plain connections on purpose, forget it with `nara-mesh peers \
             reset NAME`"
                .to_owned(),
        ),
        (ClientErrorKind::Untrusted, Some(name)) => Some(format!(
            "to lift the ban, run `{}`",
            remedy::trust_again(name, false)
        )),
        (ClientErrorKind::UnknownKey, Some(name)) => Some(remedy::find_key(name)),
        _ => error.hint().map(Into::into),
    }
}

/// The failure for a peer that is not in the peers file.
pub(crate) fn unknown_peer(error: &ClientError) -> Failure {
    Failure::usage(error.to_string()).hint(match error.kind() {
        ClientErrorKind::OwnNara => "name another nara, or give its own address",
        _ => "add it to the peers file (--peers), or give its address",
    })
}
