//! Formats what discovery finds as a line of text and as JSON.

use nara_mesh::discovery::Found;
use nara_mesh::transport::Candidate;

use crate::lines::FoundLine;
use crate::printer::harmless;

/// Formats a finding; `None` if it is not worth a line.
pub(crate) fn describe(found: &Found) -> Option<(String, FoundLine)> {
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
                FoundLine::Found {
                    name: peer.name.as_ref().map(ToString::to_string),
                    address: peer.address.map(|address| address.to_string()),
                    key_source: source,
                    host_name_fits: *host_name_fits,
                },
            )
        }
        Found::Refused { candidate, error } => (
            format!("refused  {}  {}", host(candidate), harmless(&error.to_string())),
            FoundLine::Refused {
                host_name: candidate.host_name.clone(),
                reason: error.to_string(),
            },
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
            FoundLine::Contested {
                host_name: candidate.host_name.clone(),
                name: name.to_string(),
                holder: holder.to_string(),
            },
        ),
        Found::Namesake { candidate, same_key } => {
            let also = if *same_key {
                ", with our key"
            } else {
                ", with another key"
            };
            (
                format!("refused  {}  claims to be this nara{also}", host(candidate)),
                FoundLine::Namesake {
                    host_name: candidate.host_name.clone(),
                    same_key: *same_key,
                },
            )
        }
        Found::Offline(candidate) => (
            format!("offline  {}", host(candidate)),
            FoundLine::Offline {
                host_name: candidate.host_name.clone(),
            },
        ),
        Found::Left(candidate) => (
            format!("left  {}", host(candidate)),
            FoundLine::Left {
                host_name: candidate.host_name.clone(),
            },
        ),
        _ => return None,
    })
}
