use clap::{Args, Subcommand};

use super::NetworkArgs;

/// `peers`
///
/// Without a command it lists them. Decisions are kept in the ledger of the data folder; a `serve` that runs takes
/// them over when it gets SIGHUP.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct PeersArgs {
    #[command(subcommand)]
    pub(crate) command: Option<PeersCommand>,
    #[command(flatten)]
    pub(crate) list: PeersListArgs,
}

/// What to do with peers.
#[derive(Debug, Subcommand)]
pub(crate) enum PeersCommand {
    /// List the peers of the peers file and of the ledger, and ping each
    List(PeersListArgs),
    /// Trust a key of a peer
    Trust(PeersTrustArgs),
    /// Ban a peer: refuse its requests and do not call it, until `peers trust` lifts the ban
    Untrust(PeersUntrustArgs),
    /// Forget everything learned or decided about a peer
    Reset(PeersResetArgs),
}

/// `peers list`
#[derive(Debug, Args)]
pub(crate) struct PeersListArgs {
    /// Do not ping them
    #[arg(long)]
    pub(crate) offline: bool,
    /// Show changes among the naras of the network until ctrl-C
    #[arg(long, conflicts_with = "offline")]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) on: NetworkArgs,
}

/// `peers trust`
#[derive(Debug, Args)]
pub(crate) struct PeersTrustArgs {
    /// The name of the peer
    pub(crate) name: String,
    /// Its public key or key id, in full [default: the known key]
    #[arg(long, value_name = "KEY|KEYID")]
    pub(crate) key: Option<String>,
    /// Replace the pinned key, and forget the protocols that the peer has proven
    ///
    /// Without it, another key than the known one is refused. With it, a peer that went back to an older
    /// version is accepted again.
    #[arg(long)]
    pub(crate) replace: bool,
}

/// `peers untrust`
#[derive(Debug, Args)]
pub(crate) struct PeersUntrustArgs {
    /// The name of the peer, known or not
    pub(crate) name: String,
}

/// `peers reset`
#[derive(Debug, Args)]
pub(crate) struct PeersResetArgs {
    /// The name of the peer
    #[arg(required_unless_present = "all")]
    pub(crate) name: Option<String>,
    /// Every peer
    #[arg(long, conflicts_with = "name")]
    pub(crate) all: bool,
}
