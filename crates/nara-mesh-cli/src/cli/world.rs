//! `world`

use clap::{Args, Subcommand};
use nara_mesh::client::PeerRef;

use super::RunningArgs;

/// `world`
#[derive(Debug, Subcommand)]
pub(crate) enum WorldCommand {
    /// Send a postcard
    ///
    /// If the nara runs (`serve` or `up`), that sends it: postcards come home to the running nara.
    Send(WorldSendArgs),
    /// List the postcards that the running nara sent, and what became of them
    List(RunningArgs),
}

/// `world send`
#[derive(Debug, Args)]
pub(crate) struct WorldSendArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// The text
    #[arg(long)]
    pub(crate) message: String,
    /// The first peer: name, id or address [default: the first of the peers file that answers]
    #[arg(long, value_name = "PEER")]
    pub(crate) to: Option<PeerRef>,
    /// Wait until the postcard is home, stuck, or lost: 5 min after it was sent
    ///
    /// Exit code 5: it did not come home; the output says where it was last seen.
    #[arg(long)]
    pub(crate) wait: bool,
}
