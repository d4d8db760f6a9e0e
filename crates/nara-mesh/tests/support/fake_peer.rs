//! A hand-written peer: gives any answer that a test needs, and records its requests.

#![expect(clippy::unwrap_used, reason = "a peer that cannot continue fails the test")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nara_mesh::transport::{MeshListener, Transport};

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    pub(crate) fn timestamp(&self) -> i64 {
        self.header("x-nara-timestamp").parse().unwrap()
    }
}

/// A peer's reaction to a request.
pub(crate) enum Answer {
    /// Answers.
    With(Response<Bytes>),
    /// Never answers.
    Nothing,
    /// Answers with a head and the beginning of a body, and then stops.
    Half(Response<Bytes>),
    /// Answers with a head, and after each pause with so many bytes of the body.
    Drip(Response<Bytes>, usize, Duration),
}

pub(crate) fn plain(status: u16, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    Answer::With(response)
}

/// A running peer.
#[derive(Clone, Debug)]
pub(crate) struct FakePeer {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<AtomicUsize>,
}

impl FakePeer {
    /// Starts a peer that answers every request with the result of `answer`.
    pub(crate) async fn start(
        transport: impl Transport,
        address: SocketAddr,
        answer: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = transport.listen(address).await.unwrap();
        Self::start_on(listener, move |received, _| std::future::ready(answer(&received)))
    }

    /// The same for answers that make calls themselves. The second argument is the source of the request.
    pub(crate) fn start_on<F>(
        mut listener: Box<dyn MeshListener>,
        answer: impl Fn(Received, SocketAddr) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let peer = Self {
            address: listener.local_addr(),
            received: Arc::default(),
            connections: Arc::default(),
        };
        let answer = Arc::new(answer);
        let running = peer.clone();
        tokio::spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                running.connections.fetch_add(1, Ordering::SeqCst);
                let (running, answer) = (running.clone(), answer.clone());
                let service = service_fn(move |request| {
                    let (running, answer) = (running.clone(), answer.clone());
                    async move {
                        let answer = |received| answer(received, from);
                        running.serve(request, answer).await
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        peer
    }

    async fn serve<F: Future<Output = Answer>>(
        &self,
        request: Request<Incoming>,
        answer: impl FnOnce(Received) -> F,
    ) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
        let (head, body) = request.into_parts();
        let received = Received {
            method: head.method,
            target: head.uri.to_string(),
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes(),
        };
        self.received.lock().unwrap().push(received.clone());
        match answer(received).await {
            Answer::With(response) => Ok(response.map(|body| Full::new(body).boxed())),
            Answer::Nothing => std::future::pending().await,
            Answer::Half(response) => Ok(response.map(|body| {
                let begin = stream::iter([Ok(Frame::data(body))]);
                BodyExt::boxed(StreamBody::new(begin.chain(stream::pending())))
            })),
            Answer::Drip(response, size, pause) => Ok(response.map(|body| {
                let drops = stream::unfold(body, move |mut body| async move {
                    if body.is_empty() {
                        return None;
                    }
                    tokio::time::sleep(pause).await;
                    let drop = body.split_to(size.min(body.len()));
                    Some((Ok(Frame::data(drop)), body))
                });
                BodyExt::boxed(StreamBody::new(Box::pin(drops)))
            })),
        }
    }

    /// Returns all requests so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// Returns the last request.
    pub(crate) fn last(&self) -> Received {
        self.received().pop().unwrap()
    }

    /// Returns how many connections were accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}
