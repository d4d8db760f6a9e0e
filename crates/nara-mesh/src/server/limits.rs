//! What a server grants to its peers, and the quotas that hold it.

pub(in crate::server) mod admission;
pub(in crate::server) mod answer_bytes;
pub(in crate::server) mod body_bytes;
pub(in crate::server) mod quota;
pub(in crate::server) mod rates;
pub(in crate::server) mod settings;
pub(in crate::server) mod turns;
