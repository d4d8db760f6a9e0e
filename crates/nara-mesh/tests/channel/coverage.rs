//! The proven parts of a request, and routes that require a fully proven one.

use axum::Router;
use axum::middleware::from_fn;
use axum::routing::post;
use http::StatusCode;
use nara_mesh::Coverage;
use nara_mesh::server::{VerifiedSender, require_whole};
use nara_mesh::tls::ChannelTrust;

use crate::support::{Profile, SIGNED, bob, call, serve};

fn routes() -> Router {
    Router::new()
        .route("/whole", post(async || "done"))
        .route_layer(from_fn(require_whole))
        .route(
            "/any",
            post(async |sender: VerifiedSender| format!("{:?}", sender.coverage())),
        )
}

#[tokio::test]
async fn a_sender_says_how_much_it_has_proven() {
    let server = serve(bob().routes(routes())).await;
    for (profile, coverage) in [
        (Profile::V1, Coverage::MethodAndPath),
        (Profile::V2, Coverage::Whole),
        (Profile::Tls, Coverage::Channel),
    ] {
        let answer = call(&server, profile, "POST", "/any", "").await;
        assert_eq!(answer.text(), format!("{coverage:?}"));
    }
}

#[tokio::test]
async fn an_untrusted_connection_covers_no_more_than_the_signature() {
    let server = serve(bob().routes(routes()).channel_trust(ChannelTrust::VerifyAlways)).await;
    let answer = call(&server, Profile::Tls, "POST", "/any", "").await;
    assert_eq!(answer.text(), format!("{:?}", Coverage::Whole));
}

#[tokio::test]
async fn a_route_that_asks_for_the_whole_refuses_v1_with_a_signed_answer() {
    let server = serve(bob().nest_routes("/notes", routes())).await;
    for profile in SIGNED {
        let answer = call(&server, profile, "POST", "/notes/whole", "x").await;
        assert!(answer.is_proven(), "{profile:?}");
        if profile == Profile::V1 {
            assert_eq!(answer.status, StatusCode::FORBIDDEN);
            assert!(answer.text().contains("RFC 9421"), "{}", answer.text());
        } else {
            assert_eq!(
                (answer.status, answer.text()),
                (StatusCode::OK, "done".to_owned())
            );
        }
    }
}
