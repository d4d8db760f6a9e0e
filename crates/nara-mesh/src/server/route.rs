//! The routes: one handler per file, built from the endpoint types of `nara-proto`.
//!
//! The order of checks and the texts are those of v1 peers (docs/protocol/v1.md, section 7). We differ where they are
//! unsafe; each difference is a rule, tested in `tests/hostile` and counted in `tests/behaviour`:
//!
//! | where | we | because |
//! |---|---|---|
//! | sync, zine | answer 403 if `from` is not the authenticated sender | otherwise any peer could speak for any other |
//! | dm | answer 403 if `emitter` is not the authenticated sender | a direct message of another nara is a replay or a forgery |
//! | dm | answer 400 to an id that is empty or forged | two events with one id: the second is lost everywhere |
//! | dm | answer 400 to a missing payload | they crash |
//! | zine, import | refuse single events that are forged, badly signed, unsigned (but observations) or larger than 64 KiB | they store everything |
//! | zine | accept only a signed `hey-there` | they accept keys from unsigned ones |
//! | world | answer 400 to an id shorter than 8 bytes | they crash |
//! | message | verify before a pending call is resolved; the signer must be the HTTP sender; a stash belongs to its signer | they check none of this |
//! | all bodies | limit size and time | they wait for ever |

mod checkpoints;
mod confidant;
mod coordinates;
mod dm;
mod events_fetch;
mod events_reconcile;
mod events_stream;
mod events_sync;
mod gossip_zine;
mod import;
mod mesh_message;
mod peer_query;
mod ping;
mod world_relay;

mod body;
pub(in crate::server) mod guard;
mod ingest;
pub(in crate::server) mod samples;
pub(in crate::server) mod spelling;
pub(in crate::server) mod stash;
pub(in crate::server) mod state;
pub(in crate::server) mod user;
pub(in crate::server) mod way;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{any, post};
use futures_util::FutureExt as _;
use nara_proto::endpoint::{
    AllCheckpoints, DirectMessage, Endpoint, EventsFetch, EventsImport, EventsReconcile, EventsStream,
    EventsSync, GetCoordinates, GossipZine, MeshMessage, PeerQuery, Ping, Repetition, WorldRelay,
};
use tower::{ServiceBuilder, ServiceExt as _};

use super::answer::rejection::Rejection;
use super::answer::sign::AnswerSigner;
use super::auth::authenticator::Authenticator;
use super::auth::verify::Verification;
use super::expose::Services;
use super::limits::admission::{Admission, limit_open};
use state::Shared;
use user::{CheckedRoutes, Nested};
use way::{Asked, Entrance, SignedEndpoint, SignedWay, to_application, to_endpoint, to_open_application};

/// Returns the outermost router of a server: our own routes, and those of the application.
pub(in crate::server) fn entrance(
    shared: Arc<Shared>,
    authenticator: &Arc<Authenticator>,
    user: CheckedRoutes,
    services: Option<Services>,
) -> Entrance {
    let prefixes = user.nested.iter().map(|nested| nested.prefix.as_str().into());
    let admission = Admission::new(&shared.limits, shared.body_bytes.clone(), prefixes.collect());
    let routes = Routes {
        admission: Arc::new(admission),
        authenticator,
        shared: &shared,
    };
    // These accept any method, like v1 peers.
    let mut router = Router::new()
        .route(Ping::PATH, any(ping::handle))
        .route(GetCoordinates::PATH, any(coordinates::handle))
        .route(AllCheckpoints::PATH, any(checkpoints::handle))
        .route(PeerQuery::PATH, any(peer_query::handle))
        .route(
            EventsImport::PATH,
            post(import::handle).fallback(method_not_allowed),
        )
        .route_layer(from_fn_with_state(routes.admission.clone(), limit_open));
    let endpoints = [
        routes.signed::<EventsStream, _, _>(&mut router, events_stream::handle),
        routes.signed::<EventsSync, _, _>(&mut router, events_sync::handle),
        routes.signed::<EventsFetch, _, _>(&mut router, events_fetch::handle),
        routes.signed::<EventsReconcile, _, _>(&mut router, events_reconcile::handle),
        routes.signed::<GossipZine, _, _>(&mut router, gossip_zine::handle),
        routes.signed::<DirectMessage, _, _>(&mut router, dm::handle),
        routes.signed::<WorldRelay, _, _>(&mut router, world_relay::handle),
        routes.signed::<MeshMessage, _, _>(&mut router, mesh_message::handle),
    ];
    let mut router = router.with_state(shared.clone());
    for Nested {
        prefix,
        router: nested,
        signed,
    } in user.nested
    {
        // The layers see the signed path; the nested router sees the rest of it.
        let nested = Router::new().nest_service(&prefix, nested);
        router = router.merge(if signed {
            routes.user_signed(nested)
        } else {
            routes.user_unsigned(nested)
        });
    }
    let otherwise = match user.merged {
        Some(merged) => routes.user_signed(merged),
        None => Router::new().fallback(not_found),
    };
    router = router.fallback_service(match services {
        Some(services) => {
            let exposed = routes.user_signed(services.router());
            Router::new().fallback(async move |request: Request| {
                let is_exposed = services.has(request.uri().path());
                let router = if is_exposed {
                    exposed.clone()
                } else {
                    otherwise.clone()
                };
                router.oneshot(request).await
            })
        }
        None => otherwise,
    });
    Entrance {
        admission: routes.admission,
        endpoints: endpoints.into(),
        router,
    }
}

