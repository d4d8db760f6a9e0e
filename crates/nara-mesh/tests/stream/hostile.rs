//! Servers that lie, flood and break the rules.

use std::time::Duration;

use nara_mesh::client::{StreamError, StreamProblem, StreamState, SubscribeOptions, Subscription};
use nara_mesh::proto::go_json;
use nara_mesh::proto::stream::StreamOpening;

use crate::support::{
    EPOCH, HEAD, Mesh, Opening, block, event, is_waiting, next, next_ts, serve_by_hand, until,
};

/// Returns bob's answer: a valid hello with no missed events, followed by `rest`.
fn answer(mesh: &Mesh, opening: &Opening, rest: &str) -> Vec<u8> {
    let (start, reason) = match opening.last_event_id.split_once(':') {
        Some((_, seq)) => (seq.parse().unwrap(), "cursor"),
        None => (0, "now"),
    };
    let hello = go_json::to_string(&mesh.hello(opening, 0, start, reason));
    format!("{HEAD}{}{rest}", block("hello", start, &hello)).into_bytes()
}

/// Subscribes to bob, who sends `rest` after his hello.
async fn subscribe(rest: impl Into<String>) -> (Subscription, tokio::time::Instant) {
    let mesh = Mesh::new();
    let network = mesh.network.clone();
    let client = mesh.client();
    let bob = mesh.bob.id().clone();
    let rest = rest.into();
    serve_by_hand(&network, move |_, opening| answer(&mesh, opening, &rest)).await;
    (
        client.peer(&bob).subscribe(SubscribeOptions::default()),
        tokio::time::Instant::now(),
    )
}

/// Returns the rule that bob breaks by sending `rest`.
async fn problem_of(rest: impl Into<String>) -> StreamProblem {
    let (mut events, began) = subscribe(rest).await;
    let problem = next_problem(&mut events).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // It is not called again at once.
    let StreamState::Waiting { retry_in, .. } = until(&events, is_waiting).await else {
        panic!("waiting");
    };
    assert!(retry_in >= Duration::from_secs(5), "{retry_in:?}");
    problem
}

