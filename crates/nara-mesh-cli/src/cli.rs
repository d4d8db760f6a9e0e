//! The command line: types only. What the values mean is decided in `settings` and in the commands.

mod peers;
mod serving;

pub(crate) use peers::{
    PeersArgs, PeersCommand, PeersListArgs, PeersResetArgs, PeersTrustArgs, PeersUntrustArgs,
};
pub(crate) use serving::{DoctorArgs, NetworkArgs, NetworkKind, ServeArgs, ServingArgs, UpArgs};

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::{exit, peers_file};

/// Run a nara, and talk to naras on a mesh.
///
/// Data goes to stdout, everything else to stderr. `--json` prints one object (streaming commands: one per
/// line) with a field `schema`. A flag wins over the environment, the environment over the configuration
/// file.
#[derive(Debug, Parser)]
#[command(name = "nara-mesh", version, max_term_width = 100, after_help = exit::HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Configuration file (TOML) [env: NARA_MESH_CONFIG] [default: ~/.config/nara-mesh/config.toml, if there]
    ///
    /// Keys: name, soul_file, data_dir, peers, network, timeout, tls, trust, color, listen, metrics,
    /// metrics_public, log. Relative paths are relative to the file.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Name of this nara [env: NARA_MESH_NAME] [default: the name in the soul file]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// File with the soul, mode 0600 [env: NARA_MESH_SOUL_FILE] [default: ~/.config/nara-mesh/soul.toml, if there]
    ///
    /// The soul itself may be in the environment variable NARA_MESH_SOUL. It is never a value on the command
    /// line, where every user of the machine could read it.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) soul_file: Option<PathBuf>,
    /// File with the peers [env: NARA_MESH_PEERS] [default: ~/.config/nara-mesh/peers.toml, if there]
    ///
    /// See `nara-mesh peers --help` for its form.
    #[arg(long = "peers", global = true, value_name = "FILE")]
    pub(crate) peers_file: Option<PathBuf>,
    /// Folder for the ledger, which also remembers keys of peers [env: NARA_MESH_DATA_DIR] [default: ~/.local/share/nara-mesh/KEY_ID]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Limit for connecting to a peer, and for each call, e.g. 500ms or 5s [env: NARA_MESH_TIMEOUT] [default: 5s]
    #[arg(long, global = true, value_name = "DURATION")]
    pub(crate) timeout: Option<String>,
    /// Protection of connections: plain, tls (where the peer can) or tls-only [env: NARA_MESH_TLS] [default: tls]
    ///
    /// A peer of the peers file may have its own.
    #[arg(long, global = true, value_name = "POLICY")]
    pub(crate) tls: Option<String>,
    /// Which keys are trusted: first-use, pinned or closed [env: NARA_MESH_TRUST] [default: first-use]
    ///
    /// `first-use`: the first key that a peer shows, and from then on no other. `pinned`: no new ones; those
    /// that are known from earlier count. `closed`: only those of the peers file and of `peers trust`.
    #[arg(long, global = true, value_name = "POLICY")]
    pub(crate) trust: Option<String>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Colours: auto, always or never [env: NARA_MESH_COLOR, NO_COLOR] [default: auto, i.e. only on a terminal]
    #[arg(long, global = true, value_name = "WHEN")]
    pub(crate) color: Option<String>,
    /// More output on stderr: -v info and causes of errors, -vv debug, -vvv trace
    ///
    /// NARA_MESH_LOG or RUST_LOG set it per module, for example `nara_mesh=debug`.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Less output on stderr: errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start several naras on this machine and demonstrate everything over real sockets
    Demo(DemoArgs),
    /// Create or show the identity of a nara
    #[command(subcommand)]
    Id(IdCommand),
    /// Find what prevents a nara from talking to others
    Doctor(DoctorArgs),
    /// Run a nara until ctrl-C or SIGTERM
    Serve(ServeArgs),
    /// Join a tailnet, find the naras on it, and run a nara until ctrl-C or SIGTERM
    Up(UpArgs),
    /// Measure the round trip to peers
    Ping(PingArgs),
    /// Fetch events of a peer, verified
    Sync(SyncArgs),
    /// Watch the events of peers as they arrive there
    Watch(WatchArgs),
    /// Send a direct message: one signed event
    Dm(DmArgs),
    /// Exchange recent events with a peer
    Zine(ZineArgs),
    /// World messages: postcards that travel from nara to nara and back home
    #[command(subcommand)]
    World(WorldCommand),
    /// List peers, and decide which of them to trust
    #[command(after_long_help = peers_file::HELP)]
    Peers(PeersArgs),
    /// Sign a request or an event, offline
    Sign(SignArgs),
    /// Verify the signature of a request or an event, offline, and say why it fails
    Verify(VerifyArgs),
    /// Print the completions of a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write one for each command
    Man(ManArgs),
}

