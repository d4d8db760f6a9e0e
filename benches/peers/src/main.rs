//! Round trips of libraries comparable to nara-mesh, measured as `nara-bench signed` measures ours: the same
//! number of bytes and of concurrent round trips, both ends in one process. Prints one JSON object.
//!
//! All of them authenticate both ends by the keys of the connection; none signs requests.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the result goes to standard output")]

mod repeat;
mod streams;
mod swarm;

use clap::{Parser, ValueEnum};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of a request and of its answer: as in `POST /events/sync` with an answer of one event.
const QUESTION: usize = 110;
const ANSWER: usize = 420;

/// The library to measure.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Library {
    /// iroh: one QUIC connection, one stream per request.
    Iroh,
    /// libp2p's `request-response` over QUIC.
    Libp2pQuic,
    /// libp2p's `request-response` over TCP with Noise and Yamux.
    Libp2pTcp,
}

/// Measures round trips of another library and prints one JSON object.
#[derive(Debug, Parser)]
struct Plan {
    library: Library,
    /// Round trips to measure.
    #[arg(long, default_value_t = 20_000)]
    requests: u64,
    /// Concurrent round trips.
    #[arg(long, default_value_t = 16)]
    in_flight: u64,
    /// Round trips before the measurement.
    #[arg(long, default_value_t = 2_000)]
    warmup: u64,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let plan = Plan::parse();
    let figures = match plan.library {
        Library::Iroh => streams::measure(&plan).await?,
        Library::Libp2pQuic => swarm::measure(&plan, swarm::Over::Quic).await?,
        Library::Libp2pTcp => swarm::measure(&plan, swarm::Over::Tcp).await?,
    };
    println!("{figures}");
    Ok(())
}
