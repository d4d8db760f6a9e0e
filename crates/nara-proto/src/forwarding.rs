//! Requests and answers that are forwarded between the channel and plain HTTP: which headers are removed, and which
//! paths are refused.

use http::HeaderMap;
use http::header::{self, HeaderName};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Escaped in header values: everything but visible ASCII, the escape character, and delimiters.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'"').add(b',').add(b';');

/// Removes the hop-by-hop headers (RFC 9110, section 7.6.1), the headers that `Connection` names, and the headers for
/// which `is_reserved` returns true.
pub fn remove_headers(headers: &mut HeaderMap, is_reserved: impl Fn(&HeaderName) -> bool) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let removed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| named.contains(name) || is_connection_header(name) || is_reserved(name))
        .cloned()
        .collect();
    for name in removed {
        headers.remove(name);
    }
}

/// Returns whether a header is a hop-by-hop header.
pub fn is_connection_header(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::EXPECT
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
    ) || matches!(
        name.as_str(),
        // `Proxy`: CGI programs read it as the environment variable `HTTP_PROXY` (CVE-2016-5385).
        "keep-alive" | "proxy" | "proxy-connection" | "http2-settings"
    )
}

/// Returns whether a header identifies the sender of a message (`X-Nara-…`), in any spelling: gateway interfaces such
/// as CGI and WSGI replace `-` by other characters.
pub fn is_identity_header(name: &HeaderName) -> bool {
    let mut bytes = name.as_str().bytes();
    b"x-nara-".iter().all(|&wanted| {
        bytes.next().is_some_and(|byte| match wanted {
            b'-' => !byte.is_ascii_alphanumeric(),
            letter => byte == letter,
        })
    })
}

/// Returns whether a header identifies a sender or proves a message, in any spelling.
pub fn is_channel_header(name: &HeaderName) -> bool {
    is_identity_header(name)
        || matches!(
            &*plain(name),
            "signature" | "signature-input" | "accept-signature" | "content-digest"
        )
}

/// Returns whether a header names the origin of a request (RFC 7239 and its predecessors), in any spelling.
pub fn is_forwarding_header(name: &HeaderName) -> bool {
    let plain = plain(name);
    plain.starts_with("x-forwarded") || matches!(&*plain, "forwarded" | "x-real-ip")
}

fn plain(name: &HeaderName) -> String {
    name.as_str().replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

/// Returns whether a program may read a segment of this path differently: `.` or `..`, also with parameters (`..;x`),
/// or an encoded slash, backslash or NUL.
pub fn is_ambiguous_path(path: &str) -> bool {
    path.split('/').any(|segment| {
        let decoded: Vec<u8> = percent_decode_str(segment).collect();
        let name = decoded.split(|byte| *byte == b';').next();
        matches!(name, Some(b"." | b"..")) || decoded.iter().any(|byte| matches!(byte, b'/' | b'\\' | 0))
    })
}

/// Encodes a text as a header value: percent-encoded except for visible ASCII.
pub fn header_text(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn headers_of_a_connection_and_of_the_channel_stay_behind_in_any_spelling() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("accept", "text/plain"),
            ("cookie", "kept=1"),
            ("connection", "close, X-Secret"),
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("keep-alive", "timeout=5"),
            ("proxy", "http://evil.example"),
            ("x-nara-sender", "root"),
            ("x_nara_sender", "root"),
            ("x-nara_coverage", "channel"),
            ("x.nara.sender", "root"),
            ("x.forwarded~for", "127.0.0.1"),
            ("x-forwarded-for", "127.0.0.1"),
            ("forwarded", "for=127.0.0.1"),
            ("signature", "sig=:AA==:"),
            ("content-digest", "sha-256=:AA==:"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let kept = |headers: &HeaderMap| {
            let mut kept: Vec<String> = headers.keys().map(ToString::to_string).collect();
            kept.sort_unstable();
            kept
        };
        remove_headers(&mut headers, is_channel_header);
        assert_eq!(
            kept(&headers),
            [
                "accept",
                "cookie",
                "forwarded",
                "x-forwarded-for",
                "x.forwarded~for"
            ]
        );
        remove_headers(&mut headers, is_forwarding_header);
        assert_eq!(kept(&headers), ["accept", "cookie"]);
    }

    #[test]
    fn a_path_that_two_programs_read_differently_is_ambiguous() {
        for path in [
            "/",
            "/a%20b//c",
            "/.hidden/...",
            "//a",
            "",
            "/a;b=..",
            "/;x",
            "/%252e%252e",
        ] {
            assert!(!is_ambiguous_path(path), "{path}");
        }
        for path in [
            "/..",
            "/a/../b",
            "/%2e%2e/b",
            "/.%2E",
            "/a/%2f..",
            "/a%5c..",
            "/./a",
            "/a%00",
            "/a/..;/b",
            "/..;x=1",
            "/%2e%2e%3bx/b",
            "/.;/b",
        ] {
            assert!(is_ambiguous_path(path), "{path}");
        }
    }
}
