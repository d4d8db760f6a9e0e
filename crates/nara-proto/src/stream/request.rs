use percent_encoding::percent_decode_str;

use crate::endpoint::query_escape;
use crate::query::{Repeated, parameters};
use crate::sync::EventFilter;
use crate::time::UnixNanos;

/// The request of `GET /events/stream`, as the query of its URL:
/// `services=seen,social&subjects=alice&since=1769100000000000000`.
///
/// Lists are separated by commas; each name in them is percent-encoded, so a comma inside a name is `%2C`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamRequest {
    /// The requested events; the default is all.
    pub filter: EventFilter,
    /// Where to begin without a cursor: at the first event in the order of arrival that has this time or a later one,
    /// in **nanoseconds**. `None`: with the next event to arrive.
    pub since: Option<UnixNanos>,
}

/// The reason why the query of `/events/stream` is malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidStreamRequest {
    /// A parameter is repeated.
    #[error("the parameter {0} is repeated: give it once, as a comma-separated list")]
    Repeated(&'static str),
    /// `since` is not a number.
    #[error("since is not a number of nanoseconds")]
    Since,
    /// A value is not UTF-8 after percent-decoding.
    #[error("the parameter {0} is not UTF-8")]
    Utf8(&'static str),
}

impl StreamRequest {
    /// Returns the query, without `?`; empty for all events.
    pub fn to_query(&self) -> String {
        let mut parts = Vec::new();
        for (name, list) in [
            ("services", &self.filter.services),
            ("subjects", &self.filter.subjects),
        ] {
            if !list.is_empty() {
                let list: Vec<_> = list.iter().map(|item| query_escape(item)).collect();
                parts.push(format!("{name}={}", list.join(",")));
            }
        }
        if let Some(since) = self.since {
            parts.push(format!("since={since}"));
        }
        parts.join("&")
    }

    /// Parses a query. Unknown parameters and empty names are skipped.
    ///
    /// # Errors
    /// [`InvalidStreamRequest`] for a malformed query.
    pub fn from_query(query: &str) -> Result<Self, InvalidStreamRequest> {
        let names = ["services", "subjects", "since"];
        let read = parameters(query, names).map_err(|Repeated(name)| InvalidStreamRequest::Repeated(name))?;
        let [services, subjects, since] = read.values;
        let mut request = Self::default();
        request.filter.services = list(services.unwrap_or_default(), "services")?;
        request.filter.subjects = list(subjects.unwrap_or_default(), "subjects")?;
        if let Some(since) = since {
            let since = since.parse().map_err(|_| InvalidStreamRequest::Since)?;
            request.since = Some(UnixNanos::new(since));
        }
        Ok(request)
    }
}

fn list(value: &str, name: &'static str) -> Result<Vec<String>, InvalidStreamRequest> {
    value
        .split(',')
        .filter(|item| !item.is_empty())
        .map(|item| {
            let decoded = percent_decode_str(item).decode_utf8();
            decoded
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| InvalidStreamRequest::Utf8(name))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_survives_the_query() {
        let request = StreamRequest {
            filter: EventFilter {
                services: vec!["seen".to_owned(), "hey-there".to_owned()],
                subjects: vec!["a,b".to_owned(), "é&=+ %".to_owned()],
            },
            since: Some(UnixNanos::new(-5)),
        };
        let query = request.to_query();
        assert_eq!(
            query,
            "services=seen,hey-there&subjects=a%2Cb,%C3%A9%26%3D%2B%20%25&since=-5"
        );
        assert_eq!(StreamRequest::from_query(&query), Ok(request));
        assert_eq!(StreamRequest::from_query(""), Ok(StreamRequest::default()));
        assert_eq!(
            StreamRequest::from_query("other=1&services=&x"),
            Ok(StreamRequest::default())
        );
    }

    #[test]
    fn a_malformed_query_is_refused() {
        for (query, error) in [
            ("since=", InvalidStreamRequest::Since),
            ("since=1.5", InvalidStreamRequest::Since),
            ("since=1&since=2", InvalidStreamRequest::Repeated("since")),
            ("subjects=%ff", InvalidStreamRequest::Utf8("subjects")),
            (
                "services=a&services=b",
                InvalidStreamRequest::Repeated("services"),
            ),
        ] {
            assert_eq!(StreamRequest::from_query(query), Err(error), "{query}");
        }
    }
}
