//! How a command fails: what happened, what to do about it, and the exit code.

use std::error::Error;
use std::io::ErrorKind;

use nara_mesh::peers_file::PeersFileError;
use nara_mesh::soul_file::SoulFileError;

use crate::exit::Exit;

/// A failed command. `message` is one sentence; `hint` says what to do next.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) source: Option<Box<dyn Error + Send + Sync>>,
}

/// The outcome of a command.
pub(crate) type Outcome<T = Exit> = Result<T, Failure>;

impl Failure {
    /// Creates a failure with this exit code.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// Creates a failure for an invalid command line or setting.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Creates a failure with the general exit code.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Adds a hint.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub(crate) fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns the causes, outermost first.
    pub(crate) fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut next = self.source.as_deref().map(|source| source as &dyn Error);
        while let Some(error) = next {
            // If the error's own text became the message, it is not also a cause.
            let text = error.to_string();
            if !text.starts_with(&self.message) {
                causes.push(text);
            }
            next = error.source();
        }
        causes
    }
}

impl From<SoulFileError> for Failure {
    fn from(error: SoulFileError) -> Self {
        let hint = match &error {
            SoulFileError::Read { source, .. } if source.kind() == ErrorKind::NotFound => {
                Some("create one with `nara-mesh id new --name NAME --out FILE`".to_owned())
            }
            SoulFileError::Exposed { path, mode } => Some(match mode {
                0o440 | 0o640 => format!(
                    "run: chmod 600 {}; or pass --soul-group-readable if its group may act as this nara",
                    path.display()
                ),
                _ => format!(
                    "run: chmod 600 {}; on a read-only mount, mount it with mode 0440 and pass --soul-group-readable, or \
                     pass the soul by NARA_MESH_SOUL or a pipe (--soul-file /dev/fd/3)",
                    path.display()
                ),
            }),
            SoulFileError::Exists { .. } => Some(
                "choose another file with --out; without its soul, the nara in that file would be lost"
                    .to_owned(),
            ),
            _ => None,
        };
        let exit = match &error {
            SoulFileError::Exists { .. } | SoulFileError::Write { .. } => Exit::Failed,
            _ => Exit::Usage,
        };
        Self {
            exit,
            message: error.to_string(),
            hint,
            source: Some(Box::new(error)),
        }
    }
}

impl From<PeersFileError> for Failure {
    fn from(error: PeersFileError) -> Self {
        let hint = if error.is_missing() {
            "create it: each peer runs `nara-mesh id show --stanza ADDRESS >> FILE`"
        } else {
            "`nara-mesh peers --help` shows the form of the file"
        };
        Self::usage(error.to_string()).hint(hint).caused_by(error)
    }
}
