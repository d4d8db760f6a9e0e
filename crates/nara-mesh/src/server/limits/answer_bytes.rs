//! The bytes of answers in memory, in total and per requester. When another answer needs room, the slowest reader loses
//! its connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::server::connection::watch::Watch;
use crate::server::limits::body_bytes::Source;
use crate::server::limits::quota::{Exceeded, Quota, Share};
use crate::server::limits::settings::ServerLimits;

/// The minimum time for a reader, even if other answers wait.
const MIN_READ_TIME: Duration = Duration::from_secs(2);

/// The time within which the end of a connection frees its room.
const RELEASE_TIME: Duration = Duration::from_millis(20);

/// The maximum number of readers that are ended for one answer.
const MAX_ENDED_PER_ANSWER: usize = 4;

/// The bytes of unread answers.
#[derive(Debug)]
pub(in crate::server) struct AnswerBytes(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    held: Quota<Source>,
    readers: Mutex<Vec<Weak<Reader>>>,
}

/// The room of one answer, released on drop.
#[derive(Debug)]
pub(in crate::server) struct Room {
    pool: Arc<Pool>,
    share: Share<Source>,
}

/// The reader of an answer.
#[derive(Debug)]
pub(in crate::server) struct Reader {
    room: Arc<Room>,
    connection: Arc<Watch>,
    began: Instant,
    bytes: AtomicUsize,
}

impl AnswerBytes {
    pub(in crate::server) fn new(limits: &ServerLimits) -> Self {
        Self(Arc::new(Pool {
            held: Quota::new(
                limits.answer_bytes_in_flight,
                limits.answer_bytes_in_flight_per_peer,
            ),
            readers: Mutex::default(),
        }))
    }

    /// Reserves room for an answer of this size. `None` if there is none, and no reader is slow enough to be ended.
    pub(in crate::server) async fn take(&self, source: Source, bytes: usize) -> Option<Arc<Room>> {
        let share = self.0.held.share(source);
        for _ in 0..MAX_ENDED_PER_ANSWER {
            match share.grow(bytes) {
                Ok(()) => {
                    return Some(Arc::new(Room {
                        pool: self.0.clone(),
                        share,
                    }));
                }
                Err(Exceeded::All) if self.0.end_slowest(share.held_by_key() + bytes) => {
                    sleep(RELEASE_TIME).await;
                }
                Err(_) => return None,
            }
        }
        None
    }
}

impl Pool {
    /// Ends the slowest reader that holds at least as much as this answer would, together with others of its source.
    /// Returns whether there was one.
    fn end_slowest(&self, wanted: usize) -> bool {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut slowest: Option<(f64, Arc<Reader>)> = None;
        readers.retain(|reader| {
            let Some(reader) = reader.upgrade() else {
                return false;
            };
            let time = reader.began.elapsed();
            if time >= MIN_READ_TIME && reader.room.share.held_by_key() >= wanted {
                let speed = reader.bytes.load(Ordering::Relaxed) as f64 / time.as_secs_f64();
                if slowest.as_ref().is_none_or(|(least, _)| speed < *least) {
                    slowest = Some((speed, reader));
                }
            }
            true
        });
        let Some((_, slowest)) = slowest else {
            return false;
        };
        // Not selected again.
        readers.retain(|reader| !std::ptr::eq(reader.as_ptr(), Arc::as_ptr(&slowest)));
        slowest.connection.cut_off();
        true
    }
}

impl Room {
    /// Records that an answer is being written to a connection.
    pub(in crate::server) fn read_by(self: &Arc<Self>, connection: &Arc<Watch>) -> Arc<Reader> {
        let reader = Arc::new(Reader {
            room: self.clone(),
            connection: connection.clone(),
            began: Instant::now(),
            bytes: AtomicUsize::new(0),
        });
        let mut readers = self.pool.readers.lock().unwrap_or_else(PoisonError::into_inner);
        // Finished readers are removed before the list grows.
        if readers.len() == readers.capacity() {
            readers.retain(|reader| reader.strong_count() > 0);
        }
        readers.push(Arc::downgrade(&reader));
        reader
    }
}

impl Reader {
    /// Records that the connection has taken more bytes.
    pub(in crate::server) fn took(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn source(host: u8) -> Source {
        Source::Address(IpAddr::from([100, 64, 0, host]))
    }

    fn watch() -> Arc<Watch> {
        Watch::new(Duration::from_secs(5), Duration::from_secs(75))
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_reader_is_ended_for_one_that_holds_no_more() {
        let bytes = AnswerBytes::new(&ServerLimits {
            answer_bytes_in_flight: 1_000,
            ..ServerLimits::default()
        });
        let mut readers = Vec::new();
        for (host, read, wanted) in [(1, 20, 200), (2, 1, 200), (3, 10, 200), (4, 0, 10)] {
            let room = bytes.take(source(host), wanted).await.unwrap();
            let connection = watch();
            let reader = room.read_by(&connection);
            reader.took(read);
            readers.push((connection, Some(reader)));
        }
        assert!(bytes.take(source(9), 160).await.is_none(), "they have just begun");
        tokio::time::advance(MIN_READ_TIME).await;
        // It would hold more than any of them.
        assert!(bytes.take(source(9), 210).await.is_none());
        let (slow, reading) = &mut readers[1];
        let slow = slow.clone();
        let mut reading = reading.take();
        let ended = tokio::spawn(async move {
            slow.expired().await;
            drop(reading.take());
        });
        tokio::task::yield_now().await;
        assert!(bytes.take(source(9), 160).await.is_some());
        ended.await.unwrap();
    }
}
