//! The key that a client expects, as the host name that rustls passes to the verifier and uses as key of its sessions.
//!
//! The name is never sent: there is no SNI. So a session can be resumed only with the key with which it began.

use nara_proto::identity::PublicKey;
use rustls::pki_types::{DnsName, ServerName};

/// A name that never resolves (RFC 6761).
const SUFFIX: &str = "key.invalid";

/// Returns the name for a key: its 32 bytes in base 16, in two labels, since a label has at most 63 characters.
pub(super) fn server_name(key: Option<&PublicKey>) -> ServerName<'static> {
    let name = match key {
        Some(key) => {
            let (first, second) = key.as_bytes().split_at(16);
            format!("{}.{}.{SUFFIX}", hex::encode(first), hex::encode(second))
        }
        None => format!("any.{SUFFIX}"),
    };
    ServerName::DnsName(DnsName::try_from(name).expect("base 16 and dots are a host name"))
}
