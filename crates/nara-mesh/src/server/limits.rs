//! The limits of a server, and the quotas that enforce them.

pub(in crate::server) mod admission;
pub(in crate::server) mod answer_bytes;
pub(in crate::server) mod body_bytes;
pub(in crate::server) mod quota;
pub(in crate::server) mod rates;
pub(in crate::server) mod settings;
pub(in crate::server) mod turns;
