use nara_mesh::clock::{Clock as _, SystemClock};
use nara_proto::go_json::Timestamp;
use nara_proto::identity::SealKey;
use nara_proto::runtime_message::{MessagePayload, RuntimeMessage, StashRequest, StashStore};

use super::nara::{DemoNara, Mesh};
use super::step::{Report, Step, StepResult, or_failed};

pub(super) const STEP: Step = Step {
    name: "stash",
    title: "bob leaves a sealed note with carol and gets it back: runtime messages and replies",
};

const NOTE: &[u8] = b"what only bob shall read";

pub(super) async fn run(mesh: &Mesh) -> Report {
    or_failed(try_run(mesh).await)
}

async fn try_run(mesh: &Mesh) -> StepResult {
    let [_, bob, carol] = mesh.trio();
    let owner_id = bob.local.id().to_string();
    let mut nonce = [0; SealKey::NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(|error| error.to_string())?;
    let sealed = bob.local.seal_key().seal(&nonce, NOTE);
    let bytes = sealed.len();
    let store = StashStore {
        owner_id: owner_id.clone(),
        owner: bob.name().to_owned(),
        nonce: nonce.to_vec().into(),
        ciphertext: sealed.into(),
        ts: SystemClock.now_seconds(),
    };
    let MessagePayload::StashAck(ack) = call(bob, carol, MessagePayload::StashStore(store)).await? else {
        return Ok(Report::failed("carol answered with another kind of message"));
    };
    let request = StashRequest {
        owner_id,
        request_id: "demo".to_owned(),
    };
    let payload = call(bob, carol, MessagePayload::StashRequest(request)).await?;
    let MessagePayload::StashResponse(response) = payload else {
        return Ok(Report::failed("carol answered with another kind of message"));
    };
    let opened = bob
        .local
        .seal_key()
        .open(response.nonce.as_slice(), response.ciphertext.as_slice())?;
    let ok = ack.success && response.found && opened == NOTE;
    Ok(Report::new(
        ok,
        format!("{bytes} sealed bytes stored, fetched and opened again"),
    )
    .figure("sealed_bytes", bytes)
    .figure("replies", 2))
}

/// Sends a message and returns what the reply says, once its signature is verified.
async fn call(
    from: &DemoNara,
    to: &DemoNara,
    payload: MessagePayload,
) -> Result<MessagePayload, Box<dyn std::error::Error + Send + Sync>> {
    let now = Timestamp::utc(SystemClock.now_nanos());
    let message = RuntimeMessage::new(from.name(), from.local.id().as_str(), now, payload)
        .to(to.name(), to.local.id().as_str())
        .sign(from.local.keypair());
    Ok(from.client.call_runtime(to.local.id(), &message).await?.payload)
}
