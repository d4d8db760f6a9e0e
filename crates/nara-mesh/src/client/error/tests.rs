use nara_proto::time::UnixMillis;

use super::*;

fn status(status: u16, text: &str) -> ClientError {
    let answer = StatusAnswer {
        status: StatusCode::from_u16(status).unwrap(),
        text: text.to_owned(),
        verified: false,
    };
    ClientError::new("bob", Problem::Status(answer))
}

#[test]
fn a_message_names_the_peer_and_what_happened_and_a_hint_says_what_to_do() {
    assert_eq!(
        ClientError::new("bob", Problem::UnknownPeer).to_string(),
        "bob: the peer or its address is unknown"
    );
    let refused = status(401, "Authentication failed: replayed request\n");
    assert_eq!(
        refused.to_string(),
        "bob: answered 401 \"Authentication failed: replayed request\" (not verified)"
    );
    assert_eq!(
        refused.hint().unwrap(),
        "check that our clock is right and that the peer has our name and key"
    );
}

/// Returns every kind that can be constructed without a connection.
fn all_kinds() -> Vec<Problem> {
    let name: NaraName = "carol".parse().unwrap();
    let discovery = Problem::Discovery(DiscoveryProblem::NoKey);
    vec![
        Problem::AskedToWait(AskedToWait {
            retry_after: Duration::from_secs(3),
            how: super::super::refusal::Asking::Before,
        }),
        Problem::CircuitOpen(CircuitOpen {
            retry_in: Duration::from_secs(1),
        }),
        Problem::ClockSkew(ClockSkew {
            theirs: UnixMillis::new(1_769_100_000_000),
            ours: UnixMillis::new(1_769_100_040_250),
            fault: None,
            judged_by_peer: true,
            what: Skewed::Answer(Box::new(ResponseAuthError::Stale {
                by: Duration::from_millis(40_250),
            })),
        }),
        Problem::Decode(nara_proto::go_json::from_slice::<String>(b"{").unwrap_err()),
        Problem::Dial(io::Error::from(io::ErrorKind::ConnectionRefused)),
        Problem::DialTimeout(Duration::from_secs(5)),
        Problem::Discovery(DiscoveryProblem::NoName),
        Problem::Downgrade,
        Problem::DuplicateMessage,
        Problem::Identity(RegisterError::Full(1)),
        Problem::InnerSignature,
        Problem::InvalidRequest(RequestProblem::Host),
        Problem::NobodyKnows { asked: 3 },
        Problem::NoReply(Duration::from_secs(30)),
        Problem::Page(PageError::TooLong { asked: 1, got: 2 }),
        Problem::Timeout(Stage::Answer),
        Problem::Timeout(Stage::Body),
        Problem::NotStreamable,
        Problem::Timeout(Stage::Dial),
        Problem::Timeout(Stage::Queue),
        Problem::Timeout(Stage::Slow),
        Problem::Timeout(Stage::Verify),
        Problem::TooLarge(1),
        Problem::TooManyPending(1),
        Problem::Signature(SignatureError::BadSignature),
        Problem::Unauthenticated(ResponseAuthError::BadSignature),
        Problem::KeyNotPinned {
            responder: name.clone(),
        },
        Problem::KeyNotLearned {
            responder: name,
            discovery: ClientError::new("bob", discovery),
        },
        Problem::OwnNara,
        Problem::UnknownPeer,
        Problem::Untrusted("carol".parse().unwrap()),
    ]
}

#[test]
fn every_message_names_the_peer_once_and_comes_with_a_hint_that_names_no_program() {
    for kind in all_kinds() {
        let error = ClientError::new("bob", kind);
        let text = error.to_string();
        assert!(text.starts_with("bob: "), "{text}");
        let hint = error.hint().unwrap();
        assert!(hint.len() > 8 && text.len() > 15, "{text}; {hint}");
        assert!(!text.contains(&*hint), "{text}; {hint}");
        assert!(!hint.contains('`') && !text.contains('`'), "{text}; {hint}");
        assert!(!text.contains('\n'), "{text}");
        let cause = error.source().map(ToString::to_string);
        assert!(cause.is_none_or(|cause| !text.contains(&cause)), "{text}");
    }
    for code in [307, 400, 401, 404, 500, 503] {
        let error = status(code, "what; it says");
        assert!(!error.hint().unwrap().contains("it says"), "{error}");
    }
}

#[test]
fn a_cause_is_its_source_and_not_part_of_the_message() {
    let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    let cause = refused.to_string();
    let error = ClientError::new("bob", Problem::Dial(refused));
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
