//! Registration with the control server, and logout.

use serde::{Deserialize, Serialize};
use ts_capabilityversion::CapabilityVersion;
use ts_control::client::HttpConn;
use ts_http_util::StatusCode;
use ts_keys::{NetworkLockPublicKey, NodePublicKey};

use super::connection::Dialer;
use super::error::{ControlError, protocol, quote};
use crate::embedded::keys::Keys;
use crate::embedded::settings::EmbeddedSettings;

/// Our application name in the host information.
pub(super) const APP: &str = "nara-mesh";
const PATH: &str = "machine/register";
/// An expiry in the past, which ends the key now.
const LONG_AGO: &str = "1970-01-01T00:02:03Z";

/// The outcome of a registration.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Registered {
    Done,
    /// A user must open this page; the registration is then repeated with its URL as follow-up.
    Login {
        url: String,
    },
    /// The key of the node has expired.
    Expired,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Request<'a> {
    version: CapabilityVersion,
    node_key: NodePublicKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_node_key: Option<NodePublicKey>,
    #[serde(rename = "NLKey")]
    nl_key: NetworkLockPublicKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<Auth<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    followup: Option<String>,
    hostinfo: Host<'a>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ephemeral: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Auth<'a> {
    auth_key: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Host<'a> {
    #[serde(rename = "IPNVersion")]
    ipn_version: &'static str,
    #[serde(rename = "OS")]
    os: &'static str,
    app: &'static str,
    hostname: &'a str,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Answer {
    node_key_expired: bool,
    machine_authorized: bool,
    #[serde(rename = "AuthURL")]
    auth_url: String,
    error: String,
}

impl Dialer {
    /// Registers the node, or asks whether a user has logged in on the page `followup`.
    pub(super) async fn register(
        &self,
        connection: &HttpConn,
        settings: &EmbeddedSettings,
        keys: &Keys,
        followup: Option<String>,
    ) -> Result<Registered, ControlError> {
        let mut request = request(settings, keys);
        request.followup = followup;
        let body = serde_json::to_vec(&request).map_err(|error| protocol(PATH, error))?;
        let (status, body) = self.post(connection, PATH, body).await?;
        read(status, &body, settings.auth_key.is_some())
    }

    /// Expires the key of the node, which removes an ephemeral node.
    pub(super) async fn log_out(
        &self,
        connection: &HttpConn,
        settings: &EmbeddedSettings,
        keys: &Keys,
    ) -> Result<(), ControlError> {
        let mut request = request(settings, keys);
        request.expiry = Some(LONG_AGO);
        let body = serde_json::to_vec(&request).map_err(|error| protocol(PATH, error))?;
        let (status, body) = self.post(connection, PATH, body).await?;
        if status.is_success() {
            Ok(())
        } else {
            Err(protocol(
                PATH,
                format_args!("the server answered {status}{}", quote(&body)),
            ))
        }
    }
}

fn request<'a>(settings: &'a EmbeddedSettings, keys: &Keys) -> Request<'a> {
    let state = keys.state();
    Request {
        version: CapabilityVersion::CURRENT,
        node_key: state.node_keys.public,
        old_node_key: keys.previous(),
        nl_key: state.network_lock_keys.public,
        auth: settings.auth_key.as_ref().map(|key| Auth {
            auth_key: key.reveal(),
        }),
        expiry: None,
        followup: None,
        hostinfo: Host {
            ipn_version: env!("CARGO_PKG_VERSION"),
            os: std::env::consts::OS,
            app: APP,
            hostname: &settings.host_name,
        },
        ephemeral: settings.ephemeral,
    }
}

fn read(status: StatusCode, body: &[u8], has_auth_key: bool) -> Result<Registered, ControlError> {
    if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
        return Err(ControlError::Refused {
            detail: format!("the server answered {status}{}", quote(body)),
        });
    }
    if !status.is_success() {
        return Err(protocol(
            PATH,
            format_args!("the server answered {status}{}", quote(body)),
        ));
    }
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| protocol(PATH, "the answer is malformed"))?;
    if !answer.error.is_empty() {
        return Err(ControlError::Refused {
            detail: quote(answer.error.as_bytes()).split_off(2),
        });
    }
    if !answer.auth_url.is_empty() {
        return Ok(Registered::Login { url: answer.auth_url });
    }
    if answer.node_key_expired {
        return Ok(Registered::Expired);
    }
    if !answer.machine_authorized {
        return Err(if has_auth_key {
            ControlError::Refused {
                detail: "the server does not authorize this machine".to_owned(),
            }
        } else {
            ControlError::ApprovalNeeded
        });
    }
    Ok(Registered::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AuthKey;

    fn answer(json: &str) -> Result<Registered, ControlError> {
        read(StatusCode::OK, json.as_bytes(), true)
    }

    #[test]
    fn each_answer_has_its_meaning() {
        assert_eq!(
            answer(r#"{"MachineAuthorized":true,"User":{"ID":1}}"#).unwrap(),
            Registered::Done
        );
        assert_eq!(
            answer(r#"{"AuthURL":"https://c/a/1"}"#).unwrap(),
            Registered::Login {
                url: "https://c/a/1".to_owned()
            }
        );
        assert_eq!(
            answer(r#"{"NodeKeyExpired":true,"MachineAuthorized":true}"#).unwrap(),
            Registered::Expired
        );
        assert!(matches!(
            read(StatusCode::OK, b"{}", false),
            Err(ControlError::ApprovalNeeded)
        ));
    }

    #[test]
    fn the_error_for_a_refused_key_contains_the_reason_of_the_server() {
        let Err(ControlError::Refused { detail }) = answer(r#"{"Error":"invalid authkey"}"#) else {
            panic!("it must be refused")
        };
        assert_eq!(detail, "invalid authkey");
        for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
            assert!(matches!(
                read(status, b"no", true),
                Err(ControlError::Refused { .. })
            ));
        }
    }

    #[test]
    fn a_malformed_answer_is_an_error() {
        assert!(matches!(answer("<html>"), Err(ControlError::Protocol { .. })));
        assert!(matches!(
            read(StatusCode::BAD_GATEWAY, b"\x1b[31m<html>", true),
            Err(ControlError::Protocol { detail, .. }) if !detail.contains('\x1b')
        ));
    }

    #[test]
    fn the_request_uses_the_field_names_of_the_protocol() {
        let mut settings = EmbeddedSettings::new("alice", "https://c.example".parse().unwrap());
        settings.auth_key = Some(AuthKey::new("secret", "test").unwrap());
        settings.ephemeral = true;
        let keys = Keys::open(None).unwrap();
        let json = serde_json::to_value(request(&settings, &keys)).unwrap();
        assert_eq!(json["Auth"]["AuthKey"], "secret");
        assert_eq!(json["Hostinfo"]["Hostname"], "alice");
        assert_eq!(json["Ephemeral"], true);
        assert_eq!(json["NodeKey"], keys.state().node_keys.public.to_string());
        assert!(json["NLKey"].as_str().unwrap().starts_with("nlpub:"));
        assert!(json.get("OldNodeKey").is_none() && json.get("Expiry").is_none());
        assert!(json["Version"].as_u64().unwrap() > 100);
    }
}
