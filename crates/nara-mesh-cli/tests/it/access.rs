//! Access to the local API on loopback: `--api-listen`, `token` and `dashboard`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::serve::Serving;
use crate::{new_soul, run, run_json, text};

/// Sends the API a request with these header lines, and returns its answer.
fn ask(address: &str, what: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("{what} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn serve(folder: &Path, more: &[&str]) -> (Serving, Value) {
    new_soul(folder, "alice");
    fs::write(folder.join("known.toml"), "").unwrap();
    Serving::start_with(folder, "alice", more)
}

fn token<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["token"], args, &["--data-dir", "alice"]].concat()
}

#[test]
fn programs_with_a_token_use_a_running_nara_on_loopback_until_it_is_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let (_alice, listening) = serve(folder.path(), &["--api-listen", "127.0.0.1:0"]);
    let address = listening["api_listen"].as_str().unwrap();
    let file = folder.path().join("alice/api.token");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let own = fs::read_to_string(file).unwrap();
    let bearer = |token: &str| format!("authorization: Bearer {}\r\n", token.trim());
    assert!(ask(address, "GET /v1/status", &bearer(&own)).starts_with("HTTP/1.1 200"));
    assert!(ask(address, "GET /v1/status", "").starts_with("HTTP/1.1 401"));

    let made = run_json(
        folder.path(),
        0,
        &token(&["new", "--json", "--rights", "read", "--token-name", "prometheus"]),
    );
    let read = bearer(made["token"].as_str().unwrap());
    assert!(ask(address, "GET /v1/metrics", &read).starts_with("HTTP/1.1 200"));
    assert!(ask(address, "POST /v1/shutdown", &read).starts_with("HTTP/1.1 403"));
    let list = run_json(folder.path(), 0, &token(&["list", "--json"]));
    assert_eq!(
        (&list["tokens"][1]["name"], &list["tokens"][1]["rights"]),
        (&"prometheus".into(), &"read".into())
    );
    assert_eq!(list["addresses"][0], address);
    let shown = text(&run(folder.path(), 0, &token(&["list"])).stdout);
    assert!(
        shown.contains("prometheus") && shown.contains("in the file api.token"),
        "{shown}"
    );
    run(folder.path(), 0, &token(&["revoke", "prometheus"]));
    assert!(ask(address, "GET /v1/metrics", &read).starts_with("HTTP/1.1 401"));
    let twice = run(folder.path(), 2, &token(&["revoke", "prometheus"]));
    assert!(
        text(&twice.stderr).contains("no token")
            && text(&twice.stderr).contains("`nara-mesh token list --data-dir alice`"),
        "{}",
        text(&twice.stderr)
    );
}

#[test]
fn an_address_that_other_machines_reach_is_refused_wherever_it_is_set() {
    let folder = tempfile::tempdir().unwrap();
    new_soul(folder.path(), "alice");
    let serve = ["serve", "--soul-file", "alice.soul"];
    let refused = run(
        folder.path(),
        2,
        &[&serve[..], &["--api-listen", "0.0.0.0:9635"]].concat(),
    );
    assert!(
        text(&refused.stderr).contains("loopback addresses only"),
        "{}",
        text(&refused.stderr)
    );
    fs::write(
        folder.path().join("c.toml"),
        "api_listen = \"192.168.1.7:9635\"\n",
    )
    .unwrap();
    let refused = run(folder.path(), 2, &[&serve[..], &["--config", "c.toml"]].concat());
    let told = text(&refused.stderr);
    assert!(
        told.contains("c.toml: line 1: api_listen") && told.contains("loopback addresses only"),
        "{told}"
    );
}

#[test]
fn dashboard_prints_an_address_that_is_there_only_once_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (alice, listening) = serve(folder.path(), &[]);
    assert!(listening["api_listen"].is_null());
    let args = ["dashboard", "--json", "--data-dir", "alice"];
    let link = run_json(folder.path(), 0, &args);
    let url = link["url"].as_str().unwrap();
    let (address, token) = url.strip_prefix("http://").unwrap().split_once("/#").unwrap();
    assert!(address.starts_with("127.0.0.1:") && token.len() > 40);
    assert!(ask(address, "GET /", "").starts_with("HTTP/1.1 200"));
    let again = run_json(folder.path(), 0, &args);
    assert!(again["url"].as_str().unwrap().contains(address));
    assert_ne!(again["url"], link["url"]);
    alice.kill();
    let stopped = run(folder.path(), 3, &args);
    assert!(
        text(&stopped.stderr).contains("no nara runs"),
        "{}",
        text(&stopped.stderr)
    );
}

#[test]
fn the_browser_is_given_a_file_that_only_its_user_can_read_and_never_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (_alice, _) = serve(path, &[]);
    fs::create_dir(path.join("bin")).unwrap();
    let opener = path.join("bin/xdg-open");
    let script = |end: &str| format!("#!/bin/sh\nprintf '%s\\n' \"$#\" \"$1\" > opened\n{end}\n");
    let open = |end: &str, expected: i32| {
        fs::write(&opener, script(end)).unwrap();
        fs::set_permissions(&opener, fs::Permissions::from_mode(0o755)).unwrap();
        let output = crate::nara_mesh(path)
            .env("PATH", path.join("bin"))
            .args(["dashboard", "--open", "--json", "--data-dir", "alice"])
            .output()
            .unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(expected), "{said}");
        (output, said)
    };
    let (output, _) = open("", 0);
    let link: Value = serde_json::from_slice(&output.stdout).unwrap();
    let url = link["url"].as_str().unwrap();
    let opened = fs::read_to_string(path.join("opened")).unwrap();
    let (count, file) = opened.trim().split_once('\n').unwrap();
    assert!(count == "1" && !opened.contains(url), "{opened}");
    let file = path.join(file);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&file).unwrap().contains(url));
    // If the browser cannot be opened, the error says what to do instead.
    let (_, said) = open("exit 3", 1);
    assert!(
        said.contains("the browser cannot be opened")
            && said.contains("`nara-mesh dashboard --data-dir alice`"),
        "{said}"
    );
}
