//! The nara that this process is.

use std::net::SocketAddr;
use std::sync::Arc;

use nara_proto::identity::{BrokenBond, InvalidName, KeyPair, NaraId, NaraName, PublicKey, SealKey, Soul};
use nara_proto::v2::Signer;

use crate::random::random;
use crate::registry::PeerInfo;

/// The nara that this process is: its name, id and keys. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct LocalNara(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    id: NaraId,
    signer: Signer,
    seal_key: SealKey,
}

impl LocalNara {
    /// The nara with this soul and name.
    ///
    /// # Errors
    /// [`BrokenBond`] if the soul is bonded to another name. V1 peers only warn; a broken bond is nearly always a
    /// typo, and then every signature is worthless.
    pub fn new(soul: &Soul, name: NaraName) -> Result<Self, BrokenBond> {
        soul.check_bond(&name)?;
        Ok(Self(Arc::new(Parts {
            id: NaraId::derive(soul, name.as_str()),
            seal_key: SealKey::from_soul(soul),
            signer: Signer::new(KeyPair::from_soul(soul), name),
        })))
    }

    /// A new nara with this name and a random soul, which lives as long as the process: for tests and experiments.
    ///
    /// # Errors
    /// [`InvalidName`] if the name is empty, too long, or has characters that cannot be seen.
    pub fn generate(name: &str) -> Result<Self, InvalidName> {
        let name = NaraName::new_own(name)?;
        let soul = Soul::bond(random(), name.as_str());
        Ok(Self::new(&soul, name).expect("the soul was bonded to this name just now"))
    }

    /// The name.
    pub fn name(&self) -> &NaraName {
        self.0.signer.name()
    }

    /// The nara id.
    pub fn id(&self) -> &NaraId {
        &self.0.id
    }

    /// The keypair that signs.
    pub fn keypair(&self) -> &KeyPair {
        self.0.signer.keypair()
    }

    /// The signer of profile v2.
    pub fn signer(&self) -> &Signer {
        &self.0.signer
    }

    /// The public key.
    pub fn public_key(&self) -> PublicKey {
        self.keypair().public_key()
    }

    /// The entry for the registries of others: id, name and key, and the address if it can be called. Registering
    /// it trusts the key as configured.
    pub fn as_peer(&self, address: Option<SocketAddr>) -> PeerInfo {
        PeerInfo {
            address,
            ..PeerInfo::configured(self.name().clone(), self.public_key()).with_id(self.0.id.clone())
        }
    }

    /// The key that encrypts data for this nara alone.
    pub fn seal_key(&self) -> &SealKey {
        &self.0.seal_key
    }
}
