//! `token` and `dashboard`

use clap::{Args, Subcommand, ValueEnum};

use super::RunningArgs;

/// `token`
///
/// A token authorizes a program on loopback (`--api-listen`), as `Authorization: Bearer TOKEN`. The file
/// api.token in the data folder has a token with all rights; the running nara stores only hashes of the other
/// tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token and print it once
    New(TokenNewArgs),
    /// List the tokens by name, without their secrets
    List(RunningArgs),
    /// Revoke a token at once; the one in api.token is replaced by a new one
    Revoke(TokenRevokeArgs),
}

/// `token new`
#[derive(Debug, Args)]
pub(crate) struct TokenNewArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// The rights of the token
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

/// The rights of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenRights {
    /// Read status, peers and events
    Read,
    /// Also act as the nara: messages, requests, transfers
    Messages,
    /// Also administer: trust, services, tokens, shutdown
    All,
}

/// `dashboard`
///
/// The running nara serves the dashboard on a loopback address. The printed address works once, within two
/// minutes.
#[derive(Debug, Args)]
pub(crate) struct DashboardArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// Open it in the browser
    #[arg(long)]
    pub(crate) open: bool,
}
