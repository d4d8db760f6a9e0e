//! Lets foreign TLS stacks call our server, and our client call theirs, using only what users have: the
//! program `nara-mesh`, OpenSSL's command line and Go's `crypto/tls`.

mod naras;
mod openssl;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use self::naras::{Naras, Running};
use crate::process;

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    if let Some(unknown) = args.first() {
        return Err(format!("interop takes no options, not {unknown:?}"));
    }
    let openssl = openssl::version()?;
    let go = process::output(Command::new("go").arg("version"))
        .map_err(|error| format!("{error}\ninterop needs Go 1.25 or newer"))?;
    println!("with {openssl} and {}", go.trim());
    let naras = Naras::new()?;
    naras.build()?;

    let gopher = naras.go_key()?;
    let bob = naras.serve("bob", &[("gopher", &gopher)])?;
    report(
        "OpenSSL shows a certificate and reads ours",
        openssl::exchanges(&naras, &bob),
    )?;
    report(
        "OpenSSL without a certificate is refused",
        openssl::is_refused(&naras, &bob, &[]),
    )?;
    report(
        "OpenSSL with TLS 1.2 is refused",
        openssl::is_refused(&naras, &bob, &["-tls1_2"]),
    )?;
    if openssl::knows_raw_keys(&openssl) {
        report(
            "OpenSSL shows a raw key and reads ours",
            openssl::exchanges_raw_keys(&naras, &bob),
        )?;
    } else {
        println!("skipped: raw keys (RFC 7250), which need OpenSSL 3.2");
    }
    report(
        "Go calls our server: signed, verified, resumed",
        go_calls(&naras, &bob),
    )?;
    report(
        "Go refuses our server under another key",
        go_refuses(&naras, &bob, &gopher),
    )?;
    report("our client calls Go: signed, verified", we_call(&naras))?;
    Ok(())
}

fn report(what: &str, outcome: Result<(), String>) -> Result<(), String> {
    outcome.map_err(|error| format!("{what}: {error}"))?;
    println!("ok: {what}");
    Ok(())
}

/// Fails with the observed output unless the check holds.
fn check(holds: bool, expected: &str, seen: &str) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(format!("expected {expected}, but got: {seen}"))
    }
}

fn go_calls(naras: &Naras, bob: &Running) -> Result<(), String> {
    let text = process::output(naras.go("tls-client").args([
        "--peer",
        "bob",
        "--peer-key",
        &bob.key,
        "--address",
        &bob.address,
    ]))?;
    let said: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
    let as_expected = said["version"] == "TLS 1.3" && said["name"] == "bob" && said["resumed"][1] == true;
    check(as_expected, "TLS 1.3 with bob, resumed the second time", &text)
}

fn go_refuses(naras: &Naras, bob: &Running, other_key: &str) -> Result<(), String> {
    let mut client = naras.go("tls-client");
    client.args([
        "--peer",
        "bob",
        "--peer-key",
        other_key,
        "--address",
        &bob.address,
    ]);
    let output = client
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let refused = !output.status.success() && said.contains("another key");
    check(refused, "a refusal", &said)
}

/// Runs a Go nara, which ends with its standard input.
fn we_call(naras: &Naras) -> Result<(), String> {
    let alice = naras.identity("alice")?;
    let mut server = naras
        .go("tls-server")
        .args(["--peer", "alice", "--peer-key", &alice])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start the Go nara: {error}"))?;
    let stdout = server.stdout.take().ok_or("it has no standard output")?;
    let mut line = String::new();
    BufReader::new(stdout)
        .read_line(&mut line)
        .map_err(|error| error.to_string())?;
    let outcome = naras.call_gopher(&line);
    drop(server.stdin.take());
    server.wait().map_err(|error| error.to_string())?;
    outcome
}
