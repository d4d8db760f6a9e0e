//! Hostile header fields: each is refused for its own reason.

use http::HeaderValue;

use super::*;

/// Checks a request with a changed field. Form is checked before the signature.
fn with(field: SignedField, change: impl FnOnce(&str) -> String) -> Result<(), SignatureError> {
    let mut headers = headers(&request(|_| {}));
    let before = headers[field.header()].to_str().unwrap().to_owned();
    let after = change(&before);
    assert_ne!(before, after);
    headers.insert(field.header(), HeaderValue::from_bytes(after.as_bytes()).unwrap());
    receive(&headers, LINE, NOW)
}

fn input(from: &str, to: &str) -> Result<(), SignatureError> {
    with(SignedField::SignatureInput, |text| text.replacen(from, to, 1))
}

const COMPONENTS: &str = r#""@method" "@path" "@query" "content-digest" "x-nara-name" "x-nara-to""#;

#[test]
fn every_field_must_be_there_once() {
    for (field, longest) in [
        (SignedField::ContentDigest, members::MAX_LEN),
        (SignedField::Name, SignedField::Name.max_len()),
        (SignedField::Signature, members::MAX_LEN),
        (SignedField::SignatureInput, members::MAX_LEN),
        (SignedField::To, SignedField::To.max_len()),
    ] {
        let mut headers = headers(&request(|_| {}));
        let value = headers.remove(field.header()).unwrap();
        assert_eq!(receive(&headers, LINE, NOW), Err(SignatureError::Missing(field)));
        headers.append(field.header(), value.clone());
        headers.append(field.header(), value);
        assert_eq!(receive(&headers, LINE, NOW), Err(SignatureError::Repeated(field)));
        let long = "a".repeat(longest + 1);
        headers.insert(field.header(), fields::value(&long));
        assert_eq!(receive(&headers, LINE, NOW), Err(SignatureError::TooLong(field)));
    }
    let long = with(SignedField::Signature, |_| format!("nara=:{}:", "A".repeat(128)));
    assert_eq!(long, Err(SignatureError::TooLong(SignedField::Signature)));
    let long = input("alg=", &format!("a=\"{}\";alg=", "a".repeat(512)));
    assert_eq!(long, Err(SignatureError::TooLong(SignedField::SignatureInput)));
}

#[test]
fn other_components_must_not_be_covered() {
    for covered in [
        "",
        r#""@method""#,
        r#""@method" "@path" "@query" "content-digest" "x-nara-name""#,
        r#""@path" "@method" "@query" "content-digest" "x-nara-name" "x-nara-to""#,
        r#""@method" "@method" "@path" "@query" "content-digest" "x-nara-name" "x-nara-to""#,
        r#""@method" "@path" "@query" "content-digest" "x-nara-name" "x-nara-to" "date""#,
        r#""@method" "@path" "@query" "content-digest" "x-nara-name" "x-nara-to" "@bogus""#,
        r#""@method";req "@path" "@query" "content-digest" "x-nara-name" "x-nara-to""#,
        r#""@method" "@path" "@query" "content-digest";sf "x-nara-name" "x-nara-to""#,
        r#""@method" "@path" "@query" "content-digest" "x-nara-name" "x-nara-to" "x-nara-channel""#,
        "@method",
        "1 2",
    ] {
        let outcome = input(COMPONENTS, covered);
        let expected = [SignatureError::Malformed(SignedField::SignatureInput)];
        let is_refused = matches!(outcome, Err(SignatureError::Components { .. }));
        assert!(
            is_refused || expected.contains(outcome.as_ref().unwrap_err()),
            "{covered}: {outcome:?}"
        );
    }
}

#[test]
fn one_signature_with_one_label() {
    let label = Err(SignatureError::Label);
    // The tag is ours, but there is no such signature.
    assert_eq!(input("nara=", "sig1="), label);
    assert_eq!(with(SignedField::SignatureInput, |_| "nara".to_owned()), label);
    assert_eq!(with(SignedField::SignatureInput, |_| "nara=1".to_owned()), label);
    assert_eq!(
        with(SignedField::Signature, |text| text.replace("nara=", "sig1=")),
        label
    );
    for twice in [
        |text: &str| format!("{text}, nara2{}", &text[4..]),
        |text: &str| format!("nara2{}, {text}", &text[4..]),
        |text: &str| format!("nara=1, {text}"),
        |text: &str| format!("{text}, {text}"),
        |text: &str| format!("{text}, a;tag=\"nara-mesh\""),
        |text: &str| format!("{text}, a=1, b=(), a=2"),
    ] {
        let outcome = with(SignedField::SignatureInput, twice);
        assert_eq!(
            outcome,
            Err(SignatureError::Repeated(SignedField::SignatureInput))
        );
    }
    let malformed = Err(SignatureError::Malformed(SignedField::Signature));
    for change in [
        |_: &str| "nara=:AA==:, other=:AA==:".to_owned(),
        |text: &str| format!("{text};a"),
        |text: &str| format!("{text}, b="),
        |text: &str| text.replace("nara=:", "nara= :"),
        |text: &str| text.replace("=:", ":"),
        |_: &str| "nara=::".to_owned(),
        |_: &str| "nara=:AAAA:".to_owned(),
    ] {
        assert_eq!(with(SignedField::Signature, change), malformed);
    }
    let twice = with(SignedField::Signature, |_| "nara=:AA==:, nara=:AA==:".to_owned());
    assert_eq!(twice, Err(SignatureError::Repeated(SignedField::Signature)));
}

