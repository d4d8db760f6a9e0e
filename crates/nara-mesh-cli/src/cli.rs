//! The types of the command line. `settings` and the commands interpret the values.

mod access;
mod conformance;
mod dm;
mod id;
mod ledger;
pub(crate) mod limits;
mod outbox;
mod peers;
mod serving;
mod signing;
mod stash;
mod value;
mod world;

pub(crate) use peers::{
    PeersArgs, PeersCommand, PeersListArgs, PeersResetArgs, PeersTrustArgs, PeersUntrustArgs,
};
pub(crate) use serving::{DoctorArgs, NetworkArgs, NetworkKind, RunningArgs, ServeArgs, ServingArgs, UpArgs};

pub(crate) use access::{DashboardArgs, TokenCommand, TokenNewArgs, TokenRevokeArgs, TokenRights};
pub(crate) use conformance::ConformanceArgs;
pub(crate) use dm::{DmArgs, DmKind};
pub(crate) use id::{IdCommand, IdNewArgs, IdRetireArgs, IdShowArgs, IdSucceedArgs, SuccessionReason};
pub(crate) use ledger::{BackupArgs, LedgerCommand, RestoreArgs};
pub(crate) use outbox::{OutboxCommand, OutboxDropArgs, OutboxListArgs};
pub(crate) use signing::{SignArgs, VerifyArgs};
pub(crate) use stash::{StashCommand, StashDropArgs, StashGetArgs, StashListArgs, StashPutArgs};
pub(crate) use value::{Listen, Since};
pub(crate) use world::{WorldCommand, WorldSendArgs};

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, ColorChoice, Parser, Subcommand, ValueEnum};
use http::{HeaderName, HeaderValue, Method};
use nara_mesh::client::PeerRef;
use nara_mesh::tls::TlsPolicy;
use nara_proto::identity::NaraName;

use crate::exit;

/// Run a nara, and talk to naras on a mesh.
///
/// Data goes to stdout, everything else to stderr. `--json` prints one object (streaming commands: one per
/// line) with a field `schema`. A flag overrides the environment, and the environment overrides the
/// configuration file.
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
    /// Configuration file (TOML) [default: ~/.config/nara-mesh/config.toml, if it exists]
    ///
    /// A systemd service uses its CONFIGURATION_DIRECTORY instead of ~/.config/nara-mesh, for each file in
    /// it. The keys of the file are the names of command line settings with underscores: name, soul_file,
    /// soul_group_readable, data_dir, peers, timeout, tls, trust, color, log, log_format, listen, grace,
    /// metrics, metrics_public, no_api, api_group, api_listen, gossip_degree, no_gossip, no_catch_up,
    /// handshake_proof, v1_port, and the tables `network` (see `up --help`), `expose` and `limits` (see
    /// `serve --help`). Relative paths are relative to the file. `nara-mesh config show` prints the effective
    /// settings with their origins.
    #[arg(long, global = true, value_name = "FILE", env = "NARA_MESH_CONFIG", value_parser = value::path())]
    pub(crate) config: Option<PathBuf>,
    /// Name of this nara [default: the name in the soul file]
    #[arg(long, global = true, value_name = "NAME", env = "NARA_MESH_NAME")]
    pub(crate) name: Option<NaraName>,
    /// File with the soul, mode 0600 [default: ~/.config/nara-mesh/soul.toml, if it exists]
    ///
    /// /dev/fd/3 reads it from a file descriptor. The soul itself may be in the environment variable NARA_MESH_SOUL,
    /// or in the systemd credential `soul`. It is never a value on the command line, where every user of the machine
    /// could read it.
    #[arg(long, global = true, value_name = "FILE", env = "NARA_MESH_SOUL_FILE", value_parser = value::path())]
    pub(crate) soul_file: Option<PathBuf>,
    /// Accept a soul file that its group can read (mode 0640 or 0440), as secrets are mounted into containers
    #[arg(long, global = true, env = "NARA_MESH_SOUL_GROUP_READABLE", value_parser = FalseyValueParser::new())]
    pub(crate) soul_group_readable: bool,
    /// File with the peers, or a folder of such files [default: ~/.config/nara-mesh/peers.toml or peers.d]
    ///
    /// See `nara-mesh peers --help` for its form.
    #[arg(long = "peers", global = true, value_name = "FILE|DIR", env = "NARA_MESH_PEERS", value_parser = value::path())]
    pub(crate) peers_file: Option<PathBuf>,
    /// Folder for the ledger, which also keeps the keys of peers [default: ~/.local/share/nara-mesh/KEY_ID]
    ///
    /// A systemd service uses its STATE_DIRECTORY instead.
    #[arg(long, global = true, value_name = "DIR", env = "NARA_MESH_DATA_DIR", value_parser = value::path())]
    pub(crate) data_dir: Option<PathBuf>,
    /// Time limit for connecting to a peer, and for each call, e.g. 500ms or 5s
    ///
    /// While the bytes of a page of events keep arriving, it may take 15s more.
    #[arg(long, global = true, value_name = "DURATION", env = "NARA_MESH_TIMEOUT", default_value = "5s", value_parser = value::timeout)]
    pub(crate) timeout: Duration,
    /// Protection of connections: plain, tls (if the peer supports it) or tls-only
    ///
    /// The peers file can set a different policy for a peer.
    #[arg(long, global = true, value_name = "POLICY", env = "NARA_MESH_TLS", default_value = "tls", value_parser = value::tls())]
    pub(crate) tls: TlsPolicy,
    /// Which keys are trusted: first-use, pinned or closed
    ///
    /// `first-use`: pins the first key of a peer. `pinned`: accepts no new keys; keys pinned earlier stay
    /// valid. `closed`: only keys of the peers file and of `peers trust`.
    #[arg(
        long,
        global = true,
        value_name = "POLICY",
        env = "NARA_MESH_TRUST",
        default_value = "first-use",
        value_enum,
        hide_possible_values = true
    )]
    pub(crate) trust: Trust,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Colours: auto (only on a terminal, and not if NO_COLOR is set), always or never
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        env = "NARA_MESH_COLOR",
        default_value = "auto",
        hide_possible_values = true
    )]
    pub(crate) color: ColorChoice,
    /// Log filter: level or module=level, separated by commas [default: RUST_LOG, or warn]
    #[arg(long, global = true, value_name = "FILTER", env = "NARA_MESH_LOG")]
    pub(crate) log: Option<String>,
    /// Log format: text, json (one object per line), or journald (fields in systemd's journal)
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "NARA_MESH_LOG_FORMAT",
        default_value = "text",
        value_enum,
        hide_possible_values = true
    )]
    pub(crate) log_format: LogFormat,
    /// More output on stderr: -v info and causes of errors, -vv debug, -vvv trace
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Less output on stderr: errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

