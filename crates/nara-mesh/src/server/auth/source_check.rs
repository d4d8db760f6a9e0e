use std::net::SocketAddr;
use std::sync::Arc;

use nara_proto::identity::NaraName;
use tokio::time::timeout;

use crate::defaults;
use crate::metrics::ADDRESS_MISMATCHES;
use crate::registry::{PeerEvent, PeerRegistry};
use crate::seldom::{error_seldom, warn_seldom};
use crate::server::answer::rejection::Rejection;
use crate::transport::PeerSource;

/// Compares the claimed name of a request with the network's owner of its source address.
///
/// Inside a tailnet no node can use the address of another, so this is an independent proof: it stops requests of one
/// peer that another one captured, which the v1 signature does not.
#[derive(Debug)]
pub(in crate::server) struct SourceCheck {
    pub(in crate::server) source: Option<Arc<dyn PeerSource>>,
    pub(in crate::server) registry: PeerRegistry,
}

impl SourceCheck {
    /// Refuses a request whose source address belongs to another nara than it claims. If the network does not know the
    /// owner, the signature alone decides; if it does not answer, the request is refused.
    pub(in crate::server) async fn check(
        &self,
        claimed: &NaraName,
        address: SocketAddr,
    ) -> Result<(), Rejection> {
        match &self.source {
            // Boxed, because most naras have no such source.
            Some(source) => Box::pin(self.compare(&**source, claimed, address)).await,
            None => Ok(()),
        }
    }

    async fn compare(
        &self,
        source: &dyn PeerSource,
        claimed: &NaraName,
        address: SocketAddr,
    ) -> Result<(), Rejection> {
        let ip = address.ip().to_canonical();
        let Ok(owner) = timeout(defaults::OWNER_LOOKUP_TIMEOUT, source.owner_of(ip)).await else {
            error_seldom!(%claimed, %address, "the network did not report the owner of the source address");
            return Err(Rejection::OwnerUnavailable);
        };
        let Some(owner) = owner.filter(|owner| owner != claimed) else {
            return Ok(());
        };
        warn_seldom!(%claimed, %owner, %address, "a request claims another name than the owner of its \
             source address");
        metrics::counter!(ADDRESS_MISMATCHES).increment(1);
        self.registry.emit(PeerEvent::AddressMismatch {
            claimed: claimed.clone(),
            owner,
            address: ip,
        });
        Err(Rejection::AddressMismatch)
    }
}
