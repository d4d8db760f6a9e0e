//! The routes of the application.

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use http::StatusCode;
use tower::ServiceExt as _;

use nara_proto::endpoint::PATHS;

/// The reason why routes collide.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The prefix cannot occur in a path, or has several spellings.
    #[error(
        "{prefix:?} cannot be a prefix of routes: write a `/` before each segment and none at the end, and use only \
         letters, digits, `-`, `_`, `.` and `~`"
    )]
    InvalidPrefix {
        /// The prefix as given.
        prefix: String,
    },
    /// Routes were merged more than once.
    #[error(
        "routes were merged twice: join them with axum::Router::merge first, or nest one of them below a prefix"
    )]
    MergedTwice,
    /// One of two nested routers would hide routes of the other.
    #[error(
        "routes are nested below both {first} and {second}: choose prefixes that do not contain each other"
    )]
    OverlappingPrefixes {
        /// The prefix that was given first.
        first: String,
        /// The prefix that was given second.
        second: String,
    },
    /// A nested router and one of the server's own paths would hide each other.
    #[error("routes below {prefix} collide with {path}, which this server needs: choose another prefix")]
    PrefixTaken {
        /// The prefix.
        prefix: String,
        /// The path of the server.
        path: &'static str,
    },
    /// A merged route matches one of the server's own paths, or the prefix of a nested router.
    #[error("the merged route {route} also matches {path}, which is taken: nest these routes below a prefix")]
    RouteTaken {
        /// The route as in the router.
        route: String,
        /// The path that it matches.
        path: String,
    },
}

/// The routes that the application adds to a server.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct UserRoutes {
    merged: Vec<Router>,
    nested: Vec<Nested>,
}

/// A router nested below a prefix.
#[derive(Clone, Debug)]
pub(in crate::server) struct Nested {
    pub(in crate::server) prefix: String,
    pub(in crate::server) router: Router,
    /// Whether requests are verified and answers signed.
    pub(in crate::server) signed: bool,
}

/// User routes that collide neither with each other nor with ours.
#[derive(Debug)]
pub(in crate::server) struct CheckedRoutes {
    pub(in crate::server) merged: Option<Router>,
    pub(in crate::server) nested: Vec<Nested>,
}

impl UserRoutes {
    pub(in crate::server) fn merge(&mut self, router: Router) {
        self.merged.push(router);
    }

    pub(in crate::server) fn nest(&mut self, prefix: &str, router: Router, signed: bool) {
        self.nested.push(Nested {
            prefix: prefix.to_owned(),
            router,
            signed,
        });
    }

    /// Checks that every route can be reached.
    pub(in crate::server) fn check(mut self) -> Result<CheckedRoutes, RouteError> {
        for (index, nested) in self.nested.iter().enumerate() {
            let before = self.nested[..index].iter().map(|nested| nested.prefix.as_str());
            check_prefix(&nested.prefix, before)?;
        }
        let merged = self.merged.pop();
        if !self.merged.is_empty() {
            return Err(RouteError::MergedTwice);
        }
        if let Some(router) = &merged {
            let below = self.nested.iter().flat_map(|nested| below(&nested.prefix));
            for path in PATHS.into_iter().map(str::to_owned).chain(below) {
                check_merged(router, path)?;
            }
        }
        Ok(CheckedRoutes {
            merged,
            nested: self.nested,
        })
    }
}

/// Checks that a prefix is well formed and hides neither a path of ours nor another prefix.
pub(in crate::server) fn check_prefix<'a>(
    prefix: &str,
    mut others: impl Iterator<Item = &'a str>,
) -> Result<(), RouteError> {
    if !is_prefix(prefix) {
        return Err(RouteError::InvalidPrefix {
            prefix: prefix.to_owned(),
        });
    }
    let collides = |path: &str| covers(prefix, path) || covers(path, prefix);
    if let Some(path) = PATHS.into_iter().find(|path| collides(path)) {
        return Err(RouteError::PrefixTaken {
            prefix: prefix.to_owned(),
            path,
        });
    }
    if let Some(first) = others.find(|other| collides(other)) {
        return Err(RouteError::OverlappingPrefixes {
            first: first.to_owned(),
            second: prefix.to_owned(),
        });
    }
    Ok(())
}

/// Returns paths that represent all paths below a prefix: a wildcard matches the last one.
pub(in crate::server) fn below(prefix: &str) -> [String; 3] {
    [prefix.to_owned(), format!("{prefix}/"), format!("{prefix}/~")]
}

