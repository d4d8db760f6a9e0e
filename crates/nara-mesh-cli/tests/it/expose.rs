//! `serve --expose` and `request`: a local program in another language, behind the signed channel.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use http::Method;
use nara_local_api::client::{CallError, LocalClient};
use nara_local_api::model::ServiceList;
use serde_json::Value;

use crate::serve::Serving;
use crate::{new_soul, run, run_json, text};

/// A program that runs until dropped.
struct Backend(Child);

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts Python's web server over a folder. Returns its address.
fn http_server(folder: &Path) -> (Backend, String) {
    let child = Command::new("python3")
        .args([
            "-u",
            "-m",
            "http.server",
            "0",
            "--bind",
            "127.0.0.1",
            "--directory",
        ])
        .arg(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut backend = Backend(child);
    let mut line = String::new();
    BufReader::new(backend.0.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    // Serving HTTP on 127.0.0.1 port 40000 (http://127.0.0.1:40000/) ...
    let address = line
        .split("http://")
        .nth(1)
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    (backend, address)
}

const AS_BOB: [&str; 6] = [
    "--soul-file",
    "bob.soul",
    "--data-dir",
    "bob",
    "--peers",
    "peers.toml",
];

/// Starts alice, who knows bob, with exposed programs.
fn scene(folder: &Path, expose: &[&str]) -> Serving {
    new_soul(folder, "alice");
    let bob = new_soul(folder, "bob");
    let known = format!(
        "[[peer]]\nname = \"bob\"\nid = {}\nkey = {}\n",
        bob["id"], bob["public_key"]
    );
    fs::write(folder.join("known.toml"), known).unwrap();
    let (serving, listening) = Serving::start_with(folder, "alice", expose);
    fs::write(folder.join("peers.toml"), listening["stanza"].as_str().unwrap()).unwrap();
    serving
}

fn request(folder: &Path, expected: i32, args: &[&str]) -> String {
    text(&run(folder, expected, &[&["request", "alice"], args, &AS_BOB].concat()).stdout)
}

fn request_json(folder: &Path, expected: i32, args: &[&str]) -> Value {
    run_json(
        folder,
        expected,
        &[&["request", "alice"], args, &["--json"], &AS_BOB].concat(),
    )
}

#[test]
fn a_program_in_another_language_is_reached_through_its_nara() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("www")).unwrap();
    fs::write(path.join("www/hello.txt"), "hello from Python\n").unwrap();
    fs::write(path.join("www/a b.bin"), [0_u8, 159, 146, 150]).unwrap();
    fs::write(path.join("secret.txt"), "not below the folder").unwrap();
    let (_python, address) = http_server(&path.join("www"));
    let _alice = scene(path, &["--expose", &format!("/notes=http://{address}")]);

    assert_eq!(
        request(path, 0, &["GET", "/notes/hello.txt"]),
        "hello from Python\n"
    );
    let answer = request_json(path, 0, &["GET", "/notes/hello.txt?x=1"]);
    assert_eq!(answer["schema"], "nara-mesh/request/1");
    assert_eq!(
        (&answer["status"], &answer["body"]),
        (&200.into(), &"hello from Python\n".into())
    );
    assert_eq!(answer["verification"]["responder"], "alice");
    assert_eq!(answer["headers"]["content-type"][0], "text/plain");
    let binary = request_json(path, 0, &["GET", "/notes/a%20b.bin"]);
    assert_eq!(binary["body_base64"], "AJ+Slg==");
    let shown = request(path, 0, &["HEAD", "/notes/hello.txt", "--include"]);
    assert!(
        shown.starts_with("HTTP/1.1 200 OK\n") && shown.contains("content-type: text/plain"),
        "{shown}"
    );
    // A URL relative to the server of the program is rewritten below its prefix.
    fs::create_dir(path.join("www/sub")).unwrap();
    let moved = run(
        path,
        0,
        &[&["request", "alice", "GET", "/notes/sub"][..], &AS_BOB].concat(),
    );
    let moved = text(&moved.stderr);
    assert!(
        moved.contains("301") && moved.contains(" to /notes/sub/"),
        "{moved}"
    );
    // Bodies of any size work with --stream.
    let large: Vec<u8> = (0..18_u32 << 20).map(|at| (at % 251) as u8).collect();
    fs::write(path.join("www/large.bin"), &large).unwrap();
    let get = |expected, more: &[&str]| {
        let args = ["request", "alice", "GET", "/notes/large.bin"];
        run(path, expected, &[&args[..], more, &AS_BOB].concat())
    };
    let refused = text(&get(1, &[]).stdout);
    assert!(refused.contains("as a stream (--stream)"), "{refused}");
    assert!(get(0, &["--stream"]).stdout == large);
    let data = format!("@{}", path.join("www/large.bin").display());
    let post = ["request", "alice", "POST", "/notes/x", "--data", &data];
    let refused = run(path, 2, &[&post[..], &AS_BOB].concat());
    assert!(
        text(&refused.stderr).contains("pass --stream"),
        "{}",
        text(&refused.stderr)
    );
    // Any status is an answer; the exit code depends on it.
    assert_eq!(request_json(path, 1, &["GET", "/notes/missing"])["status"], 404);
    assert_eq!(
        request_json(path, 1, &["POST", "/notes/hello.txt", "--data", "x"])["status"],
        501
    );
    let explained = run(
        path,
        0,
        &[
            &["request", "alice", "GET", "/notes/hello.txt", "--explain"][..],
            &AS_BOB,
        ]
        .concat(),
    );
    assert!(
        text(&explained.stderr).contains("answer    from alice"),
        "{}",
        text(&explained.stderr)
    );
    // No spelling of a path escapes the prefix.
    for trick in [
        "/notes/../secret.txt",
        "/notes/%2e%2e/secret.txt",
        "/notes/..%2fsecret.txt",
        "/notes/.%2E/secret.txt",
        "/notes/%2e%2e%5csecret.txt",
        "/notesecret.txt",
    ] {
        let answer = run(
            path,
            1,
            &[&["request", "alice", "GET", trick][..], &AS_BOB].concat(),
        );
        assert!(!text(&answer.stdout).contains("not below"), "{trick}");
    }
}

