//! `GET /events/stream` (docs/protocol/streams.md).

use std::time::Duration;

use nara_proto::go_json;
use nara_proto::stream::{Hello, StreamOpening};
use tokio::time::sleep;

use super::super::check::{Check, Group, Need, Verdict, differs, ensure, must, run, should};
use super::super::peer::Peer;
use super::super::wire::{Draft, Messages, get};

const REQUEST: &str = "streams.md#2-request";
const ANSWER: &str = "streams.md#3-answer";
const HELLO: &str = "streams.md#31-hello";

pub(super) const GROUP: Group = Group {
    needs: &[Need::KnowsV1, Need::Stream],
    checks: CHECKS,
};

const CHECKS: &[Check] = &[
    must(
        "stream/headers",
        ANSWER,
        "200, text/event-stream, not to be stored",
        run!(|peer| {
            let (head, _) = peer.stream(&peer.v1_signed(get("/events/stream"))).await?;
            head.is(200)?;
            let kind = head.header("content-type").unwrap_or_default();
            ensure(kind.starts_with("text/event-stream"), || {
                format!("the content type is {kind:?}")
            })?;
            let cache = head.header("cache-control").unwrap_or_default();
            ensure(cache == "no-store", || format!("Cache-Control is {cache:?}"))
        }),
    ),
    must(
        "stream/hello",
        HELLO,
        "the first message is a hello, signed for the v1 signature of the request",
        run!(|peer| { open(peer, signed_v1, "", "").await.map(drop) }),
    ),
    must(
        "stream/hello-v2",
        HELLO,
        "the hello is signed for the v2 signature, if the request carries one",
        run!(|peer| { open(peer, signed_v2, "", "").await.map(drop) }),
    )
    .needs(&[Need::V2, Need::KnowsV2]),
    must(
        "stream/hello-covers-query",
        HELLO,
        "the query is signed as on the request line",
        run!(|peer| { open(peer, signed_v1, "?services=social,ping", "").await.map(drop) }),
    ),
    must(
        "stream/now",
        REQUEST,
        "without cursor and since it begins now, at the position of the ledger",
        run!(|peer| {
            let (hello, _) = open(peer, signed_v1, "", "").await?;
            ensure(hello.reason == "now", || format!("reason is {:?}", hello.reason))?;
            ensure(hello.start == hello.position, || {
                format!("start is {}, position {}", hello.start, hello.position)
            })
        }),
    ),
    must(
        "stream/other-ledger",
        REQUEST,
        "a cursor of another ledger is replaced by the oldest event",
        run!(|peer| {
            let (hello, _) = open(peer, signed_v1, "", "0123456789abcdef:7").await?;
            ensure(hello.reason == "replaced-oldest", || {
                format!("reason is {:?}", hello.reason)
            })
        }),
    ),
    must(
        "stream/resumes",
        REQUEST,
        "a cursor of this ledger resumes after it",
        run!(|peer| {
            let (first, _) = open(peer, signed_v1, "", "").await?;
            let cursor = format!("{}:{}", first.epoch, first.start);
            let (second, _) = open(peer, signed_v1, "", &cursor).await?;
            ensure(second.reason == "cursor", || {
                format!("reason is {:?}", second.reason)
            })?;
            ensure(second.start == first.start, || {
                format!("start is {} instead of {}", second.start, first.start)
            })
        }),
    ),
    should(
        "stream/caught-up",
        ANSWER,
        "a ping follows when the stream has caught up",
        run!(|peer| {
            let (_, mut messages) = open(peer, signed_v1, "", "").await?;
            let next = messages.next().await?;
            peer.note("the next message", format!("{} {}", next.event, next.data));
            ensure(next.event == "ping" || next.event == "event", || {
                format!("{:?} follows", next.event)
            })
        }),
    ),
    must(
        "stream/since",
        REQUEST,
        "since that is not a number: 400",
        run!(|peer| {
            peer.refuses(peer.v1_signed(get("/events/stream?since=yesterday")), 400)
                .await
                .map(drop)
        }),
    ),
    must(
        "stream/twice",
        REQUEST,
        "a parameter given twice: 400",
        run!(|peer| {
            peer.refuses(peer.v1_signed(get("/events/stream?since=1&since=2")), 400)
                .await
                .map(drop)
        }),
    ),
    must(
        "stream/bad-cursor",
        REQUEST,
        "a Last-Event-ID that is no cursor: 400",
        run!(|peer| {
            for cursor in [
                "7",
                "0123456789ABCDEF:7",
                "0123456789abcdef:07",
                "0123456789abcdef:-1",
            ] {
                peer.refuses(
                    peer.v1_signed(get("/events/stream").with("last-event-id", cursor)),
                    400,
                )
                .await?;
            }
            Ok(())
        }),
    ),
    must(
        "stream/signed",
        REQUEST,
        "an unsigned request: 401",
        run!(|peer| { peer.refuses(get("/events/stream"), 401).await.map(drop) }),
    ),
];

/// Signs a request. Also returns its signature in base64.
type Sign = fn(&Peer, Draft) -> (Draft, String);

fn signed_v1(peer: &Peer, draft: Draft) -> (Draft, String) {
    let draft = peer.v1_signed(draft);
    let signature = draft.header("x-nara-signature");
    (draft, signature)
}

fn signed_v2(peer: &Peer, draft: Draft) -> (Draft, String) {
    let draft = peer.v2_signed(draft);
    let signature = draft.header("signature");
    let signature = signature.trim_start_matches("nara=:").trim_end_matches(':');
    let signature = signature.to_owned();
    (draft, signature)
}

/// Opens a stream and verifies its `hello`.
async fn open(peer: &Peer, sign: Sign, query: &str, cursor: &str) -> Verdict<(Hello, Messages)> {
    // The peer may not have noticed yet that earlier streams are closed.
    const TRIES: usize = 20;
    let mut tries = 0;
    let (draft, signature, head, mut messages) = loop {
        let mut draft = get(&format!("/events/stream{query}"));
        if !cursor.is_empty() {
            draft = draft.with("last-event-id", cursor);
        }
        let (draft, signature) = sign(peer, draft);
        let (head, messages) = peer.stream(&draft).await?;
        tries += 1;
        if head.status != 503 || tries == TRIES {
            break (draft, signature, head, messages);
        }
        sleep(Duration::from_millis(100)).await;
    };
    head.is(200)?;
    let message = messages.next().await?;
    peer.note("the first message", format!("{} {}", message.event, message.data));
    ensure(message.event == "hello", || {
        format!("the first message is {:?}", message.event)
    })?;
    let hello: Hello = go_json::from_slice(message.data.as_bytes())
        .map_err(|error| differs(format!("the hello is malformed: {error}")))?;
    let opening = StreamOpening {
        request_signature: &signature,
        query: draft.query().unwrap_or_default(),
        last_event_id: cursor,
    };
    hello
        .verify(opening, &peer.key)
        .map_err(|error| differs(error.to_string()))?;
    ensure(hello.from == peer.name.as_str(), || {
        format!("from is {:?}", hello.from)
    })?;
    let start = format!("{}:{}", hello.epoch, hello.start);
    ensure(message.id == start, || {
        format!("id is {:?}, but the stream begins at {start}", message.id)
    })?;
    ensure(hello.keep_alive_ms > 0, || {
        format!("keep_alive_ms is {}", hello.keep_alive_ms)
    })?;
    Ok((hello, messages))
}
