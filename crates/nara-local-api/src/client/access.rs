//! Who gets at the API on loopback, and at the page.

use http::Method;

use super::{CallError, LocalClient, segment};
use crate::model::{DashboardLink, MadeToken, NewToken, TokenList};

impl LocalClient {
    /// An address of the page of the nara, with a token that opens it once.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn dashboard(&self) -> Result<DashboardLink, CallError> {
        self.send(Method::POST, "/v1/dashboard", &()).await
    }

    /// The tokens for loopback, without the tokens themselves.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn tokens(&self) -> Result<TokenList, CallError> {
        self.get("/v1/tokens").await
    }

    /// Makes a token for loopback.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn make_token(&self, token: &NewToken) -> Result<MadeToken, CallError> {
        self.send(Method::POST, "/v1/tokens", token).await
    }

    /// Ends a token.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn revoke_token(&self, name: &str) -> Result<(), CallError> {
        let path = format!("/v1/tokens/{}", segment(name));
        self.request_bytes(Method::DELETE, &path).await.map(drop)
    }
}
