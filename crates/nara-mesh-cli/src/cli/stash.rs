//! `stash`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use nara_mesh::client::PeerRef;

use super::value;

/// `stash`
///
/// A stash is data that a nara leaves with a peer, sealed so that only its soul can read it. A peer keeps one for each
/// owner.
#[derive(Debug, Subcommand)]
pub(crate) enum StashCommand {
    /// Leave data of this nara with a peer, in place of what it left there before
    ///
    /// The peer answers with a request of its own, so the nara must run (`serve` or `up`).
    Put(StashPutArgs),
    /// Fetch what this nara left with a peer, and write it to stdout
    ///
    /// The peer answers with a request of its own, so the nara must run (`serve` or `up`).
    Get(StashGetArgs),
    /// List what peers left with this nara
    List,
    /// Forget what a peer left with this nara
    Drop(StashDropArgs),
}

/// `stash put`
#[derive(Debug, Args)]
pub(crate) struct StashPutArgs {
    /// The peer: name, id or address
    pub(crate) peer: PeerRef,
    /// File with the data (- is stdin)
    #[arg(value_name = "FILE", default_value = "-", value_parser = value::path())]
    pub(crate) file: PathBuf,
}

/// `stash get`
#[derive(Debug, Args)]
pub(crate) struct StashGetArgs {
    /// The peer: name, id or address
    pub(crate) peer: PeerRef,
}

/// `stash drop`
#[derive(Debug, Args)]
pub(crate) struct StashDropArgs {
    /// The owner: its id, or a name of the peers file
    #[arg(value_name = "OWNER")]
    pub(crate) owner: String,
}
