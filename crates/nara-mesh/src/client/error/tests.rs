use nara_proto::time::UnixMillis;

use super::*;

fn status(status: u16, text: &str) -> ClientError {
    let answer = StatusAnswer {
        status: StatusCode::from_u16(status).unwrap(),
        text: text.to_owned(),
        verified: false,
    };
    ClientError::new("bob", ErrorKind::Status(answer))
}

#[test]
fn a_message_names_the_peer_what_happened_and_what_to_do() {
    assert_eq!(
        ClientError::new("bob", ErrorKind::UnknownPeer).to_string(),
        "bob: the peer or its address is unknown; register it first"
    );
    assert_eq!(
        status(401, "Authentication failed: replayed request\n").to_string(),
        "bob: answered 401 \"Authentication failed: replayed request\" (not verified); check that our \
         clock is right and that the peer has our name and key"
    );
}

/// Every kind that can be made without a connection.
fn all_kinds() -> Vec<ErrorKind> {
    let name: NaraName = "carol".parse().unwrap();
    let discovery = ErrorKind::Discovery(DiscoveryProblem::NoKey);
    vec![
        ErrorKind::AskedToWait(AskedToWait {
            retry_after: Duration::from_secs(3),
            answer: None,
        }),
        ErrorKind::CircuitOpen(CircuitOpen {
            retry_in: Duration::from_secs(1),
        }),
        ErrorKind::ClockSkew(ClockSkew {
            theirs: UnixMillis::new(1_769_100_000_000),
            ours: UnixMillis::new(1_769_100_040_250),
            fault: None,
            judged_by_peer: true,
            what: Skewed::Answer(Box::new(ResponseAuthError::Stale {
                by: Duration::from_millis(40_250),
            })),
        }),
        ErrorKind::Decode(nara_proto::go_json::from_slice::<String>(b"{").unwrap_err()),
        ErrorKind::Dial(io::Error::from(io::ErrorKind::ConnectionRefused)),
        ErrorKind::DialTimeout(Duration::from_secs(5)),
        ErrorKind::Discovery(DiscoveryProblem::NoName),
        ErrorKind::Downgrade,
        ErrorKind::DuplicateMessage,
        ErrorKind::Identity(RegisterError::Full(1)),
        ErrorKind::InnerSignature,
        ErrorKind::InvalidRequest(http::Uri::builder().path_and_query(" ").build().unwrap_err()),
        ErrorKind::NobodyKnows { asked: 3 },
        ErrorKind::NoReply(Duration::from_secs(30)),
        ErrorKind::Page(PageError::TooLong { asked: 1, got: 2 }),
        ErrorKind::Timeout(Stage::Answer),
        ErrorKind::Timeout(Stage::Dial),
        ErrorKind::Timeout(Stage::Queue),
        ErrorKind::Timeout(Stage::Verify),
        ErrorKind::TooLarge(1),
        ErrorKind::TooManyPending(1),
        ErrorKind::Signature(SignatureError::BadSignature),
        ErrorKind::Unauthenticated(ResponseAuthError::BadSignature),
        ErrorKind::UnknownKey {
            responder: name.clone(),
            discovery: None,
        },
        ErrorKind::UnknownKey {
            responder: name,
            discovery: Some(ClientError::new("bob", discovery)),
        },
        ErrorKind::UnknownPeer,
        ErrorKind::Untrusted("carol".parse().unwrap()),
    ]
}

#[test]
fn every_message_names_the_peer_once_and_ends_with_what_to_do() {
    for kind in all_kinds() {
        let error = ClientError::new("bob", kind);
        let text = error.to_string();
        assert!(text.starts_with("bob: "), "{text}");
        let (happened, advice) = text.rsplit_once("; ").expect(&text);
        assert!(advice.len() > 10 && happened.len() > 10, "{text}");
        assert!(!text.contains('\n'), "{text}");
        let cause = error.source().map(ToString::to_string);
        assert!(cause.is_none_or(|cause| !text.contains(&cause)), "{text}");
    }
    for code in [307, 400, 401, 404, 500, 503] {
        let text = status(code, "what; it says").to_string();
        let (_, advice) = text.rsplit_once("; ").unwrap();
        assert!(!advice.contains("it says"), "{text}");
    }
}

#[test]
fn a_cause_is_its_source_and_not_part_of_the_message() {
    let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    let cause = refused.to_string();
    let error = ClientError::new("bob", ErrorKind::Dial(refused));
    assert_eq!(error.source().unwrap().to_string(), cause);
    assert!(!error.to_string().contains(&cause));
    assert!(error.is_unreachable() && !error.is_timeout());
}

#[test]
fn what_a_peer_wrote_is_quoted_and_cut() {
    let error = status(500, &format!("\u{1b}[2J{}", "x".repeat(5000)));
    assert!(!error.to_string().contains('\u{1b}'));
    assert!(error.to_string().len() < 400);
    assert!(error.text().unwrap().len() > 5000);
}
