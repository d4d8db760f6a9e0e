//! The checked peer and the two checking naras: one signs with v1 only and one with v2, because a peer must
//! refuse v1 from a nara that has proven v2.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::HeaderMap;
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::identity::LocalNara;
use nara_proto::identity::{NaraName, PublicKey};
use nara_proto::time::UnixMillis;
use nara_proto::v1::ResponseAuth;
use nara_proto::v2::{Capability, RequestSignature, ResponseSignature, SignedCapability};
use serde_json::{Value, json};

use super::channel::{self, Channel, Form};
use super::signing::{self, V2};
use super::verdict::{Fault, Need, Verdict, differs, ensure};
use super::wire::{Answer, Connection, Draft, Messages, get, post};

/// A request and its answer, as shown in the report.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) sent: String,
    pub(super) came: String,
}

/// The checked peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) limit: Duration,
    pub(super) name: NaraName,
    pub(super) key: PublicKey,
    /// Its announced capabilities, if signed by its key.
    pub(super) capability: Option<Capability>,
    /// How far its clock is ahead of ours, in milliseconds, according to `/ping`.
    pub(super) ahead: i64,
    /// The nara that signs with v1 only.
    pub(super) v1: LocalNara,
    /// The nara that signs with v2.
    pub(super) v2: LocalNara,
    has: Vec<Need>,
    last: AtomicI64,
    exchanges: Mutex<Vec<Exchange>>,
}

/// Why the peer cannot be checked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// It does not answer.
    #[error("no nara answers at {address}: {reason}")]
    Silent { address: SocketAddr, reason: String },
    /// `/ping` does not identify it.
    #[error("{address} answers /ping without a name and a key: {came}")]
    Nameless { address: SocketAddr, came: String },
}

impl Peer {
    /// Asks a peer for its identity and capabilities.
    pub(super) async fn meet(
        address: SocketAddr,
        limit: Duration,
        v1: LocalNara,
        v2: LocalNara,
    ) -> Result<Self, Unfit> {
        let silent = |error: std::io::Error| Unfit::Silent {
            address,
            reason: error.to_string(),
        };
        let mut connection = Connection::open(address, limit).await.map_err(silent)?;
        let answer = connection.send(&get("/ping")).await.map_err(silent)?;
        let now = SystemClock.now_millis();
        let ping: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let name = ping["from"].as_str().and_then(|name| NaraName::new(name).ok());
        let key = ping["public_key"]
            .as_str()
            .and_then(|key| PublicKey::from_base64(key).ok());
        let (Some(name), Some(key)) = (name, key) else {
            let came = answer.describe();
            return Err(Unfit::Nameless { address, came });
        };
        // A check reports a wrong unit; here such a clock is assumed equal to ours.
        let told = ping["t"]
            .as_i64()
            .map_or_else(|| now.get(), |nanos| nanos / 1_000_000);
        let ahead = Some(told - now.get())
            .filter(|ahead| ahead.abs() < 600_000)
            .unwrap_or_default();
        let told_now = UnixMillis::new(now.get() + ahead);
        let capability = SignedCapability::from_headers(&answer.headers).ok().flatten();
        let capability = capability.and_then(|signed| signed.verify(&name, &key, told_now).cloned().ok());
        Ok(Self {
            address,
            limit,
            name,
            key,
            capability,
            ahead,
            v1,
            v2,
            has: Vec::new(),
            last: AtomicI64::default(),
            exchanges: Mutex::default(),
        })
    }

