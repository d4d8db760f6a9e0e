//! Parses the command line, the environment and the configuration file into typed arguments, in one pass of
//! clap.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory as _, FromArgMatches as _};

use crate::cli::Cli;
use crate::config_file::{self, ConfigFile, reason};
use crate::failure::Failure;
use crate::places::config_folder;

/// Why the arguments cannot be used.
#[derive(Debug)]
pub(crate) enum Refused {
    /// An invalid command line, or a request for help or the version.
    CommandLine(clap::Error),
    /// An invalid environment variable or configuration file.
    Setting(Failure),
}

/// The origin of each argument.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    /// The matches of the innermost command; they include the arguments of the outer commands.
    matches: ArgMatches,
    file: ConfigFile,
}

/// An effective setting.
#[derive(Debug)]
pub(crate) struct InForce {
    /// The key in the configuration file.
    pub(crate) key: &'static str,
    /// Its values; empty if unset.
    pub(crate) values: Vec<String>,
    /// Its origin, in words.
    pub(crate) origin: String,
}

/// Parses the arguments. A flag overrides the environment, and the environment overrides the configuration
/// file.
pub(crate) fn parse(arguments: &[OsString]) -> Result<(Cli, Sources), Refused> {
    let command = without_empty_variables(Cli::command());
    let matches = command.clone().try_get_matches_from(arguments);
    let matches = matches.map_err(|error| refused(error, &command, arguments))?;
    let asked = innermost(&matches).get_one::<PathBuf>("config").cloned();
    let default = || {
        let file = config_folder()?.join("config.toml");
        file.is_file().then_some(file)
    };
    let (file, matches) = match asked.or_else(default) {
        Some(path) => {
            let file = ConfigFile::read(&path).map_err(Refused::Setting)?;
            // Parse again with the file as the lowest layer: a new error is an error in the file.
            let layered = file.layer(command).try_get_matches_from(arguments);
            let matches = layered.map_err(|error| Refused::Setting(file.refused(&error)))?;
            (file, matches)
        }
        None => (ConfigFile::default(), matches),
    };
    let cli = Cli::from_arg_matches(&matches).map_err(Refused::CommandLine)?;
    let matches = innermost(&matches).clone();
    Ok((cli, Sources { matches, file }))
}

impl Sources {
    /// Returns whether the argument with this id is on the command line.
    pub(crate) fn is_on_command_line(&self, id: &str) -> bool {
        self.source(id) == Some(ValueSource::CommandLine)
    }

    /// Returns the value of an argument on the command line.
    pub(crate) fn on_command_line(&self, id: &str) -> Option<String> {
        let mut raw = self.is_on_command_line(id).then(|| self.matches.get_raw(id))??;
        Some(raw.next()?.to_string_lossy().into_owned())
    }

    /// Returns whether the value of the argument with this id comes from the configuration file.
    pub(crate) fn is_in_file(&self, id: &str) -> bool {
        self.source(id) == Some(ValueSource::DefaultValue) && self.file.place_of(id).is_some()
    }

    /// Returns the value of a path argument, if this command has it.
    pub(crate) fn path(&self, id: &str) -> Option<PathBuf> {
        self.matches.try_get_one::<PathBuf>(id).ok().flatten().cloned()
    }

    /// Returns the configuration file, if any.
    pub(crate) fn config_file(&self) -> Option<&Path> {
        self.file.path()
    }

    fn source(&self, id: &str) -> Option<ValueSource> {
        // clap panics on an id that the command does not have.
        let known = self.matches.ids().any(|known| known.as_str() == id);
        known.then(|| self.matches.value_source(id)).flatten()
    }

    /// Returns the effective settings of this command that a configuration file can contain.
    pub(crate) fn in_force(&self) -> Vec<InForce> {
        let command = without_empty_variables(Cli::command());
        let value = |(key, id): (&'static str, &'static str)| {
            let arg = find(&command, &|arg| arg.get_id() == id)?;
            let raw = self.matches.try_get_raw(id).ok()?;
            let texts = raw.map(|raw| raw.map(|text| text.to_string_lossy().into_owned()).collect());
            Some(InForce {
                key,
                values: texts.unwrap_or_default(),
                origin: self.origin(arg),
            })
        };
        config_file::keys().filter_map(value).collect()
    }

    /// Describes the origin of a value.
    fn origin(&self, arg: &Arg) -> String {
        let id = arg.get_id().as_str();
        match self.source(id) {
            Some(ValueSource::CommandLine) => "the command line".to_owned(),
            Some(ValueSource::EnvVariable) => {
                let variable = arg.get_env().unwrap_or_default();
                format!("the environment variable {}", variable.to_string_lossy())
            }
            _ => self.file.place_of(id).unwrap_or_else(|| "the default".to_owned()),
        }
    }
}

fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches
        .subcommand()
        .map_or(matches, |(_, below)| innermost(below))
}

