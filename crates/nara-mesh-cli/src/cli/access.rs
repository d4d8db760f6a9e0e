//! `token` and `dashboard`

use clap::{Args, Subcommand, ValueEnum};

use super::RunningArgs;

/// `token`
///
/// A token lets a program use the local API on loopback (`--api-listen`), as `Authorization: Bearer TOKEN`. The data folder
/// has one for all rights in the file api.token; the running nara keeps only the hashes of the others.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it, once
    New(TokenNewArgs),
    /// List the tokens, without the tokens themselves
    List(RunningArgs),
    /// End a token at once; the one in api.token is replaced by another
    Revoke(TokenRevokeArgs),
}

/// `token new`
#[derive(Debug, Args)]
pub(crate) struct TokenNewArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// What its holder may do
    #[arg(long, value_enum, value_name = "RIGHTS")]
    pub(crate) rights: TokenRights,
    /// Its name: letters, digits, `-`, `_` and `.` [default: its rights and a number]
    #[arg(long = "token-name", value_name = "NAME")]
    pub(crate) token_name: Option<String>,
}

/// `token revoke`
#[derive(Debug, Args)]
pub(crate) struct TokenRevokeArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// Its name, as `token list` shows it
    #[arg(value_name = "TOKEN_NAME")]
    pub(crate) token: String,
}

/// What the holder of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenRights {
    /// Look: status, peers, events
    Read,
    /// And speak in the name of the nara: messages, requests, transfers
    Messages,
    /// And decide: trust, services, tokens, shutdown
    All,
}

/// `dashboard`
///
/// The page is served by the running nara on a loopback address. The address opens it once, within two minutes.
#[derive(Debug, Args)]
pub(crate) struct DashboardArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// Open it in the browser
    #[arg(long)]
    pub(crate) open: bool,
}
