//! Builds signatures from their parts, so that each part can be made invalid.

use nara_mesh::identity::LocalNara;
use nara_proto::encoding::base64_encode;
use nara_proto::identity::{KeyId, KeyPair};
use nara_proto::time::UnixMillis;
use nara_proto::v1::{request_signature_base, signed_path};
use nara_proto::v2::ContentDigest;

use super::wire::Draft;

/// Signs a request with v1.
pub(super) fn v1(draft: Draft, nara: &LocalNara, at: UnixMillis) -> Draft {
    let base = request_signature_base(
        nara.name().as_str(),
        at,
        draft.method.as_str(),
        &signed_path(draft.path()),
    );
    draft
        .with("x-nara-name", nara.name().as_str())
        .with("x-nara-timestamp", at.to_string())
        .with("x-nara-signature", nara.keypair().sign(&base).to_base64())
}

/// Signs zeros: a valid signature over irrelevant bytes.
pub(super) fn of_nothing(keypair: &KeyPair) -> String {
    keypair.sign(&[0; 32]).to_base64()
}

/// The parts of a v2 signature (docs/protocol/v2.md, section 1), valid unless changed.
#[derive(Clone, Debug)]
pub(super) struct V2 {
    /// The covered components in order. Names without a leading `@` become headers.
    pub(super) components: Vec<(&'static str, String)>,
    /// The parameters in order, as serialized.
    pub(super) parameters: Vec<(&'static str, String)>,
    /// The signing key.
    pub(super) keypair: KeyPair,
}

impl V2 {
    /// Returns the parts of a valid signature for a request.
    pub(super) fn of(draft: &Draft, nara: &LocalNara, to: &str, at: UnixMillis, random: [u8; 10]) -> Self {
        let created = at.to_seconds().get();
        let mut nonce = [0; 16];
        nonce[..6].copy_from_slice(&at.get().to_be_bytes()[2..]);
        nonce[6..].copy_from_slice(&random);
        let key_id = KeyId::from(&nara.public_key());
        Self {
            components: vec![
                ("@method", draft.method.to_string()),
                ("@path", draft.path().to_owned()),
                ("@query", format!("?{}", draft.query().unwrap_or_default())),
                ("content-digest", ContentDigest::of(&draft.body).to_field()),
                ("x-nara-name", nara.name().as_str().to_owned()),
                ("x-nara-to", to.to_owned()),
            ],
            parameters: vec![
                ("created", created.to_string()),
                ("expires", (created + 30).to_string()),
                ("nonce", format!("\"{}\"", base64_encode(&nonce))),
                ("keyid", format!("\"{key_id}\"")),
                ("alg", "\"ed25519\"".to_owned()),
                ("tag", "\"nara-mesh\"".to_owned()),
            ],
            keypair: nara.keypair().clone(),
        }
    }

    /// Sets the value of a component or a parameter.
    pub(super) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        let mut parts = self.components.iter_mut().chain(&mut self.parameters);
        let part = parts.find(|(known, _)| *known == name);
        part.expect("checks set parts that exist").1 = value.into();
    }

    /// Shifts both times by this many seconds.
    pub(super) fn shift(&mut self, seconds: i64) {
        for (name, value) in &mut self.parameters {
            if let ("created" | "expires", Ok(time)) = (*name, value.parse::<i64>()) {
                *value = (time + seconds).to_string();
            }
        }
    }

    /// Covers the channel binding of a connection.
    pub(super) fn bind(&mut self, binding: &[u8; 32]) {
        self.components
            .push(("x-nara-channel", format!(":{}:", base64_encode(binding))));
    }

    /// Signs, and adds the headers.
    pub(super) fn sign(&self, mut draft: Draft) -> Draft {
        let mut base = String::new();
        for (name, value) in &self.components {
            base.push_str(&format!("\"{name}\": {value}\n"));
            if !name.starts_with('@') {
                draft = draft.with(name, value);
            }
        }
        let names: Vec<String> = self
            .components
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        let mut input = format!("({})", names.join(" "));
        for (name, value) in &self.parameters {
            input.push_str(&format!(";{name}={value}"));
        }
        base.push_str(&format!("\"@signature-params\": {input}"));
        let signature = self.keypair.sign(base.as_bytes()).to_base64();
        draft
            .with("signature-input", format!("nara={input}"))
            .with("signature", format!("nara=:{signature}:"))
    }
}

#[cfg(test)]
mod tests {
    use nara_proto::v2::{RequestLine, RequestSignature};

    use super::super::wire::post;
    use super::*;

    #[test]
    fn a_signature_from_its_parts_is_the_one_of_the_protocol() {
        let nara = LocalNara::generate("alice").unwrap();
        let at = UnixMillis::new(1_769_100_000_250);
        let draft = post("/events/sync?a=b", "{}");
        let signed = V2::of(&draft, &nara, "bob", at, [7; 10]).sign(draft.clone());
        let read = RequestSignature::from_headers(&signed.headers).unwrap();
        let line = RequestLine {
            method: "POST",
            path: "/events/sync",
            query: Some("a=b"),
        };
        read.verify_signature(&nara.public_key(), line).unwrap();
        read.check_time(at).unwrap();
        assert_eq!(read.signed_at(), at);

        let v1 = v1(draft, &nara, at);
        let read = nara_proto::v1::RequestAuth::from_headers(&v1.headers).unwrap();
        read.verify(&nara.public_key(), "POST", "/events/sync", at)
            .unwrap();
    }
}
