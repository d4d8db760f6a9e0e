//! `world`

use std::time::Duration;

use clap::{Args, Subcommand};
use nara_mesh::client::PeerRef;

use super::{RunningArgs, value};

/// `world`
#[derive(Debug, Subcommand)]
pub(crate) enum WorldCommand {
    /// Send a postcard
    ///
    /// If the nara runs (`serve` or `up`), the running nara sends it: postcards come home to it.
    Send(WorldSendArgs),
    /// List the postcards that the running nara sent, and their state
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
    /// Wait until the postcard is home, stuck, or lost (5 min after it was sent)
    ///
    /// Exit code 5 means that it did not come home; the output says where it was last seen.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Let the running nara keep the postcard if the first peer is unreachable, and send it once that peer is
    /// seen
    ///
    /// The postcard survives a restart of the nara. `nara-mesh outbox list` shows it.
    #[arg(long, requires = "to", conflicts_with_all = ["direct", "wait"])]
    pub(crate) later: bool,
    /// How long the postcard may wait, from 1s to 30d [default: 7d]
    #[arg(long, value_name = "DURATION", requires = "later", value_parser = value::expiry)]
    pub(crate) expires: Option<Duration>,
}
