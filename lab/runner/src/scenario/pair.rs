//! What every kind of nara must be able to do with every other.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::ledger::{EventStore as _, ReadLimit};
use nara_proto::event::{Payload, SocialPayload};
use nara_proto::sync::{EventFilter, MAX_EVENTS};
use nara_proto::world::WorldMessage;

use super::naras::Naras;
use crate::echo::{Echo, exchange};
use crate::kind::Kind;
use crate::nara::{Nara, story};
use crate::table::{TO, Table};

/// How long a check may take.
const LIMIT: Duration = Duration::from_secs(30);
pub(super) const EVENTS: u32 = 5_000;
const MIB: usize = 1 << 20;
/// Where echoes listen.
pub(super) const ECHO_PORT: u16 = 9700;

pub(super) async fn run(naras: &Naras, table: &mut Table) {
    let names: Vec<_> = naras.all().map(|nara| nara.name.clone()).collect();
    for nara in naras.all() {
        let others: Vec<_> = names.iter().filter(|name| **name != nara.name).collect();
        let discover = async { nara.discover(&others, Duration::from_secs(25)).await.map(seconds) };
        let row = if naras.first.iter().any(|first| first.name == nara.name) {
            "discover the others"
        } else {
            "… the second of the kind"
        };
        table.check(row, &nara.kind.to_string(), LIMIT, discover).await;
    }
    for nara in &naras.second {
        if let Err(error) = nara.remember(nara.events(EVENTS, story)).await {
            table.note(
                "sync 5,000 events, 2 MB in one answer",
                &nara.kind.to_string(),
                Err(error),
            );
        }
    }
    for (pair, a, b) in naras.pairs() {
        talk(a, b, table).await;
        table
            .check("postcard over all naras", &pair, LIMIT, postcard(naras, a, b))
            .await;
    }
    bytes(naras, table).await;
}

/// What two naras have to say to each other.
pub(super) async fn talk(a: &Nara, b: &Nara, table: &mut Table) {
    let pair = format!("{}{TO}{}", a.kind, b.kind);
    table.check("ping", &pair, LIMIT, ping(a, b)).await;
    table
        .check("sync 5,000 events, 2 MB in one answer", &pair, LIMIT, sync(a, b))
        .await;
    table
        .check("direct message", &pair, LIMIT, direct_message(a, b))
        .await;
    table.check("zine", &pair, LIMIT, zine(a, b)).await;
}

pub(super) fn seconds(took: Duration) -> String {
    format!("{:.2} s", took.as_secs_f64())
}

fn millis(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1e3)
}

async fn ping(a: &Nara, b: &Nara) -> Result<String, String> {
    a.client.ping(&b.name).await.map_err(|error| error.to_string())?;
    // The first may have opened the connection.
    let report = a.client.ping(&b.name).await.map_err(|error| error.to_string())?;
    Ok(millis(report.rtt))
}

async fn sync(a: &Nara, b: &Nara) -> Result<String, String> {
    use futures_util::StreamExt as _;
    let begin = Instant::now();
    let mut pages = a
        .client
        .peer(&b.name)
        .sync_pages(EventFilter::default(), EVENTS as usize, None);
    let mut events = 0;
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| error.to_string())?;
        if !page.events.refused.is_empty() {
            return Err(format!("{} events were refused", page.events.refused.len()));
        }
        events += page.events.accepted.len();
    }
    let took = begin.elapsed();
    let remembered = b.ledger.count().await.map_err(|error| error.to_string())?;
    if events < EVENTS as usize || events != remembered {
        return Err(format!("{events} events came of {remembered}"));
    }
    Ok(seconds(took))
}

async fn direct_message(a: &Nara, b: &Nara) -> Result<String, String> {
    let event = a.event(Payload::Social(SocialPayload {
        kind: "tease".to_owned(),
        actor: a.name.to_string(),
        target: b.name.to_string(),
        reason: "hello over there".to_owned(),
        ..SocialPayload::default()
    }));
    let id = event.id.clone();
    let begin = Instant::now();
    let receipt = a
        .client
        .send_dm(&b.name, event)
        .await
        .map_err(|error| error.to_string())?;
    let took = begin.elapsed();
    let stored = b
        .ledger
        .recent(EventFilter::default(), ReadLimit::events(20))
        .await
        .map_err(|error| error.to_string())?;
    if receipt.success && receipt.is_verified() && stored.iter().any(|checked| checked.event.id == id) {
        Ok(millis(took))
    } else {
        Err("it was not stored".to_owned())
    }
}

