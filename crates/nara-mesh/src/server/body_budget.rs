//! How many bytes of request bodies are held at once, in all and for each who sends them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use ::metrics::gauge;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use nara_proto::identity::PublicKey;

use super::ServerLimits;
use crate::metrics::BODY_BYTES;

/// Who sends a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// Somebody at this address, of whom no more is known yet.
    Address(IpAddr),
    /// The holder of this key.
    Peer(PublicKey),
}

/// Counts the bytes of bodies that have come and whose requests are not answered yet. What is only announced costs
/// nothing and counts nothing. Memory is bounded by the number of requests in flight.
#[derive(Debug)]
pub(super) struct BodyBudget {
    taken: Mutex<Taken>,
    limit: usize,
    limit_per_source: usize,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_source: HashMap<Source, usize>,
}

/// A body has more bytes than there is room for. `Display` is what the peer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OverBudget {
    /// All bodies together.
    #[error("Too many bytes of request bodies at once, try again in a second")]
    All,
    /// The bodies of this source.
    #[error("You have {0} bytes of request bodies in flight, which is the limit: wait for their answers")]
    OfSource(usize),
}

/// What one request has taken. Dropped, with the body that it watched, it gives that back.
#[derive(Clone, Debug)]
pub(super) struct Allowance(Arc<Held>);

#[derive(Debug)]
struct Held {
    budget: Arc<BodyBudget>,
    source: Source,
    bytes: Mutex<usize>,
}

impl BodyBudget {
    pub(super) fn new(limits: &ServerLimits) -> Self {
        Self {
            taken: Mutex::default(),
            limit: limits.body_bytes_in_flight,
            limit_per_source: limits.body_bytes_in_flight_per_peer,
        }
    }

    /// For one request.
    pub(super) fn allowance(self: &Arc<Self>, source: Source) -> Allowance {
        Allowance(Arc::new(Held {
            budget: self.clone(),
            source,
            bytes: Mutex::default(),
        }))
    }

    fn take(&self, source: Source, bytes: usize) -> Result<(), OverBudget> {
        let mut taken = lock(&self.taken);
        let of_source = taken.by_source.get(&source).copied().unwrap_or_default();
        if bytes > self.limit_per_source.saturating_sub(of_source) {
            return Err(OverBudget::OfSource(self.limit_per_source));
        }
        if bytes > self.limit.saturating_sub(taken.total) {
            return Err(OverBudget::All);
        }
        taken.by_source.insert(source, of_source + bytes);
        taken.total += bytes;
        gauge!(BODY_BYTES).set(taken.total as f64);
        Ok(())
    }

    fn give_back(&self, source: Source, bytes: usize) {
        let mut taken = lock(&self.taken);
        taken.total -= bytes;
        gauge!(BODY_BYTES).set(taken.total as f64);
        if let Some(of_source) = taken.by_source.get_mut(&source) {
            *of_source -= bytes;
            if *of_source == 0 {
                taken.by_source.remove(&source);
            }
        }
    }
}

impl Allowance {
    /// A body that fails as soon as there is no room for what comes.
    pub(super) fn watch(&self, body: Body) -> Body {
        if body.is_end_stream() {
            return body;
        }
        Body::new(Watched {
            body,
            allowance: self.clone(),
        })
    }

    fn take(&self, bytes: usize) -> Result<(), OverBudget> {
        self.0.budget.take(self.0.source, bytes)?;
        *lock(&self.0.bytes) += bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = *lock(&self.bytes);
        if bytes > 0 {
            self.budget.give_back(self.source, bytes);
        }
    }
}

struct Watched {
    body: Body,
    allowance: Allowance,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()?;
        if let Some(data) = frame.as_ref().and_then(Frame::data_ref) {
            self.allowance.take(data.len()).map_err(axum::Error::new)?;
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn lock<T>(counted: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counting cannot stop half-way.
    counted.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http_body_util::BodyExt as _;

    use super::*;

    const HERE: Source = Source::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));
    const THERE: Source = Source::Address(IpAddr::V4(Ipv4Addr::BROADCAST));

    fn budget(limit: usize, limit_per_source: usize) -> Arc<BodyBudget> {
        Arc::new(BodyBudget::new(&ServerLimits {
            body_bytes_in_flight: limit,
            body_bytes_in_flight_per_peer: limit_per_source,
            ..ServerLimits::default()
        }))
    }

    async fn read(allowance: &Allowance, size: usize) -> Result<usize, axum::Error> {
        let body = allowance.watch(Body::from(vec![0; size]));
        Ok(body.collect().await?.to_bytes().len())
    }

    #[tokio::test]
    async fn bytes_are_bounded_in_all_and_by_source_and_come_back() {
        let budget = budget(10, 6);
        let first = budget.allowance(HERE);
        assert_eq!(read(&first, 4).await.unwrap(), 4);
        let second = budget.allowance(HERE);
        assert_eq!(
            read(&second, 3).await.unwrap_err().to_string(),
            OverBudget::OfSource(6).to_string()
        );
        assert_eq!(read(&second, 2).await.unwrap(), 2);
        let third = budget.allowance(THERE);
        assert_eq!(
            read(&third, 5).await.unwrap_err().to_string(),
            OverBudget::All.to_string()
        );
        assert_eq!(read(&third, 4).await.unwrap(), 4);
        drop((first, second));
        assert_eq!(read(&third, 2).await.unwrap(), 2);
        drop(third);
        let taken = lock(&budget.taken);
        assert_eq!((taken.total, taken.by_source.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_body_that_is_still_there_keeps_what_it_took() {
        let budget = budget(10, 10);
        let allowance = budget.allowance(HERE);
        let mut body = allowance.watch(Body::from(vec![0; 7]));
        let frame = body.frame().await.unwrap().unwrap();
        drop(allowance);
        assert_eq!(lock(&budget.taken).total, 7);
        drop((body, frame));
        assert_eq!(lock(&budget.taken).total, 0);
    }
}
