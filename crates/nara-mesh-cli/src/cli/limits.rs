//! The limits of the server: each field of [`ServerLimits`] is a key of the configuration file and a flag.

use std::fmt;
use std::time::Duration;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use nara_mesh::server::{RateLimit, ServerLimits};

use super::value;

/// A field of [`ServerLimits`] as a setting.
struct Limit {
    /// The key in the configuration file.
    key: &'static str,
    /// The argument.
    id: &'static str,
    /// Whether the short help shows the flag.
    is_common: bool,
    help: &'static str,
    field: Field,
}

/// Accesses a value in the limits.
type Place<T> = fn(&mut ServerLimits) -> &mut T;

/// The accessor of a value, and its syntax.
enum Field {
    Bytes(Place<usize>),
    Count(Place<usize>),
    Days(Place<Duration>),
    Number(Place<u32>),
    Rate(Place<Option<RateLimit>>),
    Time(Place<Duration>),
}

/// A parsed value and its accessor.
#[derive(Clone, Copy, Debug)]
enum Value {
    Count(Place<usize>, usize),
    Number(Place<u32>, u32),
    Rate(Place<Option<RateLimit>>, Option<RateLimit>),
    Time(Place<Duration>, Duration),
}

impl Value {
    fn set(self, limits: &mut ServerLimits) {
        match self {
            Self::Count(place, value) => *place(limits) = value,
            Self::Number(place, value) => *place(limits) = value,
            Self::Rate(place, value) => *place(limits) = value,
            Self::Time(place, value) => *place(limits) = value,
        }
    }
}

macro_rules! limits {
    ($($field:ident: $kind:ident, $shown:ident, $help:literal;)+) => {
        const LIMITS: &[Limit] = &[$(Limit {
            key: concat!("limits.", stringify!($field)),
            id: concat!("limit_", stringify!($field)),
            is_common: limits!(@$shown),
            help: $help,
            field: Field::$kind(|limits| &mut limits.$field),
        }),+];
    };
    (@common) => { true };
    (@seldom) => { false };
}

limits! {
    answer_bytes_in_flight: Bytes, seldom, "Bytes of answers with events held until they are sent";
    answer_bytes_in_flight_per_peer: Bytes, seldom, "Bytes of answers with events held for one peer";
    body_bytes_in_flight: Bytes, common, "Bytes of request bodies in memory";
    body_bytes_in_flight_per_peer: Bytes, seldom, "Bytes of request bodies of one peer in memory";
    body_progress: Time, seldom, "How long a peer may be silent within a request body";
    body_total: Time, seldom, "How long a whole request body may take";
    checkpoint_answers_per_address: Count, seldom, "Answers with all checkpoints in flight to one address";
    checkpoint_requests_per_address: Rate, seldom, "How often one address may ask for all checkpoints";
    connections: Count, common, "Connections open at once; further ones wait";
    connections_per_address: Count, common, "Connections open at once from one address; further ones get 503";
    discoveries: Count, seldom, "Unknown senders asked for their keys at once";
    discoveries_per_minute: Number, seldom, "Unknown senders of one address asked for their keys in a minute";
    handshakes_per_address: Rate, common, "How often one address may begin TLS";
    header_bytes: Bytes, seldom, "Bytes of the start line and headers of a request";
    header_read: Time, seldom, "How long start line and headers may take, and a handshake";
    idle: Time, common, "How long a connection may stay open without a request";
    imports: Count, seldom, "Imports in flight";
    imports_per_address: Count, seldom, "Imports in flight from one address";
    reads: Count, seldom, "Answers with events read and encoded at once";
    replay_capacity: Count, seldom, "Signed requests remembered against replay";
    replies: Count, seldom, "Replies to runtime messages in flight";
    requests_in_flight: Count, common, "Requests in progress; further ones get 503";
    requests_in_flight_per_peer: Count, common, "Requests of one peer in progress; further ones get 429";
    requests_per_address: Rate, common, "How often one address may send a request; further ones get 429";
    requests_per_peer: Rate, common, "How often one peer may send a request; further ones get 429";
    route_answer_bytes: Bytes, seldom, "Bytes of an answer of an exposed program that is signed as a whole";
    route_body_bytes: Bytes, seldom, "Bytes of a request body for an exposed program";
    route_time: Time, seldom, "How long an exposed program may take";
    stash_age: Days, seldom, "How long a stash is kept for a peer that does not store it again";
    stash_bytes: Bytes, seldom, "Bytes of one stash";
    stash_owners: Count, seldom, "Peers for which a stash is kept";
    stream_keep_alive: Time, seldom, "How often a stream sends a keep-alive";
    streams: Count, common, "Streams open at once";
    streams_per_peer: Count, common, "Streams of one peer open at once";
    zine_events: Count, seldom, "Events in the answer to a zine";
}

