//! The bytes of request bodies in memory, in total and per source.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use nara_proto::identity::PublicKey;

use crate::metrics::{BODY_BYTES, Plain};
use crate::server::limits::quota::{Exceeded, Quota, Share};
use crate::server::limits::settings::ServerLimits;

static BYTES: Plain = Plain::new(BODY_BYTES);

/// The source of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::server) enum Source {
    /// A sender at this address that is not authenticated yet.
    Address(IpAddr),
    /// The holder of this key.
    Peer(PublicKey),
}

/// The bytes of received bodies whose requests are not answered yet. Announced bytes do not count.
#[derive(Debug)]
pub(in crate::server) struct BodyBytes(Quota<Source>);

/// The error for a body that exceeds the available room. `Display` is the text that the peer receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OverBudget {
    /// The limit of all bodies.
    #[error("Too many bytes of request bodies at once, try again in a second")]
    All,
    /// The limit of the bodies of this source.
    #[error("You have {0} bytes of request bodies in flight, which is the limit: wait for their answers")]
    OfSource(usize),
}

/// The bytes that one request holds, released on drop together with the watched body.
#[derive(Clone, Debug)]
pub(in crate::server) struct Allowance(Arc<Taken>);

#[derive(Debug)]
struct Taken(Share<Source>);

impl BodyBytes {
    pub(in crate::server) fn new(limits: &ServerLimits) -> Self {
        Self(Quota::new(
            limits.body_bytes_in_flight,
            limits.body_bytes_in_flight_per_peer,
        ))
    }

    /// Returns an allowance for one request.
    pub(in crate::server) fn allowance(&self, source: Source) -> Allowance {
        Allowance(Arc::new(Taken(self.0.share(source))))
    }
}

impl Allowance {
    /// Returns a body that fails as soon as there is no room for its bytes.
    pub(in crate::server) fn watch<B>(self, body: B) -> Watched<B> {
        Watched {
            body,
            allowance: Some(self),
        }
    }

    fn take(&self, bytes: usize) -> Result<(), OverBudget> {
        (self.0.0).grow(bytes).map_err(|exceeded| match exceeded {
            Exceeded::OfKey(limit) => OverBudget::OfSource(limit),
            Exceeded::All | Exceeded::Rate { .. } => OverBudget::All,
        })?;
        BYTES.gauge().increment(bytes as f64);
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        BYTES.gauge().decrement(self.0.amount() as f64);
    }
}

/// A body whose bytes are counted.
#[derive(Debug)]
pub(in crate::server) struct Watched<B> {
    body: B,
    /// `None` if they are not counted.
    allowance: Option<Allowance>,
}

impl<B> Watched<B> {
    /// Returns a body whose bytes are not counted.
    pub(in crate::server) fn uncounted(body: B) -> Self {
        Self {
            body,
            allowance: None,
        }
    }
}

impl<B> HttpBody for Watched<B>
where
    B: HttpBody<Data = Bytes, Error: Into<axum::BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose();
        let frame = frame.map_err(axum::Error::new)?;
        if let (Some(allowance), Some(data)) = (&self.allowance, frame.as_ref().and_then(Frame::data_ref)) {
            allowance.take(data.len()).map_err(axum::Error::new)?;
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::body::Body;
    use http_body_util::BodyExt as _;

    use super::*;

    const HERE: Source = Source::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));
    const THERE: Source = Source::Address(IpAddr::V4(Ipv4Addr::BROADCAST));

    fn budget(limit: usize, limit_per_source: usize) -> BodyBytes {
        BodyBytes::new(&ServerLimits {
            body_bytes_in_flight: limit,
            body_bytes_in_flight_per_peer: limit_per_source,
            ..ServerLimits::default()
        })
    }

    async fn read(allowance: &Allowance, size: usize) -> Result<usize, axum::Error> {
        let body = allowance.clone().watch(Body::from(vec![0; size]));
        Ok(body.collect().await?.to_bytes().len())
    }

    #[tokio::test]
    async fn bytes_are_bounded_in_all_and_by_source_and_come_back() {
        let budget = budget(1_000, 600);
        let first = budget.allowance(HERE);
        assert_eq!(read(&first, 400).await.unwrap(), 400);
        let second = budget.allowance(HERE);
        assert_eq!(
            read(&second, 300).await.unwrap_err().to_string(),
            OverBudget::OfSource(600).to_string()
        );
        assert_eq!(read(&second, 200).await.unwrap(), 200);
        let third = budget.allowance(THERE);
        // The limit of a second source beside the first.
        assert_eq!(
            read(&third, 98).await.unwrap_err().to_string(),
            OverBudget::All.to_string()
        );
        assert_eq!(read(&third, 90).await.unwrap(), 90);
        drop((first, second));
        assert_eq!(read(&third, 500).await.unwrap(), 500);
    }

    #[tokio::test]
    async fn a_body_in_memory_keeps_its_bytes_reserved() {
        let budget = budget(10, 10);
        let allowance = budget.allowance(HERE);
        let mut body = allowance.clone().watch(Body::from(vec![0; 7]));
        let frame = body.frame().await.unwrap().unwrap();
        drop(allowance);
        let other = budget.allowance(THERE);
        assert!(read(&other, 4).await.is_err());
        drop((body, frame));
        assert_eq!(read(&other, 10).await.unwrap(), 10);
    }
}
