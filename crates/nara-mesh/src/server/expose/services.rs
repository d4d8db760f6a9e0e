//! Local programs that are added and removed while a nara runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::Uri;
use http::uri::PathAndQuery;
use nara_proto::identity::NaraName;

use super::{Backend, Proxy};
use crate::server::VerifiedSender;
use crate::server::answer::rejection::Rejection;
use crate::server::route::user::{RouteError, below, check_merged, check_prefix, covers};

/// Local programs below prefixes, added and removed while a nara runs: for
/// [`services`](crate::server::MeshServerBuilder::services). Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Services(Arc<RwLock<Table>>);

#[derive(Debug, Default)]
struct Table {
    programs: BTreeMap<String, Arc<Program>>,
    /// The prefixes of nested routes.
    taken: Vec<String>,
    merged: Option<Router>,
}

#[derive(Debug)]
struct Program {
    proxy: Proxy,
    /// The number of forwarded requests, and the sender of the last one.
    given: Mutex<(u64, Option<NaraName>)>,
}

impl Services {
    /// Forwards requests below `prefix`, such as `/notes`, to a program from now on, and replaces an earlier program of
    /// the same prefix. See [`Backend::router`] for `answer_timeout`.
    ///
    /// # Errors
    /// [`RouteError`] if the prefix is malformed, or hides a path of the server, other routes or another program.
    pub fn put(&self, prefix: &str, backend: Backend, answer_timeout: Duration) -> Result<(), RouteError> {
        let mut table = self.write();
        let programs = table.programs.keys().filter(|other| *other != prefix);
        check_prefix(prefix, programs.chain(&table.taken).map(String::as_str))?;
        if let Some(merged) = &table.merged {
            for path in below(prefix) {
                check_merged(merged, path)?;
            }
        }
        let program = Program {
            proxy: Proxy::new(backend, answer_timeout),
            given: Mutex::default(),
        };
        table.programs.insert(prefix.to_owned(), Arc::new(program));
        Ok(())
    }

    /// Removes a program; requests in progress continue. Returns whether it existed.
    pub fn remove(&self, prefix: &str) -> bool {
        self.write().programs.remove(prefix).is_some()
    }

    /// Returns the programs, by prefix.
    pub fn programs(&self) -> Vec<(String, Backend)> {
        let table = self.read();
        let programs = table.programs.iter();
        programs
            .map(|(prefix, program)| (prefix.clone(), program.proxy.backend.clone()))
            .collect()
    }

    /// Returns the number of forwarded requests, and the sender of the last one; `None` without such a program.
    pub fn requests(&self, prefix: &str) -> Option<(u64, Option<NaraName>)> {
        let program = self.read().programs.get(prefix)?.clone();
        Some(program.given().clone())
    }

    /// Reserves the paths of the server's routes.
    pub(in crate::server) fn reserve_paths(&self, taken: Vec<String>, merged: Option<Router>) {
        let mut table = self.write();
        table.taken = taken;
        table.merged = merged;
    }

    /// Returns whether a path belongs to a program.
    pub(in crate::server) fn has(&self, path: &str) -> bool {
        self.read().programs.keys().any(|prefix| covers(prefix, path))
    }

    /// Returns a router that forwards each request to the program of its path.
    pub(in crate::server) fn router(&self) -> Router {
        let services = self.clone();
        Router::new().fallback(async move |sender: VerifiedSender, request: Request| {
            services.pass_on(&sender, request).await
        })
    }

    async fn pass_on(&self, sender: &VerifiedSender, mut request: Request) -> Response {
        let path = request.uri().path();
        let found = {
            let table = self.read();
            let mut programs = table.programs.iter();
            programs
                .find(|(prefix, _)| covers(prefix, path))
                .map(|(prefix, program)| (without(prefix, request.uri()), prefix.clone(), program.clone()))
        };
        // The program may have been removed since the request was routed.
        let Some((Some(rest), prefix, program)) = found else {
            return Rejection::NotFound.into_response();
        };
        *request.uri_mut() = rest;
        {
            let mut given = program.given();
            *given = (given.0.saturating_add(1), Some(sender.name().clone()));
        }
        program.proxy.pass_on(sender, &prefix, request).await
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Program {
    fn given(&self) -> MutexGuard<'_, (u64, Option<NaraName>)> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a URI without a prefix of its path.
fn without(prefix: &str, uri: &Uri) -> Option<Uri> {
    let rest = uri.path().strip_prefix(prefix)?;
    let slash = if rest.is_empty() { "/" } else { "" };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let target = PathAndQuery::try_from(format!("{slash}{rest}{query}")).ok()?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::*;

    #[test]
    fn a_program_may_hide_neither_routes_nor_another_program() {
        let services = Services::default();
        let merged = Router::new().route("/merged/{id}", get(async || ()));
        services.reserve_paths(vec!["/nested".to_owned()], Some(merged));
        let put = |prefix: &str| services.put(prefix, "unix:/x".parse().unwrap(), Backend::ANSWER_TIMEOUT);
        put("/notes").unwrap();
        put("/notes").unwrap();
        for (prefix, is_refused) in [
            ("/dm", true),
            ("/events", true),
            ("/nested/below", true),
            ("/merged", true),
            ("/notes/old", true),
            ("notes", true),
            ("/notebook", false),
            ("/a/b", false),
        ] {
            assert_eq!(put(prefix).is_err(), is_refused, "{prefix}");
        }
        assert!(services.has("/notes/1") && !services.has("/notesx"));
        assert!(services.remove("/notes") && !services.remove("/notes"));
        assert!(!services.has("/notes/1"));
    }

    #[test]
    fn a_program_sees_paths_without_its_prefix() {
        for (path, rest) in [("/a/b", "/"), ("/a/b?x=1", "/?x=1"), ("/a/b/c%2Fd?x", "/c%2Fd?x")] {
            assert_eq!(without("/a/b", &path.parse().unwrap()).unwrap(), rest);
        }
    }
}
