use std::error::Error;

use http::HeaderName;

/// The reason why a request cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestProblem {
    #[error("its body failed")]
    Body(#[source] Box<dyn Error + Send + Sync>),
    #[error("its body is larger than {0} bytes")]
    BodyTooLarge(usize),
    #[error("the method CONNECT is not supported")]
    Connect,
    #[error("it is malformed")]
    Form(#[source] http::Error),
    #[error("answers of {0} are never signed, so they cannot be verified")]
    NeverSigned(&'static str),
    #[error("it sets the header {0}, which belongs to the connection or to the signature")]
    Header(HeaderName),
    #[error("its URI names a host, but must begin with the path")]
    Host,
    #[error("its Content-Length is not the length of its body")]
    Length,
    #[error("its path does not begin with a slash")]
    Path,
}
