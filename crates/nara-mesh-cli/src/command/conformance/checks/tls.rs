//! TLS on the mesh port (docs/protocol/tls.md).

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::super::channel::{Channel, Form, hello_of_tls12};
use super::super::check::{Check, Fault, Group, Need, Verdict, differs, ensure, must, run};
use super::super::peer::{Peer, recent};
use super::super::wire::{Draft, dial, get};

const HANDSHAKE: &str = "tls.md#2-handshake";
const CERTIFICATES: &str = "tls.md#3-certificates";
const BINDING: &str = "tls.md#4-channel-binding";

pub(super) const GROUP: Group = Group {
    needs: &[Need::V2, Need::KnowsV2, Need::Tls],
    checks: CHECKS,
};

const CHECKS: &[Check] = &[
    must(
        "tls/x509",
        CERTIFICATES,
        "the server shows its key in a certificate, and the client its raw public key",
        run!(|peer| { shows_its_key(peer, Form::X509).await }),
    ),
    must(
        "tls/raw-public-key",
        CERTIFICATES,
        "the server shows its raw public key",
        run!(|peer| { shows_its_key(peer, Form::RawPublicKey).await }),
    )
    .needs(&[Need::RawPublicKey]),
    must(
        "tls/no-tls12",
        HANDSHAKE,
        "TLS 1.3 only",
        run!(|peer| {
            let mut stream = dial(peer.address, peer.limit).await?;
            stream.write_all(&hello_of_tls12()).await?;
            let mut answer = [0; 6];
            let read = timeout(peer.limit, stream.read_exact(&mut answer)).await;
            // Accepted means a handshake record with a ServerHello; anything else, such as an alert, is a
            // refusal.
            let accepted = matches!(read, Ok(Ok(_))) && answer[0] == 0x16 && answer[5] == 2;
            let came = if accepted {
                "a ServerHello"
            } else {
                "no ServerHello"
            };
            peer.note("a ClientHello of TLS 1.2", came);
            ensure(!accepted, || "TLS 1.2 is accepted".to_owned())
        }),
    ),
    must(
        "tls/client-authentication",
        HANDSHAKE,
        "a client without a certificate is refused",
        run!(|peer| {
            let opened = peer.channel(None, Form::X509).await;
            // In TLS 1.3 the client finishes the handshake before the server has checked its certificate.
            let answered = match opened {
                Ok(mut channel) => channel.connection.send(&get("/ping")).await.is_ok(),
                Err(_) => false,
            };
            peer.note(
                "a handshake without a certificate, and GET /ping",
                if answered { "an answer" } else { "none" },
            );
            ensure(!answered, || "a request was answered".to_owned())
        }),
    ),
    must(
        "tls/request",
        BINDING,
        "a v2 request that covers the channel binding is answered",
        run!(|peer| {
            let mut channel = open(peer).await?;
            let draft = bound(peer, &channel);
            peer.send_on(&mut channel.connection, &draft).await?.is(200)
        }),
    ),
    must(
        "tls/unbound",
        BINDING,
        "a v2 request without X-Nara-Channel: 401",
        run!(|peer| {
            let mut channel = open(peer).await?;
            let draft = peer.v2_signed(recent(&peer.v2));
            peer.send_on(&mut channel.connection, &draft).await?.is(401)
        }),
    ),
    must(
        "tls/other-binding",
        BINDING,
        "a v2 request for another connection: 401",
        run!(|peer| {
            let (other, mut channel) = (open(peer).await?, open(peer).await?);
            let draft = bound(peer, &other);
            peer.send_on(&mut channel.connection, &draft).await?.is(401)
        }),
    ),
    must(
        "tls/bindings-differ",
        BINDING,
        "two connections have two bindings",
        run!(|peer| {
            let (first, second) = (open(peer).await?, open(peer).await?);
            peer.note("two handshakes", "two bindings");
            ensure(first.binding != second.binding, || {
                "both have the same binding".to_owned()
            })
        }),
    ),
    must(
        "tls/other-sender",
        HANDSHAKE,
        "a request in the name of a nara other than the one of the connection: 401",
        run!(|peer| {
            let mut channel = peer.channel(Some(&peer.v1), Form::X509).await?;
            let draft = bound(peer, &channel);
            peer.send_on(&mut channel.connection, &draft).await?.is(401)
        }),
    ),
    must(
        "tls/asked-for-signature",
        "v2.md#4-trusted-connections",
        "with Accept-Signature, the answer is signed",
        run!(|peer| {
            let mut channel = open(peer).await?;
            let asked = r#"nara=("@status" "content-digest" "x-nara-name" "signature";req);created;alg="ed25519";tag="nara-mesh""#;
            let draft = bound(peer, &channel).with("accept-signature", asked);
            let answer = peer.send_on(&mut channel.connection, &draft).await?;
            answer.is(200)?;
            peer.bound(&draft, &answer)
        }),
    ),
    must(
        "tls/answer-names-itself",
        "v2.md#4-trusted-connections",
        "an unsigned answer has X-Nara-Name and X-Nara-Timestamp",
        run!(|peer| {
            let mut channel = open(peer).await?;
            let draft = bound(peer, &channel);
            let answer = peer.send_on(&mut channel.connection, &draft).await?;
            if answer.header("signature").is_some() {
                return Err(Fault::Skip("the peer signs all answers"));
            }
            let name = answer.header("x-nara-name").unwrap_or_default();
            ensure(name == peer.name.as_str(), || format!("X-Nara-Name is {name:?}"))?;
            let time = answer
                .header("x-nara-timestamp")
                .and_then(|time| time.parse::<i64>().ok());
            time.map(drop)
                .ok_or_else(|| differs("X-Nara-Timestamp is missing or not a number"))
        }),
    ),
];

async fn open(peer: &Peer) -> Verdict<Channel> {
    Ok(peer.channel(Some(&peer.v2), Form::X509).await?)
}

fn bound(peer: &Peer, channel: &Channel) -> Draft {
    peer.v2_changed(recent(&peer.v2), |v2| v2.bind(&channel.binding))
}

async fn shows_its_key(peer: &Peer, form: Form) -> Verdict {
    let mut channel = peer.channel(Some(&peer.v2), form).await?;
    ensure(channel.key == peer.key, || {
        format!(
            "the connection has key {}, but /ping has {}",
            channel.key, peer.key
        )
    })?;
    peer.send_on(&mut channel.connection, &get("/ping"))
        .await?
        .is(200)
}
