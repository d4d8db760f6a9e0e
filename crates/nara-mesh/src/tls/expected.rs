//! Whom a client expects, in the form of the host name that rustls hands to the verifier and keys its sessions by.
//!
//! The name is never sent: there is no SNI. A session can so be resumed only with the key that it was begun with.

use nara_proto::identity::PublicKey;
use rustls::pki_types::{DnsName, ServerName};

/// A name that cannot be looked up (RFC 6761).
const SUFFIX: &str = "key.invalid";

/// The name for a key: its 32 bytes in base 16, in two labels, since a label has at most 63 characters.
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
