use std::collections::VecDeque;
use std::time::Duration;

use http::{HeaderName, StatusCode};
use nara_proto::breaker::BreakerState;
use nara_proto::endpoint::{Endpoint as _, MAX_QUERY_HOPS, PeerQuery, PeerQueryRequest};
use nara_proto::identity::{NaraName, PublicKey};
use nara_proto::peer::PeerQueryResponse;
use nara_proto::time::UnixMillis;

use super::deadline::deadline_after;
use super::error::{ClientError, Problem};
use super::exchange::{Callee, Exchange, traced};
use super::reply::Reply;
use super::request::Outgoing;
use super::resolve::PeerRef;
use crate::registry::{KeySource, PeerInfo, PinnedKey};

/// The name of the nara to ask next. There is no `Location`: this is not an HTTP redirect.
const REDIRECT_HEADER: HeaderName = HeaderName::from_static("x-nara-redirect-to");

impl Exchange {
    /// Asks registered peers one by one for a nara.
    pub(super) async fn query_peer(
        &self,
        target: &NaraName,
        call_timeout: Duration,
    ) -> Result<PeerInfo, ClientError> {
        let mut candidates: VecDeque<NaraName> = self
            .registry
            .peers()
            .iter()
            .map(|peer| peer.info())
            .filter(|info| info.address.is_some())
            .filter_map(|info| info.name)
            .collect();
        let mut asked: Vec<NaraName> = Vec::new();
        while asked.len() < MAX_QUERY_HOPS
            && let Some(name) = candidates.pop_front()
        {
            if name == *target || name == *self.local.name() || asked.contains(&name) {
                continue;
            }
            // A peer that cannot be called does not count towards the limit.
            let route = self.resolver.route(&PeerRef::from(&name));
            if route.is_none_or(|route| route.peer.breaker_state() == BreakerState::Open) {
                continue;
            }
            asked.push(name.clone());
            match self.ask(&name, target, &asked, call_timeout).await {
                Ok(Hearsay::Found(mut found)) => {
                    if let Some(key) = &mut found.key {
                        key.learned_at = self.clocks.clock().now_millis();
                    }
                    return Ok(*found);
                }
                Ok(Hearsay::Ask(next)) => candidates.push_front(next),
                // A peer that does not answer does not end the search.
                Ok(Hearsay::Nothing) | Err(_) => {}
            }
        }
        let asked = asked.len();
        Err(ClientError::new(target, Problem::NobodyKnows { asked }))
    }

    async fn ask(
        &self,
        name: &NaraName,
        target: &NaraName,
        asked: &[NaraName],
        call_timeout: Duration,
    ) -> Result<Hearsay, ClientError> {
        let peer = Callee(Ok(PeerRef::from(name)));
        traced(&peer, PeerQuery::PATH, async {
            let route = self.route(&peer)?;
            let fail = |problem| ClientError::new(&route, problem);
            let request = PeerQueryRequest {
                target: target.to_string(),
                // A name with a comma would be split into two.
                asked: asked
                    .iter()
                    .map(NaraName::to_string)
                    .filter(|name| !name.contains(','))
                    .collect(),
            };
            let outgoing = Outgoing::new::<PeerQuery>(&request).map_err(fail)?;
            let deadline = deadline_after(call_timeout);
            let reply = self.send(&route, &outgoing, deadline).await.map_err(fail)?;
            read_hearsay(reply, name, target).map_err(fail)
        })
        .await
    }
}

/// The answer of one peer.
enum Hearsay {
    Ask(NaraName),
    Found(Box<PeerInfo>),
    Nothing,
}

fn read_hearsay(reply: Reply, told_by: &NaraName, target: &NaraName) -> Result<Hearsay, Problem> {
    match reply.head.status {
        StatusCode::OK => {
            let answer = PeerQuery::decode(&reply.body).map_err(Problem::Decode)?;
            Ok(read_found(&answer, told_by, target)
                .map_or(Hearsay::Nothing, |found| Hearsay::Found(Box::new(found))))
        }
        StatusCode::TEMPORARY_REDIRECT | StatusCode::SEE_OTHER => {
            let next = reply.head.headers.get(REDIRECT_HEADER);
            let next = next.and_then(|name| std::str::from_utf8(name.as_bytes()).ok());
            let next = next.and_then(|name| NaraName::new(name).ok());
            Ok(next.map_or(Hearsay::Nothing, Hearsay::Ask))
        }
        StatusCode::NOT_FOUND => Ok(Hearsay::Nothing),
        _ => Err(reply.into_problem(false)),
    }
}

fn read_found(answer: &PeerQueryResponse, told_by: &NaraName, target: &NaraName) -> Option<PeerInfo> {
    if answer.target != target.as_str() {
        return None;
    }
    let key = PinnedKey {
        name: target.clone(),
        id: None,
        key: PublicKey::from_base64(&answer.public_key).ok()?,
        source: KeySource::PeerQuery(told_by.clone()),
        learned_at: UnixMillis::default(),
    };
    let found = PeerInfo {
        name: Some(target.clone()),
        key: Some(key),
        ..PeerInfo::default()
    };
    Some(match answer.mesh_ip.parse() {
        Ok(ip) => found.at_ip(ip),
        Err(_) => found,
    })
}
