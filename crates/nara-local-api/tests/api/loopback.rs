//! The local API on loopback, which other users of the machine and web pages in the owner's browser can reach
//! too: see docs/threat-model.md.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nara_local_api::model::{NewToken, Rights};
use nara_local_api::server::LoopbackError;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::scene::Scene;

/// A nara whose API listens on loopback.
pub(crate) struct Loopback {
    pub(crate) scene: Scene,
    pub(crate) address: SocketAddr,
    token: String,
    folder: TempDir,
}

impl Loopback {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let scene = Scene::with(move |builder| builder.folder(path)).await;
        let local = "127.0.0.1:0".parse().unwrap();
        let (address, file) = scene.api.listen_on_loopback(local).await.unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let token = fs::read_to_string(file).unwrap().trim().to_owned();
        Self {
            scene,
            address,
            token,
            folder,
        }
    }

    /// Sends a request with these header lines, and returns the whole answer.
    async fn raw(&self, head: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let request = format!("{head}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Sends a request with the correct Host.
    async fn ask(&self, what: &str, headers: &[&str], body: &str) -> String {
        let host = format!("{what} HTTP/1.1\r\nhost: {}", self.address);
        let head = headers.iter().fold(host, |head, header| head + "\r\n" + header);
        self.raw(&head, body).await
    }

    pub(crate) fn bearer(&self) -> String {
        format!("authorization: Bearer {}", self.token)
    }

    fn origin(&self) -> String {
        format!("origin: http://{}", self.address)
    }

    pub(crate) async fn token(&self, rights: Rights) -> String {
        let made = self
            .scene
            .client
            .make_token(&NewToken { name: None, rights })
            .await;
        format!("authorization: Bearer {}", made.unwrap().token)
    }

    /// Opens the page with a one-time token.
    async fn open(&self, token: &str) -> String {
        let (origin, body) = (self.origin(), format!("{{\"token\":\"{token}\"}}"));
        let headers = [&*origin, "content-type: application/json"];
        self.ask("POST /page/session", &headers, &body).await
    }

    /// Opens a session of the page: returns its cookie, its secret and its id.
    async fn session(&self) -> (String, String, String) {
        let link = self.scene.client.dashboard().await.unwrap();
        let (_, token) = link.url.split_once('#').unwrap();
        let opened = self.open(token).await;
        assert!(opened.starts_with("HTTP/1.1 200"), "{opened}");
        let cookie = opened
            .lines()
            .find_map(|line| line.strip_prefix("set-cookie: "))
            .unwrap();
        assert!(cookie.contains("; HttpOnly; SameSite=Strict; Path=/"), "{cookie}");
        let (cookie, _) = cookie.split_once(';').unwrap();
        let (_, body) = opened.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        (
            format!("cookie: {cookie}"),
            format!("x-nara-page: {}", body["secret"].as_str().unwrap()),
            body["session"].as_str().unwrap().to_owned(),
        )
    }
}

fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

/// Returns whether no other origin may read an answer.
fn is_for_no_other_origin(answer: &str) -> bool {
    let head = answer.split("\r\n\r\n").next().unwrap_or_default().to_lowercase();
    !head.contains("access-control-")
        && head.contains("x-content-type-options: nosniff")
        && head.contains("cross-origin-resource-policy: same-origin")
        && head.contains("content-security-policy: default-src 'none'; script-src 'self'")
        && head.contains("frame-ancestors 'none'")
        && head.contains("cache-control: no-store")
}

#[tokio::test]
async fn on_loopback_nobody_gets_in_without_a_token() {
    let local = Loopback::new().await;
    let right = local.bearer();
    let answer = local.ask("GET /v1/status", &[&right], "").await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(is_for_no_other_origin(&answer), "{answer}");
    let of_another = format!("authorization: Bearer {}x", local.token);
    let as_basic = format!("authorization: Basic {}", local.token);
    for headers in [
        &[][..],
        &["authorization: Bearer"],
        &["authorization: Bearer wrong"],
        &[&*of_another],
        &[&*as_basic],
        &[&*right, &*right],
        &["x-nara-page: wrong"],
        &["x-nara-page: wrong", "cookie: nara=wrong"],
    ] {
        for path in [
            "/v1/status",
            "/v1/openapi.json",
            "/v1/none",
            "/v1/peers/bob/http/",
        ] {
            let answer = local.ask(&format!("GET {path}"), headers, "").await;
            assert_eq!(status(&answer), 401, "{headers:?} {answer}");
            assert!(answer.contains("not_authenticated") && answer.contains("www-authenticate: Bearer"));
            assert!(is_for_no_other_origin(&answer), "{answer}");
        }
    }
    // Nor with one in the URL.
    let answer = local
        .ask(&format!("GET /v1/status?token={}", local.token), &[], "")
        .await;
    assert_eq!(status(&answer), 401);
    local.scene.end().await;
}

#[tokio::test]
async fn a_name_that_leads_to_loopback_is_another_host() {
    let local = Loopback::new().await;
    let (token, port) = (local.bearer(), local.address.port());
    for host in [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        "127.0.0.1".to_owned(),
        format!("127.0.0.1:{}", port ^ 1),
        format!("localhost.evil.example:{port}"),
        format!("127.0.0.1.:{port}"),
        format!("0.0.0.0:{port}"),
        String::new(),
    ] {
        for path in ["/v1/status", "/", "/page/main.js"] {
            let answer = local
                .raw(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{token}"), "")
                .await;
            assert_eq!(status(&answer), 421, "{host} {answer}");
            assert!(answer.contains("wrong_host") && is_for_no_other_origin(&answer));
        }
    }
    let twice = format!("GET /v1/status HTTP/1.1\r\nhost: localhost:{port}\r\nhost: evil.example\r\n{token}");
    assert_eq!(status(&local.raw(&twice, "").await), 421);
    let target = format!("GET http://evil.example/v1/status HTTP/1.1\r\nhost: localhost:{port}\r\n{token}");
    assert_eq!(status(&local.raw(&target, "").await), 421);
    let named = format!("GET /v1/status HTTP/1.1\r\nhost: localhost:{port}\r\n{token}");
    assert_eq!(status(&local.raw(&named, "").await), 200);
    local.scene.end().await;
}

#[tokio::test]
async fn a_web_page_of_another_origin_is_refused_even_with_a_token() {
    let local = Loopback::new().await;
    let (token, port) = (local.bearer(), local.address.port());
    for from in [
        "origin: https://evil.example".to_owned(),
        "origin: null".to_owned(),
        format!("origin: http://127.0.0.1:{}", port ^ 1),
        format!("origin: https://127.0.0.1:{port}"),
        format!("origin: http://localhost:{port}\r\norigin: https://evil.example"),
        "sec-fetch-site: cross-site".to_owned(),
        "sec-fetch-site: same-site".to_owned(),
    ] {
        for what in [
            "GET /v1/status",
            "POST /v1/shutdown",
            "POST /page/session",
            "POST /page/hello",
        ] {
            let answer = local.ask(what, &[&token, &from], "").await;
            assert_eq!(status(&answer), 403, "{from} {what} {answer}");
            assert!(
                answer.contains("foreign_origin") && is_for_no_other_origin(&answer),
                "{answer}"
            );
        }
    }
    // A browser sends a preflight request for the header of a token.
    for from in ["https://evil.example", &format!("http://{}", local.address)] {
        let headers = [
            &*format!("origin: {from}"),
            "access-control-request-method: GET",
            "access-control-request-headers: authorization, x-nara-page",
        ];
        let answer = local.ask("OPTIONS /v1/status", &headers, "").await;
        assert!(matches!(status(&answer), 401 | 403), "{answer}");
        assert!(is_for_no_other_origin(&answer), "{answer}");
    }
    assert_eq!(
        status(&local.ask("GET /v1/status", &[&token, &local.origin()], "").await),
        200
    );
    local.scene.end().await;
}

#[tokio::test]
async fn a_token_to_read_neither_speaks_nor_decides_and_ends_when_it_is_revoked() {
    let local = Loopback::new().await;
    let (read, messages) = (
        local.token(Rights::Read).await,
        local.token(Rights::Messages).await,
    );
    for (token, what, expected) in [
        (&read, "GET /v1/peers", 200),
        (&read, "GET /v1/conflicts", 200),
        (&read, "GET /v1/history", 200),
        (&read, "POST /v1/peers/bob/dm", 403),
        (&read, "GET /v1/peers/bob/http/", 403),
        (&read, "PUT /v1/peers/bob/ban", 403),
        (&read, "GET /v1/tokens", 403),
        (&read, "POST /v1/dashboard", 403),
        (&read, "POST /v1/shutdown", 403),
        (&messages, "GET /v1/peers/bob/http/", 418),
        (&messages, "PUT /v1/peers/bob/trust", 403),
        (&messages, "POST /v1/tokens", 403),
        (&messages, "POST /v1/dashboard", 403),
    ] {
        let answer = local.ask(what, &[token], "").await;
        assert_eq!(status(&answer), expected, "{what} {answer}");
        assert!(is_for_no_other_origin(&answer), "{what} {answer}");
    }
    let kept = fs::read_to_string(local.folder.path().join("api-tokens.json")).unwrap();
    assert!(!kept.contains(read.rsplit(' ').next().unwrap()), "{kept}");
    let listed = local.scene.client.tokens().await.unwrap();
    let names: Vec<&str> = listed.tokens.iter().map(|token| &*token.name).collect();
    assert_eq!(names, ["api", "messages-1", "read-1"]);
    assert_eq!(listed.addresses, [local.address.to_string()]);
    local.scene.client.revoke_token("read-1").await.unwrap();
    assert_eq!(status(&local.ask("GET /v1/peers", &[&read], "").await), 401);
    // The token in the file is replaced.
    local.scene.client.revoke_token("api").await.unwrap();
    assert_eq!(
        status(&local.ask("GET /v1/peers", &[&local.bearer()], "").await),
        401
    );
    let unknown = local.scene.client.revoke_token("none").await.unwrap_err();
    assert!(unknown.to_string().contains("no token"), "{unknown}");
    local.scene.end().await;
}

#[tokio::test]
async fn the_page_opens_once_and_needs_its_cookie_its_secret_and_its_origin() {
    let local = Loopback::new().await;
    let link = local.scene.client.dashboard().await.unwrap();
    let (address, token) = link.url.split_once("/#").unwrap();
    assert_eq!(address, format!("http://{}", local.address));
    assert_eq!(status(&local.open("wrong").await), 401);
    assert_eq!(status(&local.open(token).await), 200);
    let again = local.open(token).await;
    assert!(status(&again) == 401 && again.contains("token_used"), "{again}");

    let (cookie, secret, id) = local.session().await;
    let origin = local.origin();
    let ban = "PUT /v1/peers/bob/ban";
    for (what, headers, expected) in [
        ("GET /v1/status", &[&*cookie, &*secret][..], 200),
        ("GET /v1/status", &[&*cookie], 401),
        ("GET /v1/status", &[&*secret], 401),
        (ban, &[&*cookie, &*secret], 403),
        (ban, &[&*cookie, &*origin], 401),
        (ban, &[&*cookie, &*secret, "origin: null"], 403),
        (ban, &[&*cookie, &*secret, &*origin], 200),
    ] {
        let answer = local.ask(what, headers, "").await;
        assert_eq!(status(&answer), expected, "{what} {headers:?} {answer}");
    }
    // It proves only to the page of a session that it is the same nara.
    let hello = async |id: &str| {
        let body = format!("{{\"session\":\"{id}\",\"nonce\":\"n\"}}");
        let headers = [&*origin, "content-type: application/json"];
        local.ask("POST /page/hello", &headers, &body).await
    };
    let proof = hello(&id).await;
    assert!(status(&proof) == 200 && proof.contains("\"proof\":"), "{proof}");
    assert_eq!(status(&hello("another").await), 404);
    // An ended session is gone, and its secrets were never in a file in plain text.
    let kept = fs::read_to_string(local.folder.path().join("page.json")).unwrap();
    assert!(
        !kept.contains(secret.trim_start_matches("x-nara-page: ")),
        "{kept}"
    );
    let ended = local
        .ask("DELETE /page/session", &[&cookie, &secret, &origin], "")
        .await;
    assert_eq!(status(&ended), 204, "{ended}");
    assert_eq!(
        status(&local.ask("GET /v1/status", &[&cookie, &secret], "").await),
        401
    );
    assert_eq!(status(&hello(&id).await), 404);
    local.scene.end().await;
}

#[tokio::test]
async fn what_a_peer_answers_is_no_page_of_ours() {
    let local = Loopback::new().await;
    let token = local.bearer();
    let answer = local.ask("GET /v1/peers/bob/http/hostile", &[&token], "").await;
    assert_eq!(status(&answer), 418, "{answer}");
    assert!(is_for_no_other_origin(&answer), "{answer}");
    assert!(
        !answer.contains("set-cookie") && !answer.contains("default-src *"),
        "{answer}"
    );
    // And the token stays here.
    assert!(
        !answer.contains(&local.token) && !answer.contains("authorization"),
        "{answer}"
    );
    local.scene.end().await;
}

#[tokio::test]
async fn the_files_of_the_page_are_the_only_thing_that_needs_no_token() {
    let local = Loopback::new().await;
    let page = local.ask("GET /", &[], "").await;
    assert_eq!(status(&page), 200);
    assert!(is_for_no_other_origin(&page), "{page}");
    // Nothing inline, nothing of another origin.
    let (_, html) = page.split_once("\r\n\r\n").unwrap();
    for inline in [
        "<style",
        " style=",
        "onclick",
        "onload",
        "http://",
        "https://",
        "javascript:",
    ] {
        assert!(!html.contains(inline), "{inline}");
    }
    let scripts = html.matches("<script").count();
    assert_eq!(
        scripts,
        html.matches("<script type=\"module\" src=\"/page/").count()
    );
    for path in ["/page/main.js", "/page/style.css", "/page/icon.svg"] {
        assert_eq!(
            status(&local.ask(&format!("GET {path}"), &[], "").await),
            200,
            "{path}"
        );
    }
    assert_eq!(status(&local.ask("GET /page/../v1/status", &[], "").await), 401);
    assert_eq!(status(&local.ask("GET /page/none.js", &[], "").await), 401);
    local.scene.end().await;
}

#[tokio::test]
async fn no_address_but_loopback_is_served_and_a_folder_that_others_can_read_is_refused() {
    let local = Loopback::new().await;
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let refused = local.scene.api.listen_on_loopback(everywhere).await.unwrap_err();
    assert!(matches!(refused, LoopbackError::NotLoopback { .. }), "{refused}");
    let taken = local
        .scene
        .api
        .listen_on_loopback(local.address)
        .await
        .unwrap_err();
    assert!(matches!(taken, LoopbackError::Io { .. }), "{taken}");
    local.scene.end().await;

    let file = local.folder.path().join("api.token");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let path = local.folder.path().to_owned();
    let scene = Scene::with(move |builder| builder.folder(path)).await;
    let refused = scene.api.listen_on_loopback("127.0.0.1:0".parse().unwrap()).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("chmod 600"), "{refused}");
    assert!(scene.client.dashboard().await.is_err());
    assert!(scene.client.status().await.is_ok());
    scene.end().await;
}

#[tokio::test]
async fn a_page_and_its_session_come_back_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let scene = Scene::with(|builder| builder.folder(path.clone())).await;
    // No address was requested, so there is none before the page.
    assert_eq!(
        scene.client.tokens().await.unwrap().addresses,
        Vec::<String>::new()
    );
    let link = scene.client.dashboard().await.unwrap();
    let (address, _) = link.url.split_once("/#").unwrap();
    let address: SocketAddr = address.strip_prefix("http://").unwrap().parse().unwrap();
    let local = Loopback {
        scene,
        address,
        token: String::new(),
        folder,
    };
    let (cookie, secret, _) = local.session().await;
    local.scene.end().await;
    assert!(TcpStream::connect(address).await.is_err());
    let scene = Scene::with(|builder| builder.folder(path)).await;
    scene.api.resume_page().await;
    // Queued after the resume.
    let link = scene.client.dashboard().await.unwrap();
    assert!(
        link.url.starts_with(&format!("http://{address}/#")),
        "{}",
        link.url
    );
    let local = Loopback { scene, ..local };
    assert_eq!(
        status(&local.ask("GET /v1/status", &[&cookie, &secret], "").await),
        200
    );
    local.scene.end().await;
}

