//! Clean paths, as the router of v1 peers insists on them (docs/protocol/v1.md, section 6).

use std::borrow::Cow;

use axum::response::{IntoResponse as _, Response};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode, Uri, header};

/// What to do with the path of a request.
pub(super) enum Cleaned {
    /// Route it; the path may be another spelling of the one on the request line.
    Route(Uri),
    /// The peer must ask for another path.
    Redirect(Response),
}

/// Redirects a path with empty or dot segments, and decodes percent-encoded spellings of known paths, which
/// are plain ASCII.
pub(super) fn clean(uri: Uri, method: &Method) -> Cleaned {
    let path = uri.path();
    let cleaned = without_dots(path);
    if cleaned != path {
        return Cleaned::Redirect(redirect(&cleaned, uri.query(), method));
    }
    if path.contains('%')
        && let Some(decoded) = decoded(path)
        && let Some(uri) = with_path(&uri, &decoded)
    {
        return Cleaned::Route(uri);
    }
    Cleaned::Route(uri)
}

/// Resolves `.`, `..` and empty segments; a trailing slash stays.
fn without_dots(path: &str) -> Cow<'_, str> {
    let mut segments = path.split('/');
    let rooted = segments.next() == Some("");
    let mut rest = segments.clone().peekable();
    let mut unclean = !rooted;
    while let Some(segment) = rest.next() {
        let last = rest.peek().is_none();
        unclean |= matches!(segment, "." | "..") || (segment.is_empty() && !last);
    }
    if !unclean {
        return Cow::Borrowed(path);
    }
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let mut cleaned = format!("/{}", kept.join("/"));
    if path.ends_with('/') && cleaned != "/" {
        cleaned.push('/');
    }
    Cow::Owned(cleaned)
}

/// Decodes each segment, unless that would make other segments of them.
fn decoded(path: &str) -> Option<String> {
    let segments: Option<Vec<_>> = path
        .split('/')
        .map(|segment| {
            let segment = percent_encoding::percent_decode_str(segment).decode_utf8().ok()?;
            let plain = segment.bytes().all(|byte| byte.is_ascii_graphic());
            (plain && !segment.contains(['/', '?', '#', '%'])).then_some(segment)
        })
        .collect();
    Some(segments?.join("/"))
}

fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let path_and_query = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path_and_query).ok()?);
    Uri::from_parts(parts).ok()
}

fn redirect(path: &str, query: Option<&str>, method: &Method) -> Response {
    let location = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let Ok(value) = HeaderValue::try_from(&location) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
    response.headers_mut().insert(header::LOCATION, value);
    // Other methods get no body. A path in a request line has no character that HTML would take for a tag,
    // but it may have an apostrophe or an ampersand.
    if matches!(*method, Method::GET | Method::HEAD) {
        let escaped = location
            .replace('&', "&amp;")
            .replace('\'', "&#39;")
            .replace('"', "&#34;");
        let escaped = escaped.replace('<', "&lt;").replace('>', "&gt;");
        let page = format!("<a href=\"{escaped}\">Temporary Redirect</a>.\n\n");
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, html);
        *response.body_mut() = page.into();
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unclean_paths_are_cleaned_and_clean_ones_kept() {
        for (path, expected) in [
            ("/dm", "/dm"),
            ("/dm/", "/dm/"),
            ("/", "/"),
            ("//dm", "/dm"),
            ("/./dm", "/dm"),
            ("/a/../dm", "/dm"),
            ("/../dm", "/dm"),
            ("/events//sync", "/events/sync"),
            ("//dm//", "/dm/"),
            ("//", "/"),
        ] {
            assert_eq!(without_dots(path), expected, "{path}");
        }
    }

    #[test]
    fn only_harmless_escapes_are_decoded() {
        assert_eq!(decoded("/d%6D").as_deref(), Some("/dm"));
        for kept in ["/events%2Fsync", "/%00", "/a%3Fb", "/%ff", "/%2e%25"] {
            assert_eq!(decoded(kept), None, "{kept}");
        }
    }
}
