//! iroh: one connection, with a stream per request.

use iroh::Endpoint;
use iroh::endpoint::{Connection, presets};
use serde_json::Value;

use crate::repeat::repeat;
use crate::{ANSWER, Error, Plan, QUESTION};

const PROTOCOL: &[u8] = b"nara-bench/1";

pub(crate) async fn measure(plan: &Plan) -> Result<Value, Error> {
    let server = endpoint().await?;
    let address = server.addr();
    tokio::spawn(async move {
        while let Some(incoming) = server.accept().await {
            tokio::spawn(async move { answer_all(incoming.await?).await });
        }
    });
    let client = endpoint().await?;
    let connection = client.connect(address, PROTOCOL).await?;
    repeat(plan, move || ask(connection.clone())).await
}

/// Creates an endpoint on loopback, without relays and discovery.
async fn endpoint() -> Result<Endpoint, Error> {
    let builder = Endpoint::builder(presets::Minimal)
        .alpns(vec![PROTOCOL.to_vec()])
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")?;
    Ok(builder.bind().await?)
}

/// Answers all requests of a connection until it closes.
async fn answer_all(connection: Connection) -> Result<(), Error> {
    loop {
        let (mut send, mut receive) = connection.accept_bi().await?;
        tokio::spawn(async move {
            let question = receive.read_to_end(4096).await?;
            expect(question.len(), QUESTION)?;
            send.write_all(&[7; ANSWER]).await?;
            send.finish()?;
            Ok::<_, Error>(())
        });
    }
}

async fn ask(connection: Connection) -> Result<(), Error> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&[5; QUESTION]).await?;
    send.finish()?;
    let answer = receive.read_to_end(4096).await?;
    expect(answer.len(), ANSWER)
}

fn expect(have: usize, want: usize) -> Result<(), Error> {
    if have == want {
        return Ok(());
    }
    Err(format!("received {have} bytes instead of {want}").into())
}
