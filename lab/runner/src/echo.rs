//! An echo server, for faults of streams that HTTP would hide.

use std::net::SocketAddr;
use std::sync::Arc;

use nara_mesh::transport::{BoxMeshStream, Transport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

/// An echo server that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Echo {
    pub(crate) async fn start(transport: Arc<dyn Transport>, address: SocketAddr) -> Result<Self, String> {
        let mut listener = transport
            .listen(address)
            .await
            .map_err(|error| format!("cannot listen on {address}: {error}"))?;
        let address = listener.local_addr();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            address,
            _tasks: tasks,
        })
    }
}

async fn answer(stream: BoxMeshStream) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    // A client may disconnect at any time.
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
}

/// Sends bytes to an echo server and checks that the same bytes return.
pub(crate) async fn exchange(
    transport: &dyn Transport,
    address: SocketAddr,
    len: usize,
) -> Result<(), String> {
    let stream = transport
        .dial(address)
        .await
        .map_err(|error| format!("cannot connect: {error}"))?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sent: Vec<u8> = (0..len).map(|n| (n * 31 % 251) as u8).collect();
    let write = async {
        writer
            .write_all(&sent)
            .await
            .map_err(|error| format!("cannot send: {error}"))?;
        writer
            .flush()
            .await
            .map_err(|error| format!("cannot send: {error}"))
    };
    let mut received = vec![0; len];
    let read = async {
        reader
            .read_exact(&mut received)
            .await
            .map(|_| ())
            .map_err(|error| format!("cannot receive: {error}"))
    };
    futures_util::future::try_join(write, read).await?;
    if received == sent {
        Ok(())
    } else {
        Err("other bytes came back".to_owned())
    }
}