/// How keys of peers are trusted that are not configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Trust {
    FirstUse,
    Pinned,
    Closed,
}

/// The log format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
    Journald,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start several naras on this machine and demonstrate everything over real sockets
    Demo(DemoArgs),
    /// Print the address of the dashboard of the running nara: peers, events, trust and health
    Dashboard(DashboardArgs),
    /// Manage tokens for programs that use the local API of the running nara on loopback
    #[command(subcommand)]
    Token(TokenCommand),
    /// Create or show the identity of a nara
    #[command(subcommand)]
    Id(IdCommand),
    /// Show and check the settings of `serve` and `up`, and the origin of each value
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Find what prevents a nara from talking to others
    Doctor(DoctorArgs),
    /// Check a nara of any implementation against the specification; exit code 5 if it violates a MUST
    ///
    /// Two naras with souls of their own send requests of every kind, most of them invalid. Nothing is stored
    /// at the peer without --write. The peer must accept both keys: it asks for them where possible;
    /// otherwise the command prints the stanzas for its peers file.
    Conformance(ConformanceArgs),
    /// Check that the nara of this machine answers; exit code 0 if it does
    ///
    /// Needs no soul, no peers and no writable folder.
    Health(HealthArgs),
    /// Run a nara until ctrl-C or SIGTERM
    Serve(ServeArgs),
    /// Join a tailnet, find the naras on it, and run a nara until ctrl-C or SIGTERM
    Up(UpArgs),
    /// Measure the round trip to peers
    Ping(PingArgs),
    /// Fetch and verify the events of a peer
    Sync(SyncArgs),
    /// Watch the events of peers as they arrive
    Watch(WatchArgs),
    /// Send a signed request of any kind to a peer, and print its verified answer
    ///
    /// The exit code is 0 for a status below 400, 4 for 401 and 403, and 1 for every other status from 400
    /// on.
    Request(RequestArgs),
    /// Send a direct message, which is one signed event
    Dm(DmArgs),
    /// List and drop messages and postcards that wait for their recipients (`--later`)
    #[command(subcommand)]
    Outbox(OutboxCommand),
    /// Show the ledger of this nara, whether or not the nara runs
    Events(EventsArgs),
    /// Copy the ledger of this nara to a new file, also while the nara runs
    Backup(BackupArgs),
    /// Replace the ledger of this nara, which must not run, by a backup
    Restore(RestoreArgs),
    /// Work on the ledger file of this nara
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Ask peers for the key of a nara
    Query(QueryArgs),
    /// List the checkpoints of a peer
    Checkpoints(CheckpointsArgs),
    /// Exchange recent events with a peer
    Zine(ZineArgs),
    /// Store sealed data of this nara at a peer, and list the data that peers store here
    #[command(subcommand)]
    Stash(StashCommand),
    /// Send postcards: world messages that travel from nara to nara and back home
    #[command(subcommand)]
    World(WorldCommand),
    /// Make the running nara reload its configuration and peers, and show the effective settings
    Reload(RunningArgs),
    /// List peers, and decide which of them to trust
    #[command(after_long_help = peers::FILE_HELP)]
    Peers(PeersArgs),
    /// Sign a request or an event, offline
    Sign(SignArgs),
    /// Verify the signature of a request or an event, offline, and say why it fails
    Verify(VerifyArgs),
    /// Print the JSON Schema of the --json output of a command, or list the commands that have one
    Schema(SchemaArgs),
    /// Print the completions of a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write one for each command
    Man(ManArgs),
}

