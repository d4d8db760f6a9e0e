use std::fmt;

use nara_proto::identity::{KeyId, NaraName, PublicKey};

use super::{KeySource, PinnedKey};

/// Another key than the pinned one was offered for a name. Nothing was changed.
///
/// `Display` names both keys and ends with what to do if the new one is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyConflict {
    /// The name.
    pub name: NaraName,
    /// The pinned key.
    pub pinned: Box<PinnedKey>,
    /// The offered key.
    pub offered: PublicKey,
    /// The source of the offer.
    pub offered_by: KeySource,
}

impl std::error::Error for KeyConflict {}

impl fmt::Display for KeyConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, offered) = (&self.name, KeyId::from(&self.offered));
        let pinned = KeyId::from(&self.pinned.key);
        write!(
            f,
            "{name} is pinned to key {pinned} ({}), but key {offered} was offered ({}): ",
            self.pinned.source, self.offered_by
        )?;
        if self.pinned.source == KeySource::Own {
            return write!(
                f,
                "somebody impersonates this nara, or another soul uses its name; find out who, and rename \
                 one of the two"
            );
        }
        write!(
            f,
            "either somebody impersonates {name}, or {name} has a new soul; if you are sure of the new key, {}",
            self.remedy()
        )
    }
}

impl KeyConflict {
    /// What to do if the new key is the right one, as the end of a sentence.
    pub fn remedy(&self) -> String {
        match self.pinned.source {
            KeySource::Own => "rename one of the two".to_owned(),
            KeySource::Configured => format!(
                "replace the key in the stanza of {} in the peers file by key = \"{}\"",
                self.name,
                self.offered.to_base64()
            ),
            _ => format!("run `{}`", trust_command(&self.name, &self.offered, true)),
        }
    }
}

/// The command with which an operator has a key trusted, fit to be pasted into a shell.
pub(crate) fn trust_command(name: &NaraName, key: &PublicKey, replace: bool) -> String {
    let key = KeyId::from(key);
    let replace = if replace { " --replace" } else { "" };
    let name = shell_word(name.as_str());
    if name.starts_with('-') {
        // Else it would be read as an option.
        format!("nara-mesh peers trust --key {key}{replace} -- {name}")
    } else {
        format!("nara-mesh peers trust {name} --key {key}{replace}")
    }
}

/// The command with which an operator has the known key of a nara trusted again, fit to be pasted into a shell;
/// with `replace`, also though it does less than it has proven that it can.
pub fn retrust_command(name: &NaraName, replace: bool) -> String {
    let replace = if replace { "--replace " } else { "" };
    let name = shell_word(name.as_str());
    let end_of_options = if name.starts_with('-') { "-- " } else { "" };
    format!("nara-mesh peers trust {replace}{end_of_options}{name}")
}

/// Quotes a text as one shell word. Names come from peers and must not inject commands.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use nara_proto::identity::{KeyPair, Soul};
    use nara_proto::time::UnixMillis;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        KeyPair::from_soul(&Soul::bond([seed; 32], "x")).public_key()
    }

    fn conflict(name: &str, source: KeySource) -> KeyConflict {
        let name: NaraName = name.parse().unwrap();
        KeyConflict {
            pinned: Box::new(PinnedKey {
                name: name.clone(),
                id: None,
                key: key(1),
                source,
                learned_at: UnixMillis::new(0),
            }),
            name,
            offered: key(2),
            offered_by: KeySource::Ping(([100, 64, 0, 7], 9632).into()),
        }
    }

    #[test]
    fn a_conflict_names_both_keys_and_the_command_to_run() {
        let text = conflict("bob", KeySource::HeyThere { told_by: None }).to_string();
        let (pinned, offered) = (KeyId::from(&key(1)), KeyId::from(&key(2)));
        assert!(text.contains(&pinned.to_string()), "{text}");
        let command = format!("run `nara-mesh peers trust bob --key {offered} --replace`");
        assert!(text.ends_with(&command), "{text}");
    }

    #[test]
    fn a_conflict_with_the_peers_file_says_what_to_write_there() {
        let text = conflict("bob", KeySource::Configured).to_string();
        assert!(
            text.ends_with(&format!("key = \"{}\"", key(2).to_base64())),
            "{text}"
        );
        assert!(!text.contains("peers trust"), "{text}");
    }

    #[test]
    fn a_name_cannot_smuggle_a_command_or_an_option_into_what_is_pasted() {
        let command = trust_command(&"a'; rm -rf ~".parse().unwrap(), &key(1), false);
        assert!(
            command.starts_with(r"nara-mesh peers trust 'a'\''; rm -rf ~' --key "),
            "{command}"
        );
        let command = trust_command(&"--json".parse().unwrap(), &key(1), true);
        assert!(command.ends_with("--replace -- --json"), "{command}");
    }
}
