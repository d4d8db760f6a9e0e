//! The open endpoints: `/ping`, `/coordinates`, `/peer/query`, `/api/checkpoints/all`, and paths that do not
//! exist.

use std::net::IpAddr;

use http::Method;
use nara_mesh::clock::{Clock as _, SystemClock};
use serde_json::Value;

use super::super::check::{Check, Fault, Group, Verdict, differs, ensure, known, must, run, should};
use super::super::peer::Peer;
use super::super::wire::get;

const PING: &str = "v1.md#71-get-ping";
const COORDINATES: &str = "v1.md#72-get-coordinates";
const QUERY: &str = "v1.md#78-get-peerquerytargetnameaskedabc";
const CHECKPOINTS: &str = "v1.md#79-get-apicheckpointsalllimitnoffsetm";
const COMMON: &str = "v1.md#6-common-http-behaviour";
const JSON: &str = "application/json; charset=utf-8";
const UNKNOWN: &str = "/peer/query?target=nobody-has-this-name-0";

pub(super) const GROUP: Group = Group {
    needs: &[],
    checks: CHECKS,
};

const CHECKS: &[Check] = &[
    must(
        "ping/keys",
        PING,
        "200, an object with from, mesh_ip, public_key and t",
        run!(|peer| {
            let ping = peer.accepts(get("/ping")).await?.json()?;
            let has = |key: &str| ensure(!ping[key].is_null(), || format!("the key {key:?} is missing"));
            ["from", "mesh_ip", "public_key", "t"]
                .into_iter()
                .try_for_each(has)
        }),
    ),
    should(
        "ping/order",
        PING,
        "the keys come in this order: from, mesh_ip, public_key, t",
        run!(|peer| {
            peer.accepts(get("/ping"))
                .await?
                .has_keys(&["from", "mesh_ip", "public_key", "t"])
        }),
    ),
    must(
        "ping/nanoseconds",
        PING,
        "t is the clock of the responder in nanoseconds",
        run!(|peer| {
            let told = peer.accepts(get("/ping")).await?.json()?["t"]
                .as_i64()
                .unwrap_or_default();
            let now = SystemClock.now_nanos().get();
            // Any other unit is off by a factor of at least a thousand.
            ensure(told > now / 100 && told / 100 < now, || {
                format!("t is {told}, but the time is about {now}")
            })
        }),
    ),
    should(
        "ping/clock",
        "v1.md#15-checklist-for-an-implementer",
        "clocks are within 30 s of each other",
        run!(|peer| {
            let told = peer.accepts(get("/ping")).await?.json()?["t"]
                .as_i64()
                .unwrap_or_default();
            let off = (told - SystemClock.now_nanos().get()).abs() / 1_000_000_000;
            ensure(off <= 30, || format!("the clocks are {off} s apart"))
        }),
    ),
    must(
        "ping/key",
        PING,
        "public_key is base64 of 32 bytes, an Ed25519 key, and does not change",
        run!(|peer| {
            let told = peer.accepts(get("/ping")).await?.json()?;
            let key = peer.key.to_base64();
            ensure(told["public_key"] == key.as_str(), || {
                format!("it is now {}, and was {key}", told["public_key"])
            })
        }),
    ),
    must(
        "ping/mesh-ip",
        PING,
        "mesh_ip is an IP address or empty",
        run!(|peer| {
            let told = peer.accepts(get("/ping")).await?.json()?["mesh_ip"].clone();
            let text = told
                .as_str()
                .ok_or_else(|| differs(format!("mesh_ip is {told}")))?;
            ensure(text.is_empty() || text.parse::<IpAddr>().is_ok(), || {
                format!("mesh_ip is {text:?}")
            })
        }),
    ),
    should(
        "ping/content-type",
        COMMON,
        "JSON answers have this content type, and end with a line break",
        run!(|peer| {
            let answer = peer.accepts(get("/ping")).await?;
            answer.has_kind(JSON)?;
            ensure(answer.body.ends_with(b"\n"), || {
                "the body does not end with a line break".to_owned()
            })
        }),
    ),
    should(
        "ping/any-method",
        PING,
        "any method works",
        run!(|peer| { peer.accepts(get("/ping").method(Method::POST)).await.map(drop) }),
    ),
    must(
        "ping/query-is-ignored",
        PING,
        "a query changes nothing",
        run!(|peer| { peer.accepts(get("/ping?a=b")).await.map(drop) }),
    ),
    must(
        "ping/unsigned",
        "v1.md#42-where-it-is-required",
        "the answer carries no signature of v1",
        run!(|peer| {
            peer.accepts(get("/ping").with("x-nara-from", peer.v1.name().as_str()))
                .await?
                .is_unsigned()
        }),
    ),
    must(
        "coordinates/keys",
        COORDINATES,
        "200, an object with coordinates and name",
        run!(|peer| {
            let answer = peer.accepts(get("/coordinates")).await?;
            answer.has_keys(&["coordinates", "name"])?;
            let name = &answer.json()?["name"];
            ensure(*name == peer.name.as_str(), || format!("name is {name}"))
        }),
    ),
    must(
        "coordinates/numbers",
        COORDINATES,
        "coordinates are null, or x, y, height and error",
        run!(|peer| {
            let answer = peer.accepts(get("/coordinates")).await?.json()?;
            let coordinates = &answer["coordinates"];
            let number = |key: &str| {
                ensure(coordinates[key].is_number(), || {
                    format!("{key} is {}", coordinates[key])
                })
            };
            if coordinates.is_null() {
                return Ok(());
            }
            ["x", "y", "height", "error"].into_iter().try_for_each(number)
        }),
    ),
    must(
        "query/target-is-required",
        QUERY,
        "without a target: 400 `target parameter required`",
        run!(|peer| {
            peer.refuses_with(get("/peer/query"), 400, "target parameter required")
                .await
        }),
    ),
    must(
        "query/unknown",
        QUERY,
        "an unknown target: 404, or 307 with X-Nara-Redirect-To and without Location",
        run!(|peer| {
            let answer = peer.send(&get(UNKNOWN)).await?;
            answer.is_one_of(&[307, 404])?;
            ensure(
                answer.status == 404 || answer.header("x-nara-redirect-to").is_some(),
                || "a redirect without X-Nara-Redirect-To".to_owned(),
            )?;
            ensure(answer.header("location").is_none(), || {
                "a redirect with Location".to_owned()
            })
        }),
    ),
    should(
        "query/itself",
        QUERY,
        "a nara never answers about itself",
        run!(|peer| {
            let name = nara_proto::v2::Recipient::Name(peer.name.clone()).to_string();
            peer.send(&get(&format!("/peer/query?target={name}")))
                .await?
                .is_one_of(&[307, 404])
        }),
    ),
    must(
        "query/known",
        QUERY,
        "a known target: 200 with target and public_key",
        run!(|peer| {
            if !peer.has(super::super::check::Need::KnowsV1) {
                return Err(Fault::Skip(
                    "the peer does not accept the key of the nara that signs with v1",
                ));
            }
            let name = peer.v1.name().as_str();
            let answer = peer.accepts(get(&format!("/peer/query?target={name}"))).await?;
            answer.has_keys(&["target", "public_key"])?;
            let key = peer.v1.public_key().to_base64();
            let told = &answer.json()?["public_key"];
            ensure(*told == key.as_str(), || {
                format!("the key is {told} instead of {key}")
            })
        }),
    ),
    must(
        "query/get-only",
        QUERY,
        "GET only: other methods get 405",
        run!(|peer| {
            let draft = get("/peer/query?target=x").method(Method::POST);
            peer.refuses_with(draft, 405, "Method not allowed").await
        }),
    ),
    must(
        "checkpoints/keys",
        CHECKPOINTS,
        "checkpoints, count, has_more, limit, offset, server and total",
        run!(|peer| {
            let answer = peer.accepts(get("/api/checkpoints/all?limit=1")).await?;
            answer.has_keys(&[
                "checkpoints",
                "count",
                "has_more",
                "limit",
                "offset",
                "server",
                "total",
            ])?;
            let found = answer.json()?;
            ensure(
                found["checkpoints"].is_null() || found["checkpoints"].is_array(),
                || format!("checkpoints is {}", found["checkpoints"]),
            )?;
            ensure(found["server"] == peer.name.as_str(), || {
                format!("server is {}", found["server"])
            })
        }),
    ),
    must(
        "checkpoints/default",
        CHECKPOINTS,
        "a limit of 0, or one that is not a number, means 1000",
        run!(|peer| {
            for query in ["", "?limit=0", "?limit=-5", "?limit=many"] {
                checkpoint_value(peer, query, "limit", 1000).await?;
            }
            Ok(())
        }),
    ),
    must(
        "checkpoints/limit",
        CHECKPOINTS,
        "limit is capped at 10000",
        run!(|peer| { checkpoint_value(peer, "?limit=20000", "limit", 10_000).await }),
    ),
    must(
        "checkpoints/offset",
        CHECKPOINTS,
        "a negative offset means 0",
        run!(|peer| { checkpoint_value(peer, "?limit=1&offset=-7", "offset", 0).await }),
    ),
    must(
        "http/unknown-path",
        COMMON,
        "an unknown path: 404, or 401 where the application has the path",
        run!(|peer| {
            let answer = peer.send(&get("/no-such-path-of-a-nara")).await?;
            answer.is_one_of(&[401, 404])?;
            answer.is_unsigned()
        }),
    ),
    should(
        "http/404-body",
        COMMON,
        "the body of a 404 is `404 page not found`",
        run!(|peer| {
            let answer = peer.send(&get("/no-such-path-of-a-nara")).await?;
            if answer.status == 401 {
                return Err(Fault::Skip("the application of the peer has every other path"));
            }
            answer.is_text("404 page not found")
        }),
    ),
    should(
        "http/trailing-slash",
        COMMON,
        "a trailing slash makes another, unknown path",
        run!(|peer| { peer.send(&get("/ping/")).await?.is_one_of(&[401, 404]) }),
    ),
    known(
        "http/clean-path",
        COMMON,
        "a path that needs cleaning is redirected to the clean one",
        run!(|peer| {
            let answer = peer.send(&get("//ping")).await?;
            answer.is_one_of(&[301, 307])?;
            let to = answer.header("location").unwrap_or_default();
            ensure(to == "/ping", || format!("the redirect leads to {to:?}"))
        }),
    ),
];

async fn checkpoint_value(peer: &Peer, query: &str, key: &str, expected: i64) -> Verdict {
    let answer: Value = peer
        .accepts(get(&format!("/api/checkpoints/all{query}")))
        .await?
        .json()?;
    ensure(answer[key] == expected, || {
        format!("{query:?}: {key} is {} instead of {expected}", answer[key])
    })
}