/// Collects the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_thousand_wrong_tokens_lock_nobody_out_and_no_token_is_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let logging = tracing::subscriber::set_default(subscriber);
    let local = Loopback::new().await;
    let (cookie, secret, _) = local.session().await;
    for number in 0..1000 {
        let wrong = format!("authorization: Bearer {number}-wrong-token");
        let answer = local.ask("GET /v1/status", &[&wrong], "").await;
        assert_eq!(status(&answer), 401);
    }
    assert_eq!(
        status(&local.ask("GET /v1/status", &[&local.bearer()], "").await),
        200
    );
    assert_eq!(
        status(&local.ask("GET /v1/status", &[&cookie, &secret], "").await),
        200
    );
    let token = local.token.clone();
    local.scene.end().await;
    drop(logging);
    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert_eq!(log.matches("refused a caller on loopback").count(), 1, "{log}");
    for secret in [
        &token,
        "wrong-token",
        cookie.rsplit('=').next().unwrap(),
        secret.rsplit(' ').next().unwrap(),
    ] {
        assert!(!log.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn a_thousand_connections_of_another_user_take_no_place_of_the_owner() {
    let local = Loopback::new().await;
    let mut held = Vec::new();
    for _ in 0..1000 {
        held.push(TcpStream::connect(local.address).await.unwrap());
    }
    // Excess connections get an error.
    let mut last = held.pop().unwrap();
    let mut refused = String::new();
    let _ = last.read_to_string(&mut refused).await;
    assert!(refused.contains("too_many_connections"), "{refused}");
    // The socket has separate limits.
    let found = local.scene.client.status().await.unwrap();
    assert!(found.connections < 10, "{found:?}");
    drop(held);
    let served = async {
        while status(&local.ask("GET /v1/status", &[&local.bearer()], "").await) != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), served)
        .await
        .unwrap();
    local.scene.end().await;
}

#[tokio::test]
async fn a_reader_on_loopback_that_stops_reading_holds_up_nobody() {
    let local = Loopback::new().await;
    let mut stuck = TcpStream::connect(local.address).await.unwrap();
    let request = format!(
        "GET /v1/events/live?last=5000 HTTP/1.1\r\nhost: {}\r\n{}\r\n\r\n",
        local.address,
        local.bearer()
    );
    stuck.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stuck.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let text = "x".repeat(2000);
    for number in 0..500 {
        let body = format!(
            "{{\"svc\":\"social\",\"social\":{{\"type\":\"gossip\",\"actor\":\"alice\",\"target\":\"bob\",\"reason\":\"{number} {text}\"}}}}"
        );
        let headers = [&*local.bearer(), "content-type: application/json"];
        let answer = local.ask("POST /v1/events", &headers, &body).await;
        assert_eq!(status(&answer), 200, "{answer}");
    }
    let ended = tokio::time::timeout(Duration::from_secs(60), local.scene.end()).await;
    assert!(ended.is_ok());
}
