use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{RunningArgs, value};

/// `backup`
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// The file to write
    #[arg(value_name = "FILE", value_parser = value::path())]
    pub(crate) file: PathBuf,
    /// Replace an existing file, once the new backup is complete
    #[arg(long)]
    pub(crate) replace: bool,
}

/// `restore`
///
/// Also restores keys, trust decisions and cursors. Peers that follow this nara start over.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE", value_parser = value::path())]
    pub(crate) file: PathBuf,
    /// Replace an existing ledger
    #[arg(long)]
    pub(crate) replace: bool,
}

/// `ledger`
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Check the integrity of the ledger, and show its size by service and by sender
    Check(RunningArgs),
}