    /// Determines what can be checked. Returns the peer's reason if it refuses the checking naras.
    pub(super) async fn explore(&mut self, write: bool) -> Result<(), String> {
        if write {
            self.has.push(Need::Write);
        }
        let announced = self.capability.clone();
        let announces = |what: fn(&Capability) -> bool| announced.as_ref().is_some_and(what);
        for (need, announced) in [
            (Need::V2, announces(|capability| capability.v2)),
            (Need::Tls, announces(|capability| capability.tls)),
            (
                Need::RawPublicKey,
                announces(|capability| capability.raw_public_key),
            ),
        ] {
            if announced {
                self.has.push(need);
            }
        }
        let known = self.answers(&self.v1_signed(recent(&self.v1))).await;
        if known.is_ok() {
            self.has.push(Need::KnowsV1);
        }
        if self.has(Need::V2) && self.answers(&self.v2_signed(recent(&self.v2))).await.is_ok() {
            self.has.push(Need::KnowsV2);
        }
        if known.is_ok() {
            let stream = self.v1_signed(get("/events/stream"));
            if self
                .begins(&stream)
                .await
                .is_some_and(|status| !is_unserved(status))
            {
                self.has.push(Need::Stream);
            }
            let reconcile = self.v1_signed(post("/events/reconcile", ""));
            if self
                .begins(&reconcile)
                .await
                .is_some_and(|status| !is_unserved(status))
            {
                self.has.push(Need::Reconcile);
            }
        }
        self.take_exchanges();
        known
    }

    pub(super) fn has(&self, need: Need) -> bool {
        self.has.contains(&need)
    }

    /// Returns whether the peer answers a request with 200, else its answer.
    async fn answers(&self, draft: &Draft) -> Result<(), String> {
        match self.send(draft).await {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(answer.describe()),
            Err(Fault::Differs(reason)) => Err(reason),
            Err(Fault::Skip(reason)) => Err(reason.to_owned()),
        }
    }

    /// Returns the status of the answer to a request, without reading the body.
    async fn begins(&self, draft: &Draft) -> Option<u16> {
        let mut connection = Connection::open(self.address, self.limit).await.ok()?;
        let response = connection.begin(draft).await.ok()?;
        Some(response.status().as_u16())
    }

    /// Returns the time of the peer. Times are unique, so that signatures are too.
    pub(super) fn now(&self) -> UnixMillis {
        let now = SystemClock.now_millis().get() + self.ahead;
        let newer = |last| Some(now.max(last + 1));
        let last = self.last.fetch_update(Ordering::SeqCst, Ordering::SeqCst, newer);
        UnixMillis::new(now.max(last.unwrap_or_default() + 1))
    }

    /// Returns the time of the peer with an offset in seconds.
    pub(super) fn now_and(&self, seconds: i64) -> UnixMillis {
        UnixMillis::new(self.now().get() + seconds * 1_000)
    }

    /// Signs as the v1 nara.
    pub(super) fn v1_signed(&self, draft: Draft) -> Draft {
        signing::v1(draft, &self.v1, self.now())
    }

    /// Signs as the v2 nara, for this peer on a plain connection.
    pub(super) fn v2_signed(&self, draft: Draft) -> Draft {
        self.v2_changed(draft, |_| ())
    }

    /// Signs as the v2 nara, with parts of the signature changed before signing.
    pub(super) fn v2_changed(&self, draft: Draft, change: impl FnOnce(&mut V2)) -> Draft {
        let mut parts = self.v2_parts(&draft, &self.v2);
        change(&mut parts);
        parts.sign(draft)
    }

    /// Returns the parts of a signature by a nara for this peer.
    pub(super) fn v2_parts(&self, draft: &Draft, nara: &LocalNara) -> V2 {
        let mut random = [0; 10];
        getrandom::fill(&mut random).expect("the operating system provides random bytes");
        V2::of(draft, nara, &self.recipient(), self.now(), random)
    }

    /// Returns the `X-Nara-To` value of this peer.
    pub(super) fn recipient(&self) -> String {
        match &self.capability {
            Some(capability) => capability.id.to_string(),
            None => nara_proto::v2::Recipient::Name(self.name.clone()).to_string(),
        }
    }

    /// Returns a signed sync request of the v1 nara. Adds `from`.
    pub(super) fn sync(&self, mut request: Value) -> Draft {
        request["from"] = json!(self.v1.name().as_str());
        self.v1_signed(post("/events/sync", request.to_string()))
    }

