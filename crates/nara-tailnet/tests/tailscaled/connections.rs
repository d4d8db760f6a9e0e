use std::io;
use std::net::SocketAddr;

use nara_mesh::transport::{MeshListener, Transport as _};
#[cfg(target_os = "linux")]
use nara_tailnet::MeshNode as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Announce, FakePeer, Fault};
use crate::{LONG, running};

#[tokio::test]
async fn a_dialled_stream_carries_bytes_both_ways_and_ends() {
    let (_folder, daemon, node) = running().await;
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer: SocketAddr = "100.64.0.2:9632".parse().unwrap();
    daemon
        .state()
        .reachable
        .insert(peer, server.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        let mut bytes = vec![0; 1 << 20];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    });
    let stream = node.dial(peer).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let sent: Vec<u8> = (0..1_u32 << 20).map(|number| number.to_le_bytes()[0]).collect();
    let (mut received, mut write_half) = (Vec::new(), sent.as_slice());
    let writing = tokio::io::copy(&mut write_half, &mut write);
    let reading = read.read_to_end(&mut received);
    let (written, read) = tokio::join!(writing, reading);
    written.unwrap();
    read.unwrap();
    assert!(received == sent);
    serving.await.unwrap();
}

#[tokio::test]
async fn a_dial_that_fails_says_what_the_peer_did() {
    let (_folder, daemon, node) = running().await;
    let peer: SocketAddr = "100.64.0.2:9999".parse().unwrap();
    let kind = |outcome: io::Result<_>| outcome.map(|_| ()).unwrap_err().kind();
    assert_eq!(kind(node.dial(peer).await), io::ErrorKind::ConnectionRefused);
    daemon.state().faults.insert(
        "dial",
        Fault::Status(502, "dial failure: context deadline exceeded\n"),
    );
    assert_eq!(kind(node.dial(peer).await), io::ErrorKind::TimedOut);
    daemon
        .state()
        .faults
        .insert("dial", Fault::Status(200, "not upgraded"));
    assert_eq!(kind(node.dial(peer).await), io::ErrorKind::Other);
    daemon
        .state()
        .faults
        .insert("dial", Fault::Status(403, "access denied"));
    assert_eq!(kind(node.dial(peer).await), io::ErrorKind::PermissionDenied);
    daemon.stop();
    assert_eq!(kind(node.dial(peer).await), io::ErrorKind::NotFound);
}

/// Returns whether the other side closed the connection without sending a byte.
async fn is_refused(mut stream: TcpStream) -> bool {
    let mut bytes = Vec::new();
    // A reset counts as a refusal.
    let read = tokio::time::timeout(LONG, stream.read_to_end(&mut bytes))
        .await
        .unwrap();
    read.is_err() || bytes.is_empty()
}

async fn accept(listener: &mut dyn MeshListener) -> (nara_mesh::transport::BoxMeshStream, SocketAddr) {
    tokio::time::timeout(LONG, listener.accept())
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn what_the_daemon_forwards_comes_from_the_address_of_the_node() {
    let (_folder, daemon, node) = running().await;
    daemon.state().peers.push(FakePeer::new("bob", "100.64.0.2"));
    let mut listener = node.listen("100.64.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr();
    assert_eq!(address.ip().to_string(), "100.64.0.1");
    for announce in [Announce::AtOnce, Announce::WhenAsked] {
        let bob = "100.64.0.2".parse().unwrap();
        let mut stream = daemon.forward_from(bob, address.port(), announce).await;
        let (mut accepted, source) = accept(&mut *listener).await;
        assert_eq!(source, SocketAddr::new(bob, stream.local_addr().unwrap().port()));
        stream.write_all(b"hello").await.unwrap();
        let mut bytes = [0; 5];
        accepted.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"hello");
    }
}

#[tokio::test]
async fn a_process_of_the_machine_that_is_no_peer_is_refused_and_holds_nobody_up() {
    let (_folder, daemon, node) = running().await;
    daemon.state().peers.push(FakePeer::new("bob", "100.64.0.2"));
    let mut listener = node.listen("100.64.0.1:0".parse().unwrap()).await.unwrap();
    let port = listener.local_addr().port();
    let local = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let _bobs = daemon
        .forward_from("100.64.0.2".parse().unwrap(), port, Announce::AtOnce)
        .await;
    let (_stream, source) = accept(&mut *listener).await;
    assert_eq!(source.ip().to_string(), "100.64.0.2");
    assert!(is_refused(local).await);
}

#[tokio::test]
async fn who_cannot_be_looked_up_is_refused() {
    let (_folder, daemon, node) = running().await;
    daemon.state().peers.push(FakePeer::new("bob", "100.64.0.2"));
    let listener = node.listen("100.64.0.1:0".parse().unwrap()).await.unwrap();
    let port = listener.local_addr().port();
    for fault in [
        Fault::Status(500, "no"),
        Fault::Status(403, "whois access denied"),
        Fault::HalfJson,
        Fault::Oversized,
        // A node without an address cannot be identified.
        Fault::Status(200, "{\"Node\":{\"Addresses\":null}}"),
    ] {
        daemon.state().faults.insert("whois", fault);
        let stream = daemon
            .forward_from("100.64.0.2".parse().unwrap(), port, Announce::AtOnce)
            .await;
        assert!(is_refused(stream).await);
    }
    drop(listener);
}

/// Only on Linux is all of 127/8 local.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_listener_on_the_device_follows_the_address_of_the_node() {
    let (_folder, daemon, node) = running().await;
    let is_at = |ip: [u8; 4]| {
        let mut status = node.watch_status();
        async move {
            let seen = status.wait_for(|status| status.addresses == [std::net::IpAddr::from(ip)]);
            tokio::time::timeout(LONG, seen).await.unwrap().unwrap();
        }
    };
    daemon.change(|state| {
        state.tun = true;
        state.addresses = vec!["127.0.0.2".parse().unwrap()];
    });
    is_at([127, 0, 0, 2]).await;
    let mut listener = node.listen("127.0.0.2:0".parse().unwrap()).await.unwrap();
    let old = listener.local_addr();
    let _stream = TcpStream::connect(old).await.unwrap();
    accept(&mut *listener).await;

    daemon.change(|state| state.addresses = vec!["127.0.0.3".parse().unwrap()]);
    is_at([127, 0, 0, 3]).await;
    let new = SocketAddr::from(([127, 0, 0, 3], old.port()));
    // The listener moves during an accept.
    let accepting = tokio::spawn(async move {
        let (_, source) = accept(&mut *listener).await;
        (source, listener)
    });
    let connecting = async {
        loop {
            match TcpStream::connect(new).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let stream = tokio::time::timeout(LONG, connecting).await.unwrap();
    let (source, listener) = accepting.await.unwrap();
    assert_eq!(source, stream.local_addr().unwrap());
    assert_eq!(listener.local_addr(), new);
    assert!(
        TcpStream::connect(old).await.is_err(),
        "the old listener has ended"
    );
}

#[tokio::test]
async fn a_port_in_use_and_another_namespace_are_told_apart() {
    let (_folder, daemon, node) = running().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = node
        .listen(SocketAddr::from(([100, 64, 0, 1], port)))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);

    daemon.change(|state| state.tun = true);
    let listen = async {
        loop {
            match node.listen("100.64.0.1:0".parse().unwrap()).await {
                Err(error) => return error,
                // The node has not seen the change yet.
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    };
    let error = tokio::time::timeout(LONG, listen).await.unwrap();
    assert!(error.to_string().contains("another network namespace"), "{error}");
}
