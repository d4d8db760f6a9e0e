use std::io;
use std::path::{Path, PathBuf};

use http::StatusCode;

use crate::status::NotReadyReason;

/// The error of a LocalAPI call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalApiError {
    /// The socket cannot be reached.
    #[error("{} cannot be reached: {source}", socket.display())]
    Connect {
        /// The path of the socket.
        socket: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The daemon answered with an error status.
    #[error("tailscaled answered {status}: {message}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// The first line of the message.
        message: String,
    },
    /// The answer is too large.
    #[error("the answer of tailscaled exceeds {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The answer is malformed.
    #[error("{detail}")]
    Malformed {
        /// What is wrong.
        detail: String,
    },
    /// The answer did not arrive in time.
    #[error("tailscaled did not answer in time")]
    Timeout,
}

impl LocalApiError {
    pub(super) fn connect(socket: &Path, source: io::Error) -> Self {
        Self::Connect {
            socket: socket.to_owned(),
            source,
        }
    }

    /// Converts the error to the reason for which the node is not ready.
    pub(crate) fn reason(&self) -> NotReadyReason {
        match self {
            Self::Connect { socket, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                NotReadyReason::SocketNotPermitted {
                    socket: socket.display().to_string(),
                }
            }
            Self::Connect { socket, source } => NotReadyReason::DaemonNotRunning {
                socket: socket.display().to_string(),
                detail: source.to_string(),
            },
            error => NotReadyReason::DaemonMisbehaves {
                detail: error.to_string(),
            },
        }
    }
}

impl From<hyper::Error> for LocalApiError {
    fn from(error: hyper::Error) -> Self {
        let mut detail = error.to_string();
        let mut next = std::error::Error::source(&error);
        while let Some(cause) = next {
            detail.push_str(&format!(": {cause}"));
            next = cause.source();
        }
        Self::Malformed { detail }
    }
}

impl From<http::Error> for LocalApiError {
    fn from(error: http::Error) -> Self {
        Self::Malformed {
            detail: error.to_string(),
        }
    }
}

impl From<tokio::time::error::Elapsed> for LocalApiError {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::Timeout
    }
}

impl From<LocalApiError> for io::Error {
    fn from(error: LocalApiError) -> Self {
        let kind = match &error {
            LocalApiError::Connect { source, .. } => source.kind(),
            LocalApiError::Refused { status, .. } if *status == StatusCode::FORBIDDEN => {
                io::ErrorKind::PermissionDenied
            }
            LocalApiError::Timeout => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
