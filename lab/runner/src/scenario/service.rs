//! A Python service on one machine, called through the nara of another machine, and shown on the dashboard.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::up;
use crate::kind::Kind;
use crate::network::{ControlKind, Network};
use crate::process::Process;
use crate::program::Program;
use crate::table::{Outcome, Table};

const LIMIT: Duration = Duration::from_secs(90);

/// The environment variable with the path of a Python that has the dependencies of the client; `cargo xtask lab` sets
/// it.
const PYTHON: &str = "NARA_LAB_PYTHON";

/// The source of the service, which connects to the nara of its user.
const SERVICE: &str = r#"
import asyncio
from nara_mesh import AsyncNara, Sender

nara = AsyncNara()

@nara.service("/notes")
async def notes(scope, receive, send):
    text = f"{scope['method']} {scope['path']} for {Sender.of(scope).name}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})

async def main():
    async with nara, nara.serve():
        print("serving", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"#;

pub(super) async fn run(programs: &Path, control: ControlKind, table: &mut Table) -> Result<(), String> {
    let python = std::env::var_os(PYTHON)
        .map(PathBuf::from)
        .ok_or_else(|| format!("{PYTHON} is not set: run the lab with `cargo xtask lab`"))?;
    let network = Network::start_on(programs, control).await?;
    // A machine is simulated by a home folder, a folder for sockets, and an address on the tailnet.
    let machine = |name| Program::new(programs, network.folder_of(name));
    let (a, b) = (machine("machine-a")?, machine("machine-b")?);
    let mut running = None;
    let begin = async {
        let mut alice = up::start(&network, &a, Kind::Embedded, "alice").await?;
        let mut bob = up::start(&network, &b, Kind::Embedded, "bob").await?;
        bob.until(&[("event", "found"), ("name", "alice")]).await?;
        alice.until(&[("event", "found"), ("name", "bob")]).await?;
        let folder = a.runtime_folder();
        let environment = [("XDG_RUNTIME_DIR", &*folder)];
        let mut service = Process::start_with(&python, &["-c", SERVICE], &environment)?;
        let said = service.ready().await?;
        running = Some((alice, bob, service));
        match &*said {
            "serving" => call(&b).await,
            other => Err(format!("the service says {other:?}")),
        }
    };
    let column = Kind::Embedded.to_string();
    table
        .check(
            "a service in Python, called from another machine",
            &column,
            LIMIT,
            begin,
        )
        .await;
    let Some((alice, bob, service)) = running else {
        return Ok(());
    };
    table.check("… the page shows it", &column, LIMIT, page(&a)).await;
    service.kill().await?;
    alice.end().await?;
    bob.end().await
}

/// Calls the service through the nara of this machine: the command itself has neither a soul nor peers.
async fn call(program: &Program) -> Outcome {
    let begin = Instant::now();
    let answer = program.run(&["request", "alice", "GET", "/notes/1"]).await?;
    let took = begin.elapsed();
    let is_right = answer["body"] == "GET /1 for bob" && answer["verification"]["responder"] == "alice";
    match is_right {
        true => Ok(format!("answers after {} ms", took.as_millis())),
        false => Err(format!("it answers {answer}")),
    }
}

/// Checks what the dashboard shows of the service, with the requests that the dashboard sends.
async fn page(program: &Program) -> Outcome {
    let link = program.run(&["dashboard"]).await?;
    let url = link["url"].as_str().and_then(|url| url.strip_prefix("http://"));
    let (host, token) = url
        .and_then(|url| url.split_once("/#"))
        .ok_or_else(|| format!("no address: {link}"))?;
    let opened = ask(
        host,
        "POST /page/session",
        "",
        &format!(r#"{{"token":"{token}"}}"#),
    )
    .await?;
    let session = json(&opened)?;
    let cookie = opened
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: ")?.split(';').next())
        .ok_or_else(|| format!("no session: {opened}"))?;
    let secret = session["secret"].as_str().unwrap_or_default();
    let headers = format!("cookie: {cookie}\r\nx-nara-page: {secret}\r\n");
    let services = json(&ask(host, "GET /v1/services", &headers, "").await?)?;
    let notes = &services["services"][0];
    let is_right = notes["prefix"] == "/notes" && notes["requests"] == 1 && notes["last_sender"] == "bob";
    match is_right {
        true => Ok("1 request, by bob".to_owned()),
        false => Err(format!("it shows {services}")),
    }
}

/// Sends a request as the dashboard does, and returns the whole answer.
async fn ask(host: &str, what: &str, headers: &str, body: &str) -> Result<String, String> {
    let request = format!(
        "{what} HTTP/1.1\r\nhost: {host}\r\norigin: http://{host}\r\nconnection: close\r\n{headers}\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let asking = async {
        let mut stream = TcpStream::connect(host).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    asking.await.map_err(|error| format!("{what}: {error}"))
}

fn json(answer: &str) -> Result<Value, String> {
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
    let json = body.and_then(|body| serde_json::from_str(body).ok());
    json.ok_or_else(|| format!("the page gets {answer}"))
}
