//! Tests over loopback sockets.

use std::net::UdpSocket as StdSocket;
use std::time::Duration;

use tokio::time::timeout;

use super::*;

/// A guard against tests that hang.
const LONG: Duration = Duration::from_secs(60);

/// Returns the loopback address of each family that this machine supports.
fn families() -> impl Iterator<Item = SocketAddr> {
    let both = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
    ];
    both.into_iter()
        .filter(|address| StdSocket::bind(address).is_ok())
}

/// Builds datagrams of these lengths, each filled with its index.
fn packets(lens: &[usize]) -> Vec<Vec<u8>> {
    let numbered = lens.iter().zip(0..);
    numbered.map(|(len, n)| vec![n; *len]).collect()
}

/// Returns the loopback address of the socket for this family.
fn at(sockets: &Sockets, loopback: SocketAddr) -> SocketAddr {
    SocketAddr::new(loopback.ip(), sockets.port_for(loopback).unwrap())
}

/// Receives the next datagrams, with their sender.
async fn received(sockets: &Sockets, loopback: SocketAddr, count: usize) -> (Vec<Vec<u8>>, SocketAddr) {
    let mut buffers = Buffers::new();
    let mut batch = Vec::new();
    while batch.len() < count {
        let more = sockets.like(loopback).unwrap().receive(&mut buffers, &mut batch);
        timeout(LONG, more).await.expect("nothing arrives").unwrap();
    }
    let from = batch[0].0;
    assert!(batch.iter().all(|(sender, _)| *sender == from));
    (batch.iter().map(|(_, packet)| packet.to_vec()).collect(), from)
}

/// Sends datagrams of these lengths from one node to another, and returns the received ones.
async fn carried(loopback: SocketAddr, lens: &[usize]) -> Vec<Vec<u8>> {
    let (a, b) = (Sockets::bind(0).unwrap(), Sockets::bind(0).unwrap());
    a.like(loopback).unwrap().writable().await;
    let sent = packets(lens);
    assert_eq!(a.send(at(&b, loopback), &sent), SendOutcome::Sent);
    let arriving = lens.iter().filter(|len| **len <= packet::MAX).count();
    let (arrived, from) = received(&b, loopback, arriving).await;
    assert_eq!(from, at(&a, loopback));
    arrived
}

#[tokio::test]
async fn coalesced_datagrams_arrive_separately_and_in_order() {
    for loopback in families() {
        let lens = [&[1312; 20][..], &[700]].concat();
        assert_eq!(carried(loopback, &lens).await, packets(&lens), "{loopback}");
    }
}

#[tokio::test]
async fn datagrams_of_any_lengths_arrive_separately_and_in_order() {
    for loopback in families() {
        let lens = [80, 1312, 1312, 80, 80, 80, 1, 1312, 2048, 5, 6, 5, 5];
        assert_eq!(carried(loopback, &lens).await, packets(&lens), "{loopback}");
    }
}

#[tokio::test]
async fn a_batch_that_needs_several_calls_arrives() {
    for loopback in families() {
        let lens = [&[1312; 60][..], &[32; 100]].concat();
        assert_eq!(carried(loopback, &lens).await, packets(&lens), "{loopback}");
    }
}

#[tokio::test]
async fn too_long_datagrams_are_dropped_whether_coalesced_or_not() {
    for loopback in families() {
        let long = packet::MAX + 1;
        let lens = [10, long, long, long, 20, 9000, 30];
        let arrived = carried(loopback, &lens).await;
        let lens: Vec<_> = arrived.iter().map(Vec::len).collect();
        assert_eq!(lens, [10, 20, 30], "{loopback}");
    }
}

#[tokio::test]
async fn without_segmentation_offload_datagrams_are_sent_one_by_one() {
    for loopback in families() {
        let (mut a, b) = (Sockets::bind(0).unwrap(), Sockets::bind(0).unwrap());
        for udp in a.four.iter_mut().chain(&mut a.six) {
            udp.most = 1;
        }
        a.like(loopback).unwrap().writable().await;
        let sent = packets(&[1312; 5]);
        assert_eq!(a.send(at(&b, loopback), &sent), SendOutcome::Sent);
        assert_eq!(received(&b, loopback, 5).await.0, sent, "{loopback}");
    }
}

#[tokio::test]
async fn a_batch_that_the_system_refuses_is_sent_one_by_one() {
    for loopback in families() {
        let (mut a, b) = (Sockets::bind(0).unwrap(), Sockets::bind(0).unwrap());
        for udp in a.four.iter_mut().chain(&mut a.six) {
            // More segments than any system supports.
            udp.most = 1000;
        }
        a.like(loopback).unwrap().writable().await;
        let sent = vec![vec![7; 33]; 300];
        assert_eq!(a.send(at(&b, loopback), &sent), SendOutcome::Sent);
        assert_eq!(received(&b, loopback, 300).await.0, sent, "{loopback}");
    }
}

#[tokio::test]
async fn an_unreachable_address_refuses_batches_and_single_datagrams() {
    let sockets = Sockets::bind(0).unwrap();
    // Sending to a broadcast address needs SO_BROADCAST, which is not set.
    let nowhere = SocketAddr::from((Ipv4Addr::BROADCAST, 9));
    sockets.like(nowhere).unwrap().writable().await;
    assert_eq!(sockets.send(nowhere, &packets(&[50])), SendOutcome::Refused);
    assert_eq!(sockets.send(nowhere, &packets(&[50; 5])), SendOutcome::Refused);
    let no_packets: [Vec<u8>; 0] = [];
    assert_eq!(sockets.send(nowhere, &no_packets), SendOutcome::Sent);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn routers_may_fragment_what_is_sent() {
    let sockets = Sockets::bind(0).unwrap();
    let four = sockets.like(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let found = rustix::net::sockopt::ip_mtu_discover(&four.socket).unwrap();
    assert_eq!(found, Ipv4PathMtuDiscovery::DONT);
}

#[test]
fn a_batch_has_equal_lengths_except_for_a_shorter_last_one() {
    for (lens, most, expected) in [
        (&[][..], 64, 0),
        (&[5], 64, 1),
        (&[5, 5, 5], 64, 3),
        (&[5, 5, 4, 5], 64, 3),
        (&[5, 5, 6], 64, 2),
        (&[5, 4, 4], 64, 2),
        (&[5, 0], 64, 1),
        (&[0, 0, 5], 64, 1),
        (&[5, 5, 5, 4], 2, 2),
        (&[5, 5, 4], 3, 3),
        (&[5, 5], 1, 1),
        (&[40_000, 40_000], 64, 1),
        (&[30_000, 30_000, 10_000], 64, 2),
        (&[70_000, 1], 64, 1),
    ] {
        assert_eq!(batch_len(&packets(lens), most), expected, "{lens:?}");
    }
}
