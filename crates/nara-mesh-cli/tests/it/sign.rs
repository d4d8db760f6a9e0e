use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{nara_mesh, new_soul, run, run_json, text};

/// Returns the first recorded request signatures: simple and valid ones.
fn vectors() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nara-proto/tests/vectors/request_auth.json");
    let cases: Vec<Value> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let cases: Vec<Value> = cases
        .into_iter()
        .take_while(|case| case["category"] == "plain")
        .collect();
    assert!(cases.len() >= 10);
    cases
}

fn field<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap()
}

/// Runs `verify` for a case, with some arguments replaced.
fn verify(case: &Value, replaced: &[(&str, &str)], expected: i32, more: &[&str]) -> Value {
    let timestamp = case["timestamp_ms"].to_string();
    let now = case["server_now_ms"].to_string();
    let mut args = vec!["verify".to_owned(), "--json".to_owned()];
    for (option, value) in [
        ("--name", field(case, "name")),
        ("--timestamp", &timestamp),
        ("--signature", field(case, "signature_b64")),
        ("--method", field(case, "method")),
        ("--path", field(case, "request_target")),
        ("--key", field(case, "public_key_b64")),
        ("--now", &now),
    ] {
        let value = replaced
            .iter()
            .find(|(other, _)| *other == option)
            .map_or(value, |(_, value)| value);
        args.push(format!("{option}={value}"));
    }
    let folder = tempfile::tempdir().unwrap();
    let args: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect();
    run_json(folder.path(), expected, &args)
}

#[test]
fn signing_gives_the_recorded_signatures() {
    let folder = tempfile::tempdir().unwrap();
    for case in vectors() {
        let mut command = nara_mesh(folder.path());
        command
            .args(["sign", "--json", "--explain", "--name", field(&case, "name")])
            .args([
                "--method",
                field(&case, "method"),
                "--path",
                field(&case, "request_target"),
            ])
            .args(["--timestamp", &case["timestamp_ms"].to_string()])
            .env("NARA_MESH_SOUL", field(&case, "soul"));
        let signed: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
        assert_eq!(signed["signature"], case["signature_b64"]);
        assert_eq!(signed["signature_base_hex"], case["string_to_sign_hex"]);
        assert_eq!(signed["public_key"], case["public_key_b64"]);
    }
}

#[test]
fn the_explanation_shows_the_signed_string_and_what_it_is_made_of() {
    let folder = tempfile::tempdir().unwrap();
    let case = &vectors()[0];
    let mut command = nara_mesh(folder.path());
    command
        .env("NARA_MESH_SOUL", field(case, "soul"))
        .args(["sign", "--explain", "--name", "alice"]);
    command.args([
        "--method",
        "POST",
        "--path",
        "/caf%C3%A9",
        "--timestamp",
        "1769100000250",
    ]);
    insta::assert_snapshot!(text(&command.output().unwrap().stdout), @r"
    The signature base is name + timestamp + method + path, with nothing between them:
      name       alice
      timestamp  1769100000250  (Unix milliseconds; 2026-01-22T16:40:00.250Z)
      method     POST
      path       /caf\xc3\xa9  (percent-decoded)
    base         alice1769100000250POST/caf\xc3\xa9
    base, hex    616c69636531373639313030303030323530504f53542f636166c3a9
    Not covered: host, query, other headers, body.

    X-Nara-Name: alice
    X-Nara-Timestamp: 1769100000250
    X-Nara-Signature: CduAQvoOxvxmp1MoHXkYlE+aV4b6Acs0I5Gos708FgMdbW/LZn3qyrhd0krsRV3aXrZFzG0/fefdT3SngSsBBQ==
    ");
}

#[test]
fn recorded_requests_verify_offline() {
    for case in vectors() {
        assert_eq!(verify(&case, &[], 0, &[])["valid"], true);
    }
}

#[test]
fn a_failing_verification_is_code_4_and_names_the_likely_cause() {
    let case = &vectors()[0];
    let timestamp = case["timestamp_ms"].as_i64().unwrap();
    let ahead = (timestamp + 30_001).to_string();
    let other = field(&vectors()[1], "public_key_b64").to_owned();
    let with_slash = &vectors()[1];
    let url_signature = field(with_slash, "signature_b64")
        .replace('/', "_")
        .replace('+', "-");
    let report = verify(with_slash, &[("--signature", &url_signature)], 4, &[]);
    assert!(report["findings"].to_string().contains("base64url"), "{report}");
    for (option, value, word) in [
        ("--method", "post", "the method was signed in upper case"),
        ("--path", "/events/sync/", "trailing slash"),
        (
            "--timestamp",
            &(timestamp / 1000).to_string(),
            "looks like seconds",
        ),
        ("--now", &ahead, "too old"),
        ("--key", &other, "no common mistake explains it"),
        ("--signature", "AAAA", "malformed"),
        ("--timestamp", "+1823135160746", "shortest form"),
        ("--timestamp", "now", "not a whole number"),
    ] {
        let report = verify(case, &[(option, value)], 4, &[]);
        let findings = report["findings"].to_string();
        assert!(findings.contains(word), "{option} {value}: {findings}");
    }
}

#[test]
fn the_first_differing_byte_of_an_expected_string_is_shown() {
    let case = &vectors()[0];
    let expected = field(case, "string_to_sign").replace("POST", "post");
    let report = verify(case, &[], 0, &["--expected", &expected]);
    assert_eq!(report["expected_difference"]["offset"], 18);
    assert_eq!(report["expected_difference"]["expected_byte"], b'P');
    assert_eq!(report["expected_difference"]["found_byte"], b'p');
}

#[test]
fn the_key_of_another_peer_is_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let bob = new_soul(folder.path(), "bob");
    let alice = new_soul(folder.path(), "alice");
    let peer = |made: &Value| {
        format!(
            "[[peer]]\nname = {}\nkey = {}\n",
            made["name"], made["public_key"]
        )
    };
    fs::write(folder.path().join("peers.toml"), peer(&bob) + &peer(&alice)).unwrap();
    let sign = [
        "sign",
        "--json",
        "--soul-file",
        "bob.soul",
        "--method",
        "GET",
        "--path",
        "/x",
        "--timestamp",
        "5",
    ];
    let signature = run_json(folder.path(), 0, &sign)["signature"]
        .as_str()
        .unwrap()
        .to_owned();
    let args = [
        "verify",
        "--name",
        "alice",
        "--peers",
        "peers.toml",
        "--method",
        "GET",
        "--path",
        "/x",
    ];
    let args = [
        &args[..],
        &["--timestamp", "5", "--now", "5", "--signature", &signature],
    ]
    .concat();
    let stdout = text(&run(folder.path(), 4, &args).stdout);
    assert!(
        stdout.contains("signed with the key of bob") && stdout.contains("for the name bob"),
        "{stdout}"
    );
}

