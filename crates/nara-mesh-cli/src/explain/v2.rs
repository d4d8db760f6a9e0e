//! Explains a profile v2 signature: the covered components, and which of them differs from what was signed.

use http::HeaderMap;
use nara_proto::identity::{NaraName, PublicKey};
use nara_proto::time::UnixMillis;
use nara_proto::v2::{ContentDigest, Recipient, RequestLine, RequestSignature, SignatureError, SignedBody};

/// What the receiver knows in addition to the request.
#[derive(Debug)]
pub(crate) struct Receiver<'a> {
    pub(crate) now: UnixMillis,
    /// Accepted values of `X-Nara-To`; empty to skip that check.
    pub(crate) recipients: &'a [Recipient],
    /// The body to compare with `Content-Digest`.
    pub(crate) body: Option<&'a [u8]>,
    /// Other naras whose name or key may have been used by mistake.
    pub(crate) others: &'a [(String, PublicKey)],
}

/// One line of the signature base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Component {
    /// Its identifier as spelled in `Signature-Input`.
    pub(crate) id: String,
    /// Its value in the request.
    pub(crate) value: String,
    /// The value that was signed instead, if that explains the signature.
    pub(crate) signed_as: Option<String>,
}

/// The outcome of verifying a request.
#[derive(Debug)]
pub(crate) struct V2Report {
    /// Why a receiver refuses the request, in the order of its checks; empty if it does not.
    pub(crate) problems: Vec<SignatureError>,
    /// The likely causes of a signature that does not verify.
    pub(crate) causes: Vec<String>,
    pub(crate) components: Vec<Component>,
    /// The signature base, if the headers can be parsed.
    pub(crate) base: Option<Vec<u8>>,
}

impl V2Report {
    /// Verifies a request as a receiver does.
    pub(crate) fn new(
        headers: &HeaderMap,
        line: RequestLine<'_>,
        key: &PublicKey,
        receiver: &Receiver<'_>,
    ) -> Self {
        let signed = match RequestSignature::from_headers(headers) {
            Ok(signed) => signed,
            Err(error) => {
                return Self {
                    problems: vec![error],
                    causes: Vec::new(),
                    components: Vec::new(),
                    base: None,
                };
            }
        };
        let verified = signed.verify_signature(key, line);
        let is_named = |recipient: &Recipient| recipient.to_string() == signed.to();
        let recipient = if receiver.recipients.is_empty() || receiver.recipients.iter().any(is_named) {
            Ok(())
        } else {
            Err(SignatureError::Recipient)
        };
        let body = match (signed.body(), receiver.body) {
            (SignedBody::Digest(digest), Some(body)) => digest.check(body),
            _ => Ok(()),
        };
        let checks = [
            signed.check_time(receiver.now),
            recipient,
            signed.check_key(key),
            verified.clone(),
            body,
        ];
        let base = signed.base(line);
        let mut report = Self {
            problems: checks.into_iter().filter_map(Result::err).collect(),
            causes: Vec::new(),
            components: components(&base),
            base: Some(base),
        };
        if verified.is_err() {
            report.explain(&signed, line, key, receiver);
        }
        report
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }

    /// Looks for a single component that was signed with another value, or for another key.
    fn explain(
        &mut self,
        signed: &RequestSignature,
        line: RequestLine<'_>,
        key: &PublicKey,
        receiver: &Receiver<'_>,
    ) {
        for index in 0..self.components.len() {
            for other in alternatives(&self.components[index], line, receiver) {
                let mut changed = self.components.clone();
                changed[index].value.clone_from(&other);
                if key.verify(&text(&changed), signed.signature()).is_ok() {
                    let component = &mut self.components[index];
                    self.causes.push(format!(
                        "{} was signed as {:?}, and the request has {:?}",
                        component.id, other, component.value
                    ));
                    component.signed_as = Some(other);
                    return;
                }
            }
        }
        let base = text(&self.components);
        let others = receiver.others.iter();
        if let Some((name, _)) = others
            .filter(|(_, other)| other != key)
            .find(|(_, other)| other.verify(&base, signed.signature()).is_ok())
        {
            self.causes.push(format!("it was signed with the key of {name}"));
            return;
        }
        self.causes.push(
            "no single component explains it: it was made with another key, or several parts changed in transit"
                .to_owned(),
        );
    }
}

/// Splits a signature base into lines. No value contains a line break.
fn components(base: &[u8]) -> Vec<Component> {
    let text = String::from_utf8_lossy(base);
    let lines = text.split('\n').filter_map(|line| line.split_once(": "));
    lines
        .map(|(id, value)| Component {
            id: id.to_owned(),
            value: value.to_owned(),
            signed_as: None,
        })
        .collect()
}

fn text(components: &[Component]) -> Vec<u8> {
    let lines: Vec<_> = components
        .iter()
        .map(|component| format!("{}: {}", component.id, component.value))
        .collect();
    lines.join("\n").into_bytes()
}

