//! `id`: the identity of a nara.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::value::{self, Listen};

/// `id`
#[derive(Debug, Subcommand)]
pub(crate) enum IdCommand {
    /// Create a soul for the name given with --name and write it to a new file
    New(IdNewArgs),
    /// Retire this nara: peers refuse its key from then on
    Retire(IdRetireArgs),
    /// Show name, id, public key and key id; not the soul
    Show(IdShowArgs),
    /// Hand over to another soul: peers follow its key and refuse the old one
    Succeed(IdSucceedArgs),
}

/// `id new`
#[derive(Debug, Args)]
pub(crate) struct IdNewArgs {
    /// The file to write, mode 0600; it must not exist [default: --soul-file]
    #[arg(long, value_name = "FILE", value_parser = value::path())]
    pub(crate) out: Option<PathBuf>,
}

/// `id retire`
///
/// The statement cannot be revoked. It is stored in the ledger of this nara, spreads from there, and is sent
/// to the known peers at once.
#[derive(Debug, Args)]
pub(crate) struct IdRetireArgs {
    /// Print the statement as words to keep on paper, without publishing it
    #[arg(long)]
    pub(crate) paper: bool,
}

/// `id succeed`
///
/// The statement is signed by both souls and cannot be revoked. It is stored in the ledger of this nara,
/// spreads from there, and is sent to the known peers at once. Peers with the trust policy `closed` ask their
/// operators. The new soul keeps using the data folder of the old one. Fetch data left with peers (`stash
/// put`) before: only the old soul can.
#[derive(Debug, Args)]
pub(crate) struct IdSucceedArgs {
    /// File with the new soul; it must have the same name
    #[arg(long, value_name = "FILE", value_parser = value::path())]
    pub(crate) to: Option<PathBuf>,
    /// Why the key is replaced; `retirement` has no successor
    #[arg(long, value_enum, default_value_t, conflicts_with = "from_words")]
    pub(crate) reason: SuccessionReason,
    /// Print the statement as words to keep on paper, without publishing it
    #[arg(long, conflicts_with = "from_words")]
    pub(crate) paper: bool,
    /// Publish a statement that was kept on paper: a file with its words, or - for stdin. Any nara can do
    /// this; the old soul is not needed
    #[arg(long, value_name = "FILE", conflicts_with = "to", value_parser = value::path())]
    pub(crate) from_words: Option<PathBuf>,
}

/// Why a key is replaced or ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum SuccessionReason {
    /// Another key takes over
    #[default]
    Rotation,
    /// The nara retires
    Retirement,
}

/// `id show`
#[derive(Debug, Args)]
pub(crate) struct IdShowArgs {
    /// Also show the soul. Whoever has it can act as this nara
    #[arg(long)]
    pub(crate) reveal_soul: bool,
    /// Print the stanza for the peers files of others instead, with this address
    #[arg(long, value_name = "ADDRESS[:PORT]", conflicts_with = "reveal_soul")]
    pub(crate) stanza: Option<Listen>,
}
