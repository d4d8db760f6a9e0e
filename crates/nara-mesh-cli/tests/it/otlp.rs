//! Exports spans to a collector (feature `otlp`).

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::new_soul;
use crate::serve::Serving;

const TRACE: [u8; 16] = *b"\x4b\xf9\x2f\x35\x77\xb3\x4d\xa6\xa3\xce\x92\x9d\x0e\x0e\x47\x36";
const PARENT: [u8; 8] = *b"\x00\xf0\x67\xaa\x0b\xa9\x02\xb7";

/// Starts a collector: returns the path and the body of each request.
fn collector() -> (String, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (received, requests) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert_ne!(reader.read_until(b'\n', &mut head).unwrap(), 0);
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.unwrap().parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            reader.get_mut().write_all(answer).unwrap();
            let path = head.split(' ').nth(1).unwrap().to_owned();
            if received.send((path, body)).is_err() {
                return;
            }
        }
    });
    (address, requests)
}

fn start(folder: &Path, collector: &str) -> (Serving, String) {
    new_soul(folder, "alice");
    fs::write(folder.join("known.toml"), "").unwrap();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", Path::new(collector)),
        ("OTEL_BSP_SCHEDULE_DELAY", Path::new("50")),
    ];
    let (serving, listening) = Serving::start_in(folder, "alice", &[], &variables);
    (serving, listening["address"].as_str().unwrap().to_owned())
}

/// Requests `/ping` within a trace. Returns the status line.
fn ping(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!(
        "GET /ping HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ntraceparent: \
         00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

fn has(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_collector_gets_the_span_of_a_request_in_the_trace_of_its_caller() {
    let folder = tempfile::tempdir().unwrap();
    let (address, requests) = collector();
    let (serving, alice) = start(folder.path(), &address);
    assert!(ping(&alice).contains(" 200 "));
    let (path, body) = requests
        .iter()
        .find(|(_, body)| has(body, &TRACE))
        .expect("the collector lives as long as this test");
    assert_eq!(path, "/v1/traces");
    assert!(has(&body, &PARENT) && has(&body, b"request") && has(&body, b"nara-mesh"));
    let (_, code) = serving.end();
    assert_eq!(code, Some(0));
}

#[test]
fn a_collector_that_is_gone_or_never_answers_costs_no_service() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_address = format!("http://{}", silent.local_addr().unwrap());
    for address in ["http://127.0.0.1:1", &silent_address] {
        let folder = tempfile::tempdir().unwrap();
        let (serving, alice) = start(folder.path(), address);
        for _ in 0..20 {
            assert!(ping(&alice).contains(" 200 "));
        }
        let (stopped, code) = serving.end();
        assert_eq!((&stopped["graceful"], code), (&true.into(), Some(0)));
    }
}