/// `schema`
#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// The command, such as `peers trust`
    #[arg(value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// `demo`
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Number of naras
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=16))]
    pub(crate) naras: u8,
    /// Number of events that the first nara starts with
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    pub(crate) events: u32,
}

/// `config`
///
/// Accepts the arguments of `serve` and `up`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read all files that a nara needs, and report errors
    Check(ConfigArgs),
    /// Print the effective settings
    Show(ConfigArgs),
}

/// `config check`, `config show`
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    pub(crate) up: UpArgs,
    /// Address that `serve` would listen on
    #[arg(
        long,
        value_name = "ADDRESS[:PORT]",
        default_value_t = serving::default_listen()
    )]
    pub(crate) listen: Listen,
}

/// `health`
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// Call this address of the nara instead of asking its local API
    #[arg(
        long,
        value_name = "ADDRESS[:PORT]",
        default_value_t = serving::default_listen()
    )]
    pub(crate) listen: Listen,
}

/// `ping`
#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    #[command(flatten)]
    pub(crate) on: NetworkArgs,
    /// Peers: name, id or address
    #[arg(value_name = "PEER", required_unless_present = "all")]
    pub(crate) peers: Vec<PeerRef>,
    /// Every peer of the peers file
    #[arg(long, conflicts_with = "peers")]
    pub(crate) all: bool,
    /// Number of pings for each peer
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) count: u32,
    /// Pause between the pings of a peer
    #[arg(short, long, value_name = "DURATION", default_value = "200ms", value_parser = value::duration)]
    pub(crate) interval: Duration,
}

/// The selection of `sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SyncModeArg {
    /// All events, oldest first, page by page
    Page,
    /// The newest events, one answer
    Recent,
    /// A random sample that favours critical and young events, one answer
    Sample,
    /// What v1 peers request that support no modes, one answer
    Legacy,
}

/// `sync`
#[derive(Debug, Args)]
pub(crate) struct SyncArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// The peer: name, id or address
    pub(crate) peer: PeerRef,
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
    /// Ledger to store the events in (SQLite; created if missing) [default: the ledger of this nara]
    #[arg(long, value_name = "LEDGER", value_parser = value::path())]
    pub(crate) to: Option<PathBuf>,
    /// Print the events as JSON lines
    #[arg(long)]
    pub(crate) jsonl: bool,
    /// Continue where the last sync of this peer into this ledger ended (mode page)
    #[arg(long)]
    pub(crate) resume: bool,
    /// Compare first, and fetch only the missing events
    ///
    /// From peers that do not support reconciliation, all pages are fetched.
    #[arg(long, conflicts_with_all = ["jsonl", "mode", "resume", "size", "subjects"])]
    pub(crate) reconcile: bool,
    /// With --reconcile: send the peer the events that it lacks
    #[arg(long, requires = "reconcile")]
    pub(crate) push: bool,
    /// Only check whether the ledger and the peer have the same events: exit code 0 if so, else 5
    #[arg(long, conflicts_with_all = ["reconcile", "jsonl", "mode", "resume", "size", "subjects"])]
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
/// Prints one line for each event (`--json`: one JSON object for each, also for refused events). Reports the
/// state of the connections on stderr; reopens a broken stream where it ended.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// Peers: name, id or address
    #[arg(value_name = "PEER", required_unless_present = "all")]
    pub(crate) peers: Vec<PeerRef>,
    /// Every peer of the peers file
    #[arg(long, conflicts_with = "peers")]
    pub(crate) all: bool,
    /// Only events of these services (comma-separated)
    #[arg(long, value_delimiter = ',', value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
    /// Only events with these names as actor or target (comma-separated)
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) subjects: Vec<String>,
    /// Begin with events that arrived since: `all`, a duration such as 10m or 30d, or a time [default: now]
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub(crate) since: Option<Since>,
    /// Ledger to store the events in (SQLite; created if missing)
    #[arg(long, value_name = "LEDGER", value_parser = value::path())]
    pub(crate) to: Option<PathBuf>,
    /// Continue where the last watch into this ledger ended, for each peer
    #[arg(long, requires = "to")]
    pub(crate) resume: bool,
    /// Polling interval for peers without streams, such as v1 peers
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = value::duration)]
    pub(crate) poll: Duration,
    /// End after this many events
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