struct Routes<'a> {
    admission: Arc<Admission>,
    authenticator: &'a Arc<Authenticator>,
    shared: &'a Arc<Shared>,
}

impl Routes<'_> {
    /// Adds a signed endpoint.
    fn signed<E: Endpoint, F, R>(
        &self,
        router: &mut Router<Arc<Shared>>,
        handler: fn(Asked) -> F,
    ) -> SignedEndpoint
    where
        F: Future<Output = Result<R, Rejection>> + Send + 'static,
        R: IntoResponse + 'static,
    {
        let verification = Verification {
            authenticator: self.authenticator.clone(),
            repetition: E::REPETITION,
            takes_streams: false,
        };
        let way = self.way(verification, E::MAX_RESPONSE);
        // The method is checked after the signature, like v1 peers: requests that arrive here have another method.
        let layer = from_fn_with_state(way.clone(), to_endpoint);
        *router = std::mem::take(router).route(E::PATH, any(method_not_allowed).layer(layer));
        SignedEndpoint {
            method: E::METHOD,
            path: E::PATH,
            way,
            handle: Box::new(move |asked| Box::pin(handler(asked).map(IntoResponse::into_response))),
        }
    }

    /// Wraps routes of the application in the same steps: their answers to unknown paths and methods are signed as
    /// well, and none of their code runs before the sender is authenticated.
    fn user_signed(&self, router: Router) -> Router {
        let verification = Verification {
            authenticator: self.authenticator.clone(),
            // The body of a v1 request is not signed, so the same signature must not arrive with another body.
            repetition: Repetition::Refused,
            takes_streams: true,
        };
        let max_body = self.shared.limits.route_answer_bytes;
        router.layer(
            ServiceBuilder::new()
                .layer(from_fn_with_state(
                    self.way(verification, max_body),
                    to_application,
                ))
                .layer(DefaultBodyLimit::max(self.shared.limits.route_body_bytes)),
        )
    }

    /// Wraps open routes of the application, within bounds.
    fn user_unsigned(&self, router: Router) -> Router {
        router.layer(
            ServiceBuilder::new()
                .layer(from_fn_with_state(self.admission.clone(), limit_open))
                .layer(from_fn_with_state(self.shared.clone(), to_open_application))
                .layer(DefaultBodyLimit::max(self.shared.limits.route_body_bytes)),
        )
    }

    fn way(&self, verification: Verification, max_answer: usize) -> Arc<SignedWay> {
        Arc::new(SignedWay {
            verification,
            signer: AnswerSigner::new(self.shared.local.clone(), self.shared.clock.clone(), max_answer),
            admission: self.admission.clone(),
            shared: self.shared.clone(),
        })
    }
}

async fn method_not_allowed() -> Rejection {
    Rejection::MethodNotAllowed
}

async fn not_found() -> Rejection {
    Rejection::NotFound
}
