//! Sessions of the page: a one-time token, and the credentials of the browser afterwards.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nara_proto::time::UnixMillis;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::secret::{self, Hashed};
use super::storage::{self, StorageError};

/// How long the one-time token is valid.
pub(crate) const TOKEN_LIFE: Duration = Duration::from_secs(120);

/// How long a session is valid.
pub(super) const SESSION_LIFE: Duration = Duration::from_secs(12 * 60 * 60);

/// The most unused tokens, and the most sessions: beyond it, the oldest is dropped.
const MOST: usize = 16;

/// The credentials of a browser: a cookie that scripts cannot read, and a secret that other ports of this
/// machine do not receive.
pub(super) struct Begun {
    pub(super) id: String,
    pub(super) cookie: String,
    pub(super) secret: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Session {
    id: String,
    cookie: Hashed,
    secret: Hashed,
    expires_at_ms: i64,
}

/// The persistent part, so that a page works again after a restart of the nara.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kept {
    port: Option<u16>,
    sessions: Vec<Session>,
}

#[derive(Debug)]
pub(super) struct Sessions {
    file: PathBuf,
    waiting: Mutex<Vec<(Hashed, Instant)>>,
    kept: Mutex<Kept>,
}

impl Sessions {
    /// Reads the file. If it is unreadable, only the sessions are lost.
    pub(super) fn read(file: PathBuf) -> Self {
        let kept = storage::read_json(&file).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the page sessions: open pages must be opened again");
            None
        });
        Self {
            file,
            waiting: Mutex::default(),
            kept: Mutex::new(kept.unwrap_or_default()),
        }
    }

    /// Creates a one-time token.
    pub(super) fn invite(&self) -> String {
        let token = secret::new();
        let mut waiting = self.waiting();
        if waiting.len() == MOST {
            waiting.remove(0);
        }
        waiting.push((Hashed::of(&token), Instant::now() + TOKEN_LIFE));
        token
    }

    /// Redeems a token. `None` if it was used, has expired, or never existed.
    pub(super) fn begin(&self, token: &str, now: UnixMillis) -> Result<Option<Begun>, StorageError> {
        let given = Hashed::of(token);
        let mut waiting = self.waiting();
        waiting.retain(|(_, until)| *until > Instant::now());
        let before = waiting.len();
        waiting.retain(|(hash, _)| !hash.is(&given));
        if waiting.len() == before {
            return Ok(None);
        }
        drop(waiting);
        let begun = Begun {
            id: secret::new(),
            cookie: secret::new(),
            secret: secret::new(),
        };
        let mut kept = self.kept();
        kept.sessions.retain(|session| session.is_alive(now));
        if kept.sessions.len() >= MOST {
            kept.sessions.remove(0);
        }
        let life = i64::try_from(SESSION_LIFE.as_millis()).unwrap_or(i64::MAX);
        kept.sessions.push(Session {
            id: begun.id.clone(),
            cookie: Hashed::of(&begun.cookie),
            secret: Hashed::of(&begun.secret),
            expires_at_ms: now.get().saturating_add(life),
        });
        storage::write_json(&self.file, &*kept)?;
        Ok(Some(begun))
    }

    /// Returns whether both belong to the same valid session.
    pub(super) fn admits(&self, cookie: &str, secret: &str, now: UnixMillis) -> bool {
        let (cookie, secret) = (Hashed::of(cookie), Hashed::of(secret));
        let kept = self.kept();
        kept.sessions.iter().fold(false, |found, session| {
            let is_this = session.cookie.is(&cookie) & session.secret.is(&secret);
            found | (is_this & session.is_alive(now))
        })
    }

    /// Ends a session.
    pub(super) fn end(&self, secret: &str) -> Result<(), StorageError> {
        let secret = Hashed::of(secret);
        let mut kept = self.kept();
        kept.sessions.retain(|session| !session.secret.is(&secret));
        storage::write_json(&self.file, &*kept)
    }

    /// Proves to the page of a session that this is the nara with which it began. `None` if there is no such
    /// session.
    pub(super) fn prove(&self, id: &str, nonce: &str, port: u16, now: UnixMillis) -> Option<String> {
        let kept = self.kept();
        let session = kept.sessions.iter().find(|session| session.id == id)?;
        let about = format!("nara-mesh page {port} {nonce}");
        session.is_alive(now).then(|| session.secret.prove(&about))
    }

    /// Returns whether there are valid tokens or sessions.
    pub(super) fn are_any(&self, now: UnixMillis) -> bool {
        let is_waiting = self.waiting().iter().any(|(_, until)| *until > Instant::now());
        is_waiting || self.kept().sessions.iter().any(|session| session.is_alive(now))
    }

    /// Returns the last port of the page, if it has sessions.
    pub(super) fn port(&self, now: UnixMillis) -> Option<u16> {
        let kept = self.kept();
        let is_used = kept.sessions.iter().any(|session| session.is_alive(now));
        kept.port.filter(|_| is_used)
    }

    /// Records the port of the page.
    pub(super) fn at(&self, port: u16) {
        let mut kept = self.kept();
        if kept.port != Some(port) {
            kept.port = Some(port);
            if let Err(error) = storage::write_json(&self.file, &*kept) {
                tracing::warn!(%error, "cannot store the port of the page: open pages must be opened again after a restart");
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(Hashed, Instant)>> {
        // Every update leaves it valid.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Every update leaves it valid.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    fn is_alive(&self, now: UnixMillis) -> bool {
        self.expires_at_ms > now.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis::new(1000);

    #[tokio::test(start_paused = true)]
    async fn a_token_opens_the_page_once_and_not_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page.json");
        let sessions = Sessions::read(file.clone());
        let token = sessions.invite();
        let begun = sessions.begin(&token, NOW).unwrap().unwrap();
        assert!(sessions.begin(&token, NOW).unwrap().is_none());
        let late = sessions.invite();
        tokio::time::advance(TOKEN_LIFE).await;
        assert!(sessions.begin(&late, NOW).unwrap().is_none());
        assert!(sessions.admits(&begun.cookie, &begun.secret, NOW));
        assert!(!sessions.admits(&begun.secret, &begun.cookie, NOW));
        assert!(!sessions.admits(&begun.cookie, "", NOW));
        // It survives a restart, but still expires.
        let kept = std::fs::read_to_string(&file).unwrap();
        assert!(!kept.contains(&begun.cookie) && !kept.contains(&begun.secret));
        let sessions = Sessions::read(file);
        assert!(sessions.admits(&begun.cookie, &begun.secret, NOW));
        let late = UnixMillis::new(NOW.get() + 12 * 3_600_000);
        assert!(!sessions.admits(&begun.cookie, &begun.secret, late));
        let proof = sessions.prove(&begun.id, "nonce", 1, NOW);
        assert_eq!(
            proof,
            Some(Hashed::of(&begun.secret).prove("nara-mesh page 1 nonce"))
        );
        sessions.end(&begun.secret).unwrap();
        assert!(!sessions.admits(&begun.cookie, &begun.secret, NOW));
        assert!(!sessions.are_any(NOW));
    }

    #[tokio::test]
    async fn sessions_are_few() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = Sessions::read(folder.path().join("page.json"));
        let first = sessions.begin(&sessions.invite(), NOW).unwrap().unwrap();
        for _ in 0..MOST {
            sessions.begin(&sessions.invite(), NOW).unwrap().unwrap();
        }
        assert!(!sessions.admits(&first.cookie, &first.secret, NOW));
        assert_eq!(sessions.kept().sessions.len(), MOST);
    }
}