    /// Sends a request on a new connection. Boxed, like the other senders: otherwise each check would embed
    /// the whole future.
    pub(super) fn send<'a>(&'a self, draft: &'a Draft) -> BoxFuture<'a, Verdict<Answer>> {
        Box::pin(async move {
            let came = async {
                let mut connection = Connection::open(self.address, self.limit).await?;
                connection.send(draft).await
            };
            self.record(draft, came.await)
        })
    }

    /// Sends a request on an open connection.
    pub(super) async fn send_on(&self, connection: &mut Connection, draft: &Draft) -> Verdict<Answer> {
        self.record(draft, connection.send(draft).await)
    }

    fn record(&self, draft: &Draft, came: std::io::Result<Answer>) -> Verdict<Answer> {
        self.note(
            draft.describe(),
            match &came {
                Ok(answer) => answer.describe(),
                Err(error) => error.to_string(),
            },
        );
        Ok(came?)
    }

    /// Records a request and its answer for the report of the running check.
    pub(super) fn note(&self, sent: impl Into<String>, came: impl Into<String>) {
        let (sent, came) = (sent.into(), came.into());
        let mut exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        exchanges.push(Exchange { sent, came });
    }

    /// Returns the exchanges recorded since the last call.
    pub(super) fn take_exchanges(&self) -> Vec<Exchange> {
        std::mem::take(&mut *self.exchanges.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends a request that the peer must answer with 200.
    pub(super) async fn accepts(&self, draft: Draft) -> Verdict<Answer> {
        let answer = self.send(&draft).await?;
        answer.is(200)?;
        Ok(answer)
    }

    /// Sends a request that the peer must refuse with a status.
    pub(super) async fn refuses(&self, draft: Draft, status: u16) -> Verdict<Answer> {
        let answer = self.send(&draft).await?;
        answer.is(status)?;
        Ok(answer)
    }

    /// Sends a request that the peer must refuse with this status and text.
    pub(super) async fn refuses_with(&self, draft: Draft, status: u16, text: &str) -> Verdict {
        self.refuses(draft, status).await?.is_text(text)
    }

    /// Opens a stream, and returns the head of the answer and the messages.
    pub(super) fn stream<'a>(&'a self, draft: &'a Draft) -> BoxFuture<'a, Verdict<(Answer, Messages)>> {
        Box::pin(async move {
            let mut connection = Connection::open(self.address, self.limit).await?;
            let response = connection.begin(draft).await?;
            let (head, body) = response.into_parts();
            let answer = Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body: bytes::Bytes::new(),
            };
            self.note(draft.describe(), answer.describe());
            Ok((answer, Messages::new(body, self.limit)))
        })
    }

    /// Opens a TLS connection as a nara.
    pub(super) fn channel<'a>(
        &'a self,
        nara: Option<&'a LocalNara>,
        form: Form,
    ) -> BoxFuture<'a, std::io::Result<Channel>> {
        Box::pin(channel::open(self.address, nara, form, self.limit))
    }

    /// Verifies the v1 signature of an answer.
    pub(super) fn signed_v1(&self, answer: &Answer) -> Verdict {
        let auth = ResponseAuth::from_headers(&answer.headers)
            .map_err(|error| differs(format!("the answer is not signed: {error}")))?;
        ensure(*auth.name() == self.name, || {
            format!("the answer is signed by {}, not by {}", auth.name(), self.name)
        })?;
        auth.verify(&self.key, &answer.body, self.now())
            .map_err(|error| differs(error.to_string()))
    }

    /// Verifies the v2 signature of an answer and its binding to the request.
    pub(super) fn bound(&self, request: &Draft, answer: &Answer) -> Verdict {
        let unsigned = |error: nara_proto::v2::SignatureError| {
            differs(format!("the v2 signature of the answer: {error}"))
        };
        let asked = RequestSignature::from_headers(&request.headers).map_err(unsigned)?;
        let signed = ResponseSignature::from_headers(&answer.headers).map_err(unsigned)?;
        ensure(*signed.name() == self.name, || {
            format!("the answer is signed by {}, not by {}", signed.name(), self.name)
        })?;
        signed.check_key(&self.key).map_err(unsigned)?;
        signed.check_time(self.now()).map_err(unsigned)?;
        signed
            .digest()
            .and_then(|digest| digest.check(&answer.body))
            .map_err(unsigned)?;
        let status = http::StatusCode::from_u16(answer.status).map_err(|error| differs(error.to_string()))?;
        signed
            .verify_signature(&self.key, status, asked.signature())
            .map_err(unsigned)
    }
}