/// `demo`
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How many naras
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=16))]
    pub(crate) naras: u8,
    /// How many events the first nara remembers
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    pub(crate) events: u32,
}

/// `id`
#[derive(Debug, Subcommand)]
pub(crate) enum IdCommand {
    /// Create a soul for the name given with --name and write it to a new file
    New(IdNewArgs),
    /// Show name, id, public key and key id; not the soul
    Show(IdShowArgs),
}

/// `id new`
#[derive(Debug, Args)]
pub(crate) struct IdNewArgs {
    /// The file to write, mode 0600; it must not exist [default: --soul-file]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// `id show`
#[derive(Debug, Args)]
pub(crate) struct IdShowArgs {
    /// Show the soul too. Its holder is this nara.
    #[arg(long)]
    pub(crate) reveal_soul: bool,
    /// Print the stanza for the peers files of others instead, with this address
    #[arg(long, value_name = "IP[:PORT]", conflicts_with = "reveal_soul")]
    pub(crate) stanza: Option<String>,
}

/// `ping`
#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    #[command(flatten)]
    pub(crate) on: NetworkArgs,
    /// Peers: name, id or address
    #[arg(value_name = "PEER", required_unless_present = "all")]
    pub(crate) peers: Vec<String>,
    /// Every peer of the peers file
    #[arg(long, conflicts_with = "peers")]
    pub(crate) all: bool,
    /// How many pings for each peer
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) count: u32,
    /// Pause between the pings of a peer
    #[arg(short, long, value_name = "DURATION", default_value = "200ms")]
    pub(crate) interval: String,
}

/// How `sync` selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SyncModeArg {
    /// All events, oldest first, page by page
    Page,
    /// The newest events, one answer
    Recent,
    /// A random sample that favours critical and young events, one answer
    Sample,
}

/// `sync`
#[derive(Debug, Args)]
pub(crate) struct SyncArgs {
    /// The peer: name, id or address
    pub(crate) peer: String,
    /// Only events of these services (comma-separated)
    #[arg(long, value_delimiter = ',', value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
    /// Only events with these names as actor or target (comma-separated)
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) subjects: Vec<String>,
    /// Which events
    #[arg(long, value_enum, default_value_t = SyncModeArg::Page)]
    pub(crate) mode: SyncModeArg,
    /// Events per page, or per answer [default: 5000 into a ledger, else 1000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub(crate) size: Option<u32>,
    /// Ledger to store the events in (SQLite; made if it does not exist)
    #[arg(long, value_name = "LEDGER")]
    pub(crate) to: Option<PathBuf>,
    /// Print the events as JSON lines
    #[arg(long)]
    pub(crate) jsonl: bool,
    /// Continue where the last sync of this peer into this ledger ended (mode page)
    #[arg(long, requires = "to")]
    pub(crate) resume: bool,
    /// Compare first, and fetch only the missing events
    ///
    /// Peers that cannot compare are paged through.
    #[arg(long, requires = "to", conflicts_with_all = ["jsonl", "mode", "resume", "size", "subjects"])]
    pub(crate) reconcile: bool,
    /// With --reconcile: send the peer the events that it lacks
    #[arg(long, requires = "reconcile")]
    pub(crate) push: bool,
    /// Only check whether the ledger and the peer have the same events: exit code 0 if so, else 5
    #[arg(long, requires = "to", conflicts_with_all = ["reconcile", "jsonl", "mode", "resume", "size", "subjects"])]
    pub(crate) check: bool,
    /// With --reconcile or --check: only events from this Unix second on
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) from: Option<i64>,
    /// With --reconcile or --check: only events before this Unix second
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) until: Option<i64>,
}