/// Treats empty environment variables as unset. The help does not show their values.
fn without_empty_variables(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let empty =
            |variable: &std::ffi::OsStr| std::env::var_os(variable).is_some_and(|value| value.is_empty());
        let arg = arg.hide_env_values(true);
        if arg.get_env().is_some_and(empty) {
            arg.env(None)
        } else {
            arg
        }
    });
    command.mut_subcommands(without_empty_variables)
}

/// Names the environment variable if its value is invalid: clap would blame a flag that was not used.
fn refused(error: clap::Error, command: &Command, arguments: &[OsString]) -> Refused {
    let arg = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::InvalidUtf8, _) => find(command, &|arg| {
            let value = arg.get_env().and_then(std::env::var_os);
            value.is_some_and(|value| value.to_str().is_none())
        }),
        (ErrorKind::InvalidValue | ErrorKind::ValueValidation, Some(ContextValue::String(shown))) => {
            let flag = shown.split([' ', '[', '=']).next().unwrap_or_default();
            let used = |argument: &OsString| {
                let argument = argument.to_string_lossy();
                argument == flag || argument.starts_with(&format!("{flag}="))
            };
            let long = flag.trim_start_matches("--");
            (!arguments.iter().any(used))
                .then(|| {
                    find(command, &|arg| {
                        arg.get_long() == Some(long) && arg.get_env().is_some()
                    })
                })
                .flatten()
        }
        _ => None,
    };
    match arg.and_then(Arg::get_env) {
        Some(variable) => Refused::Setting(Failure::usage(format!(
            "the environment variable {}: {}",
            variable.to_string_lossy(),
            if error.kind() == ErrorKind::InvalidUtf8 {
                "not UTF-8".to_owned()
            } else {
                reason(&error)
            }
        ))),
        None => Refused::CommandLine(error),
    }
}

fn find<'a>(command: &'a Command, wanted: &dyn Fn(&Arg) -> bool) -> Option<&'a Arg> {
    let here = command.get_arguments().find(|arg| wanted(arg));
    here.or_else(|| {
        command
            .get_subcommands()
            .find_map(|command| find(command, wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the arguments of a command and its subcommands; `seen` are the names of the outer ones.
    fn check(command: &Command, seen: &[String]) {
        let mut names = seen.to_vec();
        for arg in command.get_arguments() {
            let spelled = [
                Some(format!("id {}", arg.get_id())),
                arg.get_long().map(|long| format!("--{long}")),
                arg.get_short().map(|short| format!("-{short}")),
            ];
            for name in spelled.into_iter().flatten() {
                assert!(
                    !seen.contains(&name),
                    "{} shadows the global {name}",
                    command.get_name()
                );
                if arg.is_global_set() {
                    names.push(name);
                }
            }
        }
        for below in command.get_subcommands() {
            check(below, &names);
        }
    }

    #[test]
    fn no_argument_shadows_a_global_one() {
        check(&Cli::command(), &[]);
        Cli::command().debug_assert();
    }

    #[test]
    fn every_key_of_the_configuration_file_is_an_argument() {
        let command = Cli::command();
        for (_, id) in config_file::keys() {
            assert!(find(&command, &|arg| arg.get_id() == id).is_some(), "{id}");
        }
    }

    /// Returns the text of all sources of this workspace that talk to users, with line breaks inside strings
    /// removed.
    fn sources() -> String {
        fn collect(folder: &Path, text: &mut String) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    collect(&path, text);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    text.push_str(&std::fs::read_to_string(path).unwrap());
                }
            }
        }
        let mut text = String::new();
        for of in ["nara-mesh-cli", "nara-mesh", "nara-tailnet"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("..")
                .join(of)
                .join("src");
            collect(&folder, &mut text);
        }
        text.split("\\\n").map(str::trim_start).collect()
    }

    #[test]
    fn every_command_that_a_message_recommends_is_accepted() {
        const KEY: &str = "19wPl4NX4ygV1BYJrndZMPWuc5x3eM33PkrBMUzFJRQ=";
        let sources = sources();
        let commands = sources
            .split('`')
            .filter(|text| text.starts_with("nara-mesh ") && !text.contains('\n'));
        let mut tried = 0;
        for command in commands.filter(|command| !command.contains(['…', '[', '|'])) {
            let (command, _) = command.split_once(">>").unwrap_or((command, ""));
            let mut words: Vec<OsString> = Vec::new();
            for word in command.split_whitespace() {
                let value = words.last().is_some_and(|last| last == "--key");
                let placeholder =
                    word.contains('{') || word.chars().all(|character| character.is_ascii_uppercase());
                words.push(match (placeholder, value) {
                    (_, true) => KEY.into(),
                    (true, false) if word == "ADDRESS" => "127.0.0.1".into(),
                    (true, false) => "bob".into(),
                    (false, _) => word.into(),
                });
            }
            let parsed = Cli::command().try_get_matches_from(&words);
            let refused = parsed.err().filter(|error| error.use_stderr());
            assert!(refused.is_none(), "`{command}`: {}", refused.unwrap());
            tried += 1;
        }
        assert!(tried >= 10, "{tried}");
    }
}
