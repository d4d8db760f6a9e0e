//! `serve`, `up` and the other options about the network.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use nara_mesh::defaults;
use nara_mesh::gossip::GossipConfig;
use nara_tailnet::tailscaled;

use super::limits::LimitArgs;
use super::value::{self, Expose, Listen};
use crate::failure::{Failure, Outcome};

/// `serve`
///
/// Prints the stanza for peers on stdout, and a line for each incoming message (`--json`: JSON lines). The
/// ledger is `ledger.db` in the data folder, which also keeps the learned keys. `nara-mesh reload` or SIGHUP
/// reloads the configuration and the peers. On a terminal, SIGHUP stops the nara.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Address to listen on: an IP address, a host name, or a network interface such as tailscale0
    ///
    /// The default is reachable from this machine only. To be reachable over a tailnet that this machine has
    /// joined, use its address there, such as 100.64.0.7:9632, or its host name; `up` finds it. If no
    /// interface has the address yet, `serve` waits for it.
    #[arg(long, value_name = "ADDRESS[:PORT]", default_value_t = default_listen())]
    pub(crate) listen: Listen,
    #[command(flatten)]
    pub(crate) serving: ServingArgs,
}

/// Returns the default address of `serve`.
pub(super) fn default_listen() -> Listen {
    Listen::Address(SocketAddr::from((Ipv4Addr::LOCALHOST, defaults::MESH_PORT)))
}

/// The options that `serve` and `up` share.
#[derive(Debug, Args)]
pub(crate) struct ServingArgs {
    /// Time limit for requests in flight after ctrl-C or SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = value::duration)]
    pub(crate) grace: Duration,
    /// Address to serve metrics on, as http://IP:PORT/metrics for Prometheus
    ///
    /// Metrics count the activity of this nara and do not name its peers. Without --metrics-public the
    /// address must be a loopback address, such as 127.0.0.1:9634.
    #[arg(long, value_name = "IP:PORT", env = "NARA_MESH_METRICS", value_parser = value::socket)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Also serve metrics to other machines
    #[arg(long)]
    pub(crate) metrics_public: bool,
    /// Forward verified requests below a path to a program of this machine: /PATH=http://127.0.0.1:PORT or
    /// /PATH=unix:/SOCKET; may be given several times
    ///
    /// The program sees the path without the prefix. The headers X-Nara-Sender, X-Nara-Sender-Id,
    /// X-Nara-Sender-Key and X-Nara-Coverage name the sender and what its signature proves. In the
    /// configuration file, the table `expose` has the paths as keys.
    #[arg(long, value_name = "PATH=URL", value_parser = value::expose)]
    pub(crate) expose: Vec<Expose>,
    /// Do not open the local API, through which other programs and commands on this machine use this nara
    ///
    /// Its sockets are nara.sock in the data folder, and NAME.sock in $XDG_RUNTIME_DIR/nara-mesh. See
    /// docs/local-api.md.
    #[arg(long)]
    pub(crate) no_api: bool,
    /// Let the members of a group send messages and requests through the local API
    ///
    /// By default only the user of this process and root can use it. Only they can change trust and shut
    /// down, except with GROUP:all; with GROUP:read the members can only read. The members need access to the
    /// folder of the socket.
    #[arg(long, value_name = "GROUP[:RIGHTS]", conflicts_with = "no_api")]
    pub(crate) api_group: Option<String>,
    /// Also offer the local API on a loopback address, such as 127.0.0.1:9635, for programs with a token
    ///
    /// The file api.token in the data folder has a token with all rights; `nara-mesh token new --rights read`
    /// creates another one.
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "NARA_MESH_API_LISTEN",
        value_parser = value::loopback,
        conflicts_with = "no_api"
    )]
    pub(crate) api_listen: Option<SocketAddr>,
    /// Also listen on port 7433 of the same address, if it is free: v1 peers call no other port [default:
    /// true for `up`, false for `serve`]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) v1_port: Option<bool>,
    /// Exchange unsigned requests with peers that do the same, where TLS has proven both keys
    ///
    /// Saves the most expensive part of a request. The requests cannot be proven to third parties. Streams
    /// and events stay signed.
    #[arg(long)]
    pub(crate) handshake_proof: bool,
    /// Do not fetch events from peers that this nara missed while it was stopped
    #[arg(long)]
    pub(crate) no_catch_up: bool,
    /// Number of peers to subscribe to; with 0, only zines are exchanged
    #[arg(long, value_name = "N", default_value_t = GossipConfig::DEFAULT_DEGREE as u16, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub(crate) gossip_degree: u16,
    /// Subscribe to no peer; peers may still subscribe and send events
    #[arg(long, conflicts_with = "gossip_degree")]
    pub(crate) no_gossip: bool,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

impl ServingArgs {
    /// Returns the metrics address. Other machines may reach it only with `--metrics-public`.
    pub(crate) fn metrics(&self) -> Outcome<Option<SocketAddr>> {
        let private = |address: &SocketAddr| address.ip().to_canonical().is_loopback() || self.metrics_public;
        match self.metrics.filter(|address| !private(address)) {
            None => Ok(self.metrics),
            Some(address) => Err(Failure::usage(format!(
                "metrics: other machines can reach {address}, and metrics have no access control"
            ))
            .hint(
                "use a loopback address, or pass --metrics-public if everyone who can reach it may read them",
            )),
        }
    }
}

