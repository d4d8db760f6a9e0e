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
    /// Replace a file that is there, once the new backup is whole
    #[arg(long)]
    pub(crate) replace: bool,
}

/// `restore`
///
/// Keys, decisions and cursors are restored, too. Peers that follow this nara start over.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE", value_parser = value::path())]
    pub(crate) file: PathBuf,
    /// Replace a ledger that is there
    #[arg(long)]
    pub(crate) replace: bool,
}

/// `ledger`
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Check that the ledger is sound, and show what it holds by service and by teller
    Check(RunningArgs),
}
