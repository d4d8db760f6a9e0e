//! Other spellings of our own paths that the router of v1 peers accepts (docs/protocol/v1.md, section 6).

use std::borrow::Cow;
use std::ops::ControlFlow;

use axum::response::{IntoResponse as _, Response};
use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode, Uri, header};
use nara_proto::endpoint::PATHS;

/// Routes a percent-encoded spelling of one of our paths to that path, and redirects a path with empty or dot segments;
/// `Break` contains that answer. No other path is redirected, so that a peer cannot choose a redirect's target.
pub(super) fn respell(uri: &mut Uri) -> ControlFlow<Response> {
    let path = uri.path();
    let Some(ours) = (!PATHS.contains(&path)).then(|| spelled(path)).flatten() else {
        return ControlFlow::Continue(());
    };
    let query = uri.query();
    let target = query.map_or_else(|| ours.to_owned(), |query| format!("{ours}?{query}"));
    let same_segments = path.split('/').count() == ours.split('/').count();
    if !same_segments {
        let Ok(location) = HeaderValue::try_from(target) else {
            return ControlFlow::Break(StatusCode::BAD_REQUEST.into_response());
        };
        let redirect = (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]);
        return ControlFlow::Break(redirect.into_response());
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    if let Ok(respelled) = Uri::from_parts(parts) {
        *uri = respelled;
    }
    ControlFlow::Continue(())
}

/// Returns our path that this path resolves to: empty and dot segments are resolved, and each segment is
/// percent-decoded.
fn spelled(path: &str) -> Option<&'static str> {
    let mut segments: Vec<Cow<'_, str>> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(percent_encoding::percent_decode_str(segment).decode_utf8().ok()?),
        }
    }
    // A trailing slash makes a different path.
    let is = |ours: &&str| !path.ends_with('/') && ours[1..].split('/').eq(segments.iter().map(|s| &**s));
    PATHS.into_iter().find(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_a_series_from_the_start() {
        assert_eq!(PATHS[..], crate::metrics::ENDPOINTS[..PATHS.len()]);
    }

    #[test]
    fn only_spellings_of_our_own_paths_are_known() {
        for (path, ours) in [
            ("//dm", Some("/dm")),
            ("/./dm", Some("/dm")),
            ("/a/../dm", Some("/dm")),
            ("/../dm", Some("/dm")),
            ("/events//sync", Some("/events/sync")),
            ("/d%6D", Some("/dm")),
            ("/events/syn%63", Some("/events/sync")),
            ("/events%2Fsync", None),
            ("/dm/", None),
            ("//dm//", None),
            ("/%64m%3Fb", None),
            ("/%ff", None),
            ("/", None),
            ("//", None),
            ("/./\\evil/", None),
            ("//evil.example/", None),
        ] {
            assert_eq!(spelled(path), ours, "{path}");
        }
    }
}
