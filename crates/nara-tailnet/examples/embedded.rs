//! A nara with an embedded tailnet node; needs no installed Tailscale:
//! `cargo run --features embedded --example embedded -- alice https://headscale.example AUTH-KEY`
//!
//! Joins the tailnet, serves, and prints the naras that it finds, until ctrl-C.
#![expect(clippy::print_stdout, reason = "the example prints its findings")]

use std::sync::Arc;
use std::time::Duration;

use nara_mesh::discovery::Found;
use nara_mesh::{LocalNara, Nara, defaults};
use nara_tailnet::embedded::{EmbeddedNode, EmbeddedSettings};
use nara_tailnet::{AuthKey, MeshNode as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [name, control, auth_key] = args.as_slice() else {
        return Err("NAME CONTROL-URL AUTH-KEY".into());
    };
    let mut settings = EmbeddedSettings::new(name, control.parse()?);
    settings.auth_key = Some(AuthKey::new(auth_key, "the command line")?);
    settings.ephemeral = true;
    if settings.control_url.host_str() == Some("127.0.0.1") {
        // Plain HTTP is acceptable only to a control server on this machine.
        settings.danger_allow_plain_control();
    }
    let node = Arc::new(EmbeddedNode::start(settings)?);
    let status = node.ready(Duration::from_secs(60)).await?;
    let address = *status.addresses.first().ok_or("the node has no address")?;

    let nara = Nara::builder(LocalNara::generate(name)?)
        .listen((address, defaults::MESH_PORT).into())
        .network(node.clone(), node.clone())
        .on_found(|found| {
            if let Found::Nara { peer, .. } = found
                && let Some(name) = peer.name
            {
                println!("found {name}");
            }
        })
        .start()
        .await?;
    println!("{name} is at {address}");
    tokio::signal::ctrl_c().await?;
    nara.shutdown(Duration::from_secs(1)).await;
    Ok(node.leave().await?)
}