#[test]
fn exactly_these_parameters() {
    let missing = |name| Err(SignatureError::MissingParameter(name));
    let invalid = |name| Err(SignatureError::Parameter(name));
    assert_eq!(input(";created=1769100000", ""), missing("created"));
    assert_eq!(input(";expires=1769100030", ""), missing("expires"));
    assert_eq!(input(r#";alg="ed25519""#, ""), missing("alg"));
    assert_eq!(input(r#";tag="nara-mesh""#, ""), missing("tag"));
    assert_eq!(
        with(SignedField::SignatureInput, |text| without(text, "nonce")),
        missing("nonce")
    );
    assert_eq!(
        with(SignedField::SignatureInput, |text| without(text, "keyid")),
        missing("keyid")
    );
    assert_eq!(input(";alg=", ";a;alg="), Err(SignatureError::UnknownParameter));
    for (from, to, name) in [
        ("\"ed25519\"", "\"hmac-sha256\"", "alg"),
        ("\"ed25519\"", "\"none\"", "alg"),
        ("\"ed25519\"", "ed25519", "alg"),
        ("\"nara-mesh\"", "\"web-bot-auth\"", "tag"),
        ("nonce=\"", "nonce=\"AAAA", "nonce"),
        ("nonce=\"", "nonce=\"*", "nonce"),
        ("keyid=\"", "keyid=\"0", "keyid"),
        ("keyid=\"", "keyid=\"1111", "keyid"),
        ("created=1769100000", "created=\"1769100000\"", "created"),
        ("created=1769100000", "created=1769100000.5", "created"),
        ("created=1769100000", "created=?1", "created"),
        ("expires=1769100030", "expires", "expires"),
    ] {
        assert_eq!(input(from, to), invalid(name), "{to}");
    }
}

/// Returns a signature input without one of its parameters.
fn without(text: &str, parameter: &str) -> String {
    let start = text.find(&format!(";{parameter}=")).unwrap();
    let end = text[start + 1..].find(';').unwrap();
    format!("{}{}", &text[..start], &text[start + 1 + end..])
}

#[test]
fn times_out_of_range_are_refused_without_panic() {
    let lifetime = Err(SignatureError::Lifetime);
    assert_eq!(input("expires=1769100030", "expires=1769100031"), lifetime);
    assert_eq!(input("expires=1769100030", "expires=1769099999"), lifetime);
    assert_eq!(input("expires=1769100030", "expires=999999999999999"), lifetime);
    assert_eq!(input("expires=1769100030", "expires=-1"), lifetime);
    let times = |created: &str, expires: &str| {
        with(SignedField::SignatureInput, |text| {
            text.replace("=1769100000", created)
                .replace("=1769100030", expires)
        })
    };
    for (created, expires) in [
        ("=-1", "=29"),
        ("=0", "=0"),
        ("=-999999999999999", "=-999999999999999"),
        ("=999999999999999", "=999999999999999"),
    ] {
        assert!(
            matches!(times(created, expires), Err(SignatureError::Stale { .. })),
            "{created}"
        );
    }
    let malformed = Err(SignatureError::Malformed(SignedField::SignatureInput));
    assert_eq!(times("=9999999999999999", "=9999999999999999"), malformed);
    assert_eq!(times("=-9223372036854775808", "=9223372036854775807"), malformed);
    assert_eq!(times("=01769100000", "=1769100030"), malformed);
}

#[test]
fn a_second_spelling_of_a_field_is_refused() {
    let malformed = Err(SignatureError::Malformed(SignedField::SignatureInput));
    for (from, to) in [
        ("nara=(", "nara=( "),
        ("\" \"@path", "\"  \"@path"),
        (";created=", "; created="),
        (";created=", ";created=1;created="),
        (";tag=", ";tag=\"nara-mesh\";tag="),
    ] {
        let outcome = input(from, to);
        let is_components = matches!(outcome, Err(SignatureError::Components { .. }));
        assert!(is_components || outcome == malformed, "{to}: {outcome:?}");
    }
    assert_eq!(
        with(SignedField::SignatureInput, |text| format!("{text} ")),
        malformed
    );
    assert_eq!(
        with(SignedField::SignatureInput, |text| format!("{text},")),
        malformed
    );
    assert_eq!(
        with(SignedField::SignatureInput, |text| format!("{text}\u{e9}")),
        malformed
    );

    let malformed = Err(SignatureError::Malformed(SignedField::ContentDigest));
    for change in [
        |text: &str| text.replace("sha-256", "SHA-256"),
        |text: &str| text.replace("sha-256", "sha-512"),
        |text: &str| text.replace("=:\u{0}", ""),
        |text: &str| format!("{text};q=1"),
        |text: &str| text.replace("w=:", "x=:"),
        |_: &str| "sha-256=::".to_owned(),
        |_: &str| "sha-256".to_owned(),
    ] {
        let mut headers = headers(&request(|_| {}));
        let before = headers[CONTENT_DIGEST_HEADER].to_str().unwrap().to_owned();
        let after = change(&before);
        if after != before {
            headers.insert(CONTENT_DIGEST_HEADER, fields::value(&after));
            assert_eq!(receive(&headers, LINE, NOW), malformed, "{after}");
        }
    }
}

#[test]
fn an_escaped_label_of_a_name_is_another_recipient() {
    let by_name = Recipient::Name("bob".parse().unwrap());
    for other in ["%62ob", "BOB", "bob ", "b%6fb", ""] {
        let mut headers = headers(&request(|request| request.to = &by_name));
        headers.insert(TO_HEADER, fields::value(other));
        let outcome = receive(&headers, LINE, NOW);
        assert!(outcome.is_err(), "{other}");
    }
}

#[test]
fn the_order_of_parameters_is_the_signers() {
    // In the order of another implementation.
    let signed = request(|_| {});
    let text = headers(&signed)[SIGNATURE_INPUT_HEADER]
        .to_str()
        .unwrap()
        .to_owned();
    let (front, back) = text.split_once(";keyid=").unwrap();
    let (key_id, alg_tag) = back.split_once(";alg=").unwrap();
    let (alg, tag) = alg_tag.split_once(";tag=").unwrap();
    let reordered = format!("{front};alg={alg};keyid={key_id};tag={tag}");
    let mut headers = headers(&signed);
    headers.insert(SIGNATURE_INPUT_HEADER, fields::value(&reordered));
    assert_eq!(receive(&headers, LINE, NOW), Err(SignatureError::BadSignature));
    let read = RequestSignature::from_headers(&headers).unwrap();
    let signature = signer("alice").keypair().sign(&read.base(LINE));
    let signature = fields::byte_sequence_text("nara=", signature.as_bytes());
    headers.insert(SIGNATURE_HEADER, fields::value(&signature));
    assert_eq!(receive(&headers, LINE, NOW), Ok(()));
}

#[test]
fn an_answer_is_not_a_request_and_a_request_no_answer() {
    let question = request(|_| {});
    assert!(matches!(
        ResponseSignature::from_headers(&headers(&question)),
        Err(SignatureError::Components { .. })
    ));
    let answer = signer("bob").sign_response(&ResponseToSign {
        status: http::StatusCode::OK,
        body: SignedBody::Digest(ContentDigest::of(BODY)),
        request: question.signature(),
        now: NOW,
    });
    let mut headers = headers(&question);
    answer.write_to(&mut headers);
    assert!(matches!(
        receive(&headers, LINE, NOW),
        Err(SignatureError::Components { .. })
    ));
    let mut text = headers[SIGNATURE_INPUT_HEADER].to_str().unwrap().to_owned();
    text.push_str(";expires=1769100030");
    headers.insert(SIGNATURE_INPUT_HEADER, fields::value(&text));
    assert_eq!(
        ResponseSignature::from_headers(&headers),
        Err(SignatureError::UnknownParameter)
    );
}

#[test]
fn only_the_binding_of_the_connection_is_that_of_the_connection() {
    let ours = ChannelBinding::new([7; 32]).to_value();
    let check = |claimed: &str| ChannelBinding::check_value(&claimed.parse().unwrap(), &ours);
    let spelled = ours.to_str().unwrap();
    assert_eq!(check(spelled), Ok(()));
    let other = ChannelBinding::new([8; 32]).to_value();
    assert_eq!(check(other.to_str().unwrap()), Err(SignatureError::Channel));
    let malformed = Err(SignatureError::Malformed(SignedField::Channel));
    for claimed in [
        "",
        ":",
        "::",
        &spelled[1..],
        &format!("{spelled};a"),
        &spelled.replace('=', ""),
    ] {
        assert_eq!(check(claimed), malformed, "{claimed}");
    }
}

#[test]
fn a_binding_is_alone_only_without_any_signature() {
    let mut headers = HeaderMap::new();
    assert_eq!(ChannelBinding::alone_in(&headers), Ok(None));
    let binding = ChannelBinding::new([7; 32]);
    binding.write_to(&mut headers);
    assert_eq!(ChannelBinding::alone_in(&headers), Ok(Some(&binding.to_value())));
    for name in ["signature", "signature-input", "x-nara-signature"] {
        let mut signed = headers.clone();
        signed.insert(name, "x".parse().unwrap());
        signed.append(SignedField::Channel.header(), binding.to_value());
        assert_eq!(ChannelBinding::alone_in(&signed), Ok(None));
    }
    headers.append(SignedField::Channel.header(), binding.to_value());
    let repeated = Err(SignatureError::Repeated(SignedField::Channel));
    assert_eq!(ChannelBinding::alone_in(&headers), repeated);
}
