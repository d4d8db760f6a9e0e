//! The identity of this process.

use std::net::SocketAddr;
use std::sync::Arc;

use nara_proto::identity::{BrokenBond, InvalidName, KeyPair, NaraId, NaraName, PublicKey, SealKey, Soul};
use nara_proto::v2::Signer;

use crate::random::random;
use crate::registry::PeerInfo;

/// The local nara: its name, id and keys. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct LocalNara(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    id: NaraId,
    signer: Signer,
    seal_key: SealKey,
}

impl LocalNara {
    /// Returns the nara with this soul and name.
    ///
    /// # Errors
    /// [`BrokenBond`] if the soul is bonded to another name. V1 peers only warn; a broken bond is nearly always a typo,
    /// and makes every signature worthless.
    pub fn new(soul: &Soul, name: NaraName) -> Result<Self, BrokenBond> {
        soul.check_bond(&name)?;
        Ok(Self(Arc::new(Parts {
            id: NaraId::derive(soul, name.as_str()),
            seal_key: SealKey::from_soul(soul),
            signer: Signer::new(KeyPair::from_soul(soul), name),
        })))
    }

    /// Returns a new nara with this name and a random soul that is not stored: for tests and experiments.
    ///
    /// # Errors
    /// [`InvalidName`] if the name is empty, too long, or has invisible characters.
    pub fn generate(name: &str) -> Result<Self, InvalidName> {
        let name = NaraName::new_own(name)?;
        let soul = Soul::bond(random(), name.as_str());
        Ok(Self::new(&soul, name).expect("the soul was bonded to this name just now"))
    }

    /// Returns the name.
    pub fn name(&self) -> &NaraName {
        self.0.signer.name()
    }

    /// Returns the nara id.
    pub fn id(&self) -> &NaraId {
        &self.0.id
    }

    /// Returns the keypair.
    pub fn keypair(&self) -> &KeyPair {
        self.0.signer.keypair()
    }

    /// Returns the signer of profile v2.
    pub fn signer(&self) -> &Signer {
        &self.0.signer
    }

    /// Returns the public key.
    pub fn public_key(&self) -> PublicKey {
        self.keypair().public_key()
    }

    /// Returns the entry for the registries of peers: id, name and key, and the address if it can be called.
    /// Registering it trusts the key as configured.
    pub fn as_peer(&self, address: Option<SocketAddr>) -> PeerInfo {
        PeerInfo {
            address,
            ..PeerInfo::configured(self.name().clone(), self.public_key()).with_id(self.0.id.clone())
        }
    }

    /// Returns the key that encrypts data for this nara alone.
    pub fn seal_key(&self) -> &SealKey {
        &self.0.seal_key
    }
}
