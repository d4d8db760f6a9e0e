//! `sign` and `verify`

use std::path::PathBuf;

use clap::Args;

use super::value;

/// `sign`
#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// Method of the request
    #[arg(long, required_unless_present = "event", conflicts_with = "event")]
    pub(crate) method: Option<String>,
    /// Path of the request as on the request line: percent-encoded; with --to also its query
    #[arg(long, required_unless_present = "event", conflicts_with = "event")]
    pub(crate) path: Option<String>,
    /// Sign with profile v2 (RFC 9421) for this nara: its id or its name
    #[arg(long, value_name = "NARA", conflicts_with = "event")]
    pub(crate) to: Option<String>,
    /// Body of the request; profile v2 signs its digest (- is stdin) [default: none]
    #[arg(long, value_name = "FILE", value_parser = value::path(), requires = "to")]
    pub(crate) body: Option<PathBuf>,
    /// Time of the request in Unix milliseconds [default: now]
    #[arg(
        long,
        value_name = "MS",
        conflicts_with = "event",
        allow_negative_numbers = true
    )]
    pub(crate) timestamp: Option<i64>,
    /// Sign this event instead (JSON; - is stdin)
    #[arg(long, value_name = "FILE", value_parser = value::path())]
    pub(crate) event: Option<PathBuf>,
    /// Show the exact signed bytes and how they are built
    #[arg(long)]
    pub(crate) explain: bool,
}

/// `verify`
///
/// `--name` is the name of the sender, as in the header X-Nara-Name; with `--headers` it is not needed.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Time of the request, as in the header X-Nara-Timestamp
    #[arg(
        long,
        required_unless_present_any = ["event", "headers"],
        conflicts_with_all = ["event", "headers"],
        allow_hyphen_values = true
    )]
    pub(crate) timestamp: Option<String>,
    /// Signature, as in the header X-Nara-Signature
    #[arg(
        long,
        required_unless_present_any = ["event", "headers"],
        conflicts_with_all = ["event", "headers"]
    )]
    pub(crate) signature: Option<String>,
    /// Verify by profile v2 (RFC 9421): file with all headers of the request, one per line (- is stdin)
    #[arg(long, value_name = "FILE", value_parser = value::path(), conflicts_with = "event")]
    pub(crate) headers: Option<PathBuf>,
    /// Body of the request, to compare with its digest (- is stdin) [default: not compared]
    #[arg(long, value_name = "FILE", value_parser = value::path(), requires = "headers")]
    pub(crate) body: Option<PathBuf>,
    /// Receiver, to compare with X-Nara-To: its id or its name [default: not compared]
    #[arg(long, value_name = "NARA", requires = "headers")]
    pub(crate) to: Option<String>,
    /// Method of the request
    #[arg(long, required_unless_present = "event", conflicts_with = "event")]
    pub(crate) method: Option<String>,
    /// Path of the request as on the request line; with --headers also its query
    #[arg(long, required_unless_present = "event", conflicts_with = "event")]
    pub(crate) path: Option<String>,
    /// Public key of the sender, base64 [default: the key of that name in the peers file]
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Clock of the receiver in Unix milliseconds [default: now]
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    pub(crate) now: Option<i64>,
    /// The string that the sender claims to have signed; shows the first differing byte
    #[arg(long, value_name = "STRING", conflicts_with = "event")]
    pub(crate) expected: Option<String>,
    /// Verify this event instead (JSON; - is stdin)
    #[arg(long, value_name = "FILE", value_parser = value::path())]
    pub(crate) event: Option<PathBuf>,
    /// Show the exact bytes that must be signed, and look for the cause of a failure
    #[arg(long)]
    pub(crate) explain: bool,
}
