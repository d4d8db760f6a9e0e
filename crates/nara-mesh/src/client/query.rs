use nara_proto::identity::NaraName;

use super::{ClientError, FoundPeer, MeshClient};

impl MeshClient {
    /// Searches for a nara by asking others.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn query_peer(&self, _target: &NaraName) -> Result<Option<FoundPeer>, ClientError> {
        std::future::ready(()).await;
        Ok(None)
    }
}
