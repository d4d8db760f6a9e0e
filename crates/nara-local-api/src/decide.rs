//! Resolves the nara that a decision of the operator is about.
#![expect(
    clippy::result_large_err,
    reason = "a problem becomes the answer: it is created once per failed request"
)]

use std::sync::Arc;

use http::StatusCode;
use nara_mesh::client::PeerRef;
use nara_mesh::registry::PeerRegistry;
use nara_proto::identity::NaraName;

use crate::{Problem, ProblemClass};

/// Returns the name of the nara that a text refers to, resolved as in calls: by name, id, key id or address.
/// A text may be the name of an unknown nara only if it cannot be an id, key id or address.
///
/// # Errors
/// [`Problem`] if the text is ambiguous.
pub fn about(registry: &PeerRegistry, text: &str) -> Result<NaraName, Problem> {
    let name = || {
        text.parse::<NaraName>()
            .map_err(|error| Problem::invalid(format!("{text:?} is not the name of a nara: {error}")))
    };
    let meant: PeerRef = text.parse()?;
    if matches!(meant, PeerRef::Name(_)) {
        return name();
    }
    let namesake = registry.by_name(text);
    match (registry.peer(&meant), namesake) {
        (Some(peer), Some(namesake)) if !Arc::ptr_eq(&peer, &namesake) => {
            let detail = format!(
                "{text} is the name of one nara, and the id, key id or address of another, {}",
                peer.info().label()
            );
            let (status, class) = (StatusCode::CONFLICT, ProblemClass::Usage);
            let problem = Problem::new("ambiguous_peer", status, class, detail);
            Err(problem.hint(
                "refer to the nara in another way: `nara-mesh peers` lists names, ids, keys and addresses",
            ))
        }
        (Some(peer), _) => peer.info().name.ok_or_else(|| {
            let detail =
                format!("the name of the nara {text} is not known yet, and decisions are about names");
            let problem = Problem::new("unknown_peer", StatusCode::NOT_FOUND, ProblemClass::Usage, detail);
            problem.hint(format!("call it once: `nara-mesh ping {text}`"))
        }),
        (None, Some(_)) => name(),
        (None, None) => {
            let detail = format!(
                "{text} looks like an id, a key id or an address, but does not identify a known nara"
            );
            let problem = Problem::new("unknown_peer", StatusCode::NOT_FOUND, ProblemClass::Usage, detail);
            Err(problem
                .hint("use the name of the nara: `nara-mesh peers` lists names, ids, keys and addresses"))
        }
    }
}
