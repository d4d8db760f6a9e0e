//! `peers`

use clap::{Args, Subcommand};
use nara_proto::identity::{KeyId, NaraName, PublicKey};

use super::{NetworkArgs, RunningArgs};

/// The section of `--help` about the peers file.
pub(super) const FILE_HELP: &str = "\
The peers file is TOML, one stanza for each peer:

  [[peer]]
  name = \"alice\"                    # its name
  address = \"100.64.0.7\"            # ip or ip:port; without a port, 9632 and 7433
  id = \"…\"                          # its nara id; optional
  key = \"…\"                         # its public key, base64; optional: without it, nothing that it signs
                                    # can be verified until a ping has told the key
  tls = \"tls-only\"                  # plain, tls (if it supports it) or tls-only; default: --tls

A folder is read as the *.toml files in it. A key in this file is trusted, and it counts more than `peers trust`.
`nara-mesh serve` prints the stanza that others need, and so does `nara-mesh id show --stanza ADDRESS`.";

/// `peers`
///
/// Without a subcommand, lists the peers. Decisions are kept in the ledger of the data folder, and take
/// effect at once, also in the running nara.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct PeersArgs {
    #[command(subcommand)]
    pub(crate) command: Option<PeersCommand>,
    #[command(flatten)]
    pub(crate) list: PeersListArgs,
}

/// The subcommands of `peers`.
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
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// Do not ping them
    #[arg(long)]
    pub(crate) offline: bool,
    /// Print changes among the naras of the network until ctrl-C; without a network, the known peers that
    /// come and go
    #[arg(long, conflicts_with = "offline")]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) on: NetworkArgs,
}

/// `peers trust`
#[derive(Debug, Args)]
pub(crate) struct PeersTrustArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// The name of the peer; if it is known, also its id, key id or address
    #[arg(value_name = "NAME")]
    pub(crate) peer: NaraName,
    /// Its public key or key id, in full [default: the known key]
    #[arg(long, value_name = "KEY|KEYID", value_parser = public_key)]
    pub(crate) key: Option<PublicKey>,
    /// Replace the pinned key, and forget the protocols that the peer has proven
    ///
    /// Without this option, a key that differs from the known one is refused. With it, a peer that was
    /// downgraded to an older version is accepted again.
    #[arg(long)]
    pub(crate) replace: bool,
}

/// `peers untrust`
#[derive(Debug, Args)]
pub(crate) struct PeersUntrustArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// The name of the peer, known or not; if it is known, also its id, key id or address
    #[arg(value_name = "NAME")]
    pub(crate) peer: NaraName,
}

/// `peers reset`
#[derive(Debug, Args)]
pub(crate) struct PeersResetArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// The name of the peer; its id, key id or address
    #[arg(value_name = "NAME", required_unless_present = "all")]
    pub(crate) peer: Option<NaraName>,
    /// Every peer
    #[arg(long, conflicts_with = "peer")]
    pub(crate) all: bool,
}

/// Parses a public key or a key id; a key id encodes the whole key.
fn public_key(text: &str) -> Result<PublicKey, &'static str> {
    let from_id = || text.parse::<KeyId>().ok()?.public_key().ok();
    PublicKey::from_base64(text)
        .ok()
        .or_else(from_id)
        .ok_or("neither a public key nor a key id; its owner can print both with `nara-mesh id show`")
}
