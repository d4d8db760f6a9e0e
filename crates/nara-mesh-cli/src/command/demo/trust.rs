use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use nara_mesh::client::{ClientError, MeshClient};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::registry::{PeerChange, PeerInfo};
use nara_mesh::server::{MeshServer, RunningServer};
use nara_proto::identity::{KeyId, NaraName};
use nara_proto::sync::SyncRequest;

use super::nara::{Mesh, PATIENCE};
use super::step::{Report, Step, StepResult, or_failed};
use crate::connect::new_soul;
use crate::peers_file::PeerEntry;
use crate::printer::harmless;

pub(super) const STEP: Step = Step {
    name: "trust",
    title: "a nara comes back with another key: refused, until the operator of bob trusts it",
};

/// The name of a nara that loses its soul.
const NAME: &str = "trent";

/// How wide the reason of the refusal is shown, in columns.
const TOLD_COLUMNS: usize = 90;

pub(super) async fn run(mesh: &Mesh) -> Report {
    or_failed(try_run(mesh).await)
}

async fn try_run(mesh: &Mesh) -> StepResult {
    let [_, bob, _] = mesh.trio();
    let registry = bob.client.registry();
    let name: NaraName = NAME.parse()?;
    let at = |address| PeerInfo {
        name: Some(name.clone()),
        address: Some(address),
        ..PeerInfo::default()
    };

    let (first, server) = start(&name, mesh).await?;
    let peer = registry.register(at(server.local_addr()))?;
    ask(&bob.client, &name).await?;
    let pinned = peer.key() == Some(first.public_key());
    server.shutdown(PATIENCE).await;

    let (second, server) = start(&name, mesh).await?;
    registry.register(at(server.local_addr()))?;
    let refusal = ask(&bob.client, &name).await.err().map(|error| reasons(&error));
    let refusal = refusal.unwrap_or_default();
    let keys = [&first, &second].map(|local| KeyId::from(&local.public_key()).to_string());
    let names_both = refusal
        .iter()
        .any(|reason| keys.iter().all(|key| reason.contains(key)));

    // What `peers trust` does with the ledger of a nara, and its `serve` when it gets SIGHUP.
    let now = SystemClock.now_millis();
    let trust = |replace| PeerChange::Trust {
        key: Some(second.public_key()),
        replace,
        at: now,
    };
    let known = peer.info().into_record().ok_or("bob has forgotten a name")?;
    let ledger = &bob.ledger;
    ledger
        .change_peer(name.clone(), PeerChange::Learn(Box::new(known)))
        .await??;
    let unasked = ledger.change_peer(name.clone(), trust(false)).await?;
    let record = ledger.change_peer(name.clone(), trust(true)).await??;
    registry.restore(record);
    let answered = ask(&bob.client, &name).await;
    server.shutdown(PATIENCE).await;
    registry.remove(&peer);

    let ok = pinned && names_both && unasked.is_err() && answered.is_ok();
    // The innermost reason is the one with the keys.
    let conflict = refusal.last().map_or("it was not refused", String::as_str);
    let mut lines: Vec<String> = textwrap::wrap(conflict, TOLD_COLUMNS)
        .into_iter()
        .map(|line| harmless(&line))
        .collect();
    let outcome = if answered.is_ok() {
        "answers, verified"
    } else {
        "is refused"
    };
    lines.push(format!(
        "After `peers trust {NAME} --replace` with this key {NAME} {outcome}."
    ));
    let summary = if ok {
        "a key is replaced by the operator, and by nobody else"
    } else {
        "another key was not treated as it should be"
    };
    Ok(Report::new(ok, summary)
        .lines(lines)
        .figure("pinned_on_first_use", pinned)
        .figure("refusal_names_both_keys", names_both)
        .figure("refused_without_replace", unasked.is_err())
        .figure("verified_with_replace", answered.is_ok()))
}

/// Starts a nara with a soul of its own that knows the naras of the demo.
async fn start(
    name: &NaraName,
    mesh: &Mesh,
) -> Result<(LocalNara, RunningServer), Box<dyn Error + Send + Sync>> {
    let soul = new_soul(name).map_err(|failure| failure.message)?;
    let local = LocalNara::new(&soul, name.clone())?;
    let client = MeshClient::builder(local.clone()).build();
    for nara in mesh.naras() {
        let entry = PeerEntry::of(&nara.local, Some(nara.address));
        client.registry().register(entry.to_info())?;
    }
    let server = MeshServer::builder(local.clone(), Arc::new(MemoryLedger::default()))
        .client(client)
        .serve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .await?;
    Ok((local, server))
}

async fn ask(client: &MeshClient, name: &NaraName) -> Result<(), ClientError> {
    let events = client.fetch_sync_events(name, SyncRequest::recent(1)).await;
    events.map(drop)
}

/// What an error says, and each of its causes.
fn reasons(error: &(dyn Error + 'static)) -> Vec<String> {
    let all = std::iter::successors(Some(error), |&error| error.source());
    all.map(ToString::to_string).collect()
}
