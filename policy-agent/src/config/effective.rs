//! Flags, environment and file together.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::error::ContextKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use serde::Serialize;

use super::file::{complaint, read_file};
use super::{FileProblem, LogOptions, definitions};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "name", rename_all = "lowercase")]
pub enum Origin {
    Flag(String),
    Environment(String),
    File(PathBuf),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EffectiveOption {
    pub name: String,
    /// As a flag would say it; `None` where nothing says it and there is no default.
    pub value: Option<String>,
    pub origin: Origin,
}

/// Every option with its value, in the order of the reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Effective {
    pub options: Vec<EffectiveOption>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line; clap knows best how to tell it. `--help` is one too.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    #[error("environment variable {variable}: {message}")]
    Environment { variable: String, message: String },
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    File(Vec<FileProblem>),
    #[error("manifests ({manifests}) and {other} ({origin}) are both set: the agent has one source")]
    TwoSources { manifests: Origin, other: String, origin: Origin },
}

/// What the command line and all behind it say.
#[derive(Debug)]
pub struct Parsed {
    pub matches: ArgMatches,
    /// Where the subcommand is one that reads the file.
    pub effective: Option<Effective>,
}

/// Parses `arguments` of `command`. `readers` are the subcommands, as paths, that have the options of `run`.
pub fn parse(command: &Command, arguments: &[OsString], readers: &[&[&str]]) -> Result<Parsed, ConfigError> {
    let first = get_matches(command.clone(), arguments)?;
    let Some((path, inner)) = readers.iter().find_map(|path| Some((*path, descend(&first, path)?))) else {
        return Ok(Parsed { matches: first, effective: None });
    };
    let file: Option<&PathBuf> = inner.get_one("config");
    let mut defaults = file.map_or(Ok(BTreeMap::new()), |file| read_file(file)).map_err(ConfigError::File)?;
    let mut origins: BTreeMap<String, Origin> = BTreeMap::new();
    if let Some(file) = file {
        origins.extend(defaults.keys().map(|key| (key.clone(), Origin::File(file.clone()))));
    }
    let said = |name: &str| defaults.contains_key(name) || inner.contains_id(name);
    // kubectl's own variable is for all programs: whatever is said to this one goes before it.
    if !said("manifests")
        && !said("kubeconfig")
        && let Some(files) = std::env::var("KUBECONFIG").ok().filter(|files| !files.is_empty())
    {
        defaults.insert("kubeconfig".to_owned(), files);
        origins.insert("kubeconfig".to_owned(), Origin::Environment("KUBECONFIG".to_owned()));
    }
    let command = defaults.into_iter().fold(command.clone(), |command, (name, value)| {
        set_default(command, path, &name.replace('-', "_"), value)
    });
    let matches = get_matches(command, arguments)?;
    let effective = descend(&matches, path).map(|inner| effective(inner, &origins));
    if let Some(effective) = &effective {
        one_source(effective)?;
    }
    Ok(Parsed { matches, effective })
}

/// clap's own answer, but for a bad value of a variable: whoever reads it looks for a flag that nobody gave.
fn get_matches(command: Command, arguments: &[OsString]) -> Result<ArgMatches, ConfigError> {
    let error = match command.try_get_matches_from(arguments) {
        Ok(matches) => return Ok(matches),
        Err(error) => error,
    };
    let told = |kind| error.get(kind).map(ToString::to_string);
    let (Some(flag), Some(value)) = (told(ContextKind::InvalidArg), told(ContextKind::InvalidValue)) else {
        return Err(error.into());
    };
    let flag = flag.split(' ').next().unwrap_or_default();
    let given = arguments.iter().any(|argument| {
        let argument = argument.to_string_lossy();
        argument.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    });
    let definitions = definitions();
    let name = flag.trim_start_matches('-');
    let variable = definitions
        .get_arguments()
        .find(|argument| argument.get_long() == Some(name))
        .and_then(|argument| Some(argument.get_env()?.to_string_lossy().into_owned()))
        .filter(|variable| !given && std::env::var_os(variable).is_some());
    match variable {
        Some(variable) => Err(ConfigError::Environment { variable, message: complaint(&error, &value) }),
        None => Err(error.into()),
    }
}

fn descend<'a>(matches: &'a ArgMatches, path: &[&str]) -> Option<&'a ArgMatches> {
    path.iter().try_fold(matches, |matches, name| matches.subcommand_matches(name))
}

/// Options of the log belong to every subcommand, the others to that at the end of `path`.
fn set_default(command: Command, path: &[&str], id: &str, value: String) -> Command {
    use clap::Args as _;
    let set = |argument: Arg| argument.default_value(value);
    let logs = LogOptions::augment_args(Command::new("log"));
    let of_log = logs.get_arguments().any(|argument| argument.get_id() == id);
    match path {
        [name, rest @ ..] if !of_log => {
            let value = set;
            command.mut_subcommand(*name, |inner| mut_argument(inner, rest, id, value))
        }
        _ => command.mut_arg(id, set),
    }
}

fn mut_argument(command: Command, path: &[&str], id: &str, set: impl FnOnce(Arg) -> Arg) -> Command {
    match path {
        [name, rest @ ..] => command.mut_subcommand(*name, |inner| mut_argument(inner, rest, id, set)),
        [] => command.mut_arg(id, set),
    }
}

fn effective(matches: &ArgMatches, origins: &BTreeMap<String, Origin>) -> Effective {
    let definitions = definitions();
    let options = definitions.get_arguments().filter_map(|argument| {
        let name = argument.get_long()?;
        let id = argument.get_id().as_str();
        let raw = matches.get_raw(id).and_then(|mut values| values.next());
        let origin = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => Origin::Flag(format!("--{name}")),
            Some(ValueSource::EnvVariable) => {
                Origin::Environment(argument.get_env()?.to_string_lossy().into_owned())
            }
            _ => origins.get(name).cloned().unwrap_or(Origin::Default),
        };
        let value = raw.map(|value| value.to_string_lossy().into_owned());
        Some(EffectiveOption { name: name.to_owned(), value, origin })
    });
    Effective { options: options.collect() }
}

fn one_source(effective: &Effective) -> Result<(), ConfigError> {
    let set = |name: &str| effective.options.iter().find(|o| o.name == name && o.value.is_some());
    let Some(manifests) = set("manifests") else { return Ok(()) };
    match set("kubeconfig").or_else(|| set("context")) {
        Some(other) => Err(ConfigError::TwoSources {
            manifests: manifests.origin.clone(),
            other: other.name.clone(),
            origin: other.origin.clone(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::in_file;
    use super::*;

    /// Every key of the file has to be an argument that can be given a default.
    #[test]
    fn every_option_can_come_from_the_file() {
        use clap::Args as _;
        let definitions = definitions();
        for argument in in_file(&definitions) {
            let inner = super::super::RunOptions::augment_args(Command::new("run"));
            let command = LogOptions::augment_args(Command::new("agent").subcommand(inner));
            let id = argument.get_id().as_str();
            assert_eq!(argument.get_long(), Some(id.replace('_', "-").as_str()), "the key is the flag");
            let variable = format!("SLUICE_{}", id.to_uppercase());
            assert_eq!(argument.get_env(), Some(variable.as_ref()), "the variable is the flag's");
            let _ = set_default(command, &["run"], id, "x".to_owned());
        }
    }
}
