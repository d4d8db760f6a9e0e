//! `POST /api/events/import` (docs/protocol/v1.md, section 7.10): only the owner of the soul may import, so
//! everything here is refused.

use nara_proto::go_json;
use nara_proto::import::ImportRequest;
use serde_json::json;

use super::super::check::{Check, Group, Verdict, differs, ensure, must, run, should};
use super::super::peer::Peer;
use super::super::wire::{Answer, get, post};

const IMPORT: &str = "v1.md#710-post-apieventsimport";

pub(super) const GROUP: Group = Group {
    needs: &[],
    checks: CHECKS,
};

const CHECKS: &[Check] = &[
    must(
        "import/invalid-json",
        IMPORT,
        "400 with success false and error `Invalid JSON`",
        run!(|peer| {
            let answer = peer.refuses(post("/api/events/import", "no json"), 400).await?;
            refused(&answer)?;
            let error = answer.json()?["error"].clone();
            ensure(error == "Invalid JSON", || format!("error is {error}"))
        }),
    ),
    must(
        "import/other-key",
        IMPORT,
        "a signature of another key than the receiver's own: 403",
        run!(|peer| {
            let request = ImportRequest::signed(Vec::new(), peer.now().to_seconds(), peer.v1.keypair());
            refused(
                &peer
                    .refuses(post("/api/events/import", go_json::to_vec(&request)), 403)
                    .await?,
            )
        }),
    ),
    must(
        "import/stale",
        IMPORT,
        "a time more than 5 min away: 403",
        run!(|peer| {
            let request =
                ImportRequest::signed(Vec::new(), peer.now_and(-600).to_seconds(), peer.v1.keypair());
            refused(
                &peer
                    .refuses(post("/api/events/import", go_json::to_vec(&request)), 403)
                    .await?,
            )
        }),
    ),
    must(
        "import/no-base64",
        IMPORT,
        "a signature that is not base64: 403",
        run!(|peer| {
            let body = json!({ "events": [], "ts": peer.now().to_seconds().get(), "sig": "!" });
            refused(
                &peer
                    .refuses(post("/api/events/import", body.to_string()), 403)
                    .await?,
            )
        }),
    ),
    must(
        "import/post-only",
        IMPORT,
        "another method: 405 as plain text",
        run!(|peer| {
            peer.refuses(get("/api/events/import"), 405)
                .await?
                .has_kind("text/plain; charset=utf-8")
        }),
    ),
    should(
        "import/content-type",
        "v1.md#6-common-http-behaviour",
        "the content type is application/json",
        run!(|peer| {
            peer.refuses(post("/api/events/import", "no json"), 400)
                .await?
                .has_kind("application/json")
        }),
    ),
    must(
        "import/unsigned",
        "v1.md#42-where-it-is-required",
        "the answer is not signed",
        run!(|peer| { unsigned(peer).await }),
    ),
];

fn refused(answer: &Answer) -> Verdict {
    answer.has_keys(&["success", "imported", "duplicates", "error"])?;
    let body = answer.json()?;
    ensure(body["success"] == false && body["imported"] == 0, || {
        format!("the body is {body}")
    })?;
    body["error"]
        .as_str()
        .map(drop)
        .ok_or_else(|| differs("error is not a string"))
}

async fn unsigned(peer: &Peer) -> Verdict {
    peer.refuses(post("/api/events/import", "no json"), 400)
        .await?
        .is_unsigned()
}
