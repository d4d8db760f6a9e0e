//! The distributed trace of a request: the headers `traceparent` and `tracestate` of the W3C Recommendation *Trace
//! Context*. No signature covers them, so only ids are taken from them.

use std::fmt;
use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::encoding::hex_encode;

/// The header with the ids of the trace and of the caller's span.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The header with the data of tracing systems.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The maximum length of a `traceparent`: later versions may be longer than ours.
const MAX_PARENT: usize = 512;

/// The length of a `traceparent` of version 00.
const LEN: usize = 55;

/// The maximum length of a forwarded `tracestate`: the minimum that section 3.3.1.5 requires.
const MAX_STATE: usize = 512;

/// The maximum number of members of a `tracestate`.
const MAX_MEMBERS: usize = 32;

/// The only flag of version 00: the caller may have recorded the trace.
const SAMPLED: u8 = 1;

/// The identity of a trace and of the caller's span. `Display` and `FromStr` use the value of the header
/// [`TRACEPARENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: [u8; 16],
    parent_id: [u8; 8],
    flags: u8,
}

/// The error for a text that is not a `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a traceparent: 00-, 32 and 16 hexadecimal digits in lower case that are not all zero, and 2 more"
)]
pub struct InvalidTraceParent;

impl TraceParent {
    /// Returns a new trace that begins with a request, from random bytes, and that is not recorded yet. `None` if the
    /// bytes are zero.
    pub fn new(trace_id: [u8; 16], parent_id: [u8; 8]) -> Option<Self> {
        (trace_id != [0; 16] && parent_id != [0; 8]).then_some(Self {
            trace_id,
            parent_id,
            flags: 0,
        })
    }

    /// Returns the id of the trace, in hexadecimal digits.
    pub fn trace_id(&self) -> String {
        hex_encode(&self.trace_id)
    }

    /// Returns the id of the caller's span, in hexadecimal digits.
    pub fn parent_id(&self) -> String {
        hex_encode(&self.parent_id)
    }

    /// Extracts the trace from headers. Removes malformed, repeated and overlong headers, and a `tracestate` without
    /// its `traceparent`. A later version becomes version 00.
    pub fn take_in(headers: &mut HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let parent = match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok().and_then(|text| text.parse::<Self>().ok()),
            _ => None,
        };
        let Some(parent) = parent else {
            headers.remove(TRACEPARENT);
            headers.remove(TRACESTATE);
            return None;
        };
        let state = state(headers);
        headers.remove(TRACESTATE);
        parent.write_to(headers);
        if let Some(state) = state {
            headers.insert(TRACESTATE, state);
        }
        Some(parent)
    }

    /// Writes the header [`TRACEPARENT`].
    pub fn write_to(&self, headers: &mut HeaderMap) {
        let value = HeaderValue::try_from(self.to_string());
        headers.insert(TRACEPARENT, value.expect("digits and dashes are ASCII"));
    }
}

/// Joins all lines of the `tracestate`; `None` if it is invalid.
fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines = headers.get_all(TRACESTATE).iter();
    let lines: Option<Vec<&str>> = lines.map(|line| line.to_str().ok()).collect();
    let text = lines?.join(",");
    let members = text.split(',').map(|member| member.trim_matches([' ', '\t']));
    let mut keys: Vec<&str> = Vec::new();
    for member in members.filter(|member| !member.is_empty()) {
        let (key, value) = member.split_once('=')?;
        if !is_key(key) || !is_value(value) || keys.contains(&key) || keys.len() == MAX_MEMBERS {
            return None;
        }
        keys.push(key);
    }
    (!keys.is_empty() && text.len() <= MAX_STATE).then(|| HeaderValue::try_from(text).ok())?
}

fn is_key(key: &str) -> bool {
    let is_first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    key.len() <= 256
        && key.bytes().next().is_some_and(is_first)
        && key
            .bytes()
            .all(|byte| is_first(byte) || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@'))
}

fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len())
        && !value.ends_with(' ')
        && value
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'='))
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let bytes = text.as_bytes();
        if bytes.len() > MAX_PARENT || bytes.iter().any(u8::is_ascii_uppercase) {
            return Err(InvalidTraceParent);
        }
        let (ours, rest) = bytes.split_at_checked(LEN).ok_or(InvalidTraceParent)?;
        let [v1, v2, b'-', ids @ .., b'-', f1, f2] = ours else {
            return Err(InvalidTraceParent);
        };
        let (trace_id, parent_id) = ids.split_at_checked(32).ok_or(InvalidTraceParent)?;
        let parent_id = parent_id.strip_prefix(b"-").ok_or(InvalidTraceParent)?;
        let [version] = digits(&[*v1, *v2])?;
        let [flags] = digits(&[*f1, *f2])?;
        let is_whole = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        let named = Self::new(digits(trace_id)?, digits(parent_id)?);
        let named = named.filter(|_| is_whole).ok_or(InvalidTraceParent)?;
        Ok(Self {
            flags: flags & SAMPLED,
            ..named
        })
    }
}

