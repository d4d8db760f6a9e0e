use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;

pub use crate::model::Rights;
use crate::{Problem, ProblemClass};

/// The caller and its rights. Connections insert it into the request extensions.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) rights: Rights,
    /// A user of this machine, a token, or the page.
    pub(super) who: Arc<str>,
}

/// Refuses callers with lesser rights.
pub(super) async fn require(State(wanted): State<Rights>, request: Request, next: Next) -> Response<Body> {
    match request.extensions().get().map(|caller: &Caller| caller.rights) {
        Some(rights) if rights >= wanted => next.run(request).await,
        rights => {
            let given = rights.map_or("none", |rights| rights.as_str());
            let detail = format!(
                "this needs the right {:?}, but the caller has {given:?}",
                wanted.as_str()
            );
            let (status, class) = (StatusCode::FORBIDDEN, ProblemClass::Untrusted);
            let problem = Problem::new("not_permitted", status, class, detail);
            problem
                .hint("call as the user that runs the nara, or with a token that has the right")
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
            if let Some(rights) = given {
                let who = "someone".into();
                request.extensions_mut().insert(Caller { rights, who });
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