/// Returns values that may have been signed instead of a component.
fn alternatives(component: &Component, line: RequestLine<'_>, receiver: &Receiver<'_>) -> Vec<String> {
    let value = component.value.as_str();
    let names = || receiver.others.iter().map(|(name, _)| name.clone());
    match component.id.as_str() {
        "\"@method\"" => {
            let methods = ["GET", "POST", "PUT", "DELETE", "HEAD"].map(str::to_owned);
            methods
                .into_iter()
                .chain([value.to_lowercase(), value.to_uppercase()])
                .collect()
        }
        "\"@path\"" => {
            let decoded = nara_proto::v1::signed_path(value);
            let mut paths = vec![
                String::from_utf8_lossy(&decoded).into_owned(),
                format!("{value}/"),
                value.trim_end_matches('/').to_owned(),
            ];
            paths.extend(line.query.map(|query| format!("{value}?{query}")));
            paths
        }
        "\"@query\"" => vec![
            "?".to_owned(),
            String::new(),
            value.trim_start_matches('?').to_owned(),
            line.query.map_or_else(String::new, |query| {
                format!(
                    "?{}",
                    String::from_utf8_lossy(&nara_proto::v1::signed_path(query))
                )
            }),
        ],
        "\"content-digest\"" => {
            let empty = ContentDigest::of(b"").to_field();
            let body = receiver.body.map(|body| ContentDigest::of(body).to_field());
            body.into_iter().chain([empty]).collect()
        }
        "\"x-nara-body\"" => ["Stream", ""].map(str::to_owned).into(),
        "\"x-nara-name\"" => names().chain([value.to_lowercase()]).collect(),
        "\"x-nara-to\"" => {
            let spelled = |name: &NaraName| Recipient::Name(name.clone()).to_string();
            let others = names()
                .filter_map(|name| name.parse().ok())
                .map(|name| spelled(&name));
            others
                .chain(receiver.recipients.iter().map(Recipient::to_string))
                .collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use nara_proto::identity::{KeyPair, Soul};
    use nara_proto::v2::{Nonce, RequestToSign, Signer};

    use super::*;

    const NOW: UnixMillis = UnixMillis::new(1_769_100_000_250);

    const LINE: RequestLine<'static> = RequestLine {
        method: "POST",
        path: "/events/reconcile",
        query: Some("services=seen"),
    };

    fn keypair(name: &str) -> KeyPair {
        KeyPair::from_soul(&Soul::bond([name.len() as u8; 32], name))
    }

    fn others() -> Vec<(String, PublicKey)> {
        ["bob", "carol", "alice"]
            .map(|name| (name.to_owned(), keypair(name).public_key()))
            .into()
    }

    fn report(
        signer: &str,
        signed: RequestLine<'_>,
        to: &str,
        key: &str,
        received: RequestLine<'_>,
    ) -> V2Report {
        let signer = Signer::new(keypair(signer), "alice".parse().unwrap());
        let mut headers = HeaderMap::new();
        let request = signer.sign_request(&RequestToSign {
            line: signed,
            to: &Recipient::Name(to.parse().unwrap()),
            body: SignedBody::Digest(ContentDigest::of(b"{}")),
            now: NOW,
            nonce: Nonce::new(NOW, [1; 10]),
            channel: None,
        });
        request.write_to(&mut headers);
        let receiver = Receiver {
            now: NOW,
            recipients: &[Recipient::Name("bob".parse().unwrap())],
            body: Some(b"{}"),
            others: &others(),
        };
        V2Report::new(&headers, received, &keypair(key).public_key(), &receiver)
    }

    #[test]
    fn a_good_request_has_all_its_components_and_no_problem() {
        let report = report("alice", LINE, "bob", "alice", LINE);
        assert!(report.is_valid(), "{:?}", report.problems);
        let ids: Vec<_> = report
            .components
            .iter()
            .map(|component| component.id.as_str())
            .collect();
        assert_eq!(
            ids,
            [
                "\"@method\"",
                "\"@path\"",
                "\"@query\"",
                "\"content-digest\"",
                "\"x-nara-name\"",
                "\"x-nara-to\"",
                "\"@signature-params\""
            ]
        );
    }

    #[test]
    fn the_component_that_was_changed_is_named() {
        let cause = |signed| report("alice", signed, "bob", "alice", LINE).causes.join(", ");
        assert_eq!(
            cause(RequestLine {
                method: "GET",
                ..LINE
            }),
            "\"@method\" was signed as \"GET\", and the request has \"POST\""
        );
        assert_eq!(
            cause(RequestLine { query: None, ..LINE }),
            "\"@query\" was signed as \"?\", and the request has \"?services=seen\""
        );
        assert_eq!(
            cause(RequestLine {
                path: "/events/reconcile?services=seen",
                ..LINE
            }),
            "\"@path\" was signed as \"/events/reconcile?services=seen\", and the request has \"/events/reconcile\""
        );
        assert!(cause(RequestLine { path: "/dm", ..LINE }).starts_with("no single component"));
    }

    #[test]
    fn another_recipient_and_another_key_are_named() {
        let other = report("alice", LINE, "carol", "alice", LINE);
        assert_eq!(other.problems, [SignatureError::Recipient]);
        let other = report("bob", LINE, "bob", "alice", LINE);
        assert!(matches!(other.problems[0], SignatureError::KeyId { .. }));
        assert_eq!(other.causes, ["it was signed with the key of bob"]);
    }
}