/// Returns the keys of the configuration file with the ids of their arguments.
pub(crate) fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    LIMITS.iter().map(|limit| (limit.key, limit.id))
}

/// The limits set by the arguments.
#[derive(Clone, Debug, Default)]
pub(crate) struct LimitArgs(pub(crate) ServerLimits);

impl Args for LimitArgs {
    fn augment_args(command: Command) -> Command {
        let mut defaults = ServerLimits::default();
        LIMITS.iter().fold(command, |command, limit| {
            let (value_name, default) = limit.field.describe(&mut defaults);
            let field = &limit.field;
            command.arg(
                Arg::new(limit.id)
                    .long(limit.id.replace('_', "-"))
                    .value_name(value_name)
                    .default_value(default)
                    .value_parser(move |text: &str| field.parse(text))
                    .help(limit.help)
                    .help_heading("Limits")
                    .hide_short_help(!limit.is_common),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for LimitArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for limit in LIMITS {
            if let Some(value) = matches.get_one::<Value>(limit.id) {
                value.set(&mut self.0);
            }
        }
        Ok(())
    }
}

impl Field {
    /// Returns the placeholder for the values and the value in these limits.
    fn describe(&self, limits: &mut ServerLimits) -> (&'static str, String) {
        match self {
            Self::Bytes(field) => ("BYTES", Bytes(*field(limits)).to_string()),
            Self::Count(field) => ("N", field(limits).to_string()),
            Self::Number(field) => ("N", field(limits).to_string()),
            Self::Rate(field) => ("RATE", rate_text(*field(limits))),
            Self::Time(field) => ("DURATION", format!("{}s", field(limits).as_secs())),
            Self::Days(field) => ("DAYS", (field(limits).as_secs() / DAY).to_string()),
        }
    }

    fn parse(&self, text: &str) -> Result<Value, String> {
        Ok(match self {
            Self::Bytes(place) => Value::Count(*place, bytes(text)?),
            Self::Count(place) => Value::Count(*place, number(text)?),
            Self::Days(place) => {
                let days: u32 = number(text)?;
                if days > MOST_DAYS {
                    return Err(format!("more than {MOST_DAYS} days, the maximum"));
                }
                Value::Time(*place, Duration::from_secs(u64::from(days) * DAY))
            }
            Self::Number(place) => Value::Number(*place, number(text)?),
            Self::Rate(place) => Value::Rate(*place, rate(text)?),
            Self::Time(place) => match value::timeout(text)? {
                time if time < SHORTEST => {
                    return Err("a limit below 10ms is too short for any request".to_owned());
                }
                time => Value::Time(*place, time),
            },
        })
    }
}

const DAY: u64 = 86_400;

/// A hundred years.
const MOST_DAYS: u32 = 36_500;

/// The shortest time limit: no request completes in less.
const SHORTEST: Duration = Duration::from_millis(10);

/// A number of bytes, parsed with units.
struct Bytes(usize);

const UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS
            .iter()
            .find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size));
        match unit {
            Some((name, size)) => write!(f, "{}{name}", self.0 / size),
            None => write!(f, "{}", self.0),
        }
    }
}

