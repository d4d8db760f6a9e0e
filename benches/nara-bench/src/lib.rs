//! The measurements behind `cargo xtask bench`. Each prints one JSON object.
//!
//! Two programs: `nara-bench` measures time, `nara-bench-allocations` also counts allocations, which costs time.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the result goes to standard output")]

mod bare;
mod bulk;
mod exchange;
mod gossip;
mod handshake;
mod local;
mod mesh;
mod reconcile;
mod resources;
mod store;
mod stream;
mod sync;

use std::path::PathBuf;

use clap::Parser;

/// Measures nara-mesh and prints one JSON object.
#[derive(Debug, Parser)]
enum Measurement {
    /// Round trips of `POST /events/sync` with a small answer, both ends in this process.
    Signed {
        /// Round trips to measure.
        #[arg(long, default_value_t = 20_000)]
        requests: u64,
        /// Round trips under way at once.
        #[arg(long, default_value_t = 16)]
        in_flight: u64,
        /// Round trips before the measurement.
        #[arg(long, default_value_t = 2_000)]
        warmup: u64,
        /// Bare hyper client and axum server, unsigned.
        #[arg(long)]
        unsigned: bool,
        /// Bare hyper on both ends, one connection per concurrent round trip; with `--tls` over TLS with
        /// client certificates.
        #[arg(long, conflicts_with = "unsigned")]
        bare: bool,
        /// Over TLS, between naras that trust their connection.
        #[arg(long, conflicts_with = "unsigned")]
        tls: bool,
        /// Over TLS, between naras that also omit request signatures.
        #[arg(long, requires = "tls", conflicts_with = "bare")]
        handshake_only: bool,
    },
    /// The cost of TLS for a new connection.
    Handshake {
        /// Number of servers.
        #[arg(long, default_value_t = 200)]
        servers: usize,
    },
    /// Decodes and verifies a sync page.
    Sync {
        /// The page; its keys are in the file with `.keys` appended.
        #[arg(long)]
        page: PathBuf,
        /// Number of rounds.
        #[arg(long, default_value_t = 10)]
        rounds: u32,
        /// Cores: `1` or `all`.
        #[arg(long, default_value = "1")]
        cores: String,
    },
    /// Fetches a whole ledger from another process into an empty one, verified.
    Bulk {
        /// Events in the ledger.
        #[arg(long, default_value_t = 320_000)]
        events: usize,
        /// Events on a page.
        #[arg(long, default_value_t = 5000)]
        page_size: usize,
    },
    /// The server process of `bulk`.
    #[command(hide = true)]
    BulkServe {
        /// Events in the ledger.
        #[arg(long)]
        events: usize,
    },
    /// Compares two ledgers: equal, the 10 newest missing, 100 scattered ones missing.
    Reconcile {
        /// Events in the ledgers.
        #[arg(long, default_value_t = 50_000)]
        events: usize,
        /// Ledgers of each kind, in sequence; the median is reported.
        #[arg(long, default_value_t = 1)]
        rounds: usize,
    },
    /// Ledger pages, registry lookups, replay cache.
    Store {
        /// Events in the large ledger.
        #[arg(long, default_value_t = 1_000_000)]
        large: usize,
    },
    /// Creates a ledger in a file, for programs that are measured from outside.
    Fill {
        /// Events in the ledger.
        #[arg(long, default_value_t = 320_000)]
        events: usize,
        /// The file; it must not exist.
        #[arg(long)]
        ledger: PathBuf,
    },
    /// The local API: a signed request through its socket compared with the library, and memory per watcher.
    Local {
        /// Sequential requests of each kind.
        #[arg(long, default_value_t = 5_000)]
        requests: u64,
        /// Live streams of events.
        #[arg(long, default_value_t = 1_000)]
        watchers: usize,
    },
    /// Live streams: latency from append to verified, deliveries, memory per subscriber.
    Stream(StreamArgs),
    /// The subscriber process of `stream`.
    #[command(hide = true)]
    StreamRead {
        /// The server.
        #[arg(long)]
        address: std::net::SocketAddr,
        #[command(flatten)]
        plan: StreamArgs,
    },
    /// Simulates how fast an event reaches every nara.
    Gossip {
        /// Mesh sizes.
        #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 10_000])]
        naras: Vec<usize>,
        /// Runs per size.
        #[arg(long, default_value_t = 5)]
        seeds: u64,
        /// Events per run.
        #[arg(long, default_value_t = 10)]
        events: usize,
        /// SVG file for the curves.
        #[arg(long)]
        plot: Option<PathBuf>,
    },
}

/// The parameters of `stream`.
#[derive(Debug, clap::Args)]
struct StreamArgs {
    /// Number of streams.
    #[arg(long, default_value_t = 1000)]
    subscribers: usize,
    /// Number of streams whose subscriber verifies events; the others only read.
    #[arg(long, default_value_t = 10)]
    verifying: usize,
    /// Events at 100 per second, for the latency.
    #[arg(long, default_value_t = 1000)]
    paced: usize,
    /// Events at full speed, for the deliveries.
    #[arg(long, default_value_t = 1000)]
    burst: usize,
}

impl StreamArgs {
    fn plan(&self) -> stream::Plan {
        stream::Plan {
            subscribers: self.subscribers,
            verifying: self.verifying,
            paced: self.paced,
            burst: self.burst,
        }
    }
}

/// Runs the measurement given by the arguments of the program.
///
/// # Errors
/// A description of the failure.
pub fn run() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let figures = match Measurement::parse() {
        Measurement::Signed {
            requests,
            in_flight,
            warmup,
            unsigned,
            bare,
            tls,
            handshake_only,
        } => exchange::measure(&exchange::Plan {
            requests,
            in_flight,
            warmup,
            unsigned,
            bare,
            tls,
            handshake_only,
        })?,
        Measurement::Handshake { servers } => handshake::measure(servers)?,
        Measurement::Bulk { events, page_size } => bulk::measure(events, page_size)?,
        Measurement::BulkServe { events } => return bulk::serve(events),
        Measurement::Reconcile { events, rounds } => reconcile::measure(events, rounds)?,
        Measurement::Sync { page, rounds, cores } => sync::measure(&page, rounds, &cores)?,
        Measurement::Local { requests, watchers } => local::measure(requests, watchers)?,
        Measurement::Stream(args) => stream::measure(&args.plan())?,
        Measurement::StreamRead { address, plan } => return stream::read(address, &plan.plan()),
        Measurement::Fill { events, ledger } => store::fill(events, &ledger)?,
        Measurement::Store { large } => store::measure(large)?,
        Measurement::Gossip {
            naras,
            seeds,
            events,
            plot,
        } => gossip::measure(&gossip::Settings {
            naras: &naras,
            seeds,
            events,
            plot: plot.as_deref(),
        })?,
    };
    println!("{figures}");
    Ok(())
}
