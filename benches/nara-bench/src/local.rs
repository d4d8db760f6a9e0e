//! The cost of the local API: a signed request through its socket compared with the library, and watchers of
//! events.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::Request;
use http_body_util::Empty;
use nara_local_api::server::LocalApi;
use nara_mesh::{LocalNara, Nara};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::mesh::{Error, tireless};
use crate::store::resident_bytes;

/// Requests before the measurement.
const WARM_UP: u64 = 500;

pub(crate) fn measure(requests: u64, watchers: usize) -> Result<Value, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // Two ends per watcher, and a few more.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                ..limit
            },
        )?;
        let local = || std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let [alice, bob] = ["alice", "bob"].map(LocalNara::generate);
        let (alice, bob) = (alice?, bob?);
        let routes = axum::Router::new().route("/echo", axum::routing::get(async || "hello"));
        let bob = Nara::builder(bob)
            .listen(local())
            .know(alice.as_peer(None))
            .without_gossip()
            .routes(routes)
            .configure_server(|server| server.limits(tireless()))
            .start()
            .await?;
        let alice = Nara::builder(alice)
            .listen(local())
            .know(bob.as_peer())
            .without_gossip()
            .start()
            .await?;
        let alice = Arc::new(alice);
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("nara.sock");
        let api = LocalApi::builder(alice.clone())
            .max_connections(watchers + 16)
            .start();
        api.listen(&socket)?;
        let measuring = {
            let (alice, socket, runtime) = (alice.clone(), socket.clone(), Handle::current());
            move || round_trips(&runtime, &alice, &socket, requests)
        };
        let (direct, proxied) = tokio::task::spawn_blocking(measuring).await??;
        let each = watch(&socket, watchers).await?;
        let median = |histogram: &Histogram<u64>| histogram.value_at_quantile(0.5) as f64 / 1e3;
        Ok(json!({
            "requests": requests,
            "direct_p50_us": median(&direct),
            "proxied_p50_us": median(&proxied),
            "extra_p50_us": median(&proxied) - median(&direct),
            "watchers": watchers,
            "bytes_per_watcher": each,
        }))
    })
}

/// Measures sequential round trips, alternating between the library and the socket; in nanoseconds. The
/// caller of the socket is a thread with blocking I/O, like another program, so that no second runtime is
/// measured.
fn round_trips(
    runtime: &Handle,
    alice: &Nara,
    socket: &Path,
    requests: u64,
) -> Result<(Histogram<u64>, Histogram<u64>), Error> {
    let mut stream = UnixStream::connect(socket)?;
    let bob = alice.peer("bob");
    let mut direct = Histogram::<u64>::new(3)?;
    let mut proxied = Histogram::<u64>::new(3)?;
    for round in 0..WARM_UP + requests {
        let begun = Instant::now();
        let request = Request::get("/echo").body(Empty::<Bytes>::new())?;
        let answer = runtime.block_on(bob.request(request))?;
        let took = begun.elapsed();
        if answer.body() != "hello" {
            return Err("unexpected answer".into());
        }
        let begun = Instant::now();
        through(&mut stream)?;
        if round >= WARM_UP {
            direct.record(nanos(took))?;
            proxied.record(nanos(begun.elapsed()))?;
        }
    }
    Ok((direct, proxied))
}

fn through(stream: &mut UnixStream) -> Result<(), Error> {
    stream.write_all(b"GET /v1/peers/bob/http/echo HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
    let mut answer = [0; 4096];
    let mut length = 0;
    while !answer[..length].ends_with(b"\r\n\r\nhello") {
        let read = stream.read(&mut answer[length..])?;
        if read == 0 {
            let told = String::from_utf8_lossy(&answer[..length]);
            return Err(format!("unexpected answer: {told}").into());
        }
        length += read;
    }
    let told = std::str::from_utf8(&answer[..length])?;
    match told.contains("x-nara-body-proof: ") {
        true => Ok(()),
        false => Err(format!("the answer is not proven: {told}").into()),
    }
}

/// Opens live streams of events; returns the memory per stream, including the client's end, which buffers
/// nothing.
async fn watch(socket: &Path, watchers: usize) -> Result<u64, Error> {
    let before = resident_bytes()?;
    let socket = socket.to_owned();
    let opening = tokio::task::spawn_blocking(move || -> Result<Vec<UnixStream>, Error> {
        let mut streams = Vec::with_capacity(watchers);
        for _ in 0..watchers {
            let mut stream = UnixStream::connect(&socket)?;
            stream.write_all(b"GET /v1/events/live HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
            let mut head = [0; 12];
            stream.read_exact(&mut head)?;
            if !head.ends_with(b" 200") {
                return Err("a watcher was refused".into());
            }
            streams.push(stream);
        }
        Ok(streams)
    });
    let streams = opening.await??;
    // Includes what is allocated after the head of the answer.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = resident_bytes()?;
    drop(streams);
    Ok(after.saturating_sub(before) / u64::try_from(watchers.max(1))?)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
