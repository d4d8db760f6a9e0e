//! What an operator can decide about the key of a peer, as commands that can be pasted into a shell.

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

/// Arguments that a recommended command repeats, so that it means the same nara: id and flag.
const REPEATED: [(&str, &str); 5] = [
    ("config", "--config"),
    ("name", "--name"),
    ("soul_file", "--soul-file"),
    ("data_dir", "--data-dir"),
    ("api_socket", "--api-socket"),
];

/// Those that this command line has: id, flag and value.
static SAID: OnceLock<Vec<(&str, &str, String)>> = OnceLock::new();

/// The longest command that is worth printing: a message can have any length.
const LONGEST: usize = 1000;

/// Trusts a key; with `replace` in the place of the pinned one.
pub(crate) fn trust(name: &NaraName, key: &PublicKey, replace: bool) -> String {
    let key = KeyId::from(key);
    let replace = if replace { " --replace" } else { "" };
    let name = shell_word(name);
    if name.starts_with('-') {
        // Else it would be read as an option.
        format!("nara-mesh peers trust --key {key}{replace} -- {name}")
    } else {
        format!("nara-mesh peers trust {name} --key {key}{replace}")
    }
}

/// Trusts the known key of a nara again; with `replace` also though it does less than it has proven that it can.
pub(crate) fn trust_again(name: &NaraName, replace: bool) -> String {
    let replace = if replace { "--replace " } else { "" };
    let name = shell_word(name);
    let end_of_options = if name.starts_with('-') { "-- " } else { "" };
    format!("nara-mesh peers trust {replace}{end_of_options}{name}")
}

/// Forgets a nara, and what was decided about it.
pub(crate) fn forget(name: &NaraName) -> String {
    let name = shell_word(name);
    let end_of_options = if name.starts_with('-') { "-- " } else { "" };
    format!("nara-mesh peers reset {end_of_options}{name}")
}

/// Finds out the key of a nara that is not known, to trust it.
pub(crate) fn find_key(name: &NaraName) -> String {
    let name = shell_word(name);
    format!(
        "`nara-mesh ping {name}` shows its key; if its operator confirms it, run `nara-mesh peers trust {name} --key KEY`"
    )
}

/// What to do about two keys for one name.
pub(crate) fn of_conflict(conflict: &KeyConflict) -> String {
    let KeyConflict {
        name,
        pinned,
        offered,
        ..
    } = conflict;
    match pinned.source {
        KeySource::Own => {
            "somebody impersonates this nara, or another soul uses its name: find out who, and rename one \
                           of the two"
                .to_owned()
        }
        KeySource::Configured => format!(
            "if the operator of {name} confirms the new key, write key = \"{}\" in its stanza of the peers file, remove \
             its id there, and run `nara-mesh reload`",
            offered.to_base64()
        ),
        KeySource::Succession(_) => format!(
            "{name} stated itself that the pinned key replaces the one before: if this is the old one, end what still runs with \
             the old soul; if its operator confirms that it is a newer one, run `{}`",
            trust(name, offered, true)
        ),
        _ => format!(
            "if the operator of {name} confirms the new key, run `{}`",
            trust(name, offered, true)
        ),
    }
}

/// What to do about an error, if its cause is a key that is not trusted.
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

/// As [`of_error`], for a problem that a running nara tells.
pub(crate) fn of_problem(problem: &Problem) -> Option<String> {
    if let Some(conflict) = &problem.conflict {
        return of_told(conflict);
    }
    let name = problem.nara.as_ref()?.parse().ok()?;
    let key = key_of(problem.refused_key_id.as_ref()?)?;
    Some(of_untrusted(&name, &key))
}

/// As [`of_conflict`], for a conflict that a running nara tells.
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

/// Leaves a direct message to the running nara, whose recipient cannot be reached.
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

