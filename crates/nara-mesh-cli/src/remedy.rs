//! What an operator can do about the key of a peer, as commands for a shell.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

use clap::{Command, CommandFactory as _};
use nara_local_api::Problem;
use nara_local_api::model::Conflict;
use nara_mesh::client::PeerRef;
use nara_mesh::registry::{KeyConflict, KeyRefused, KeySource, PinnedKey, RegisterError};
use nara_proto::identity::{KeyId, NaraName, PublicKey};
use nara_proto::time::UnixMillis;

use crate::arguments::Sources;
use crate::cli::{Cli, DmArgs, DmKind, WorldSendArgs};

/// Arguments that a recommended command repeats so that it acts on the same nara: id and flag.
const REPEATED: [(&str, &str); 5] = [
    ("config", "--config"),
    ("name", "--name"),
    ("soul_file", "--soul-file"),
    ("data_dir", "--data-dir"),
    ("api_socket", "--api-socket"),
];

/// The arguments of [`REPEATED`] on this command line: id, flag and value.
static SAID: OnceLock<Vec<(&str, &str, String)>> = OnceLock::new();

/// The longest command to print: it may contain a message of any length.
const LONGEST: usize = 1000;

/// Returns the command that trusts a key; with `replace`, instead of the pinned one.
pub(crate) fn trust(name: &NaraName, key: &PublicKey, replace: bool) -> String {
    let key = KeyId::from(key);
    let replace = if replace { " --replace" } else { "" };
    let name = shell_word(name);
    if name.starts_with('-') {
        // A name with a leading dash would be parsed as an option.
        format!("nara-mesh peers trust --key {key}{replace} -- {name}")
    } else {
        format!("nara-mesh peers trust {name} --key {key}{replace}")
    }
}

/// Returns the command that trusts the known key of a nara again; with `replace`, also if the nara was
/// downgraded.
pub(crate) fn trust_again(name: &NaraName, replace: bool) -> String {
    let replace = if replace { "--replace " } else { "" };
    let name = shell_word(name);
    let end_of_options = if name.starts_with('-') { "-- " } else { "" };
    format!("nara-mesh peers trust {replace}{end_of_options}{name}")
}

/// Returns the command that forgets a nara and the decisions about it.
pub(crate) fn forget(name: &NaraName) -> String {
    let name = shell_word(name);
    let end_of_options = if name.starts_with('-') { "-- " } else { "" };
    format!("nara-mesh peers reset {end_of_options}{name}")
}

/// Returns how to find the key of an unknown nara in order to trust it.
pub(crate) fn find_key(name: &NaraName) -> String {
    let name = shell_word(name);
    format!(
        "`nara-mesh ping {name}` shows its key; if its operator confirms it, run `nara-mesh peers trust {name} --key KEY`"
    )
}

/// Returns what to do about two keys for one name.
pub(crate) fn of_conflict(conflict: &KeyConflict) -> String {
    let KeyConflict {
        name,
        pinned,
        offered,
        ..
    } = conflict;
    match pinned.source {
        KeySource::Own => {
            "a peer impersonates this nara, or another soul has the same name: find its operator, and rename one \
                           of the two"
                .to_owned()
        }
        KeySource::Configured => format!(
            "if the operator of {name} confirms the new key, write key = \"{}\" in its stanza of the peers file, remove \
             its id there, and run `nara-mesh reload`",
            offered.to_base64()
        ),
        KeySource::Succession(_) => format!(
            "{name} signed that the pinned key replaces the one before: if this is the old key, stop the nara that still runs with \
             the old soul; if its operator confirms a newer key, run `{}`",
            trust(name, offered, true)
        ),
        _ => format!(
            "if the operator of {name} confirms the new key, run `{}`",
            trust(name, offered, true)
        ),
    }
}

/// Returns what to do about an error whose cause is an untrusted key.
pub(crate) fn of_error(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(cause) = next {
        let boxed = cause.downcast_ref::<Box<RegisterError>>().map(Box::as_ref);
        match cause.downcast_ref::<RegisterError>().or(boxed) {
            Some(RegisterError::KeyConflict(conflict)) => return Some(of_conflict(conflict)),
            Some(RegisterError::KeyRefused(refused)) => return Some(of_refusal(refused)),
            _ => {}
        }
        if let Some(refused) = cause.downcast_ref::<KeyRefused>() {
            return Some(of_refusal(refused));
        }
        next = cause.source();
    }
    None
}

/// As [`of_error`], for a problem reported by a running nara.
pub(crate) fn of_problem(problem: &Problem) -> Option<String> {
    if let Some(conflict) = &problem.conflict {
        return of_told(conflict);
    }
    let name = problem.nara.as_ref()?.parse().ok()?;
    let key = key_of(problem.refused_key_id.as_ref()?)?;
    Some(of_untrusted(&name, &key))
}

