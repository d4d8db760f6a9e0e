//! A connection to the control server: TCP, TLS, the server key, the Noise handshake, HTTP/2.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::AsyncReadExt as _;
use tokio::net::lookup_host;
use ts_capabilityversion::CapabilityVersion;
use ts_control::client::{
    CONTROL_PROTOCOL_VERSION, HttpConn, handle_ping, read_challenge_packet, upgrade_ts2021,
};
use ts_control::{MapRequest, StateUpdate};
use ts_http_util::{ClientExt as _, EmptyBody, Http1, ResponseExt as _};
use ts_keys::{MachinePublicKey, NodeState};
use url::Url;

use super::error::{ControlError, protocol, quote};
use super::stream::MapStream;
use crate::embedded::tcp;
use crate::embedded::tls::Tls;

/// The timeout for connecting, and for each request that is answered at once.
pub(super) const ANSWER: Duration = Duration::from_secs(20);
/// The maximum size in bytes of an answer that is not a map.
const MAX_ANSWER: u64 = 256 * 1024;

/// A dialer for one control server.
#[derive(Debug)]
pub(super) struct Dialer {
    url: Url,
    tls: Tls,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ControlKey {
    public_key: MachinePublicKey,
}

impl Dialer {
    pub(super) fn new(url: Url, tls: Tls) -> Self {
        Self { url, tls }
    }

    /// Opens a mutually authenticated connection.
    pub(super) async fn connect(&self, keys: &NodeState) -> Result<HttpConn, ControlError> {
        let key = self.key().await?;
        let http = self.http1().await?;
        let (handshake, message) = ts_control_noise::Handshake::initialize(
            &CONTROL_PROTOCOL_VERSION,
            &keys.machine_keys,
            &key,
            CapabilityVersion::CURRENT,
        );
        let stream = upgrade_ts2021(&self.url, &message, handshake, &keys.machine_keys, http)
            .await
            .map_err(|error| protocol("handshake", error))?;
        let stream = read_challenge_packet(stream)
            .await
            .map_err(|error| protocol("handshake", error))?;
        ts_http_util::http2::connect(stream)
            .await
            .map_err(|error| protocol("HTTP/2", error))
    }

    /// Fetches the key of the server on a separate connection, authenticated by TLS.
    async fn key(&self) -> Result<MachinePublicKey, ControlError> {
        const STEP: &str = "key of the control server";
        let mut url = self.at("key")?;
        url.query_pairs_mut()
            .append_pair("v", &CapabilityVersion::CURRENT.to_string());
        let http = self.http1().await?;
        let response = http
            .get(&url, None)
            .await
            .map_err(|error| protocol(STEP, error))?;
        let status = response.status();
        let body = read(response, STEP).await?;
        if !status.is_success() {
            return Err(protocol(
                STEP,
                format_args!("the server answered {status}{}", quote(&body)),
            ));
        }
        let key: ControlKey = serde_json::from_slice(&body).map_err(|_| {
            protocol(
                STEP,
                format_args!("{} is not a control server{}", self.url, quote(&body)),
            )
        })?;
        Ok(key.public_key)
    }

    async fn http1(&self) -> Result<Http1<EmptyBody>, ControlError> {
        let host = self.url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = self.url.port_or_known_default().unwrap_or(443);
        let server = || format!("{host}:{port}");
        let dialed = async { tcp::connect(lookup_host((host, port)).await?).await };
        let stream = dialed.await.map_err(|source| ControlError::Dial {
            server: server(),
            source,
        })?;
        // The settings were validated at start: plain HTTP is allowed only explicitly.
        let http = if self.url.scheme() == "https" {
            let stream = self
                .tls
                .connect(host, None, stream)
                .await
                .map_err(|source| ControlError::Tls {
                    server: server(),
                    source,
                })?;
            ts_http_util::http1::connect(stream).await
        } else {
            ts_http_util::http1::connect(stream).await
        };
        http.map_err(|error| protocol("HTTP", error))
    }

    /// Sends a request and reads the whole answer.
    pub(super) async fn post(
        &self,
        connection: &HttpConn,
        path: &'static str,
        body: Vec<u8>,
    ) -> Result<(ts_http_util::StatusCode, Vec<u8>), ControlError> {
        let response = connection
            .post(&self.at(path)?, None, bytes::Bytes::from(body).into())
            .await
            .map_err(|error| protocol(path, error))?;
        let status = response.status();
        Ok((status, read(response, path).await?))
    }

    /// Requests a map.
    pub(super) async fn map(
        &self,
        connection: &HttpConn,
        request: &MapRequest<'_>,
    ) -> Result<MapStream, ControlError> {
        const STEP: &str = "map";
        let body = serde_json::to_vec(request).map_err(|error| protocol(STEP, error))?;
        let response = connection
            .post(&self.at("machine/map")?, None, bytes::Bytes::from(body).into())
            .await
            .map_err(|error| protocol(STEP, error))?;
        let status = response.status();
        if !status.is_success() {
            let body = read(response, STEP).await.unwrap_or_default();
            return Err(protocol(
                STEP,
                format_args!("the server answered {status}{}", quote(&body)),
            ));
        }
        Ok(MapStream::new(response.into_read()))
    }

    /// Answers a ping request of the server. A failure is only logged: the server notices the missing answer.
    pub(super) async fn answer(&self, ping: &RawValue, connection: &HttpConn) {
        let Ok(ping) = serde_json::from_str(ping.get()) else {
            return;
        };
        let update = StateUpdate {
            derp: None,
            node: None,
            peer_update: None,
            ping: Some(ping),
            packetfilter: None,
            pop_browser_url: None,
            dial_plan: None,
        };
        let answered = tokio::time::timeout(ANSWER, handle_ping(&update, &self.url, connection)).await;
        if !matches!(answered, Ok(Ok(_))) {
            tracing::debug!("cannot answer a ping request of the control server");
        }
    }

    fn at(&self, path: &str) -> Result<Url, ControlError> {
        self.url.join(path).map_err(|error| protocol("URL", error))
    }
}

/// Reads an answer, truncated at [`MAX_ANSWER`].
async fn read<B>(response: ts_http_util::Response<B>, step: &'static str) -> Result<Vec<u8>, ControlError>
where
    ts_http_util::Response<B>: ts_http_util::ResponseExt,
{
    let mut body = Vec::new();
    response
        .into_read()
        .take(MAX_ANSWER)
        .read_to_end(&mut body)
        .await
        .map_err(|error| protocol(step, error))?;
    Ok(body)
}
