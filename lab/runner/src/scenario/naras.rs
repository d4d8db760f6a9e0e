//! The naras of the scenarios.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use nara_proto::identity::NaraName;

use crate::kind::Kind;
use crate::nara::Nara;
use crate::network::Network;
use crate::table::{TO, Table};

/// Two naras of each kind on one tailnet.
#[derive(Debug)]
pub(crate) struct Naras {
    pub(crate) first: Vec<Nara>,
    pub(crate) second: Vec<Nara>,
}

impl Naras {
    /// Starts all naras concurrently.
    pub(super) async fn start(network: &Network, kinds: &[Kind], table: &mut Table) -> Result<Self, String> {
        let start = |suffix: &'static str| {
            try_join_all(kinds.iter().map(move |kind| async move {
                Nara::start(network, *kind, &format!("{kind}-{suffix}")).await
            }))
        };
        let (first, second) = futures_util::future::try_join(start("a"), start("b")).await?;
        for (a, b) in first.iter().zip(&second) {
            let joined = a.joined.max(b.joined);
            let measured = format!("{:.2} s", joined.as_secs_f64());
            table.note("two first joins at once", &a.kind.to_string(), Ok(measured));
        }
        Ok(Self { first, second })
    }

    /// Starts one nara of each kind.
    pub(super) async fn start_some(
        network: &Network,
        kinds: &[Kind],
        suffix: &str,
    ) -> Result<Vec<Nara>, String> {
        try_join_all(
            kinds
                .iter()
                .map(|kind| async move { Nara::start(network, *kind, &format!("{kind}-{suffix}")).await }),
        )
        .await
    }

    /// Returns all pairs of kinds; the first nara of a pair is the client.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (String, &Nara, &Nara)> {
        self.first.iter().flat_map(|a| {
            self.second
                .iter()
                .map(move |b| (format!("{}{TO}{}", a.kind, b.kind), a, b))
        })
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Nara> {
        self.first.iter().chain(&self.second)
    }
}

/// Pings until the first answer, and returns the time that took.
pub(crate) async fn until_answered(from: &Nara, to: &NaraName, within: Duration) -> Result<Duration, String> {
    let begin = Instant::now();
    loop {
        match from.client.ping(to).await {
            Ok(_) => return Ok(begin.elapsed()),
            Err(error) if begin.elapsed() > within => {
                return Err(format!(
                    "{} does not reach {to} within {within:?}: {error}",
                    from.name
                ));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
