//! OpenSSL's command line as a client.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::check;
use super::naras::{Naras, Running};
use crate::process;

const REQUEST: &[u8] = b"GET /ping HTTP/1.1\r\nHost: nara\r\nConnection: close\r\n\r\n";

/// Returns the version of OpenSSL.
pub(super) fn version() -> Result<String, String> {
    let version = process::output(Command::new("openssl").arg("version"))
        .map_err(|error| format!("{error}\ninterop needs the program openssl, 1.1.1 or newer"))?;
    Ok(version.split(" (").next().unwrap_or_default().trim().to_owned())
}

/// Returns whether a version supports raw public keys (RFC 7250).
pub(super) fn knows_raw_keys(version: &str) -> bool {
    let number = version.split_whitespace().nth(1).unwrap_or_default();
    let mut parts = number
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or_default());
    (parts.next(), parts.next()) >= (Some(3), Some(2))
}

/// Sends one request to a server with `s_client`, and returns its output.
fn s_client(naras: &Naras, server: &Running, options: &[&str]) -> Result<String, String> {
    let mut child = Command::new("openssl")
        .current_dir(&naras.folder)
        .args(["s_client", "-connect", &server.address, "-ign_eof"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run openssl: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A server that refuses the connection does not read the request.
        let _ = stdin.write_all(REQUEST);
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Creates a key and a certificate for it.
fn certificate(naras: &Naras) -> Result<[&'static str; 4], String> {
    let openssl =
        |args: &[&str]| process::output(Command::new("openssl").current_dir(&naras.folder).args(args));
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "openssl.key"])?;
    let subject = ["-subj", "/CN=openssl", "-days", "1", "-out", "openssl.crt"];
    openssl(&[&["req", "-new", "-x509", "-key", "openssl.key"][..], &subject].concat())?;
    Ok(["-cert", "openssl.crt", "-key", "openssl.key"])
}

/// Exchanges a request and an answer, with X.509 certificates at both ends.
pub(super) fn exchanges(naras: &Naras, server: &Running) -> Result<(), String> {
    let certificate = certificate(naras)?;
    let said = s_client(naras, server, &[&["-tls1_3"][..], &certificate].concat())?;
    check(said.contains("HTTP/1.1 200 OK"), "an answer", &said)?;
    check(
        said.contains(&server.key),
        "the key of the nara in its answer",
        &said,
    )?;
    // The certificate contains the same key: base64 of the last 32 bytes of its SubjectPublicKeyInfo.
    naras.write("server.txt", &said)?;
    let read = ["x509", "-in", "server.txt", "-noout", "-pubkey"];
    let shown = process::output(Command::new("openssl").current_dir(&naras.folder).args(read))?;
    let shown = shown.lines().nth(1).unwrap_or_default().to_owned();
    // A prefix of 12 bytes, which is 16 characters.
    check(
        shown.get(16..) == Some(&server.key),
        &format!("key {}", server.key),
        &shown,
    )
}

/// As [`exchanges`], with raw public keys at both ends.
pub(super) fn exchanges_raw_keys(naras: &Naras, server: &Running) -> Result<(), String> {
    let raw = ["-tls1_3", "-enable_server_rpk", "-enable_client_rpk"];
    let said = s_client(naras, server, &[&raw[..], &certificate(naras)?].concat())?;
    check(said.contains("HTTP/1.1 200 OK"), "an answer", &said)?;
    check(!said.contains("BEGIN CERTIFICATE"), "no certificate", &said)
}

/// Checks that a client with these options gets no answer.
pub(super) fn is_refused(naras: &Naras, server: &Running, options: &[&str]) -> Result<(), String> {
    let said = s_client(naras, server, options)?;
    check(!said.contains("HTTP/1.1"), "no answer", &said)?;
    check(said.contains("alert"), "an alert", &said)
}