/// Starts a program that returns each request verbatim.
fn echo(answers: &'static [u8]) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let got = read_head(&mut stream);
        stream.write_all(answers).unwrap();
        got
    });
    (address, serving)
}

fn read_head(stream: &mut TcpStream) -> Vec<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    String::from_utf8(head)
        .unwrap()
        .lines()
        .map(str::to_ascii_lowercase)
        .collect()
}

#[test]
fn a_backend_learns_who_sent_a_request_and_nobody_can_say_so_instead() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let answer =
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nX-Kept: 1\r\n\
                   X-Nara-Sender: root\r\n\r\nok";
    let (address, backend) = echo(answer);
    let _alice = scene(path, &["--expose", &format!("/app=http://{address}/base")]);
    let answer = request_json(
        path,
        0,
        &[
            "GET",
            "/app/who?q=1",
            "--header",
            "x_nara_sender: root",
            "--header",
            "X-Forwarded-For: 127.0.0.1",
            "--header",
            "Accept: text/plain",
        ],
    );
    let got = backend.join().unwrap();
    let has = |line: &str| got.iter().any(|header| header == line);
    assert!(has("get /base/who?q=1 http/1.1"), "{got:?}");
    assert!(has("x-nara-sender: bob") && has("accept: text/plain"), "{got:?}");
    assert!(
        has("x-nara-coverage: whole") || has("x-nara-coverage: channel"),
        "{got:?}"
    );
    assert_eq!(
        got.iter().filter(|header| header.contains("sender:")).count(),
        1,
        "{got:?}"
    );
    assert!(
        !got.iter()
            .any(|header| header.contains("root") || header.contains("forwarded")),
        "{got:?}"
    );
    assert_eq!(answer["headers"]["x-kept"][0], "1");
    for gone in ["x-hop", "connection", "x-nara-sender"] {
        assert_eq!(answer["headers"][gone], Value::Null, "{gone}");
    }
}

#[test]
fn a_backend_that_is_gone_is_502_and_what_is_not_of_this_machine_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fs::write(
        path.join("config.toml"),
        format!("[expose]\n\"/gone\" = \"http://{closed}\"\n\"/socket\" = \"unix:/nonexistent/socket\"\n"),
    )
    .unwrap();
    let _alice = scene(path, &["--config", "config.toml"]);
    for prefix in ["/gone", "/socket"] {
        let answer = request_json(path, 1, &["GET", &format!("{prefix}/x")]);
        assert_eq!(answer["status"], 502);
        assert!(
            answer["body"].as_str().unwrap().contains("cannot be reached"),
            "{answer}"
        );
    }
    // The local API lists the exposed programs, and cannot remove them.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let api = LocalClient::new(path.join("alice/nara.sock"));
    let list: ServiceList = runtime.block_on(api.get("/v1/services")).unwrap();
    let listed = list.lasting.iter();
    let listed: Vec<_> = listed
        .map(|service| (&*service.prefix, service.requests))
        .collect();
    assert_eq!(listed, [("/gone", 1), ("/socket", 1)]);
    assert!(list.services.is_empty());
    let refused = runtime.block_on(api.request_bytes(Method::DELETE, "/v1/services/gone"));
    match refused.unwrap_err() {
        CallError::Problem(problem) => assert_eq!((problem.name(), problem.status), ("service_is_set", 409)),
        error => panic!("{error}"),
    }
    for wrong in [
        "/dm=http://127.0.0.1:1",
        "/a=http://example.org",
        "/a=http://192.0.2.1:80",
        "a=http://127.0.0.1:1",
        "/a",
    ] {
        run(
            path,
            2,
            &[
                "serve",
                "--soul-file",
                "alice.soul",
                "--data-dir",
                "other",
                "--expose",
                wrong,
            ],
        );
    }
}

