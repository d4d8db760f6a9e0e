use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use nara_mesh::Signatures;
use nara_mesh::client::{MeshClient, Verification};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::server::{MeshServer, RunningServer};
use nara_mesh::tls::{ChannelTrust, Security, TlsPolicy};
use nara_proto::identity::NaraName;
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

    let trusting = ask("alice asks bob", &alice.client, bob.local.id()).await?;
    let bound = ask("alice wants a signature", &strict, bob.local.id()).await?;
    let inherited = ask("the older nara asks bob", &older.client, bob.local.id()).await?;
    let plain = ask("bob asks the older nara", &bob.client, older.local.id()).await?;
    older.server.shutdown(PATIENCE).await;

    let is_tls = |security| matches!(security, Security::Tls(_));
    let answers = [
        Answered {
            expected: is_tls(trusting.security) && trusting.verification.channel,
            ..trusting
        },
        Answered {
            expected: is_tls(bound.security) && bound.verification.header && bound.verification.bound,
            ..bound
        },
        Answered {
            expected: is_inherited(&inherited),
            ..inherited
        },
        Answered {
            expected: is_inherited(&plain),
            ..plain
        },
    ];
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

/// Asks a nara for an event, after a ping that tells how the connection is protected.
async fn ask(
    who: &'static str,
    client: &MeshClient,
    peer: &nara_proto::identity::NaraId,
) -> Result<Answered, Box<dyn Error + Send + Sync>> {
    let events = client.fetch_sync_events(peer, SyncRequest::recent(1)).await?;
    let ping = client.ping(peer).await?;
    Ok(Answered {
        who,
        security: ping.security,
        verification: events.verification().clone(),
        expected: false,
    })
}

fn is_inherited(answer: &Answered) -> bool {
    answer.security == Security::Plain && answer.verification.header && !answer.verification.bound
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