fn bytes(text: &str) -> Result<usize, String> {
    let unit = UNITS
        .iter()
        .find_map(|(name, size)| Some((text.strip_suffix(name)?, *size)));
    let (digits, size) = unit.unwrap_or((text, 1));
    let count: usize = digits
        .trim_end()
        .parse()
        .map_err(|_| "expected a number of bytes, such as 65536, 64KiB or 1MiB".to_owned())?;
    let bytes = count
        .checked_mul(size)
        .ok_or("the number of bytes is too large")?;
    if bytes == 0 {
        return Err(NOTHING.to_owned());
    }
    Ok(bytes)
}

const NOTHING: &str = "a limit of zero refuses everything";

/// The largest number of anything: beyond every machine, and no counter overflows.
const MOST: u32 = 1_000_000_000;

/// Parses a whole number of at least 1.
fn number<N: TryFrom<u32>>(text: &str) -> Result<N, String> {
    let expected = || format!("expected a whole number of at most {MOST}");
    match text.parse::<u32>() {
        Ok(0) => Err(NOTHING.to_owned()),
        Ok(number) if number <= MOST => N::try_from(number).map_err(|_| expected()),
        _ => Err(expected()),
    }
}

fn rate_text(rate: Option<RateLimit>) -> String {
    rate.map_or_else(
        || "none".to_owned(),
        |rate| format!("{}/s+{}", rate.per_second, rate.burst),
    )
}

fn rate(text: &str) -> Result<Option<RateLimit>, String> {
    const EXPECTED: &str = "expected N/s+BURST, such as 100/s+200 (100 a second, 200 at once after a pause), or none for no limit";
    if text == "none" {
        return Ok(None);
    }
    let (per_second, burst) = text.split_once("/s").ok_or(EXPECTED)?;
    let per_second: u32 = number(per_second).map_err(|_| EXPECTED)?;
    let burst = match burst.strip_prefix('+') {
        Some(burst) => number(burst).map_err(|_| EXPECTED)?,
        None if burst.is_empty() => per_second,
        None => return Err(EXPECTED.to_owned()),
    };
    Ok(Some(RateLimit::new(per_second, burst)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_of_the_server_can_be_set() {
        let shown = format!("{:?}", ServerLimits::default());
        let shown = shown.strip_prefix("ServerLimits { ").unwrap();
        // At the top level only: nested limits are in nested braces.
        let (mut depth, mut fields) = (0, String::new());
        for character in shown.chars() {
            depth += i32::from(character == '{') - i32::from(character == '}');
            if depth == 0 {
                fields.push(character);
            }
        }
        let names: Vec<&str> = fields
            .split(", ")
            .filter_map(|field| field.split_once(": ").map(|(name, _)| name))
            .collect();
        let keys: Vec<&str> = keys()
            .map(|(key, _)| key.strip_prefix("limits.").unwrap())
            .collect();
        assert_eq!(keys, names);
        assert!(keys.len() > 30);
    }

    #[test]
    fn the_default_of_every_limit_reads_as_itself() {
        let command = LimitArgs::augment_args(Command::new("test"));
        command.clone().debug_assert();
        let matches = command.try_get_matches_from(["test"]).unwrap();
        assert_eq!(
            LimitArgs::from_arg_matches(&matches).unwrap().0,
            ServerLimits::default()
        );
    }

    #[test]
    fn values_are_typed() {
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(bytes("7"), Ok(7));
        assert_eq!(Bytes(3 << 20).to_string(), "3MiB");
        assert_eq!(rate("5/s+9"), Ok(Some(RateLimit::new(5, 9))));
        assert_eq!(rate("5/s"), Ok(Some(RateLimit::new(5, 5))));
        assert_eq!(rate("none"), Ok(None));
        assert_eq!(number("1000000000"), Ok(1_000_000_000_usize));
        assert!(number::<usize>("1000000001").is_err());
        for text in [
            "",
            "-1",
            "0",
            "1.5",
            "many",
            "99999999999999999999GiB",
            "18446744073709551615KiB",
        ] {
            assert!(bytes(text).is_err() && number::<usize>(text).is_err(), "{text}");
        }
        for text in ["", "5", "5/m", "/s", "5/s9", "0/s", "5/s+0", "5/s+"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
