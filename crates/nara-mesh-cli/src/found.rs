//! What discovery finds, as a line and as JSON.

use nara_mesh::discovery::Found;
use nara_mesh::transport::Candidate;
use serde_json::{Value, json};

use crate::printer::harmless;

/// A line about what was found; `None`: it is not worth one.
pub(crate) fn describe(found: &Found) -> Option<(String, Value)> {
    let host = |candidate: &Candidate| harmless(&candidate.host_name);
    Some(match found {
        Found::Nara { peer, host_name_fits } => {
            let name = harmless(&peer.label());
            let address = peer
                .address
                .map_or_else(String::new, |address| address.to_string());
            let source = peer.key.as_ref().map(|key| key.source.to_string());
            (
                format!("found  {name}  {address}"),
                json!({
                    "event": "found",
                    "name": peer.name.as_ref().map(|name| name.as_str()),
                    "address": peer.address,
                    "key_source": source,
                    "host_name_fits": host_name_fits,
                }),
            )
        }
        Found::Refused { candidate, error } => (
            format!("refused  {}  {}", host(candidate), harmless(&error.to_string())),
            json!({ "event": "refused", "host_name": candidate.host_name, "reason": error.to_string() }),
        ),
        Found::Contested {
            candidate,
            name,
            holder,
        } => (
            format!(
                "refused  {}  claims to be {}, which is at {holder}",
                host(candidate),
                harmless(name.as_str())
            ),
            json!({ "event": "contested", "host_name": candidate.host_name, "name": name.as_str(), "holder": holder }),
        ),
        Found::Namesake { candidate, same_key } => {
            let also = if *same_key {
                ", with our key"
            } else {
                ", with another key"
            };
            (
                format!("refused  {}  claims to be this nara{also}", host(candidate)),
                json!({ "event": "namesake", "host_name": candidate.host_name, "same_key": same_key }),
            )
        }
        Found::Offline(candidate) => (
            format!("offline  {}", host(candidate)),
            json!({ "event": "offline", "host_name": candidate.host_name }),
        ),
        Found::Left(candidate) => (
            format!("left  {}", host(candidate)),
            json!({ "event": "left", "host_name": candidate.host_name }),
        ),
        _ => return None,
    })
}
