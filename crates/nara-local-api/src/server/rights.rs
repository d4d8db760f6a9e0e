use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{Problem, ProblemClass};

/// What a caller may do. Each includes the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rights {
    /// Look: status, peers, events.
    Read,
    /// Speak in the name of the nara: messages, requests, transfers.
    Messages,
    /// Decide: trust, services, reload, shutdown.
    All,
}

impl Rights {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Messages => "messages",
            Self::All => "all",
        }
    }
}

/// Refuses callers with lesser rights. Connections put the rights of their caller into the extensions.
pub(super) async fn require(State(wanted): State<Rights>, request: Request, next: Next) -> Response<Body> {
    match request.extensions().get::<Rights>() {
        Some(rights) if *rights >= wanted => next.run(request).await,
        rights => {
            let given = rights.map_or("none", |rights| rights.as_str());
            let detail = format!(
                "this needs the right {:?}, and the caller has {given:?}",
                wanted.as_str()
            );
            let (status, class) = (StatusCode::FORBIDDEN, ProblemClass::Untrusted);
            let problem = Problem::new("not_permitted", status, class, detail);
            problem
                .hint("call as the user that runs the nara")
                .into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn lesser_rights_do_not_decide() {
        let status = async |wanted: Rights, given: Option<Rights>| {
            let router = Router::new()
                .route("/", get(async || "done"))
                .route_layer(from_fn_with_state(wanted, require));
            let mut request = Request::new(Body::empty());
            if let Some(given) = given {
                request.extensions_mut().insert(given);
            }
            router.oneshot(request).await.unwrap().status()
        };
        assert_eq!(status(Rights::All, Some(Rights::All)).await, 200);
        assert_eq!(status(Rights::Read, Some(Rights::Messages)).await, 200);
        assert_eq!(status(Rights::All, Some(Rights::Messages)).await, 403);
        assert_eq!(status(Rights::Messages, Some(Rights::Read)).await, 403);
        assert_eq!(status(Rights::Read, None).await, 403);
    }
}