async fn zine(a: &Nara, b: &Nara) -> Result<String, String> {
    let news = |nara: &Nara| {
        nara.event(Payload::Social(SocialPayload {
            kind: "gossip".to_owned(),
            actor: nara.name.to_string(),
            target: "everybody".to_owned(),
            reason: format!("news for {} and {}", a.name, b.name),
            ..SocialPayload::default()
        }))
    };
    let (given, wanted) = (news(a), news(b));
    let (given_id, wanted_id) = (given.id.clone(), wanted.id.clone());
    b.remember(vec![wanted]).await?;
    let begin = Instant::now();
    let answer = a
        .client
        .peer(&b.name)
        .exchange_zine(vec![given])
        .await
        .map_err(|error| error.to_string())?
        .into_inner();
    let took = begin.elapsed();
    let since = SystemClock.now_nanos().saturating_sub(Duration::from_secs(60));
    let arrived = b
        .ledger
        .since(since, ReadLimit::events(MAX_EVENTS))
        .await
        .map_err(|error| error.to_string())?;
    let got = answer
        .events
        .accepted
        .iter()
        .any(|event| event.event.id == wanted_id);
    if got && arrived.iter().any(|event| event.id == given_id) {
        Ok(millis(took))
    } else {
        Err(format!("given arrived: {}, got theirs: {got}", arrived.len()))
    }
}

/// A postcard goes from `a` to `b`, on to everybody, and home.
async fn postcard(naras: &Naras, a: &Nara, b: &Nara) -> Result<String, String> {
    let message = WorldMessage::new(a.name.as_str(), "greetings from the lab", SystemClock.now_nanos());
    let mut came_home = a.came_home.clone();
    let begin = Instant::now();
    let receipt = a
        .client
        .relay_world_message(&b.name, &message)
        .await
        .map_err(|error| error.to_string())?;
    if !receipt.success {
        return Err("it was not taken".to_owned());
    }
    let home = came_home
        .wait_for(|home| home.as_ref().is_some_and(|home| home.id == message.id))
        .await
        .map_err(|error| error.to_string())?
        .clone();
    let hops = home.as_ref().map_or(0, |home| home.hops().len());
    let all = naras.all().count();
    if hops == all {
        Ok(format!("{hops} stamps, {}", millis(begin.elapsed())))
    } else {
        Err(format!("it came home with {hops} stamps of {all}"))
    }
}

/// 1 MiB to each nara and back, over both families: bytes, not HTTP.
async fn bytes(naras: &Naras, table: &mut Table) {
    for b in naras.second.iter().filter(|nara| nara.kind != Kind::Tsnet) {
        for address in b.node.status().addresses {
            let echo = match Echo::start(b.node.clone(), SocketAddr::new(address, ECHO_PORT)).await {
                Ok(echo) => echo,
                Err(error) => {
                    table.note(row_of_bytes(address), &b.kind.to_string(), Err(error));
                    continue;
                }
            };
            for a in &naras.first {
                exchange_with(a, b.kind, echo.address, table).await;
            }
        }
    }
    // A tsnet node has an echo of its own.
    for b in naras.second.iter().filter(|nara| nara.kind == Kind::Tsnet) {
        for address in b.node.status().addresses {
            for a in &naras.first {
                exchange_with(a, b.kind, SocketAddr::new(address, ECHO_PORT), table).await;
            }
        }
    }
}

pub(super) fn row_of_bytes(address: IpAddr) -> &'static str {
    if address.is_ipv4() {
        "1 MiB there and back"
    } else {
        "… over IPv6"
    }
}

pub(super) async fn exchange_with(a: &Nara, kind: Kind, to: SocketAddr, table: &mut Table) {
    let pair = format!("{}{TO}{kind}", a.kind);
    let exchange = async {
        let begin = Instant::now();
        exchange(&*a.node, to, MIB).await?;
        Ok(millis(begin.elapsed()))
    };
    table.check(row_of_bytes(to.ip()), &pair, LIMIT, exchange).await;
}
