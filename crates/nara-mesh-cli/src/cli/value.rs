//! Parsers for argument values.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser};
use http::{HeaderName, HeaderValue};
use jiff::{Span, SpanRelativeTo};
use nara_mesh::defaults;
use nara_mesh::peers_file::HostAddress;
use nara_mesh::server::expose::Backend;
use nara_mesh::tls::TlsPolicy;
use nara_proto::peer::mesh_address;
use nara_proto::time::UnixNanos;

/// The longest accepted time limit.
const LONGEST: Duration = Duration::from_secs(86_400);

const DURATION_HELP: &str = "expected a number and a unit, such as 500ms, 5s or 10m";

/// Parses a duration of at most a day.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = time_span(text)?;
    if duration > LONGEST {
        return Err("longer than 24h, the maximum".to_owned());
    }
    Ok(duration)
}

/// Parses a duration of at most a day, except zero.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() {
        return Err("a limit of zero refuses everything".to_owned());
    }
    Ok(duration)
}

/// Parses how long a message may wait: from 1 s to 30 days, in whole seconds.
pub(super) fn expiry(text: &str) -> Result<Duration, String> {
    let span = Duration::from_secs(time_span(text)?.as_secs());
    if span.is_zero() || span > 30 * LONGEST {
        return Err("a message may wait from 1s to 30d".to_owned());
    }
    Ok(span)
}

/// Parses a duration of any length.
pub(super) fn time_span(text: &str) -> Result<Duration, String> {
    let span: Span = text.parse().map_err(|_| DURATION_HELP)?;
    // Months and years have no fixed length.
    let span = span.to_duration(SpanRelativeTo::days_are_24_hours());
    let duration = span.map_err(|_| DURATION_HELP)?;
    duration
        .try_into()
        .map_err(|_| "a time span cannot be negative".to_owned())
}

/// The value of `--listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    Address(SocketAddr),
    Host(HostAddress),
}

impl Listen {
    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Host(host) => host.port.unwrap_or(defaults::MESH_PORT),
        }
    }
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match mesh_address(text) {
            Some(address) => Ok(Self::Address(address)),
            None => text.parse().map(Self::Host),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host(host) => host.fmt(f),
        }
    }
}

/// Parses `ip:port`.
pub(super) fn socket(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "expected ip:port")
}

/// Parses a loopback address.
pub(super) fn loopback(text: &str) -> Result<SocketAddr, &'static str> {
    let address: SocketAddr = socket(text)?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err("the local API listens on loopback addresses only, such as 127.0.0.1:9635")
}

/// Parses `/PREFIX=BACKEND`.
pub(super) fn expose(text: &str) -> Result<Expose, String> {
    let (prefix, backend) = text
        .split_once('=')
        .ok_or("expected /PATH=http://127.0.0.1:PORT or /PATH=unix:/SOCKET")?;
    if !prefix.starts_with('/') {
        return Err(format!("{prefix:?} is not a path: it must begin with /"));
    }
    let backend = backend
        .parse::<Backend>()
        .map_err(|error| format!("{backend:?}: {error}"))?;
    Ok(Expose {
        prefix: prefix.to_owned(),
        backend,
    })
}

/// A local program that peers reach below a path.
#[derive(Clone, Debug)]
pub(crate) struct Expose {
    pub(crate) prefix: String,
    pub(crate) backend: Backend,
}

/// Parses `NAME: VALUE`.
pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME: VALUE")?;
    let parsed_name: Result<HeaderName, _> = name.trim().parse();
    let parsed_value: Result<HeaderValue, _> = value.trim().parse();
    Ok((
        parsed_name.map_err(|error| format!("{name:?}: {error}"))?,
        parsed_value.map_err(|error| format!("{value:?}: {error}"))?,
    ))
}

/// Parses a path; `~` is the home folder.
pub(super) fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|text: OsString| expand(Path::new(&text)))
}

fn expand(path: &Path) -> Result<PathBuf, String> {
    if path.as_os_str().is_empty() {
        return Err("the path is empty".to_owned());
    }
    if let Ok(below) = path.strip_prefix("~") {
        let home = std::env::home_dir().filter(|home| home.is_absolute());
        let home = home.ok_or("~ stands for the home folder, and HOME is not set")?;
        return Ok(home.join(below));
    }
    if path.to_string_lossy().starts_with('~') {
        return Err("~USER is not supported: write the whole path, or ./~…".to_owned());
    }
    Ok(path.to_owned())
}

/// Parses a policy for TLS.
pub(super) fn tls() -> impl TypedValueParser<Value = TlsPolicy> {
    PossibleValuesParser::new(["plain", "tls", "tls-only"]).try_map(|text| text.parse::<TlsPolicy>())
}

/// The start of a time range of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    All,
    Ago(Duration),
    At(UnixNanos),
}

impl Since {
    /// Returns the time in Unix nanoseconds.
    pub(crate) fn at(self, now: UnixNanos) -> UnixNanos {
        match self {
            Self::All => UnixNanos::new(i64::MIN),
            Self::Ago(ago) => now.saturating_sub(ago),
            Self::At(at) => at,
        }
    }
}

impl FromStr for Since {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "all" {
            return Ok(Self::All);
        }
        if let Ok(nanos) = text.parse() {
            return Ok(Self::At(UnixNanos::new(nanos)));
        }
        if let Ok(ago) = time_span(text) {
            return Ok(Self::Ago(ago));
        }
        let time: Option<jiff::Timestamp> = text.parse().ok();
        let nanos = time.and_then(|time| i64::try_from(time.as_nanosecond()).ok());
        nanos.map(|nanos| Self::At(UnixNanos::new(nanos))).ok_or(
            "expected `all`, a time span before now such as 10m or 30d, or a time such as 2026-01-22T17:00:00Z",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_all_a_time_span_or_a_time() {
        let now = UnixNanos::new(1_769_101_800_000_000_000);
        let since = |text: &str| text.parse::<Since>().unwrap().at(now).get();
        assert_eq!(since("all"), i64::MIN);
        for text in ["2026-01-22T17:00:00Z", "1769101200000000000", "10m"] {
            assert_eq!(since(text), 1_769_101_200_000_000_000, "{text}");
        }
        assert_eq!(since("30d"), now.get() - 30 * 86_400 * 1_000_000_000);
        assert!("yesterday".parse::<Since>().is_err());
    }

    #[test]
    fn a_limit_is_named_when_it_is_exceeded() {
        assert_eq!(timeout("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(timeout("1m 30s"), Ok(Duration::from_secs(90)));
        for (text, word) in [
            ("soon", "500ms"),
            ("2d", "24h"),
            ("0s", "zero"),
            ("-1s", "negative"),
            ("1mo", "500ms"),
        ] {
            let refused = timeout(text).unwrap_err();
            assert!(refused.contains(word), "{text}: {refused}");
        }
    }

    #[test]
    fn a_tilde_is_the_home_folder_or_refused() {
        let home = std::env::home_dir().unwrap();
        assert_eq!(expand(Path::new("~/nara")), Ok(home.join("nara")));
        assert_eq!(expand(Path::new("./~/nara")), Ok("./~/nara".into()));
        assert!(expand(Path::new("~bob/nara")).is_err());
        assert!(expand(Path::new("")).is_err());
    }
}