/// How to join the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkKind {
    /// The tailscaled of this machine
    Tailscaled,
    /// A tailscaled run by this program in userspace mode, without root or changes to the machine
    Managed,
    /// A node inside this process, without anything to install
    Embedded,
    /// This machine only
    Loopback,
}

/// The running nara that a command works through.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Running nara")]
pub(crate) struct RunningArgs {
    /// Use the soul, the peers file and the network of this command, even if a nara runs
    #[arg(long)]
    pub(crate) direct: bool,
    /// Socket of the nara to work through [default: the one with this soul or data folder, else the one of
    /// this user]
    ///
    /// Without a soul and a data folder, --name selects one of several. --peers, --tls, --trust and --network
    /// on the command line imply --direct.
    #[arg(long, value_name = "FILE", env = "NARA_MESH_SOCKET", value_parser = value::path())]
    pub(crate) api_socket: Option<PathBuf>,
}

/// The network of a command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Network options")]
pub(crate) struct NetworkArgs {
    /// How to join the mesh
    #[arg(long, value_enum, value_name = "NETWORK", env = "NARA_MESH_NETWORK")]
    pub(crate) network: Option<NetworkKind>,
    /// Socket of the machine's tailscaled
    #[arg(
        long,
        value_name = "FILE",
        env = "NARA_MESH_TAILSCALED_SOCKET",
        default_value = tailscaled::DEFAULT_SOCKET,
        value_parser = value::path()
    )]
    pub(crate) socket: PathBuf,
    /// Skip nodes whose host names have this prefix; may be repeated
    #[arg(long, value_name = "PREFIX")]
    pub(crate) skip: Vec<String>,
}

/// `up`
///
/// Joins the network, reports each step, serves as `serve` does, and finds the naras among the nodes of the
/// network: those that answer on port 9632 or 7433. Without --network it uses the tailscaled of this machine
/// if it is on a tailnet, else runs its own if tailscaled is installed, else a node inside this process.
///
/// In the configuration file, the table `network` has the keys kind, socket, control_url, auth_key_file,
/// host_name and skip.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) on: NetworkArgs,
    /// File with the auth key for joining; the key itself may be in the environment variable
    /// NARA_MESH_AUTH_KEY
    ///
    /// It is never a value on the command line, where every user of the machine could read it. Without it,
    /// the first start prints a login URL.
    #[arg(
        long,
        value_name = "FILE",
        env = "NARA_MESH_AUTH_KEY_FILE",
        value_parser = value::path(),
        help_heading = "Network options"
    )]
    pub(crate) auth_key_file: Option<PathBuf>,
    /// Control server, such as Headscale [default: Tailscale's]
    #[arg(
        long,
        value_name = "URL",
        env = "NARA_MESH_CONTROL_URL",
        help_heading = "Network options"
    )]
    pub(crate) control_url: Option<String>,
    /// Host name to request [default: NAME-xxxx with four random characters, the same each time]
    #[arg(long, value_name = "NAME", help_heading = "Network options")]
    pub(crate) host_name: Option<String>,
    /// Leave the tailnet when the program ends (networks managed and embedded)
    #[arg(long, help_heading = "Network options")]
    pub(crate) ephemeral: bool,
    /// Allow an embedded node to use a control server on http://, where an attacker on the path can add
    /// nodes: for labs only
    #[arg(long, hide_short_help = true, help_heading = "Network options")]
    pub(crate) danger_plain_control: bool,
    /// UDP port for direct paths of an embedded node; open it in the firewall [default: any]
    #[arg(long, value_name = "PORT", help_heading = "Network options")]
    pub(crate) udp_port: Option<u16>,
    /// Send all packets of an embedded node through relays
    #[arg(long, conflicts_with = "udp_port", help_heading = "Network options")]
    pub(crate) relay_only: bool,
    /// Do not ask the router to map a port to an embedded node (PCP, NAT-PMP, UPnP)
    #[arg(long, help_heading = "Network options")]
    pub(crate) no_port_mapping: bool,
    /// The tailscaled program to run (network managed)
    #[arg(
        long,
        value_name = "PROGRAM",
        default_value = "tailscaled",
        help_heading = "Network options"
    )]
    pub(crate) tailscaled: PathBuf,
    /// Time limit for joining
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "60s",
        value_parser = value::duration,
        help_heading = "Network options"
    )]
    pub(crate) wait: Duration,
    /// Mesh port
    #[arg(long, value_name = "PORT", default_value_t = defaults::MESH_PORT, help_heading = "Network options")]
    pub(crate) port: u16,
    #[command(flatten)]
    pub(crate) serving: ServingArgs,
}

/// `doctor`
///
/// Runs the checks in order, and reports for each the finding, why it matters and what to do next. With
/// --network it checks that network, else the one that `up` would use. The exit code is 1 if a check failed.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    #[command(flatten)]
    pub(crate) on: NetworkArgs,
    /// Mesh port
    #[arg(long, value_name = "PORT", default_value_t = defaults::MESH_PORT)]
    pub(crate) port: u16,
}
