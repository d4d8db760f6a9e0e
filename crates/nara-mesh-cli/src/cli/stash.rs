//! `stash`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use nara_mesh::client::PeerRef;

use super::{RunningArgs, value};

/// `stash`
///
/// A stash is data that a nara stores at a peer, sealed so that only its soul can open it. A peer keeps one
/// for each owner.
#[derive(Debug, Subcommand)]
pub(crate) enum StashCommand {
    /// Store data of this nara at a peer, replacing what it stored there before
    ///
    /// The peer answers with a request of its own, so the nara must run (`serve` or `up`).
    Put(StashPutArgs),
    /// Fetch the stash of this nara from a peer, and write it to stdout
    ///
    /// The peer answers with a request of its own, so the nara must run (`serve` or `up`).
    Get(StashGetArgs),
    /// List the stashes that peers store at this nara
    List(StashListArgs),
    /// Delete the stash of a peer from this nara
    Drop(StashDropArgs),
}

/// `stash put`
#[derive(Debug, Args)]
pub(crate) struct StashPutArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// The peer: name, id or address
    pub(crate) peer: PeerRef,
    /// File with the data (- is stdin)
    #[arg(value_name = "FILE", default_value = "-", value_parser = value::path())]
    pub(crate) file: PathBuf,
}

/// `stash get`
#[derive(Debug, Args)]
pub(crate) struct StashGetArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// The peer: name, id or address
    pub(crate) peer: PeerRef,
}

/// `stash list`
#[derive(Debug, Args)]
pub(crate) struct StashListArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
}

/// `stash drop`
#[derive(Debug, Args)]
pub(crate) struct StashDropArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// The owner: its id, or a name of the peers file
    #[arg(value_name = "OWNER")]
    pub(crate) owner: String,
}