/// As [`of_conflict`], for a conflict reported by a running nara.
pub(crate) fn of_told(conflict: &Conflict) -> Option<String> {
    let name: NaraName = conflict.name.parse().ok()?;
    Some(of_conflict(&KeyConflict {
        pinned: Box::new(PinnedKey {
            name: name.clone(),
            id: None,
            key: key_of(&conflict.pinned_key_id)?,
            source: conflict.pinned_source.parse().ok()?,
            learned_at: UnixMillis::new(0),
        }),
        name,
        offered: key_of(&conflict.offered_key_id)?,
        offered_by: conflict.offered_by.parse().ok()?,
    }))
}

fn key_of(id: &str) -> Option<PublicKey> {
    id.parse::<KeyId>().ok()?.public_key().ok()
}

fn of_refusal(refused: &KeyRefused) -> String {
    of_untrusted(&refused.name, &refused.offered)
}

fn of_untrusted(name: &NaraName, key: &PublicKey) -> String {
    let command = trust(name, key, false);
    format!("if the operator of {name} confirms the key, run `{command}`")
}

/// Returns the hint to leave an undeliverable direct message with the running nara.
pub(crate) fn send_later(args: &DmArgs) -> String {
    let peer = args.peer.to_string();
    let mut words = vec!["nara-mesh".to_owned(), "dm".to_owned(), "--later".to_owned()];
    if let Some(socket) = &args.running.api_socket {
        words.extend(["--api-socket".to_owned(), socket.display().to_string()]);
    }
    if let Some(event) = &args.event {
        words.extend(["--event".to_owned(), event.display().to_string()]);
    }
    if args.kind == DmKind::Tease {
        words.extend(["--kind", "tease"].map(str::to_owned));
    }
    if let Some(about) = &args.about {
        words.extend(["--about".to_owned(), about.clone()]);
    }
    words.push("--".to_owned());
    words.push(peer.clone());
    words.extend(args.message.clone().or_else(|| args.text.clone()));
    let words = words.iter().map(String::as_str);
    let command = shlex::try_join(words).unwrap_or_default();
    once_seen("delivered", peer, &command)
}

/// Returns the hint to leave a postcard with the running nara if its first peer is unreachable.
pub(crate) fn send_postcard_later(args: &WorldSendArgs, to: &PeerRef) -> String {
    let mut words = ["nara-mesh", "world", "send", "--later"]
        .map(str::to_owned)
        .to_vec();
    if let Some(socket) = &args.running.api_socket {
        words.extend(["--api-socket".to_owned(), socket.display().to_string()]);
    }
    // After an equals sign, the value may begin with a dash.
    words.push(format!("--to={to}"));
    words.push(format!("--message={}", args.message));
    let words = words.iter().map(String::as_str);
    let command = shlex::try_join(words).unwrap_or_default();
    once_seen("sent", to, &command)
}

/// Recommends a command that leaves a message with the running nara, in words if the command is too long.
fn once_seen(done: &str, peer: impl fmt::Display, command: &str) -> String {
    let command = if command.len() > LONGEST {
        "the same command with `--later`".to_owned()
    } else {
        format!("`{command}`")
    };
    format!("to have it {done} once {peer} is seen, run {command}")
}

/// Remembers the arguments that identify the nara: see [`for_the_same_nara`].
pub(crate) fn remember(sources: &Sources) {
    let said = REPEATED
        .into_iter()
        .filter_map(|(id, flag)| Some((id, flag, sources.on_command_line(id)?)));
    // There is only one command line, so a second call cannot occur.
    let _ = SAID.set(said.collect());
}

/// Adds the arguments that identify the nara to every recommended command in a text. Commands that others are
/// asked "to run" are left unchanged.
pub(crate) fn for_the_same_nara(text: &str) -> Cow<'_, str> {
    match SAID.get() {
        Some(said) if !said.is_empty() && text.contains("`nara-mesh ") => repeating(text, said).into(),
        _ => text.into(),
    }
}

fn repeating(text: &str, said: &[(&str, &str, String)]) -> String {
    let quotes = text.matches('`').count();
    let is_cut = |part: &str| part.starts_with("nara-mesh ") && shlex::split(part).is_none();
    if !quotes.is_multiple_of(2) || text.split('`').any(is_cut) {
        // A name contains a backtick, so the end of a command is ambiguous.
        return text.to_owned();
    }
    let program = Cli::command();
    let mut before = "";
    let quoted = text.split('`').enumerate().map(|(index, text)| {
        let is_for_others = std::mem::replace(&mut before, text).ends_with(" to run ");
        let is_command = index % 2 == 1 && text.starts_with("nara-mesh ") && !is_for_others;
        // A new soul is another nara, and `--help` concerns none.
        if !is_command || text.starts_with("nara-mesh id ") || text.ends_with(" --help") {
            return text.to_owned();
        }
        let (command, rest) = text.split_at(text.find(" -- ").unwrap_or(text.len()));
        let missing = said.iter().filter(|(id, flag, _)| {
            takes(&program, command, id) && !command.split(' ').any(|word| word == *flag)
        });
        let missing = missing
            .map(|(_, flag, value)| format!(" {flag} {}", shlex::try_quote(value).unwrap_or_default()));
        format!("{command}{}{rest}", missing.collect::<String>())
    });
    quoted.collect::<Vec<_>>().join("`")
}

