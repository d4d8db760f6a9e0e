//! Writes to systemd's journal in its native protocol: one datagram for each event, with its fields.
//!
//! The crate `tracing-journald` blocks until the journal reads; here records wait in the shared output queue.

use std::fmt;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::output;

/// The socket of the journal.
pub(crate) const SOCKET: &str = "/run/systemd/journal/socket";

/// The longest value, in bytes. A record must fit into a datagram.
const MAX_VALUE: usize = 8 << 10;

/// The journal as a writer: each write is a record.
#[derive(Debug)]
pub(crate) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// Opens the journal that listens on this socket.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        UnixDatagram::unbound()?.connect(path)?;
        // Not connected: after a restart of the journal, the path leads to a new socket.
        let socket = UnixDatagram::unbound()?;
        Ok(Self {
            socket,
            path: path.to_owned(),
        })
    }
}

impl Write for Journal {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.socket.send_to(record, &self.path)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A record: fields with upper-case names. Event fields get the prefix `NARA_`.
#[derive(Debug, Default)]
pub(crate) struct Record(Vec<u8>);

impl Record {
    pub(crate) fn new(level: Level, target: &str) -> Self {
        let priority = match level {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            _ => "7",
        };
        let mut record = Self::default();
        record.put("PRIORITY", priority);
        record.put("SYSLOG_IDENTIFIER", "nara-mesh");
        record.put("TARGET", target);
        record
    }

    /// Adds a field of an event: its message, or one of its own fields.
    pub(crate) fn field(&mut self, name: &str, value: &str) {
        match name {
            "message" => self.put("MESSAGE", value),
            name => {
                let letter = |letter: char| match letter {
                    'a'..='z' | 'A'..='Z' | '0'..='9' => letter.to_ascii_uppercase(),
                    _ => '_',
                };
                let name: String = "nara_".chars().chain(name.chars()).map(letter).collect();
                self.put(&name, value);
            }
        }
    }

    fn put(&mut self, name: &str, value: &str) {
        let value = output::printable(value);
        let value = &value[..value.floor_char_boundary(MAX_VALUE)];
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field.name(), &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field.name(), value);
    }
}

/// Sends events to the journal.
#[derive(Debug)]
pub(crate) struct Records;

/// The fields of a span, for the events within it.
struct SpanFields(Record);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Records {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Record::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(SpanFields(fields));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut record = Record::new(*event.metadata().level(), event.metadata().target());
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(SpanFields(fields)) = span.extensions().get() {
                record.0.extend_from_slice(&fields.0);
            }
        }
        event.record(&mut record);
        output::journal(record.into_bytes());
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Parses a record as the journal does.
    fn fields(mut record: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while let Some(end) = record.iter().position(|byte| *byte == b'\n') {
            let name = String::from_utf8(record[..end].to_vec()).unwrap();
            let length = u64::from_le_bytes(record[end + 1..end + 9].try_into().unwrap());
            let value = &record[end + 9..end + 9 + usize::try_from(length).unwrap()];
            fields.push((name, String::from_utf8(value.to_vec()).unwrap()));
            assert_eq!(record[end + 9 + value.len()], b'\n');
            record = &record[end + 10 + value.len()..];
        }
        fields
    }

    #[test]
    fn an_event_is_one_datagram_with_its_fields_and_those_of_its_spans() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(Journal::at(&path).is_err());
        let socket = UnixDatagram::bind(&path).unwrap();
        output::open_journal(Journal::at(&path).unwrap()).unwrap();
        let subscriber = tracing_subscriber::registry().with(Records);
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("call", peer = "alice\nPRIORITY=0");
            span.in_scope(|| tracing::warn!(left_out = 3, "cannot \x1b[31mdial\n{}", "x".repeat(1 << 20)));
        });
        let mut datagram = vec![0; 1 << 20];
        let length = socket.recv(&mut datagram).unwrap();
        let fields = fields(&datagram[..length]);
        let value = |name: &str| {
            let mut values = fields.iter().filter(|(field, _)| field == name);
            let value = values.next().unwrap_or_else(|| panic!("no {name} in {fields:?}"));
            assert!(values.next().is_none());
            value.1.as_str()
        };
        assert_eq!(value("PRIORITY"), "4");
        assert_eq!(value("SYSLOG_IDENTIFIER"), "nara-mesh");
        assert_eq!(value("NARA_PEER"), "alice\\nPRIORITY=0");
        assert_eq!(value("NARA_LEFT_OUT"), "3");
        let message = value("MESSAGE");
        assert!(message.starts_with("cannot \\u{1b}[31mdial\\nxxx"), "{message}");
        assert_eq!(message.len(), MAX_VALUE);
    }
}
