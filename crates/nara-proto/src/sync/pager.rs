use std::collections::BTreeSet;

use super::{Cursor, EventFilter, MAX_EVENTS, SyncRequest, SyncResponse};
use crate::event::SyncEvent;
use crate::time::UnixNanos;

/// Pages through all events of a peer, oldest first, and returns each exactly once.
///
/// A peer that supports our [`Cursor`] is paged with it. The v1 cursor is only a time, so the next page of a v1 peer
/// begins one nanosecond before the last event, and duplicates are dropped. No event is lost unless more events than
/// fit on a page share one nanosecond, which is reported.
///
/// ```
/// # use nara_proto::sync::{EventFilter, Pager, SyncResponse};
/// let mut pager = Pager::new(EventFilter::default(), 1000);
/// while let Some(request) = pager.next_request() {
///     # let answer = |_| SyncResponse::default();
///     let response = answer(request); // over the network
///     for event in pager.accept(response)? {
///         println!("{}", event.id);
///     }
/// }
/// # Ok::<(), nara_proto::sync::PageError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pager {
    filter: EventFilter,
    size: usize,
    position: Position,
    last: Cursor,
    /// The ids of the events with the time of the last one, to drop duplicates.
    at_last: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Position {
    At(Cursor),
    Done,
}

/// The error for an invalid page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// More events share one time than fit on a page: the peer's cursor cannot reach the rest.
    #[error(
        "more than {MAX_EVENTS} events share the timestamp {0} ns, and the peer's cursor cannot page \
         between them"
    )]
    Crowded(UnixNanos),
    /// An event id is too long for a cursor.
    #[error("an event of the page has an id of {0} bytes, and the limit is {max}", max = Cursor::MAX_ID)]
    LongId(usize),
    /// The events are out of order, or precede the page.
    #[error("the page is out of order at event {0}")]
    Order(String),
    /// There are more events than requested.
    #[error("the page has {got} events, and at most {asked} were requested")]
    TooLong {
        /// The requested number.
        asked: usize,
        /// The received number.
        got: usize,
    },
}

impl Pager {
    /// Returns a pager that begins with the oldest event. `size` is the number of events on a page, 1 to
    /// [`MAX_EVENTS`].
    pub fn new(filter: EventFilter, size: usize) -> Self {
        Self::resume(filter, size, Cursor::START)
    }

    /// Returns a pager that begins behind `cursor`.
    pub fn resume(filter: EventFilter, size: usize, cursor: Cursor) -> Self {
        Self {
            filter,
            size: size.clamp(1, MAX_EVENTS),
            position: Position::At(cursor.clone()),
            last: cursor,
            at_last: BTreeSet::new(),
        }
    }

    /// Returns the number of events of the next request.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Sets the number of events of the following requests, 1 to [`MAX_EVENTS`]. Call it while no request is pending.
    pub fn resize(&mut self, size: usize) {
        self.size = size.clamp(1, MAX_EVENTS);
    }

    /// Returns the position behind the last accepted event, to resume from.
    pub fn cursor(&self) -> &Cursor {
        &self.last
    }

    /// Returns the next request; `None` after the last page. The client sets `from`.
    pub fn next_request(&self) -> Option<SyncRequest> {
        let Position::At(cursor) = &self.position else {
            return None;
        };
        let mut request = SyncRequest::page(Some(cursor), self.size);
        // The v1 cursor is exclusive: one nanosecond earlier, so that events with the same time are included.
        request.cursor = cursor.ts().get().saturating_sub(1).to_string();
        if !self.filter.services.is_empty() {
            request = request.services(self.filter.services.iter().cloned());
        }
        if !self.filter.subjects.is_empty() {
            request = request.subjects(self.filter.subjects.iter().cloned());
        }
        Some(request)
    }