async fn next_problem(events: &mut Subscription) -> StreamProblem {
    let error = next(events).await.unwrap_err();
    assert!(error.to_string().starts_with("bob"), "{error}");
    assert!(!error.is_final());
    match error {
        StreamError::Protocol { problem, .. } => problem,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_endless_line_is_cut() {
    for line in [":", "data: ", "event: ", "id: ", ""] {
        let problem = problem_of(line.to_owned() + &"x".repeat(1 << 20)).await;
        assert!(
            matches!(problem, StreamProblem::TooLarge(_)),
            "{line:?}: {problem}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_endless_message_is_cut() {
    for line in ["data: x\n", ": x\n", "data: x\r\n", "data\r", "retry: 1\n"] {
        let problem = problem_of(line.repeat(300_000)).await;
        assert!(
            matches!(problem, StreamProblem::TooLarge(_)),
            "{line:?}: {problem}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn bad_utf_8_is_named() {
    let mesh = Mesh::new();
    let (network, client, bob) = (mesh.network.clone(), mesh.client(), mesh.bob.id().clone());
    serve_by_hand(&network, move |_, opening| {
        let mut bytes = answer(&mesh, opening, "event: event\ndata: ");
        bytes.extend_from_slice(b"\xff\xfe\n\n");
        bytes
    })
    .await;
    let mut events = client.peer(&bob).subscribe(SubscribeOptions::default());
    let problem = next_problem(&mut events).await;
    assert!(matches!(problem, StreamProblem::Framing(_)), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn positions_must_belong_to_the_ledger_and_increase() {
    let mesh = Mesh::new();
    let one = go_json::to_string(&event(&mesh.bob, 1));
    let ping = r#"{"position":0}"#;
    let foreign = format!("event: event\nid: 00000000000000ff:5\ndata: {one}\n\n");
    assert!(matches!(
        problem_of(foreign).await,
        StreamProblem::ForeignCursor { .. }
    ));
    assert!(matches!(
        problem_of(block("event", 0, &one)).await,
        StreamProblem::Order { last: 0, got: 0 }
    ));
    assert!(matches!(
        problem_of(format!("event: event\ndata: {one}\n\n")).await,
        StreamProblem::Message(_)
    ));
    assert!(matches!(
        problem_of(format!("event: event\nid: 17\ndata: {one}\n\n")).await,
        StreamProblem::Message(_)
    ));
    assert!(matches!(
        problem_of(block("event", 5, "{")).await,
        StreamProblem::Message(_)
    ));

    // Events before the violation count.
    let (mut events, _) = subscribe(block("event", 5, &one) + &block("event", 5, &one)).await;
    assert_eq!(next_ts(&mut events).await, 1);
    let problem = next_problem(&mut events).await;
    assert!(
        matches!(problem, StreamProblem::Order { last: 5, got: 5 }),
        "{problem}"
    );
    let (mut events, _) = subscribe(block("event", 5, &one) + &block("ping", 4, ping)).await;
    assert_eq!(next_ts(&mut events).await, 1);
    let problem = next_problem(&mut events).await;
    assert!(
        matches!(problem, StreamProblem::Order { last: 5, got: 4 }),
        "{problem}"
    );
}

#[tokio::test(start_paused = true)]
async fn events_signed_by_others_are_named_and_left_out() {
    let mesh = Mesh::new();
    let mut forged = event(&mesh.carol, 1);
    forged.sign("carol", mesh.bob.keypair());
    let mut unsigned = event(&mesh.carol, 2);
    unsigned.sig = String::new();
    let rest: String = [forged, unsigned, event(&mesh.carol, 3)]
        .iter()
        .zip(1..)
        .map(|(event, seq)| block("event", seq, &go_json::to_string(event)))
        .collect();
    let (mut events, _) = subscribe(rest).await;
    for _ in 0..2 {
        let error = next(&mut events).await.unwrap_err();
        assert!(error.refused().is_some(), "{error}");
    }
    assert_eq!(next_ts(&mut events).await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_stream_begins_with_one_hello() {
    let mesh = Mesh::new();
    let (network, client, bob) = (mesh.network.clone(), mesh.client(), mesh.bob.id().clone());
    serve_by_hand(&network, move |_, _| {
        format!("{HEAD}{}", block("ping", 0, r#"{"position":0}"#)).into_bytes()
    })
    .await;
    let mut events = client.peer(&bob).subscribe(SubscribeOptions::default());
    assert!(matches!(next_problem(&mut events).await, StreamProblem::NoHello));
    assert!(matches!(
        problem_of(block("hello", 0, "{}")).await,
        StreamProblem::SecondHello
    ));
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_hello_in_time_is_given_up() {
    let mesh = Mesh::new();
    let (network, client, bob) = (mesh.network.clone(), mesh.client(), mesh.bob.id().clone());
    serve_by_hand(&network, move |_, _| HEAD.as_bytes().to_vec()).await;
    let began = tokio::time::Instant::now();
    let events = client.peer(&bob).subscribe(SubscribeOptions::default());
    let state = until(&events, is_waiting).await;
    assert!(state.to_string().contains("deadline"), "{state}");
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn another_nara_cannot_answer_for_it() {
    type Change = fn(&Mesh, &Opening) -> String;
    let changes: [Change; 5] = [
        // Another name.
        |mesh, opening| {
            let mut hello = mesh.hello(opening, 0, 0, "now");
            hello.from = "carol".to_owned();
            hello.id = mesh.carol.id().to_string();
            hello.sign(opening.opening(), mesh.carol.keypair());
            go_json::to_string(&hello)
        },
        // The same name, another key.
        |mesh, opening| {
            let mut hello = mesh.hello(opening, 0, 0, "now");
            hello.sign(opening.opening(), mesh.carol.keypair());
            go_json::to_string(&hello)
        },
        // The hello of another request.
        |mesh, opening| {
            let mut hello = mesh.hello(opening, 0, 0, "now");
            let other = StreamOpening {
                request_signature: "b3RoZXI=",
                ..opening.opening()
            };
            hello.sign(other, mesh.bob.keypair());
            go_json::to_string(&hello)
        },
        // Changed by a man in the middle.
        |mesh, opening| {
            let mut hello = mesh.hello(opening, 0, 0, "now");
            hello.keep_alive_ms = 1_000_000;
            go_json::to_string(&hello)
        },
        // A query that was changed on the way.
        |mesh, opening| {
            let mut hello = mesh.hello(opening, 0, 0, "now");
            let other = StreamOpening {
                query: "services=chau",
                ..opening.opening()
            };
            hello.sign(other, mesh.bob.keypair());
            go_json::to_string(&hello)
        },
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mesh = Mesh::new();
        let (network, client, bob) = (mesh.network.clone(), mesh.client(), mesh.bob.id().clone());
        serve_by_hand(&network, move |_, opening| {
            format!("{HEAD}{}", block("hello", 0, &change(&mesh, opening))).into_bytes()
        })
        .await;
        let mut events = client.peer(&bob).subscribe(SubscribeOptions::default());
        let error = next(&mut events).await.unwrap_err();
        assert!(
            matches!(error, StreamError::Unauthenticated(_)),
            "{index}: {error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_begins_elsewhere_is_refused() {
    let mesh = Mesh::new();
    let (network, client, bob) = (mesh.network.clone(), mesh.client(), mesh.bob.id().clone());
    serve_by_hand(&network, move |_, opening| {
        let hello = go_json::to_string(&mesh.hello(opening, 9, 9, "cursor"));
        format!("{HEAD}{}", block("hello", 9, &hello)).into_bytes()
    })
    .await;
    let cursor = format!("{EPOCH}:3").parse().unwrap();
    let mut events = client
        .peer(&bob)
        .subscribe(SubscribeOptions::default().resume(cursor));
    let problem = next_problem(&mut events).await;
    assert!(matches!(problem, StreamProblem::WrongStart { .. }), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn three_missed_keep_alives_mean_that_it_is_dead() {
    for (keep_alive_ms, expected) in [(15_000, 45), (1, 3), (i64::MAX, 180)] {
        let mesh = Mesh::new();
        let (network, client, bob) = (mesh.network.clone(), mesh.client(), mesh.bob.id().clone());
        serve_by_hand(&network, move |_, opening| {
            let mut hello = mesh.hello(opening, 0, 0, "now");
            hello.keep_alive_ms = keep_alive_ms;
            hello.sign(opening.opening(), mesh.bob.keypair());
            // Comments are no sign of life: they do not come from the server's handler.
            let block = block("hello", 0, &go_json::to_string(&hello));
            format!("{HEAD}{block}: still here\n\n").into_bytes()
        })
        .await;
        let began = tokio::time::Instant::now();
        let events = client.peer(&bob).subscribe(SubscribeOptions::default());
        let state = until(&events, is_waiting).await;
        assert!(state.to_string().contains("no data"), "{state}");
        assert_eq!(began.elapsed().as_secs(), expected, "{keep_alive_ms}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_senseless_keep_alive_is_named() {
    let mesh = Mesh::new();
    let (network, client, bob) = (mesh.network.clone(), mesh.client(), mesh.bob.id().clone());
    serve_by_hand(&network, move |_, opening| {
        let mut hello = mesh.hello(opening, 0, 0, "now");
        hello.keep_alive_ms = -1;
        hello.sign(opening.opening(), mesh.bob.keypair());
        format!("{HEAD}{}", block("hello", 0, &go_json::to_string(&hello))).into_bytes()
    })
    .await;
    let mut events = client.peer(&bob).subscribe(SubscribeOptions::default());
    let problem = next_problem(&mut events).await;
    assert!(matches!(problem, StreamProblem::KeepAlive(-1)), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn the_retry_field_is_followed_within_bounds() {
    for (retry, range) in [
        (3_000_u64, Duration::from_secs(3)..=Duration::from_secs(3)),
        (u64::MAX, Duration::from_secs(30)..=Duration::from_secs(30)),
        (0, Duration::from_millis(200)..=Duration::from_millis(400)),
    ] {
        let bye = block("bye", 0, r#"{"reason":"enough"}"#);
        let (events, _) = subscribe(format!("retry: {retry}\n{bye}")).await;
        let StreamState::Waiting { retry_in, why } = until(&events, is_waiting).await else {
            panic!("waiting");
        };
        assert!(range.contains(&retry_in), "{retry}: {retry_in:?}");
        assert!(why.contains("enough"), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_every_stream_at_once_is_called_ever_less_often() {
    let (events, began) = subscribe(block("bye", 0, r#"{"reason":"go away"}"#)).await;
    let mut state = events.state();
    let mut openings = 0;
    while began.elapsed() < Duration::from_secs(600) {
        state.changed().await.unwrap();
        openings += usize::from(*state.borrow_and_update() == StreamState::Connecting);
    }
    assert!(openings < 60, "{openings} in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn unknown_messages_and_fields_are_skipped() {
    let mesh = Mesh::new();
    let one = go_json::to_string(&event(&mesh.bob, 1));
    let rest = block("later", 3, "?") + "data: no type\n\nfuture: 1\n\n" + &block("event", 5, &one);
    let (mut events, _) = subscribe(rest).await;
    assert_eq!(next_ts(&mut events).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_streams_ends_the_subscription() {
    for status in ["404 Not Found", "405 Method Not Allowed"] {
        let mesh = Mesh::new();
        serve_by_hand(&mesh.network, move |_, _| {
            format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes()
        })
        .await;
        let mut events = mesh
            .client()
            .peer(mesh.bob.id())
            .subscribe(SubscribeOptions::default());
        let error = next(&mut events).await.unwrap_err();
        assert!(matches!(error, StreamError::Unsupported { .. }), "{error}");
        assert!(error.is_final());
    }
    let mesh = Mesh::new();
    serve_by_hand(&mesh.network, move |_, _| {
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 0\r\n\r\n".to_vec()
    })
    .await;
    let mut events = mesh
        .client()
        .peer(mesh.bob.id())
        .subscribe(SubscribeOptions::default());
    let problem = next_problem(&mut events).await;
    assert!(matches!(problem, StreamProblem::ContentType(_)), "{problem}");
}