/// Returns whether a command has this argument.
fn takes(program: &Command, command: &str, id: &str) -> bool {
    let has = |command: &Command| command.get_arguments().any(|arg| arg.get_id() == id);
    let mut words = command.split(' ').skip(1);
    let innermost = words.try_fold(program, |command, word| {
        command.find_subcommand(word).ok_or(command)
    });
    let (Ok(innermost) | Err(innermost)) = innermost;
    has(program) || has(innermost)
}

/// Returns the command that serves with a soul, with the data folder unless it is the default one.
pub(crate) fn serve(soul: &Path, folder: Option<&Path>) -> String {
    let mut words = ["nara-mesh", "serve", "--soul-file"].map(str::to_owned).to_vec();
    words.push(soul.display().to_string());
    if let Some(folder) = folder {
        words.extend(["--data-dir".to_owned(), folder.display().to_string()]);
    }
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_default()
}

/// Quotes a name as one shell word. Names come from peers and must not inject commands.
pub(crate) fn shell_word(name: &NaraName) -> Cow<'_, str> {
    // A name contains no NUL, the only character that cannot be quoted.
    shlex::try_quote(name.as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use nara_proto::identity::{KeyPair, Soul};

    use super::*;

    fn key(seed: u8) -> PublicKey {
        KeyPair::from_soul(&Soul::bond([seed; 32], "x")).public_key()
    }

    fn conflict(source: KeySource) -> KeyConflict {
        let name: NaraName = "bob".parse().unwrap();
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
    fn a_conflict_is_decided_where_its_key_was_given() {
        let text = of_conflict(&conflict(KeySource::HeyThere { told_by: None }));
        let command = format!(
            "run `nara-mesh peers trust bob --key {} --replace`",
            KeyId::from(&key(2))
        );
        assert!(text.ends_with(&command), "{text}");
        let text = of_conflict(&conflict(KeySource::Configured));
        assert!(
            text.contains(&format!("key = \"{}\"", key(2).to_base64())),
            "{text}"
        );
        assert!(!text.contains("peers trust"), "{text}");
    }

    #[test]
    fn a_command_says_again_which_nara_is_meant_where_it_can() {
        let said = [
            ("config", "--config", "/etc/a b.toml".to_owned()),
            ("api_socket", "--api-socket", "a.sock".to_owned()),
        ];
        // Double quotes stand for the backticks of a message, so that this file has no such command itself.
        let said = |text: &str| repeating(&text.replace('"', "`"), &said).replace('`', "\"");
        assert_eq!(
            said(r#"run "nara-mesh ping -- -x", or "ls"; "nara-mesh" does"#),
            r#"run "nara-mesh ping --config '/etc/a b.toml' --api-socket a.sock -- -x", or "ls"; "nara-mesh" does"#
        );
        // `serve` creates the socket.
        assert_eq!(
            said(r#""nara-mesh serve""#),
            r#""nara-mesh serve --config '/etc/a b.toml'""#
        );
        assert_eq!(
            said(r#""nara-mesh peers trust bob --config c.toml""#),
            r#""nara-mesh peers trust bob --config c.toml --api-socket a.sock""#
        );
        for other in [
            // A new soul is another nara, and so is the nara of another operator.
            r#""nara-mesh id new --name bob""#,
            r#"ask the operator of bob to run "nara-mesh peers trust alice""#,
            r#""nara-mesh peers --help" shows it"#,
        ] {
            assert_eq!(said(other), other);
        }
    }

    #[test]
    fn a_name_cannot_smuggle_a_command_or_an_option_into_what_is_pasted() {
        let command = trust(&"a'; rm -rf ~".parse().unwrap(), &key(1), false);
        assert_eq!(
            shlex::split(&command).unwrap(),
            [
                "nara-mesh",
                "peers",
                "trust",
                "a'; rm -rf ~",
                "--key",
                &KeyId::from(&key(1)).to_string()
            ]
        );
        let command = trust(&"--json".parse().unwrap(), &key(1), true);
        assert!(command.ends_with("--replace -- --json"), "{command}");
        // Nothing is inserted into a name.
        let said = [("config", "--config", "c.toml".to_owned())];
        for name in ["a`b", "a`b`c", "`nara-mesh ping"] {
            let text = of_untrusted(&name.parse().unwrap(), &key(1));
            assert_eq!(repeating(&text, &said), text);
        }
    }
}
