//! `outbox`

use clap::{Args, Subcommand};

use super::RunningArgs;

/// `outbox`
///
/// The running nara keeps messages of `dm --later` and postcards of `world send --later` that it cannot deliver, and sends them once their recipient is seen.
#[derive(Debug, Subcommand)]
pub(crate) enum OutboxCommand {
    /// List the messages that wait, and what became of others
    List(OutboxListArgs),
    /// Take messages back, or take those that do not wait any more off the list
    Drop(OutboxDropArgs),
}

/// `outbox list`
#[derive(Debug, Args)]
pub(crate) struct OutboxListArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
}

/// `outbox drop`
#[derive(Debug, Args)]
pub(crate) struct OutboxDropArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// The messages, as `outbox list` numbers them
    #[arg(value_name = "ID", required = true)]
    pub(crate) ids: Vec<u64>,
}