fn digits<const N: usize>(text: &[u8]) -> Result<[u8; N], InvalidTraceParent> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidTraceParent)?;
    Ok(bytes)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{}-{}-{:02x}",
            self.trace_id(),
            self.parent_id(),
            self.flags
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let lines = lines.iter();
        let lines = lines.map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        lines.collect()
    }

    /// Returns the extracted trace, and the headers that are left.
    fn taken(lines: &[(HeaderName, &str)]) -> (Option<TraceParent>, Option<String>, Option<String>) {
        let mut headers = headers(lines);
        let parent = TraceParent::take_in(&mut headers);
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        (parent, text(TRACEPARENT), text(TRACESTATE))
    }

    #[test]
    fn a_traceparent_is_read_and_written_in_its_one_spelling() {
        for flags in ["00", "01"] {
            let text = format!("00-{TRACE}-{SPAN}-{flags}");
            let parent: TraceParent = text.parse().unwrap();
            assert_eq!(parent.to_string(), text);
            assert_eq!(
                (parent.trace_id(), parent.parent_id()),
                (TRACE.to_owned(), SPAN.to_owned())
            );
        }
        // Flags that version 00 does not define are not forwarded.
        let parent: TraceParent = format!("00-{TRACE}-{SPAN}-ff").parse().unwrap();
        assert!(parent.to_string().ends_with("-01"));
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let ours = format!("00-{TRACE}-{SPAN}-01");
        for text in [
            format!("01-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01-what-the-future-will-be"),
        ] {
            assert_eq!(text.parse::<TraceParent>().unwrap().to_string(), ours, "{text}");
        }
        let long = format!("cc-{TRACE}-{SPAN}-01-{}", "x".repeat(MAX_PARENT));
        assert_eq!(long.parse::<TraceParent>(), Err(InvalidTraceParent));
    }

    #[test]
    fn an_invalid_traceparent_is_refused() {
        let zero = "0".repeat(32);
        for text in [
            String::new(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-0"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-x"),
            format!("01-{TRACE}-{SPAN}-01x"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{zero}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zero[..16]),
            format!("00-{TRACE}{SPAN}--01"),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-0x"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("00-{}é-{SPAN}-01", &TRACE[..30]),
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(InvalidTraceParent), "{text:?}");
        }
        assert_eq!(TraceParent::new([0; 16], [1; 8]), None);
        assert_eq!(TraceParent::new([1; 16], [0; 8]), None);
    }

    #[test]
    fn headers_keep_what_is_valid_and_lose_the_rest() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let (read, left, state) = taken(&[
            (TRACEPARENT, &parent),
            (TRACESTATE, "rojo=00f067aa0ba902b7,\tcongo=t61rcWkgMzE"),
            (TRACESTATE, "t@v-1=a b"),
        ]);
        assert_eq!(read.map(|read| read.to_string()).as_ref(), Some(&parent));
        assert_eq!(left.as_ref(), Some(&parent));
        assert_eq!(
            state.as_deref(),
            Some("rojo=00f067aa0ba902b7,\tcongo=t61rcWkgMzE,t@v-1=a b")
        );
        let nothing = (None, None, None);
        assert_eq!(taken(&[]), nothing);
        assert_eq!(taken(&[(TRACESTATE, "a=1")]), nothing);
        assert_eq!(taken(&[(TRACEPARENT, &parent), (TRACEPARENT, &parent)]), nothing);
        assert_eq!(taken(&[(TRACEPARENT, "nonsense"), (TRACESTATE, "a=1")]), nothing);
        let many = (0..=MAX_MEMBERS).map(|number| format!("k{number}=1"));
        let many = many.collect::<Vec<_>>().join(",");
        let long = format!("a={},b={}", "x".repeat(256), "x".repeat(256));
        for state in [
            "", ",", "a", "a=", "=1", "A=1", "a=1,a=2", "a=1=2", "a b=1", &many, &long,
        ] {
            let (read, left, state) = taken(&[(TRACEPARENT, &parent), (TRACESTATE, state)]);
            assert!(read.is_some() && left.is_some());
            assert_eq!(state, None);
        }
    }

    proptest! {
        #[test]
        fn any_headers_are_parsed_and_the_remaining_ones_parse_the_same(parent in "\\PC{0,80}", state in "\\PC{0,80}") {
            let lines = [(TRACEPARENT, parent), (TRACESTATE, state)];
            let lines = lines.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?)));
            let mut headers: HeaderMap = lines.collect();
            let first = TraceParent::take_in(&mut headers);
            let left = headers.clone();
            prop_assert_eq!(TraceParent::take_in(&mut headers), first);
            prop_assert_eq!(headers, left);
        }
    }
}