    /// Accepts the answer to the last request and returns its new events in order.
    ///
    /// # Errors
    /// [`PageError`] for a page that breaks the rules. The position of the pager does not change.
    pub fn accept(&mut self, response: SyncResponse) -> Result<Vec<SyncEvent>, PageError> {
        let SyncResponse {
            events,
            next_cursor,
            next_after,
            ..
        } = response;
        let events = events.unwrap_or_default();
        if events.len() > self.size {
            return Err(PageError::TooLong {
                asked: self.size,
                got: events.len(),
            });
        }
        if let Some(pair) = events.windows(2).find(|pair| pair[0].ts > pair[1].ts) {
            return Err(PageError::Order(pair[1].id.clone()));
        }
        if let Some(long) = events.iter().find(|event| event.id.len() > Cursor::MAX_ID) {
            return Err(PageError::LongId(long.id.len()));
        }
        if let Some(early) = events.first().filter(|event| event.ts < self.last.ts()) {
            return Err(PageError::Order(early.id.clone()));
        }
        let lossless = !next_after.is_empty();
        if lossless {
            self.check_lossless(&events)?;
        }
        let full = lossless || !next_cursor.is_empty();
        let last_ts = events.last().map(|event| event.ts);

        let mut fresh = Vec::with_capacity(events.len());
        for event in events {
            let seen = event.ts == self.last.ts()
                && (self.at_last.contains(&event.id)
                    || (self.at_last.is_empty() && event.id == self.last.id()));
            if !seen {
                fresh.push(event);
            }
        }
        let same_time = fresh.iter().filter(|event| event.ts == self.last.ts()).count();
        if !lossless && self.at_last.len() + same_time > MAX_EVENTS {
            // No well-behaved peer sends so many, and the number of remembered ids is bounded.
            return Err(PageError::Crowded(self.last.ts()));
        }
        if fresh.is_empty() && full {
            if !lossless && self.size < MAX_EVENTS {
                // A whole page of duplicates: only a larger page can advance.
                self.size = MAX_EVENTS;
                return Ok(fresh);
            }
            return Err(PageError::Crowded(last_ts.unwrap_or_else(|| self.last.ts())));
        }

        for event in &fresh {
            if event.ts != self.last.ts() {
                self.at_last.clear();
            }
            self.at_last.insert(event.id.clone());
            self.last = Cursor::behind(event);
        }
        if lossless {
            // The cursor alone excludes duplicates.
            self.at_last.clear();
        }
        self.position = if full {
            Position::At(self.last.clone())
        } else {
            Position::Done
        };
        Ok(fresh)
    }

