//! Access to the API on loopback and to the page.

use http::Method;

use super::{CallError, LocalClient, segment};
use crate::model::{DashboardLink, MadeToken, NewToken, TokenList};

impl LocalClient {
    /// Returns an address of the page, with a token that is valid once.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn dashboard(&self) -> Result<DashboardLink, CallError> {
        self.send(Method::POST, "/v1/dashboard", &()).await
    }

    /// Returns the tokens for loopback, without their secrets.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn tokens(&self) -> Result<TokenList, CallError> {
        self.get("/v1/tokens").await
    }

    /// Creates a token for loopback.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn make_token(&self, token: &NewToken) -> Result<MadeToken, CallError> {
        self.send(Method::POST, "/v1/tokens", token).await
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn revoke_token(&self, name: &str) -> Result<(), CallError> {
        let path = format!("/v1/tokens/{}", segment(name));
        self.request_bytes(Method::DELETE, &path).await.map(drop)
    }
}
