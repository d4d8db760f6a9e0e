use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use nara_mesh::Signatures;
use nara_mesh::client::{MeshClient, Verification};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::server::{MeshServer, RunningServer};
use nara_mesh::tls::{ChannelTrust, Security, TlsPolicy};
use nara_proto::identity::{NaraId, NaraName};
use nara_proto::sync::SyncRequest;
use serde_json::json;

use super::nara::{DemoNara, Mesh, PATIENCE};
use super::step::{Report, Step, StepResult, or_failed};
use crate::connect::new_soul;
use crate::peers_file::PeerEntry;

pub(super) const STEP: Step = Step {
    name: "protect",
    title: "TLS and v2 between naras that have them; an older one is served as before",
};

/// The name of a nara that knows neither TLS nor v2.
const OLDER: &str = "older";

pub(super) async fn run(mesh: &Mesh) -> Report {
    or_failed(try_run(mesh).await)
}

/// How an answer came, and how it is proven.
struct Answered {
    who: &'static str,
    security: Security,
    verification: Verification,
    expected: bool,
}

async fn try_run(mesh: &Mesh) -> StepResult {
    let [alice, bob, _] = mesh.trio();
    let older = Older::start(bob).await?;
    let strict = MeshClient::builder(alice.local.clone())
        .registry(alice.client.registry().clone())
        .call_timeout(PATIENCE)
        .dial_timeout(PATIENCE)
        .channel_trust(ChannelTrust::VerifyAlways)
        .build();

    let by_channel = |answer: &Answered| answer.is_tls() && answer.verification.channel;
    let by_v2 =
        |answer: &Answered| answer.is_tls() && answer.verification.header && answer.verification.bound;
    let by_v1 =
        |answer: &Answered| !answer.is_tls() && answer.verification.header && !answer.verification.bound;
    let answers = [
        ask("alice asks bob", &alice.client, bob.local.id(), by_channel).await?,
        ask("alice wants a signature", &strict, bob.local.id(), by_v2).await?,
        ask("the older nara asks bob", &older.client, bob.local.id(), by_v1).await?,
        ask("bob asks the older nara", &bob.client, older.local.id(), by_v1).await?,
    ];
    older.server.shutdown(PATIENCE).await;

    let ok = answers.iter().all(|answer| answer.expected);
    let lines = answers.iter().map(|answer| {
        format!(
            "{:<26} {:<12} {}",
            answer.who,
            answer.security.to_string(),
            proof(&answer.verification)
        )
    });
    let summary = if ok {
        "TLS proves both ends, v2 binds answers to questions, v1 still works"
    } else {
        "an answer is not protected as it should be"
    };
    let figures: Vec<_> = answers
        .iter()
        .map(|answer| {
            json!({
                "what": answer.who,
                "security": answer.security.to_string(),
                "channel": answer.verification.channel,
                "signed": answer.verification.header,
                "bound": answer.verification.bound,
                "as_expected": answer.expected,
            })
        })
        .collect();
    Ok(Report::new(ok, summary).lines(lines).figure("answers", figures))
}

impl Answered {
    fn is_tls(&self) -> bool {
        matches!(self.security, Security::Tls(_))
    }
}

/// Asks a nara for an event, and pings it to learn how the connection is protected.
async fn ask(
    who: &'static str,
    client: &MeshClient,
    peer: &NaraId,
    expected: impl Fn(&Answered) -> bool,
) -> Result<Answered, Box<dyn Error + Send + Sync>> {
    let events = client.fetch_sync_events(peer, SyncRequest::recent(1)).await?;
    let ping = client.ping(peer).await?;
    let mut answered = Answered {
        who,
        security: ping.security,
        verification: events.verification().clone(),
        expected: false,
    };
    answered.expected = expected(&answered);
    Ok(answered)
}

fn proof(verification: &Verification) -> &'static str {
    match verification {
        Verification { channel: true, .. } => "proven by the connection, request signed with v2",
        Verification { bound: true, .. } => "signed with v2, bound to its request",
        Verification { header: true, .. } => "signed with v1",
        _ => "not proven",
    }
}

/// A nara as they were before v2 and TLS.
struct Older {
    local: LocalNara,
    client: MeshClient,
    server: RunningServer,
}

impl Older {
    /// Starts it, and makes it and `friend` know each other.
    async fn start(friend: &DemoNara) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let name: NaraName = OLDER.parse()?;
        let soul = new_soul(&name).map_err(|failure| failure.message)?;
        let local = LocalNara::new(&soul, name)?;
        let client = MeshClient::builder(local.clone())
            .signatures(Signatures::V1Only)
            .tls(TlsPolicy::Plain)
            .call_timeout(PATIENCE)
            .dial_timeout(PATIENCE)
            .build();
        let server = MeshServer::builder(local.clone(), Arc::new(MemoryLedger::default()))
            .client(client.clone())
            .signatures(Signatures::V1Only)
            .tls(TlsPolicy::Plain)
            .serve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .await?;
        client
            .registry()
            .register(PeerEntry::of(&friend.local, Some(friend.address)).to_info())?;
        friend
            .client
            .registry()
            .register(PeerEntry::of(&local, Some(server.local_addr())).to_info())?;
        Ok(Self {
            local,
            client,
            server,
        })
    }
}
