use std::collections::VecDeque;

use http::{HeaderName, StatusCode};
use nara_proto::breaker::BreakerState;
use nara_proto::endpoint::{Endpoint as _, MAX_QUERY_HOPS, PeerQuery, PeerQueryRequest};
use nara_proto::identity::{NaraName, PublicKey};
use nara_proto::peer::PeerQueryResponse;

use super::call::{Reply, traced};
use super::error::ErrorKind;
use super::outgoing::Outgoing;
use super::{CallOptions, ClientError, FoundPeer, MeshClient, PeerRef};

/// The name of the nara to ask next. There is no `Location`: this is no redirect of HTTP.
const REDIRECT_HEADER: HeaderName = HeaderName::from_static("x-nara-redirect-to");

impl MeshClient {
    /// Searches for a nara by asking registered peers one by one, at most [`MAX_QUERY_HOPS`], those first that
    /// others suggest. The answer is unsigned hearsay, and nothing is pinned.
    ///
    /// # Errors
    /// [`ClientError::is_unknown_peer`] if nobody who answered knows it.
    pub async fn query_peer(&self, target: &NaraName) -> Result<FoundPeer, ClientError> {
        let mut candidates: VecDeque<NaraName> = self
            .shared
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
            if name == *target || name == *self.shared.local.name() || asked.contains(&name) {
                continue;
            }
            // Whoever cannot be asked must not use up the number of those who are.
            let route = self.shared.resolver.route(&PeerRef::from(&name));
            if route.is_none_or(|route| route.peer.breaker_state() == BreakerState::Open) {
                continue;
            }
            asked.push(name.clone());
            match self.ask(&name, target, &asked).await {
                Ok(Hearsay::Found(found)) => return Ok(found),
                Ok(Hearsay::Ask(next)) => candidates.push_front(next),
                // One who cannot be asked does not end the search.
                Ok(Hearsay::Nothing) | Err(_) => {}
            }
        }
        let asked = asked.len();
        Err(ClientError::new(target, ErrorKind::NobodyKnows { asked }))
    }

    async fn ask(
        &self,
        name: &NaraName,
        target: &NaraName,
        asked: &[NaraName],
    ) -> Result<Hearsay, ClientError> {
        let peer = PeerRef::from(name);
        traced(&peer, PeerQuery::PATH, async {
            let route = self.route(&peer)?;
            let fail = |kind| ClientError::new(&route, kind);
            let request = PeerQueryRequest {
                target: target.to_string(),
                // A comma would make two names of one, of which neither was asked.
                asked: asked
                    .iter()
                    .map(NaraName::to_string)
                    .filter(|name| !name.contains(','))
                    .collect(),
            };
            let outgoing = Outgoing::new::<PeerQuery>(&request).map_err(fail)?;
            let deadline = self.deadline(CallOptions::default());
            let reply = self.send(&route, &outgoing, deadline).await.map_err(fail)?;
            read_hearsay(reply, name, target).map_err(fail)
        })
        .await
    }
}

/// What one peer says.
enum Hearsay {
    Ask(NaraName),
    Found(FoundPeer),
    Nothing,
}

fn read_hearsay(reply: Reply, told_by: &NaraName, target: &NaraName) -> Result<Hearsay, ErrorKind> {
    match reply.status {
        StatusCode::OK => {
            let answer = PeerQuery::decode(&reply.body).map_err(ErrorKind::Decode)?;
            Ok(read_found(&answer, told_by, target).map_or(Hearsay::Nothing, Hearsay::Found))
        }
        StatusCode::TEMPORARY_REDIRECT | StatusCode::SEE_OTHER => {
            let next = reply.headers.get(REDIRECT_HEADER);
            let next = next.and_then(|name| std::str::from_utf8(name.as_bytes()).ok());
            let next = next.and_then(|name| NaraName::new(name).ok());
            Ok(next.map_or(Hearsay::Nothing, Hearsay::Ask))
        }
        StatusCode::NOT_FOUND => Ok(Hearsay::Nothing),
        _ => Err(reply.into_status_error(false)),
    }
}

fn read_found(answer: &PeerQueryResponse, told_by: &NaraName, target: &NaraName) -> Option<FoundPeer> {
    if answer.target != target.as_str() {
        return None;
    }
    Some(FoundPeer {
        name: target.clone(),
        key: PublicKey::from_base64(&answer.public_key).ok()?,
        mesh_ip: answer.mesh_ip.parse().ok(),
        told_by: told_by.clone(),
    })
}