#[test]
fn a_path_with_two_programs_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    let own = ["serve", "--soul-file", "alice.soul", "--data-dir", "alice"];
    let programs = [
        "--expose",
        "/a=http://127.0.0.1:1",
        "--expose",
        "/a=http://127.0.0.1:2",
    ];
    let told = text(&run(path, 2, &[&own[..], &programs].concat()).stderr);
    assert!(told.contains("--expose: /a has two programs"), "{told}");
}

#[test]
fn a_reader_that_has_read_enough_of_an_answer_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (address, backend) = echo(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nmore");
    let _alice = scene(path, &["--expose", &format!("/echo=http://{address}")]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = Command::new(env!("CARGO_BIN_EXE_nara-mesh"))
        .env_clear()
        .current_dir(path)
        .args(["request", "alice", "GET", "/echo/x", "--stream"])
        .args(AS_BOB)
        .stdout(writer)
        .spawn()
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    backend.join().unwrap();
}

#[test]
fn a_request_belongs_to_the_trace_of_its_caller_or_to_a_new_one() {
    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    let (given, first) = echo(answer);
    let (made, second) = echo(answer);
    let _alice = scene(
        path,
        &[
            "--expose",
            &format!("/given=http://{given}"),
            "--expose",
            &format!("/made=http://{made}"),
        ],
    );
    let header = format!("traceparent: {GIVEN}");
    let more = [
        "--header",
        &header,
        "--header",
        "tracestate: vendor=1",
        "--include",
        "--explain",
    ];
    let args = [&["request", "alice", "GET", "/given/x"][..], &more, &AS_BOB].concat();
    let shown = text(&run(path, 0, &args).stderr);
    assert!(
        shown.contains("trace     0af7651916cd43dd8448eb211c80319c"),
        "{shown}"
    );
    let got = first.join().unwrap();
    assert!(
        got.contains(&header) && got.contains(&"tracestate: vendor=1".to_owned()),
        "{got:?}"
    );

    let answer = request_json(path, 0, &["GET", "/made/x"]);
    let made = format!("traceparent: {}", answer["traceparent"].as_str().unwrap());
    let got = second.join().unwrap();
    assert!(made.ends_with("-00") && got.contains(&made), "{made} {got:?}");

    let nonsense = ["GET", "/made/x", "--header", "traceparent: 00-nonsense"];
    request(path, 2, &nonsense);
}

#[test]
fn bodies_of_any_size_go_through_a_running_nara_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // A program that echoes its input.
    let backend = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let head = read_head(&mut stream);
        assert!(
            head.contains(&"transfer-encoding: chunked".to_owned()),
            "{head:?}"
        );
        let mut got = stream.try_clone().unwrap();
        let begin = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        stream.write_all(begin).unwrap();
        let mut window = Vec::new();
        let mut piece = vec![0; 64 << 10];
        // The chunks of the request are returned as the chunks of the answer.
        while !window.ends_with(b"\r\n0\r\n\r\n") {
            let length = got.read(&mut piece).unwrap();
            if length == 0 {
                return;
            }
            stream.write_all(&piece[..length]).unwrap();
            window.extend(&piece[..length]);
            let old = window.len().saturating_sub(7);
            window.drain(..old);
        }
    });
    let _alice = scene(path, &["--expose", &format!("/echo=http://{address}")]);
    fs::copy(path.join("peers.toml"), path.join("known.toml")).unwrap();
    let (_bob, _) = Serving::start(path, "bob");
    let large: Vec<u8> = (0..18_u32 << 20).map(|at| (at % 251) as u8).collect();
    fs::write(path.join("large.bin"), &large).unwrap();
    let args = [
        "request",
        "alice",
        "POST",
        "/echo/x",
        "--data",
        "@large.bin",
        "--stream",
    ];
    let answer = run(path, 0, &[&args[..], &AS_BOB[..4]].concat());
    assert!(answer.stdout == large, "{}", text(&answer.stderr));
    backend.join().unwrap();
}
