//! `outbox`

use clap::{Args, Subcommand};

use super::RunningArgs;

/// `outbox`
///
/// The running nara keeps messages of `dm --later` and postcards of `world send --later` that it cannot
/// deliver yet, and sends them once their recipients are seen.
#[derive(Debug, Subcommand)]
pub(crate) enum OutboxCommand {
    /// List waiting messages, and the outcome of recent ones
    List(OutboxListArgs),
    /// Take back waiting messages, or remove others from the list
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
    /// The messages, by their numbers in `outbox list`
    #[arg(value_name = "ID", required = true)]
    pub(crate) ids: Vec<u64>,
}
