use std::path::PathBuf;

use clap::Args;
use nara_mesh::client::PeerRef;

use super::value;

/// `conformance`
#[derive(Debug, Args)]
pub(crate) struct ConformanceArgs {
    /// The peer: name, id or address
    #[arg(required_unless_present = "list")]
    pub(crate) peer: Option<PeerRef>,
    /// Folder with the souls of the two naras, created if missing [default: new souls, discarded afterwards]
    #[arg(long, value_name = "DIR", value_parser = value::path())]
    pub(crate) souls: Option<PathBuf>,
    /// Also run checks that store data at the peer: events about the peer, and a postcard that it passes on
    #[arg(long)]
    pub(crate) write: bool,
    /// Only checks whose id has this prefix (comma-separated), such as `sync` or `v2-request/replay`
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Also print checks that passed or were skipped
    #[arg(long)]
    pub(crate) all: bool,
    /// List the checks without running them
    #[arg(long, conflicts_with = "peer")]
    pub(crate) list: bool,
}