/// Returns an unsigned sync request for the newest event.
pub(super) fn recent(nara: &LocalNara) -> Draft {
    let body = json!({ "from": nara.name().as_str(), "mode": "recent", "limit": 1 });
    post("/events/sync", body.to_string())
}

fn is_unserved(status: u16) -> bool {
    matches!(status, 401 | 404 | 405)
}

impl Answer {
    /// Requires this status.
    pub(super) fn is(&self, status: u16) -> Verdict {
        self.is_one_of(&[status])
    }

    /// Requires one of these statuses.
    pub(super) fn is_one_of(&self, statuses: &[u16]) -> Verdict {
        ensure(statuses.contains(&self.status), || {
            let expected: Vec<String> = statuses.iter().map(u16::to_string).collect();
            format!("status {} instead of {}", self.status, expected.join(" or "))
        })
    }

    /// Requires `text/plain` with this text and a line break.
    pub(super) fn is_text(&self, text: &str) -> Verdict {
        let body = self.text();
        ensure(body == format!("{text}\n"), || {
            format!("the body is {body:?} instead of {text:?} and a line break")
        })?;
        self.has_kind("text/plain; charset=utf-8")
    }

    /// Requires a body that begins with this text.
    pub(super) fn begins_with(&self, text: &str) -> Verdict {
        let body = self.text();
        ensure(body.starts_with(text), || {
            format!("the body is {body:?} and does not begin with {text:?}")
        })
    }

    /// Requires this content type.
    pub(super) fn has_kind(&self, kind: &str) -> Verdict {
        let got = self.header("content-type").unwrap_or_default();
        ensure(got.eq_ignore_ascii_case(kind), || {
            format!("the content type is {got:?} instead of {kind:?}")
        })
    }

    /// Requires an answer without signature headers.
    pub(super) fn is_unsigned(&self) -> Verdict {
        let signed = |headers: &HeaderMap| {
            headers.contains_key("x-nara-signature") || headers.contains_key("signature")
        };
        ensure(!signed(&self.headers), || "the answer is signed".to_owned())
    }

    /// Returns the body as JSON.
    pub(super) fn json(&self) -> Verdict<Value> {
        serde_json::from_slice(&self.body).map_err(|error| differs(format!("the body is not JSON: {error}")))
    }

    /// Requires a JSON object with these keys, in this order.
    pub(super) fn has_keys(&self, keys: &[&str]) -> Verdict {
        let text = self.text();
        let mut rest = text.as_str();
        for key in keys {
            let quoted = format!("\"{key}\":");
            let place = rest
                .find(&quoted)
                .ok_or_else(|| differs(format!("the key {key:?} is missing or out of order")))?;
            rest = &rest[place + quoted.len()..];
        }
        Ok(())
    }

    /// Returns the events of a sync answer or a zine; `null` is an empty list.
    pub(super) fn events(&self) -> Verdict<Vec<Value>> {
        match &self.json()?["events"] {
            Value::Null => Ok(Vec::new()),
            Value::Array(events) => Ok(events.clone()),
            other => Err(differs(format!("events is {other} instead of a list or null"))),
        }
    }

    /// Returns the body as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Returns the times of events, in nanoseconds.
pub(super) fn times(events: &[Value]) -> Vec<i64> {
    events
        .iter()
        .map(|event| event["ts"].as_i64().unwrap_or_default())
        .collect()
}
