//! A soak test: minutes of traffic, longer than WireGuard's rekey interval of 120 s.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::pair::ECHO_PORT;
use crate::echo::{Echo, exchange};
use crate::kind::Kind;
use crate::nara::Nara;
use crate::network::Network;
use crate::process::memory_mb;
use crate::table::TO;

/// The default duration in seconds: two rekeys.
const SECONDS: u64 = 300;
/// The number of bytes echoed on a new connection each second.
const BYTES: usize = 64 * 1024;

/// Each second, each pair pings on its kept-alive connection and echoes bytes on a new one. The first failure ends the
/// test.
pub(crate) async fn run(programs: &Path, args: &[String]) -> Result<(), String> {
    let seconds = match args {
        [] => SECONDS,
        [option, value] if option == "--seconds" => {
            value.parse().map_err(|_| "--seconds takes a number".to_owned())?
        }
        _ => return Err("soak takes --seconds N".to_owned()),
    };
    let network = Network::start(programs).await?;
    let start = |kind: Kind, name| Nara::start(&network, kind, name);
    let (a, b, c) = futures_util::future::try_join3(
        start(Kind::Embedded, "soak-a"),
        start(Kind::Embedded, "soak-b"),
        start(Kind::Managed, "soak-c"),
    )
    .await?;
    let mut pairs = Vec::new();
    for (from, to) in [(&a, &b), (&a, &c), (&c, &b)] {
        from.discover(&[&to.name], Duration::from_secs(15)).await?;
        pairs.push(Pair {
            name: format!("{}{TO}{}", from.kind, to.kind),
            from,
            to,
            ping: Duration::ZERO,
            exchange: Duration::ZERO,
        });
    }
    let mut echoes = Vec::new();
    for nara in [&b, &c] {
        let at = SocketAddr::new(nara.address()?, ECHO_PORT);
        echoes.push(Echo::start(nara.node.clone(), at).await?);
    }
    let begin = Instant::now();
    let mut memory = Vec::new();
    for second in 1..=seconds {
        for pair in &mut pairs {
            pair.once().await.map_err(|error| {
                format!(
                    "{} after {:.0} s: {error}",
                    pair.name,
                    begin.elapsed().as_secs_f64()
                )
            })?;
        }
        if second == 30.min(seconds) || second == seconds {
            memory.push(memory_mb(std::process::id()));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!(
        "{seconds} rounds in {:.0} s; memory after 30 s and at the end, MB: {memory:.1?}",
        begin.elapsed().as_secs_f64()
    );
    for pair in pairs {
        println!(
            "{:<22} {seconds} of {seconds}, slowest ping {:.1?}, slowest new connection with 64 KiB each way {:.1?}",
            pair.name, pair.ping, pair.exchange
        );
    }
    Ok(())
}

/// Two naras, and their maximum latencies.
struct Pair<'a> {
    name: String,
    from: &'a Nara,
    to: &'a Nara,
    ping: Duration,
    exchange: Duration,
}

impl Pair<'_> {
    async fn once(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        self.from
            .client
            .ping(&self.to.name)
            .await
            .map_err(|error| error.to_string())?;
        self.ping = self.ping.max(begin.elapsed());
        let begin = Instant::now();
        let echo = SocketAddr::new(self.to.address()?, ECHO_PORT);
        exchange(&*self.from.node, echo, BYTES).await?;
        self.exchange = self.exchange.max(begin.elapsed());
        Ok(())
    }
}