#[test]
fn an_event_is_signed_and_verified_and_a_changed_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    new_soul(folder.path(), "alice");
    let event = r#"{"ts":1769100000000000000,"svc":"social","social":{"type":"tease","actor":"alice","target":"bob"}}"#;
    fs::write(folder.path().join("event.json"), event).unwrap();
    let signed = run(
        folder.path(),
        0,
        &["sign", "--soul-file", "alice.soul", "--event", "event.json"],
    );
    let signed = text(&signed.stdout);
    let key = run_json(
        folder.path(),
        0,
        &["id", "show", "--json", "--soul-file", "alice.soul"],
    );
    let key = key["public_key"].as_str().unwrap();
    let verify = |expected, event: &str| {
        fs::write(folder.path().join("signed.json"), event).unwrap();
        run_json(
            folder.path(),
            expected,
            &["verify", "--json", "--event", "signed.json", "--key", key],
        )
    };
    assert_eq!(verify(0, &signed)["valid"], true);
    let changed = verify(4, &signed.replace("tease", "gossip"));
    assert_eq!(changed["genuine_id"], false);
    assert_eq!(changed["signature_verifies"], false);
    assert_eq!(
        verify(4, event)["findings"][0],
        "the id  does not follow from the content"
    );
}

#[test]
fn a_request_of_profile_v2_verifies_offline_and_says_which_component_was_changed() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    new_soul(folder.path(), "alice");
    write("body.json", "{}");
    let sign = [
        "sign",
        "--name=alice",
        "--soul-file=alice.soul",
        "--method=POST",
        "--path=/events/reconcile?services=seen",
        "--to=bob",
        "--body=body.json",
        "--timestamp=1769100000250",
    ];
    write("headers", &text(&run(folder.path(), 0, &sign).stdout));
    let mut in_json = sign.to_vec();
    in_json.push("--json");
    let signed = run_json(folder.path(), 0, &in_json);
    let key = field(&signed, "public_key").to_owned();
    let explained = text(&run(folder.path(), 0, &[&sign[..], &["--explain"]].concat()).stdout);
    let hex = explained
        .lines()
        .find_map(|line| line.strip_prefix("base, hex    "))
        .unwrap();
    let base: Vec<u8> = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect();
    let base = text(&base);
    assert!(base.starts_with("\"@method\": POST\n"), "{base}");
    for line in base.lines() {
        assert!(
            explained.contains(&format!("\n  {line}\n")),
            "{line}: {explained}"
        );
    }
    let verify = |expected, replaced: &[&str]| {
        let given = [
            "--method=POST",
            "--path=/events/reconcile?services=seen",
            "--to=bob",
            "--body=body.json",
            "--now=1769100001000",
        ];
        let key = format!("--key={key}");
        let mut args = vec!["verify", "--json", "--headers=headers", &key];
        for option in given {
            let name = option.split('=').next().unwrap();
            let other = replaced
                .iter()
                .find(|other| other.split('=').next() == Some(name));
            args.push(other.unwrap_or(&option));
        }
        run_json(folder.path(), expected, &args)
    };
    let good = verify(0, &[]);
    assert_eq!(good["valid"], true, "{good}");
    assert_eq!(good["components"].as_array().unwrap().len(), 7);
    write("other.json", "[]");
    for (replaced, finding) in [
        (
            "--method=PUT",
            "\"@method\" was signed as \"POST\", and the request has \"PUT\"",
        ),
        (
            "--to=carol",
            "signed for another nara: X-Nara-To names neither the id nor the name of this nara",
        ),
        (
            "--body=other.json",
            "the body does not match the signed Content-Digest",
        ),
        (
            "--now=1769100040000",
            "signed at 1769100000 s, 40 s behind the receiver's clock (1769100040 s): one of the two clocks is wrong",
        ),
    ] {
        let report = verify(4, &[replaced]);
        let findings = report["findings"].as_array().unwrap();
        assert!(
            findings.iter().any(|found| found == finding),
            "{replaced}: {report}"
        );
    }
    // The components describe the received request; only the sender knows that it signed another query.
    let other = verify(4, &["--path=/events/reconcile"]);
    let signed = other["findings"][0].as_str().unwrap();
    assert_eq!(signed, "signature verification failed", "{other}");
    write("headers", "X-Nara-Name: alice\n");
    assert_eq!(verify(4, &[])["findings"][0], "Signature-Input is missing");
}
