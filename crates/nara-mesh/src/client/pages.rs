//! Prefetching: while a page is verified, the next one is fetched.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{self, BoxStream};
use nara_proto::event::SyncEvent;
use nara_proto::sync::Cursor;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::deadline::deadline_after;
use super::error::{ClientError, ClientErrorKind};
use super::event_check::EventChecker;
use super::resolve::Route;
use super::verified::{SyncPage, Verification};

/// A page whose events are not yet verified.
#[derive(Debug)]
pub(super) struct FetchedPage {
    pub(super) events: Vec<SyncEvent>,
    pub(super) cursor: Cursor,
    pub(super) bytes: usize,
    pub(super) total: Option<u64>,
    pub(super) route: Route,
    pub(super) verification: Verification,
}

/// The number of events per page: smaller after a page that arrived too slowly, and larger again while pages arrive
/// fast.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageSize {
    most: usize,
    now: usize,
    /// A page that takes longer is not followed by a larger one.
    fast: Duration,
    /// Consecutive pages that arrived too slowly.
    slow: usize,
}

impl PageSize {
    /// How often a page is requested again with a quarter of the events, so that a peer that drips is given up.
    const RETRIES: usize = 3;

    pub(super) fn new(most: usize, fast: Duration) -> Self {
        Self {
            most,
            now: most,
            fast,
            slow: 0,
        }
    }

    pub(super) fn events(&self) -> usize {
        self.now
    }

    /// Records a failed page, and returns whether to request it again.
    ///
    /// A page that breaks off late may be one for which the peer did not want to wait longer.
    pub(super) fn failed(&mut self, error: &ClientError, took: Duration) -> bool {
        let broke_off = error.kind() == ClientErrorKind::Broken && took > self.fast;
        (error.is_too_slow() || broke_off) && self.shrink()
    }

    /// Returns whether to request the page again, with fewer events.
    pub(super) fn shrink(&mut self) -> bool {
        if self.now <= 1 || self.slow == Self::RETRIES {
            return false;
        }
        self.slow += 1;
        self.now = (self.now / 4).max(1);
        tracing::debug!(
            events = self.now,
            "a page was too slow, a smaller one is requested"
        );
        true
    }

    /// Records a page with events, and returns whether the next one is larger.
    pub(super) fn arrived(&mut self, took: Duration) -> bool {
        self.slow = 0;
        let grows = self.now < self.most && took < self.fast;
        if grows {
            self.now = (self.now * 2).min(self.most);
        }
        grows
    }
}

/// A source of consecutive pages.
pub(super) trait PageSource: Send + 'static {
    /// Fetches the next page; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<FetchedPage>, ClientError>> + Send;
}

/// Verifies the events of pages.
#[derive(Clone, Debug)]
pub(super) struct PageChecker {
    pub(super) events: EventChecker,
    /// Time limit per page.
    pub(super) limit: Duration,
}

impl PageChecker {
    pub(super) async fn check(&self, page: FetchedPage) -> Result<SyncPage, ClientError> {
        let deadline = deadline_after(self.limit);
        let checked = self.events.check(page.events, deadline).await;
        Ok(SyncPage {
            events: checked.map_err(|problem| ClientError::new(&page.route, problem))?,
            cursor: page.cursor,
            bytes: page.bytes,
            total: page.total,
            verification: page.verification,
        })
    }
}

/// Returns the pages of a source, verified.
///
/// Two tasks work ahead of the stream. Each reserves a slot for its result before it starts, so there are at most
/// three pages: one with the caller, one verified or being verified, one fetched or being fetched.
pub(super) fn pages_ahead(
    source: impl PageSource,
    checker: PageChecker,
) -> BoxStream<'static, Result<SyncPage, ClientError>> {
    let begin = State::New(source, checker);
    Box::pin(stream::unfold(begin, |state| async {
        let mut ahead = match state {
            // Spawned lazily: the stream may be created outside of a runtime.
            State::New(source, checker) => Ahead::start(source, checker),
            State::Running(ahead) => ahead,
        };
        let page = ahead.next().await?;
        Some((page, State::Running(ahead)))
    }))
}

enum State<S> {
    New(S, PageChecker),
    Running(Ahead),
}

struct Ahead {
    pages: mpsc::Receiver<Result<SyncPage, ClientError>>,
    /// Aborted on drop.
    tasks: JoinSet<()>,
}

impl Ahead {
    fn start(source: impl PageSource, checker: PageChecker) -> Self {
        let (fetched, to_verify) = mpsc::channel(1);
        let (verified, pages) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(fetch(source, fetched).in_current_span().boxed());
        tasks.spawn(verify(checker, to_verify, verified).in_current_span().boxed());
        Self { pages, tasks }
    }

    async fn next(&mut self) -> Option<Result<SyncPage, ClientError>> {
        if let Some(page) = self.pages.recv().await {
            return Some(page);
        }
        // Propagate a panic: it must not look like the end of the pages.
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        None
    }
}

async fn fetch(mut source: impl PageSource, fetched: mpsc::Sender<Result<FetchedPage, ClientError>>) {
    while let Ok(place) = fetched.reserve().await {
        match source.next().await.transpose() {
            Some(page) => {
                let failed = page.is_err();
                place.send(page);
                if failed {
                    return;
                }
            }
            None => return,
        }
    }
}

async fn verify(
    checker: PageChecker,
    mut to_verify: mpsc::Receiver<Result<FetchedPage, ClientError>>,
    verified: mpsc::Sender<Result<SyncPage, ClientError>>,
) {
    while let Ok(place) = verified.reserve().await {
        let page = match to_verify.recv().await {
            Some(Ok(page)) => checker.check(page).await,
            Some(Err(error)) => Err(error),
            None => return,
        };
        let failed = page.is_err();
        place.send(page);
        if failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::{Problem, Stage};
    use super::*;

    const FAST: Duration = Duration::from_secs(5);

    #[test]
    fn pages_shrink_while_they_are_too_slow_and_grow_while_they_are_fast() {
        let slow = ClientError::new("bob", Problem::Timeout(Stage::Slow));
        let mut size = PageSize::new(1000, FAST);
        assert!(size.failed(&slow, 4 * FAST) && size.failed(&slow, 4 * FAST));
        assert_eq!(size.events(), 62);
        assert!(!size.arrived(2 * FAST));
        assert_eq!(size.events(), 62, "neither slow nor fast");
        for larger in [124, 248, 496, 992, 1000] {
            assert!(size.arrived(FAST / 2));
            assert_eq!(size.events(), larger);
        }
        assert!(!size.arrived(FAST / 2));
    }

    #[test]
    fn a_page_is_requested_again_three_times_and_never_without_events() {
        let slow = ClientError::new("bob", Problem::Timeout(Stage::Slow));
        let mut size = PageSize::new(5000, FAST);
        assert_eq!((0..9).take_while(|_| size.failed(&slow, 4 * FAST)).count(), 3);
        let mut size = PageSize::new(3, FAST);
        assert_eq!((0..9).take_while(|_| size.failed(&slow, 4 * FAST)).count(), 1);
        assert_eq!(size.events(), 1);
    }

    #[test]
    fn only_a_slow_page_is_requested_again() {
        let mut size = PageSize::new(5000, FAST);
        for problem in [Stage::Answer, Stage::Dial, Stage::Queue].map(Problem::Timeout) {
            assert!(!size.failed(&ClientError::new("bob", problem), FAST));
        }
    }
}