/// Checks that no merged route matches a used path.
pub(in crate::server) fn check_merged(router: &Router, path: String) -> Result<(), RouteError> {
    match matched(router, &path) {
        Some(route) => Err(RouteError::RouteTaken { route, path }),
        None => Ok(()),
    }
}

impl CheckedRoutes {
    /// Returns whether any route accepts streams.
    pub(in crate::server) fn take_streams(&self) -> bool {
        self.merged.is_some() || self.nested.iter().any(|nested| nested.signed)
    }
}

/// Returns whether a path is `prefix` or below it.
pub(in crate::server) fn covers(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_prefix(prefix: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    prefix.strip_prefix('/').is_some_and(|rest| {
        rest.split('/').all(|segment| {
            !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(plain)
        })
    })
}

/// Returns the route of a router that matches a path, if any. No handler runs.
fn matched(router: &Router, path: &str) -> Option<String> {
    let tell = from_fn(async |request: Request, _: Next| {
        let mut response: Response = StatusCode::OK.into_response();
        if let Some(route) = request.extensions().get::<MatchedPath>() {
            response.extensions_mut().insert(route.clone());
        }
        response
    });
    let request = Request::builder().uri(path).body(Body::empty()).ok()?;
    // The layer answers at once.
    let response = router.clone().layer(tell).oneshot(request).now_or_never()?.ok()?;
    let route = response.extensions().get::<MatchedPath>()?;
    Some(route.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::*;

    async fn handler() -> StatusCode {
        unreachable!("a check runs no handler")
    }

    fn merged(route: &str) -> UserRoutes {
        let mut routes = UserRoutes::default();
        routes.merge(Router::new().route(route, get(handler)).fallback(handler));
        routes
    }

    fn nested(prefixes: &[&str]) -> Result<CheckedRoutes, RouteError> {
        let mut routes = UserRoutes::default();
        for prefix in prefixes {
            routes.nest(prefix, Router::new(), true);
        }
        routes.check()
    }

    #[test]
    fn a_merged_route_may_not_match_a_path_of_ours() {
        for route in ["/dm", "/{name}", "/events/{kind}", "/{*rest}"] {
            let error = merged(route).check().unwrap_err();
            assert!(
                matches!(&error, RouteError::RouteTaken { route: named, .. } if named == route),
                "{error}"
            );
        }
        for route in ["/", "/notes", "/dm/{id}", "/events", "/notes/{*rest}"] {
            assert!(merged(route).check().is_ok(), "{route}");
        }
    }

    #[test]
    fn a_merged_route_may_not_match_below_a_nested_prefix() {
        for (route, taken) in [
            ("/notes", true),
            ("/notes/", true),
            ("/{*rest}", true),
            ("/{one}/{two}", true),
            ("/note", false),
        ] {
            let mut routes = merged(if route == "/{*rest}" { "/x/{*rest}" } else { route });
            let prefix = if route == "/{*rest}" { "/x/notes" } else { "/notes" };
            routes.nest(prefix, Router::new(), true);
            let refused = matches!(routes.check(), Err(RouteError::RouteTaken { .. }));
            assert_eq!(refused, taken || route == "/{one}/{two}", "{route}");
        }
    }

    #[test]
    fn prefixes_may_not_overlap() {
        let overlapping = |error| matches!(error, Err(RouteError::OverlappingPrefixes { .. }));
        assert!(overlapping(nested(&["/notes", "/notes"])));
        assert!(overlapping(nested(&["/notes", "/notes/old"])));
        assert!(overlapping(nested(&["/notes/old", "/notes"])));
        assert!(nested(&["/notes", "/notebook", "/x/notes"]).is_ok());
    }

    #[test]
    fn a_prefix_may_not_collide_with_a_path_of_ours() {
        for prefix in ["/dm", "/dm/x", "/events", "/api", "/api/events"] {
            assert!(
                matches!(nested(&[prefix]), Err(RouteError::PrefixTaken { .. })),
                "{prefix}"
            );
        }
        assert!(nested(&["/dmx", "/events2", "/api2/events"]).is_ok());
    }

    #[test]
    fn a_prefix_has_one_spelling() {
        for prefix in [
            "", "/", "notes", "/notes/", "//notes", "/a//b", "/./a", "/a/..", "/{id}", "/a*", "/%61", "/ü",
        ] {
            assert!(
                matches!(nested(&[prefix]), Err(RouteError::InvalidPrefix { .. })),
                "{prefix}"
            );
        }
    }

    #[test]
    fn two_merged_routers_are_refused() {
        let mut routes = merged("/a");
        routes.merge(Router::new().route("/b", get(handler)));
        assert_eq!(routes.check().unwrap_err(), RouteError::MergedTwice);
    }
}
