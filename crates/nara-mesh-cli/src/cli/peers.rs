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
    /// List those of the peers file and of the ledger, with what a ping of each says
    List(PeersListArgs),
    /// Trust a key of a peer
    Trust(PeersTrustArgs),
    /// Refuse the requests of a peer, and do not call it, until it is trusted again
    Untrust(PeersUntrustArgs),
    /// Forget all that was learned of a peer or decided about it
    Reset(PeersResetArgs),
}

/// `peers list`
#[derive(Debug, Args)]
pub(crate) struct PeersListArgs {
    /// Do not ping them
    #[arg(long)]
    pub(crate) offline: bool,
    /// Say what changes among the naras of the network, until ctrl-C
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
    /// Its public key or key id, in full [default: the key that is known]
    #[arg(long, value_name = "KEY|KEYID")]
    pub(crate) key: Option<String>,
    /// Replace another key, and forget what the peer has proven that it can do
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