/// Leaves a postcard to the running nara, whose first peer cannot be reached.
pub(crate) fn send_postcard_later(args: &WorldSendArgs, to: &PeerRef) -> String {
    let mut words = ["nara-mesh", "world", "send", "--later"]
        .map(str::to_owned)
        .to_vec();
    if let Some(socket) = &args.running.api_socket {
        words.extend(["--api-socket".to_owned(), socket.display().to_string()]);
    }
    // Behind an equals sign a text may begin with a dash.
    words.push(format!("--to={to}"));
    words.push(format!("--message={}", args.message));
    let words = words.iter().map(String::as_str);
    let command = shlex::try_join(words).unwrap_or_default();
    once_seen("sent", to, &command)
}

/// Recommends a command that leaves something to the running nara, in words if it is too long to be printed.
fn once_seen(done: &str, peer: impl fmt::Display, command: &str) -> String {
    let command = if command.len() > LONGEST {
        "the same command with `--later`".to_owned()
    } else {
        format!("`{command}`")
    };
    format!("to have it {done} once {peer} is seen, run {command}")
}

/// Remembers which nara this command line means: see [`for_the_same_nara`].
pub(crate) fn remember(sources: &Sources) {
    let said = REPEATED
        .into_iter()
        .filter_map(|(id, flag)| Some((id, flag, sources.on_command_line(id)?)));
    // Only the first command line counts: there is one.
    let _ = SAID.set(said.collect());
}

/// A text whose commands mean the nara that this command line means: what it says of that nara, each of them says again. What
/// others are asked "to run" is left as it is.
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
        // A name has a backtick: where a command ends cannot be told.
        return text.to_owned();
    }
    let program = Cli::command();
    let mut before = "";
    let quoted = text.split('`').enumerate().map(|(index, text)| {
        let is_for_others = std::mem::replace(&mut before, text).ends_with(" to run ");
        let is_command = index % 2 == 1 && text.starts_with("nara-mesh ") && !is_for_others;
        // A new soul is another nara, and a manual is about none.
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

/// Whether a command has this argument.
fn takes(program: &Command, command: &str, id: &str) -> bool {
    let has = |command: &Command| command.get_arguments().any(|arg| arg.get_id() == id);
    let mut words = command.split(' ').skip(1);
    let innermost = words.try_fold(program, |command, word| {
        command.find_subcommand(word).ok_or(command)
    });
    let (Ok(innermost) | Err(innermost)) = innermost;
    has(program) || has(innermost)
}

/// Serves with a soul, in a data folder unless that is the default one.
pub(crate) fn serve(soul: &Path, folder: Option<&Path>) -> String {
    let mut words = ["nara-mesh", "serve", "--soul-file"].map(str::to_owned).to_vec();
    words.push(soul.display().to_string());
    if let Some(folder) = folder {
        words.extend(["--data-dir".to_owned(), folder.display().to_string()]);
    }
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_default()
}

/// A name as one word of a shell. Names come from peers and must not inject commands.
pub(crate) fn shell_word(name: &NaraName) -> Cow<'_, str> {
    // A name has no zero byte, the only thing that cannot be quoted.
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
        // Each in quotes: what is quoted in the sources is what the program recommends.
        let said = |text: &str| repeating(&text.replace('"', "`"), &said).replace('`', "\"");
        assert_eq!(
            said(r#"run "nara-mesh ping -- -x", or "ls"; "nara-mesh" does"#),
            r#"run "nara-mesh ping --config '/etc/a b.toml' --api-socket a.sock -- -x", or "ls"; "nara-mesh" does"#
        );
        // `serve` makes the socket.
        assert_eq!(
            said(r#""nara-mesh serve""#),
            r#""nara-mesh serve --config '/etc/a b.toml'""#
        );
        assert_eq!(
            said(r#""nara-mesh peers trust bob --config c.toml""#),
            r#""nara-mesh peers trust bob --config c.toml --api-socket a.sock""#
        );
        for other in [
            // A new soul is another nara, and so is the one of whoever is asked.
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
        // Nothing is put inside of a name.
        let said = [("config", "--config", "c.toml".to_owned())];
        for name in ["a`b", "a`b`c", "`nara-mesh ping"] {
            let text = of_untrusted(&name.parse().unwrap(), &key(1));
            assert_eq!(repeating(&text, &said), text);
        }
    }
}
