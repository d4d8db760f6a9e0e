//! `dm`

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use nara_mesh::client::PeerRef;

use super::{RunningArgs, value};

/// The kind of a direct message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DmKind {
    /// News about a nara
    Gossip,
    /// A tease of the recipient
    Tease,
}

/// `dm`
#[derive(Debug, Args)]
pub(crate) struct DmArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// The peer: name, id or address
    pub(crate) peer: PeerRef,
    /// The text: the reason of the event
    #[arg(value_name = "TEXT", required_unless_present_any = ["event", "text"], conflicts_with_all = ["event", "text"])]
    pub(crate) message: Option<String>,
    /// The text, as an option
    #[arg(long, conflicts_with = "event", hide_short_help = true)]
    pub(crate) text: Option<String>,
    /// The kind of the event
    #[arg(long, value_enum, default_value_t = DmKind::Gossip, conflicts_with = "event")]
    pub(crate) kind: DmKind,
    /// The nara that the message is about [default: the recipient]
    #[arg(long, value_name = "NAME", conflicts_with = "event")]
    pub(crate) about: Option<String>,
    /// Send this event (JSON; - is stdin); it is signed if unsigned
    #[arg(long, value_name = "FILE", value_parser = value::path())]
    pub(crate) event: Option<PathBuf>,
    /// Let the running nara keep the message if the peer is unreachable, and deliver it once the peer is seen
    ///
    /// The message survives a restart of the nara and is the same event in every attempt. `nara-mesh outbox
    /// list` shows it.
    #[arg(long, conflicts_with = "direct")]
    pub(crate) later: bool,
    /// How long the message may wait, from 1s to 30d [default: 7d]
    #[arg(long, value_name = "DURATION", requires = "later", value_parser = value::expiry)]
    pub(crate) expires: Option<Duration>,
}
