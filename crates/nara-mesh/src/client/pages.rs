//! Prefetching: while a page is verified, the next one is fetched.

use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use nara_proto::event::SyncEvent;
use nara_proto::sync::Cursor;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::deadline::deadline_after;
use super::error::ClientError;
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
        tasks.spawn(fetch(source, fetched).in_current_span());
        tasks.spawn(verify(checker, to_verify, verified).in_current_span());
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
