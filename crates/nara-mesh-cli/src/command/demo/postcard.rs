use std::time::Instant;

use nara_mesh::clock::{Clock as _, SystemClock};
use nara_proto::event::KeyLookup as _;
use nara_proto::identity::PublicKey;
use nara_proto::world::WorldMessage;

use super::nara::{DemoNara, Mesh};
use super::step::{Report, Step, StepResult, or_failed};
use crate::printer::{human, micros};

pub(super) const STEP: Step = Step {
    name: "postcard",
    title: "a postcard of alice goes from nara to nara, gets a stamp from each, and comes home",
};

pub(super) async fn run(mesh: &Mesh) -> Report {
    or_failed(try_run(mesh).await)
}

async fn try_run(mesh: &Mesh) -> StepResult {
    let [alice, bob, _] = mesh.trio();
    let message = WorldMessage::new(alice.name(), "greetings from the mesh", SystemClock.now_nanos());
    let start = Instant::now();
    let receipt = alice.client.relay_world_message(bob.local.id(), &message).await?;
    let elapsed = start.elapsed();
    let home = alice.came_home.borrow().clone();
    let Some(home) = home.filter(|home| home.id == message.id) else {
        return Ok(Report::failed("the postcard did not come home"));
    };
    let verified = home.verify_chain(|name| key_for(alice, name)).is_ok();
    let hops = home.hops().len();
    let ok = receipt.success && verified && home.is_complete() && hops == mesh.naras().len();
    let stamps: Vec<String> = home
        .hops()
        .iter()
        .map(|hop| format!("{} {}", hop.stamp, hop.nara))
        .collect();
    // A few stamps per line, so that sixteen naras fit too.
    let lines: Vec<String> = stamps.chunks(6).map(|some| some.join("  →  ")).collect();
    Ok(Report::new(
        ok,
        format!(
            "home with {hops} stamps, every signature verified, in {}",
            human(elapsed)
        ),
    )
    .lines(lines)
    .figure("hops", hops)
    .figure("elapsed_us", micros(elapsed)))
}

fn key_for(alice: &DemoNara, name: &str) -> Option<PublicKey> {
    if name == alice.name() {
        return Some(alice.local.public_key());
    }
    alice.client.registry().key_of_name(name)
}