    /// Checks that the events of a page with our cursor follow the last one and each other, by time and id, so that a
    /// peer cannot send an event twice.
    fn check_lossless(&self, events: &[SyncEvent]) -> Result<(), PageError> {
        let mut last = (self.last.ts(), self.last.id());
        for event in events {
            let next = (event.ts, event.id.as_str());
            if next <= last {
                return Err(PageError::Order(event.id.clone()));
            }
            last = next;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sync::SyncMode;

    /// Answers as a peer with these events, which supports our cursor if `modern`.
    fn serve(events: &[SyncEvent], request: &SyncRequest, modern: bool) -> SyncResponse {
        let mut request = request.clone();
        if !modern {
            request.after.clear();
        }
        let SyncMode::Page {
            after,
            size,
            lossless,
        } = request.mode()
        else {
            panic!("not a page")
        };
        let page: Vec<_> = events
            .iter()
            .filter(|event| Cursor::behind(event) > after)
            .take(size)
            .cloned()
            .collect();
        let last = page.last().filter(|_| page.len() == size);
        SyncResponse {
            next_cursor: last.map(|event| event.ts.to_string()).unwrap_or_default(),
            next_after: last
                .filter(|_| lossless)
                .map(|e| Cursor::behind(e).to_string())
                .unwrap_or_default(),
            events: (!page.is_empty()).then_some(page),
            ..SyncResponse::default()
        }
    }

    /// Returns one event per time, in order.
    fn events_at(mut times: Vec<i64>) -> Vec<SyncEvent> {
        times.sort_unstable();
        let events = times.into_iter().enumerate();
        events
            .map(|(n, ts)| SyncEvent {
                id: format!("{n:04}"),
                ts: UnixNanos::new(ts),
                ..SyncEvent::default()
            })
            .collect()
    }

    fn all_ids(events: &[SyncEvent], size: usize, modern: bool) -> Result<Vec<String>, PageError> {
        let mut pager = Pager::new(EventFilter::default(), size);
        let mut ids = Vec::new();
        while let Some(request) = pager.next_request() {
            ids.extend(
                pager
                    .accept(serve(events, &request, modern))?
                    .into_iter()
                    .map(|event| event.id),
            );
        }
        Ok(ids)
    }

    proptest! {
        #[test]
        fn every_event_comes_exactly_once(
            times in proptest::collection::vec(1_i64..12, 0..60),
            size in 1_usize..9,
            modern: bool,
        ) {
            let events = events_at(times);
            let expected: Vec<_> = events.iter().map(|event| event.id.clone()).collect();
            prop_assert_eq!(all_ids(&events, size, modern).unwrap(), expected);
        }

        #[test]
        fn pages_of_changing_sizes_bring_every_event_exactly_once(
            times in proptest::collection::vec(1_i64..12, 0..60),
            sizes in proptest::collection::vec(1_usize..9, 60),
            modern: bool,
        ) {
            let events = events_at(times);
            let mut pager = Pager::new(EventFilter::default(), 4);
            let mut sizes = sizes.into_iter();
            let mut ids = Vec::new();
            while let Some(request) = pager.next_request() {
                let fresh = pager.accept(serve(&events, &request, modern)).unwrap();
                // As the client does: a page without events keeps the size that the pager chose.
                if let (Some(size), false) = (sizes.next(), fresh.is_empty()) {
                    pager.resize(size);
                }
                ids.extend(fresh.into_iter().map(|event| event.id));
            }
            let expected: Vec<_> = events.iter().map(|event| event.id.clone()).collect();
            prop_assert_eq!(ids, expected);
        }
    }

    #[test]
    fn a_page_out_of_order_or_too_long_is_refused() {
        let event = |id: &str, ts| SyncEvent {
            id: id.to_owned(),
            ts: UnixNanos::new(ts),
            ..SyncEvent::default()
        };
        let mut pager = Pager::new(EventFilter::default(), 2);
        let page = |events| SyncResponse {
            events: Some(events),
            ..SyncResponse::default()
        };
        let error = pager
            .accept(page(vec![event("a", 2), event("b", 1)]))
            .unwrap_err();
        assert_eq!(error, PageError::Order("b".to_owned()));
        let three = vec![event("a", 1), event("b", 1), event("c", 1)];
        assert_eq!(
            pager.accept(page(three)).unwrap_err(),
            PageError::TooLong { asked: 2, got: 3 }
        );
        assert_eq!(pager.accept(page(vec![event("a", 5)])).unwrap().len(), 1);
        assert!(pager.next_request().is_none());
    }

    #[test]
    fn the_place_behind_a_page_can_always_be_written_and_read() {
        let page = |length| SyncResponse {
            events: Some(vec![SyncEvent {
                id: "a".repeat(length),
                ..SyncEvent::default()
            }]),
            ..SyncResponse::default()
        };
        let mut pager = Pager::new(EventFilter::default(), 2);
        assert_eq!(pager.accept(page(257)), Err(PageError::LongId(257)));
        pager.accept(page(256)).unwrap();
        assert_eq!(pager.cursor().to_string().parse(), Ok(pager.cursor().clone()));
    }

    /// Returns a page full of events at one time, from `first` on, as a misbehaving peer sends it.
    fn at_one_time(first: usize, count: usize, lossless: bool) -> SyncResponse {
        let events: Vec<_> = (first..first + count)
            .map(|n| SyncEvent {
                id: format!("{n:08}"),
                ts: UnixNanos::new(7),
                ..SyncEvent::default()
            })
            .collect();
        let last = events.last().map(Cursor::behind);
        SyncResponse {
            next_cursor: "7".to_owned(),
            next_after: last
                .filter(|_| lossless)
                .map(|last| last.to_string())
                .unwrap_or_default(),
            events: Some(events),
            ..SyncResponse::default()
        }
    }

    #[test]
    fn the_memory_of_a_pager_is_bounded() {
        let mut pager = Pager::new(EventFilter::default(), MAX_EVENTS);
        for page in 0..4 {
            let events = pager.accept(at_one_time(page * MAX_EVENTS, MAX_EVENTS, true));
            assert_eq!(events.unwrap().len(), MAX_EVENTS);
            assert!(pager.at_last.is_empty());
        }
        let mut pager = Pager::new(EventFilter::default(), MAX_EVENTS);
        pager.accept(at_one_time(0, MAX_EVENTS, false)).unwrap();
        assert_eq!(
            pager.accept(at_one_time(MAX_EVENTS, 1, false)),
            Err(PageError::Crowded(UnixNanos::new(7)))
        );
        assert!(pager.at_last.len() <= MAX_EVENTS);
    }

    #[test]
    fn a_page_with_our_cursor_must_follow_the_one_before() {
        let mut pager = Pager::new(EventFilter::default(), 10);
        pager.accept(at_one_time(0, 10, true)).unwrap();
        for again in [0, 9] {
            assert_eq!(
                pager.accept(at_one_time(again, 5, true)),
                Err(PageError::Order(format!("{again:08}")))
            );
        }
        assert_eq!(pager.accept(at_one_time(10, 5, true)).unwrap().len(), 5);
    }

    #[test]
    fn a_crowded_nanosecond_is_reported_and_does_not_loop() {
        let events: Vec<_> = (0..MAX_EVENTS + 1)
            .map(|n| SyncEvent {
                id: format!("{n:05}"),
                ts: UnixNanos::new(7),
                ..SyncEvent::default()
            })
            .collect();
        assert_eq!(
            all_ids(&events, 1000, false),
            Err(PageError::Crowded(UnixNanos::new(7)))
        );
        assert_eq!(all_ids(&events, 1000, true).unwrap().len(), events.len());
    }
}
