//! libp2p: its `request-response` behaviour with CBOR, over one connection.

use std::collections::HashMap;

use futures_util::StreamExt as _;
use libp2p::request_response::{self, Message, OutboundRequestId, ProtocolSupport};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, noise, tcp, yamux};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::repeat::repeat;
use crate::{ANSWER, Error, Plan, QUESTION};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Over {
    Quic,
    Tcp,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Question(Vec<u8>);

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Answer(Vec<u8>);

type Behaviour = request_response::cbor::Behaviour<Question, Answer>;
type Event = request_response::Event<Question, Answer>;

/// The channel for the result of a request.
type Waiting = oneshot::Sender<Result<usize, String>>;

pub(crate) async fn measure(plan: &Plan, over: Over) -> Result<Value, Error> {
    let mut server = swarm()?;
    let id = *server.local_peer_id();
    let address = listen(&mut server, over).await?;
    tokio::spawn(answer_all(server));
    let mut client = swarm()?;
    client.dial(address)?;
    while !matches!(
        client.select_next_some().await,
        SwarmEvent::ConnectionEstablished { .. }
    ) {}
    let (questions, asked) = mpsc::channel(1024);
    tokio::spawn(ask_all(client, id, asked));
    repeat(plan, move || ask(questions.clone())).await
}

fn swarm() -> Result<Swarm<Behaviour>, Error> {
    let protocols = [(StreamProtocol::new("/nara-bench/1"), ProtocolSupport::Full)];
    let config = request_response::Config::default().with_max_concurrent_streams(1_000);
    Ok(SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )?
        .with_quic()
        .with_behaviour(|_| Behaviour::new(protocols, config))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(std::time::Duration::from_secs(600)))
        .build())
}

async fn listen(server: &mut Swarm<Behaviour>, over: Over) -> Result<Multiaddr, Error> {
    let any = match over {
        Over::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
        Over::Tcp => "/ip4/127.0.0.1/tcp/0",
    };
    server.listen_on(any.parse()?)?;
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = server.select_next_some().await {
            return Ok(address);
        }
    }
}

async fn answer_all(mut server: Swarm<Behaviour>) {
    loop {
        let event = server.select_next_some().await;
        if let SwarmEvent::Behaviour(Event::Message {
            message: Message::Request { channel, .. },
            ..
        }) = event
        {
            // The requester may have disconnected.
            let _ = server
                .behaviour_mut()
                .send_response(channel, Answer(vec![7; ANSWER]));
        }
    }
}

/// Drives the client until all request senders are dropped.
async fn ask_all(mut client: Swarm<Behaviour>, server: PeerId, mut asked: mpsc::Receiver<Waiting>) {
    let mut waiting: HashMap<OutboundRequestId, Waiting> = HashMap::new();
    loop {
        let (id, outcome) = tokio::select! {
            question = asked.recv() => {
                let Some(answered) = question else { return };
                let id = client.behaviour_mut().send_request(&server, Question(vec![5; QUESTION]));
                waiting.insert(id, answered);
                continue;
            }
            event = client.select_next_some() => match event {
                SwarmEvent::Behaviour(Event::Message { message: Message::Response { request_id, response }, .. }) => {
                    (request_id, Ok(response.0.len()))
                }
                SwarmEvent::Behaviour(Event::OutboundFailure { request_id, error, .. }) => {
                    (request_id, Err(error.to_string()))
                }
                _ => continue,
            },
        };
        if let Some(answered) = waiting.remove(&id) {
            let _ = answered.send(outcome);
        }
    }
}

async fn ask(questions: mpsc::Sender<Waiting>) -> Result<(), Error> {
    let (answered, answer) = oneshot::channel();
    questions.send(answered).await?;
    match answer.await?? {
        ANSWER => Ok(()),
        other => Err(format!("received {other} bytes instead of {ANSWER}").into()),
    }
}
