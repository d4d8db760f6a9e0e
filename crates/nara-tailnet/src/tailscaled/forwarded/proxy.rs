use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// The maximum length of a header in bytes, with its line end (PROXY protocol, version 1).
const MAX_HEADER: usize = 107;

/// Reads the PROXY header at the beginning of a connection, and no byte more, and returns its source address.
///
/// # Errors
/// If a process of another user opened the connection, or it does not begin with a PROXY header.
pub(super) async fn announced_source(stream: &mut TcpStream, source: SocketAddr) -> io::Result<SocketAddr> {
    if !is_of_this_user(source).await? {
        let detail = "another user of this machine opened the connection";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, detail));
    }
    let mut header = Vec::with_capacity(MAX_HEADER);
    while !header.ends_with(b"\r\n") {
        if header.len() == MAX_HEADER {
            return Err(malformed());
        }
        header.push(stream.read_u8().await?);
    }
    parse(&header).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the connection does not begin with a PROXY header",
    )
}

fn parse(header: &[u8]) -> Option<SocketAddr> {
    let mut words = str::from_utf8(header).ok()?.strip_suffix("\r\n")?.split(' ');
    let family = words
        .next()
        .filter(|&word| word == "PROXY")
        .and_then(|_| words.next())?;
    let source: IpAddr = words.next()?.parse().ok()?;
    let _destination: IpAddr = words.next()?.parse().ok()?;
    let source_port: u16 = words.next()?.parse().ok()?;
    let _destination_port: u16 = words.next()?.parse().ok()?;
    let fits = matches!(
        (family, source),
        ("TCP4", IpAddr::V4(_)) | ("TCP6", IpAddr::V6(_))
    );
    (fits && words.next().is_none()).then(|| SocketAddr::new(source, source_port))
}

/// Returns whether the other end of a loopback connection belongs to the user of this process.
#[cfg(target_os = "linux")]
async fn is_of_this_user(source: SocketAddr) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let own = tokio::fs::metadata("/proc/self").await?.uid();
    let table = tokio::fs::read_to_string("/proc/net/tcp").await?;
    Ok(owner_in(&table, source) == Some(own))
}

/// Returns `false`: without such a table the owner is unknown.
#[cfg(not(target_os = "linux"))]
async fn is_of_this_user(_: SocketAddr) -> io::Result<bool> {
    Ok(std::future::ready(false).await)
}

/// Returns the user id that owns the socket with this local address, from a table of TCP sockets (`/proc/net/tcp`).
#[cfg(any(target_os = "linux", test))]
fn owner_in(table: &str, local: SocketAddr) -> Option<u32> {
    let IpAddr::V4(ip) = local.ip() else { return None };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), local.port());
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.nth(1)? == local).then_some(())?;
        words.nth(5)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_one_line_of_six_words() {
        let source = |header: &str| parse(header.as_bytes());
        assert_eq!(
            source("PROXY TCP4 100.64.0.2 100.64.0.1 59722 9632\r\n"),
            "100.64.0.2:59722".parse().ok()
        );
        assert_eq!(
            source("PROXY TCP6 fd7a:115c:a1e0::2 fd7a:115c:a1e0::1 59722 9632\r\n"),
            "[fd7a:115c:a1e0::2]:59722".parse().ok()
        );
        for wrong in [
            "PROXY UNKNOWN\r\n",
            "PROXY TCP6 100.64.0.2 100.64.0.1 59722 9632\r\n",
            "PROXY TCP4 100.64.0.2 100.64.0.1 59722\r\n",
            "PROXY TCP4 100.64.0.2 100.64.0.1 59722 9632 x\r\n",
            "PROXY TCP4 100.64.0.2 100.64.0.1 99999 9632\r\n",
            "GET /ping HTTP/1.1\r\n",
            "\r\n",
        ] {
            assert_eq!(source(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_owner_of_a_socket_is_in_the_table() {
        let ip = format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
        let table = format!(
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: {ip}:2580 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n   \
             1: {ip}:E94A {ip}:2580 01 00000000:00000000 00:00000000 00000000  1000        0 2 1\n"
        );
        assert_eq!(owner_in(&table, "127.0.0.1:59722".parse().unwrap()), Some(1000));
        assert_eq!(owner_in(&table, "127.0.0.1:59723".parse().unwrap()), None);
    }
}
