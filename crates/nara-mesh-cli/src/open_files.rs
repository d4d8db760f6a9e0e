//! The limit on open files: each connection needs one.

/// Open files besides peer connections: ledger, outgoing calls, standard streams.
const OTHERS: u64 = 512;

/// Raises the limit on open files as far as allowed, and warns if it is too low for this many connections.
#[cfg(unix)]
pub(crate) fn raise(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let wanted = u64::try_from(connections)
        .unwrap_or(u64::MAX)
        .saturating_add(OTHERS);
    let before = getrlimit(Resource::Nofile);
    let allowed = before.maximum.unwrap_or(u64::MAX);
    let limit = |current: Option<u64>| current.unwrap_or(u64::MAX);
    if limit(before.current) < wanted {
        let raised = Rlimit {
            current: Some(wanted.min(allowed)),
            maximum: before.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "cannot raise the limit on open files");
        }
    }
    let now = limit(getrlimit(Resource::Nofile).current);
    if now < wanted {
        tracing::warn!(
            limit = now,
            wanted,
            "this process may open {now} files, but {connections} connections need {wanted}: peers may be refused; \
             raise the limit (`ulimit -Hn`, for systemd LimitNOFILE={wanted}), or lower --limit-connections"
        );
    }
}

#[cfg(not(unix))]
pub(crate) fn raise(_connections: usize) {}
