use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use nara_mesh::transport::BoxMeshStream;

use super::{LocalApi, LocalApiError, refuse_errors, request};

impl LocalApi {
    /// Opens a TCP connection to a node of the tailnet through the daemon. Closing one direction closes both.
    ///
    /// There is no timeout; dropping the future cancels the dial.
    pub(crate) async fn dial(&self, peer: SocketAddr) -> io::Result<BoxMeshStream> {
        let request = request(Method::POST, "dial")
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "ts-dial")
            .header("Dial-Host", peer.ip().to_string())
            .header("Dial-Port", peer.port().to_string())
            .header("Dial-Network", "tcp")
            .body(Full::new(Bytes::new()))
            .map_err(LocalApiError::from)?;
        let mut sender = self.connect().await?;
        let response = sender.send_request(request).await.map_err(LocalApiError::from)?;
        let response = match refuse_errors(response).await {
            Ok(response) => response,
            Err(error) => return Err(dial_error(error)),
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let detail = format!("unexpected status of dial: {}", response.status());
            return Err(LocalApiError::Malformed { detail }.into());
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(LocalApiError::from)?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }
}

/// Derives the kind of a dial error from the text, because the daemon uses one status for all.
fn dial_error(error: LocalApiError) -> io::Error {
    let kind = match &error {
        LocalApiError::Refused {
            status: StatusCode::BAD_GATEWAY,
            message,
        } => {
            let message = message.to_ascii_lowercase();
            let says = |text| message.contains(text);
            if says("refused") {
                io::ErrorKind::ConnectionRefused
            } else if says("reset") {
                io::ErrorKind::ConnectionReset
            } else if says("timed out") || says("deadline exceeded") || says("timeout") {
                io::ErrorKind::TimedOut
            } else {
                io::ErrorKind::HostUnreachable
            }
        }
        _ => return error.into(),
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_dial_failure_determines_the_kind_of_the_error() {
        for (message, kind) in [
            (
                "dial failure: connect tcp 100.64.0.1:9999: connection was refused",
                io::ErrorKind::ConnectionRefused,
            ),
            ("dial failure: context deadline exceeded", io::ErrorKind::TimedOut),
            ("dial failure: no route to host", io::ErrorKind::HostUnreachable),
        ] {
            let error = dial_error(LocalApiError::Refused {
                status: StatusCode::BAD_GATEWAY,
                message: message.to_owned(),
            });
            assert_eq!(error.kind(), kind, "{message}");
            assert!(error.to_string().contains(message));
        }
    }
}
