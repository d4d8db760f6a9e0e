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
        /// Bare hyper client and axum server, nothing signed.
        #[arg(long)]
        unsigned: bool,
        /// Bare hyper on both ends, one connection for each round trip under way; with `--tls` over TLS with client
        /// certificates.
        #[arg(long, conflicts_with = "unsigned")]
        bare: bool,
        /// Over TLS, between naras that trust their connection.
        #[arg(long, conflicts_with = "unsigned")]
        tls: bool,
        /// Over TLS, between naras that leave the signatures of requests out, too.
        #[arg(long, requires = "tls", conflicts_with = "bare")]
        handshake_only: bool,
    },
    /// The cost of TLS when a connection is made.
    Handshake {
        /// Servers that are called once each.
        #[arg(long, default_value_t = 200)]
        servers: usize,
    },
    /// Decodes and verifies a sync page.
    Sync {
        /// The page; its keys are in the file of the same name with `.keys` behind it.
        #[arg(long)]
        page: PathBuf,
        /// How often.
        #[arg(long, default_value_t = 10)]
        rounds: u32,
        /// `1` or `all`.
        #[arg(long, default_value = "1")]
        cores: String,
    },
    /// A whole ledger of another process into an empty one, verified.
    Bulk {
        /// Events in the ledger.
        #[arg(long, default_value_t = 320_000)]
        events: usize,
        /// Events on a page.
        #[arg(long, default_value_t = 5000)]
        page_size: usize,
    },
    /// The other process of `bulk`.
    #[command(hide = true)]
    BulkServe {
        /// Events in the ledger.
        #[arg(long)]
        events: usize,
    },
    /// Comparing two ledgers: equal, the 10 newest missing, 100 scattered ones missing.
    Reconcile {
        /// Events in the ledgers.
        #[arg(long, default_value_t = 50_000)]
        events: usize,
        /// Ledgers of each kind, one after the other; the median counts.
        #[arg(long, default_value_t = 1)]
        rounds: usize,
    },
    /// Ledger pages, registry look-ups, replay cache.
    Store {
        /// Events in the large ledger.
        #[arg(long, default_value_t = 1_000_000)]
        large: usize,
    },
    /// Makes a ledger in a file, for programs that are measured from outside.
    Fill {
        /// Events in the ledger.
        #[arg(long, default_value_t = 320_000)]
        events: usize,
        /// The file; it must not exist.
        #[arg(long)]
        ledger: PathBuf,
    },
    /// The local API: a signed request through its socket beside the same from the library, and memory for each watcher.
    Local {
        /// Requests, one after the other, of each kind.
        #[arg(long, default_value_t = 5_000)]
        requests: u64,
        /// Live streams of events.
        #[arg(long, default_value_t = 1_000)]
        watchers: usize,
    },
    /// Live streams: latency from append to verified, deliveries, memory for each subscriber.
    Stream(StreamArgs),
    /// The other process of `stream`.
    #[command(hide = true)]
    StreamRead {
        /// The server.
        #[arg(long)]
        address: std::net::SocketAddr,
        #[command(flatten)]
        plan: StreamArgs,
    },
    /// How fast an event reaches every nara, by simulation.
    Gossip {
        /// Sizes of the mesh.
        #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 10_000])]
        naras: Vec<usize>,
        /// Runs of each.
        #[arg(long, default_value_t = 5)]
        seeds: u64,
        /// Events of each run.
        #[arg(long, default_value_t = 10)]
        events: usize,
        /// Where to draw the curves, as SVG.
        #[arg(long)]
        plot: Option<PathBuf>,
    },
}

/// What `stream` measures.
#[derive(Debug, clap::Args)]
struct StreamArgs {
    /// Streams.
    #[arg(long, default_value_t = 1000)]
    subscribers: usize,
    /// How many of them verify what they get; the others only read.
    #[arg(long, default_value_t = 10)]
    verifying: usize,
    /// Events at 100 a second, for the latency.
    #[arg(long, default_value_t = 1000)]
    paced: usize,
    /// Events as fast as they can be appended, for the deliveries.
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

/// Measures what the arguments of the program say.
///
/// # Errors
/// What went wrong, as text.
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