/// `events`
///
/// Without a subcommand, prints the newest 100 events of this nara, or all from --since on, oldest first.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct EventsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<EventsCommand>,
    #[command(flatten)]
    pub(crate) show: EventsShowArgs,
}

/// The subcommands of `events`.
#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// Print all verified events of a peer as JSON lines
    Export(EventsExportArgs),
    /// Import events (JSON lines) into the running nara with this soul; a nara accepts imports only from its
    /// owner
    Import(EventsImportArgs),
}

/// `events export`
#[derive(Debug, Args)]
pub(crate) struct EventsExportArgs {
    /// The peer: name, id or address
    pub(crate) peer: PeerRef,
    /// Only events of these services (comma-separated)
    #[arg(long, value_delimiter = ',', value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

/// `events import`
#[derive(Debug, Args)]
pub(crate) struct EventsImportArgs {
    /// Address of the running nara
    pub(crate) peer: PeerRef,
    /// File with the events (- is stdin)
    #[arg(value_name = "FILE", default_value = "-", value_parser = value::path())]
    pub(crate) file: PathBuf,
}

/// `checkpoints`
#[derive(Debug, Args)]
pub(crate) struct CheckpointsArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// The peer: name, id or address
    pub(crate) peer: PeerRef,
}

/// `query`
#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// The name of the nara whose key to look up
    #[arg(value_name = "NAME")]
    pub(crate) nara: NaraName,
    /// Peers to ask, one after the other [default: all with an address]
    #[arg(value_name = "PEER")]
    pub(crate) peers: Vec<PeerRef>,
}

/// The arguments of `events` without a command.
#[derive(Debug, Args)]
pub(crate) struct EventsShowArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// Only events that this nara emitted, or in which it acts
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
    /// Only events with this nara as actor or target
    #[arg(long, value_name = "NAME")]
    pub(crate) about: Option<String>,
    /// Only events of these services (comma-separated)
    #[arg(long, value_delimiter = ',', value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
    /// Only events since: `all`, a duration such as 10m or 30d, or a time
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub(crate) since: Option<Since>,
    /// Only this many of the newest events [default: 100; with --since, all]
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: Option<u32>,
    /// Continue with new events until ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Print only the events, as JSON lines; --json adds the trust of each
    #[arg(long)]
    pub(crate) jsonl: bool,
}

/// `request`
#[derive(Debug, Args)]
pub(crate) struct RequestArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// The peer: name, id or address
    pub(crate) peer: PeerRef,
    /// Method, such as GET or POST
    pub(crate) method: Method,
    /// Path, percent-encoded, with its query
    pub(crate) path: String,
    /// Body: the text itself, @FILE, or - for stdin; up to 16 MiB without --stream
    #[arg(long, value_name = "DATA", allow_hyphen_values = true)]
    pub(crate) data: Option<String>,
    /// A header; may be given several times
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = value::header)]
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Stream bodies of any size. The printed body is verified only at its end: exit code 1 means that
    /// verification failed
    #[arg(long)]
    pub(crate) stream: bool,
    /// Print status and headers, too
    #[arg(long)]
    pub(crate) include: bool,
    /// Print on stderr what the signatures prove about the request and the answer
    #[arg(long)]
    pub(crate) explain: bool,
}

/// `zine`
#[derive(Debug, Args)]
pub(crate) struct ZineArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    /// The peer: name, id or address
    pub(crate) peer: PeerRef,
    /// Ledger whose last five minutes are sent, and which stores the answer [default: the ledger of this
    /// nara]
    #[arg(long, value_name = "LEDGER", value_parser = value::path())]
    pub(crate) ledger: Option<PathBuf>,
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
    /// Folder for the pages, one for each command
    #[arg(long, value_name = "DIR", value_parser = value::path())]
    pub(crate) out: Option<PathBuf>,
}