/// `watch`
///
/// One line for each event (`--json`: one JSON object for each, also for those that are refused). What happens to
/// the connections is said on stderr; a stream that breaks is opened again and goes on where it was.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Peers: name, id or address
    #[arg(value_name = "PEER", required_unless_present = "all")]
    pub(crate) peers: Vec<String>,
    /// Every peer of the peers file
    #[arg(long, conflicts_with = "peers")]
    pub(crate) all: bool,
    /// Only events of these services (comma-separated)
    #[arg(long, value_delimiter = ',', value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
    /// Only events with these names as actor or target (comma-separated)
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) subjects: Vec<String>,
    /// Begin with what arrived since: `all`, a duration such as 10m, or a time [default: now]
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub(crate) since: Option<String>,
    /// Ledger to store the events in (SQLite; made if it does not exist)
    #[arg(long, value_name = "LEDGER")]
    pub(crate) to: Option<PathBuf>,
    /// Continue where the last watch into this ledger ended, for each peer
    #[arg(long, requires = "to")]
    pub(crate) resume: bool,
    /// End after so many events
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

/// What a direct message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DmKind {
    /// Something about a nara
    Gossip,
    /// A tease of the recipient
    Tease,
}

/// `dm`
#[derive(Debug, Args)]
pub(crate) struct DmArgs {
    /// The peer: name, id or address
    pub(crate) peer: String,
    /// The text: the reason of the event
    #[arg(long, required_unless_present = "event", conflicts_with = "event")]
    pub(crate) text: Option<String>,
    /// The kind of the event
    #[arg(long, value_enum, default_value_t = DmKind::Gossip, conflicts_with = "event")]
    pub(crate) kind: DmKind,
    /// The nara it is about [default: the recipient]
    #[arg(long, value_name = "NAME", conflicts_with = "event")]
    pub(crate) about: Option<String>,
    /// Send this event (JSON; - is stdin); it is signed if unsigned
    #[arg(long, value_name = "FILE")]
    pub(crate) event: Option<PathBuf>,
}

/// `zine`
#[derive(Debug, Args)]
pub(crate) struct ZineArgs {
    /// The peer: name, id or address
    pub(crate) peer: String,
    /// Ledger whose last five minutes are sent, and which stores the answer
    #[arg(long, value_name = "LEDGER")]
    pub(crate) ledger: Option<PathBuf>,
}

/// `world`
#[derive(Debug, Subcommand)]
pub(crate) enum WorldCommand {
    /// Send a postcard on its way
    Send(WorldSendArgs),
}

/// `world send`
#[derive(Debug, Args)]
pub(crate) struct WorldSendArgs {
    /// What it says
    #[arg(long)]
    pub(crate) message: String,
    /// The first peer: name, id or address [default: the first of the peers file that answers]
    #[arg(long, value_name = "PEER")]
    pub(crate) to: Option<String>,
}

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
    /// Body of the request, which profile v2 signs, too (- is stdin) [default: none]
    #[arg(long, value_name = "FILE", requires = "to")]
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
    #[arg(long, value_name = "FILE")]
    pub(crate) event: Option<PathBuf>,
    /// Show the exact bytes that are signed and how they come about
    #[arg(long)]
    pub(crate) explain: bool,
}

/// `verify`
///
/// `--name` is the name of the sender, as in the header X-Nara-Name; `--headers` has it already.
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
    /// Verify by profile v2 (RFC 9421): all headers of the request, one a line (- is stdin)
    #[arg(long, value_name = "FILE", conflicts_with = "event")]
    pub(crate) headers: Option<PathBuf>,
    /// Body of the request, to be compared with its digest (- is stdin) [default: not compared]
    #[arg(long, value_name = "FILE", requires = "headers")]
    pub(crate) body: Option<PathBuf>,
    /// Receiver, to be compared with X-Nara-To: its id or its name [default: not compared]
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
    /// The string that the sender says it signed: the first differing byte is shown
    #[arg(long, value_name = "STRING", conflicts_with = "event")]
    pub(crate) expected: Option<String>,
    /// Verify this event instead (JSON; - is stdin)
    #[arg(long, value_name = "FILE")]
    pub(crate) event: Option<PathBuf>,
    /// Show the exact bytes that must be signed, and look for the cause of a failure
    #[arg(long)]
    pub(crate) explain: bool,
}

/// A shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Elvish,
    Fish,
    Nushell,
    Powershell,
    Zsh,
}

/// `completions`
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// `man`
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Folder for one page for each command
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}
