//! The file of options: one YAML mapping from option to value. Whatever is wrong in it is found at once, with its place.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Location, MessageFormatter as _, Spanned, UserMessageFormatter};

use super::definitions;
use super::values::{Auto, Bytes, Listen, Switch};

/// More than any file of options needs.
const MOST_BYTES: u64 = 1 << 20;

/// One thing that is wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    pub path: PathBuf,
    /// Line and column, counted from one, where the place can be told.
    pub place: Option<(u64, u64)>,
    pub message: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        if let Some((line, column)) = self.place {
            write!(f, "line {line}, column {column}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// What the file says: the text of each value, as a flag would have it.
pub fn read_file(path: &Path) -> Result<BTreeMap<String, String>, Vec<FileProblem>> {
    let fail = |message: String| vec![FileProblem { path: path.to_owned(), place: None, message }];
    let length = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?.len();
    if length > MOST_BYTES {
        return Err(fail(format!("it has {length} bytes: more than {MOST_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    read_text(path, &text)
}

fn read_text(path: &Path, text: &str) -> Result<BTreeMap<String, String>, Vec<FileProblem>> {
    let problem = |at: Option<Location>, message: String| FileProblem {
        path: path.to_owned(),
        place: at.filter(|at| at.line() > 0).map(|at| (at.line(), at.column())),
        message,
    };
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::Error,
        emit_comments: false,
        // `off` and `on` are words.
        strict_booleans: true,
        with_snippet: false,
    };
    let entries: Entries = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let message = UserMessageFormatter.format_message(error.without_snippet()).into_owned();
        vec![problem(error.location(), message)]
    })?;
    let definitions = definitions();
    let (mut values, mut problems) = (BTreeMap::new(), Vec::new());
    for (key, setting) in entries.0 {
        let Some(argument) = in_file(&definitions).find(|a| a.get_long() == Some(&*key.value)) else {
            problems.push(problem(Some(key.referenced), unknown(&definitions, &key.value)));
            continue;
        };
        match check(argument, &setting.value) {
            Ok(text) => {
                values.insert(key.value, text);
            }
            Err(message) => {
                problems.push(problem(Some(setting.referenced), format!("{}: {message}", key.value)));
            }
        }
    }
    if problems.is_empty() { Ok(values) } else { Err(problems) }
}

/// Options that the file may set: all but the one that names it.
pub(super) fn in_file(definitions: &Command) -> impl Iterator<Item = &Arg> {
    definitions.get_arguments().filter(|argument| argument.get_id() != "config")
}

fn unknown(definitions: &Command, key: &str) -> String {
    let nearest = in_file(definitions)
        .filter_map(Arg::get_long)
        .min_by_key(|known| strsim::damerau_levenshtein(known, &key.replace('_', "-").to_lowercase()));
    format!("unknown key {key:?}; the nearest known one is {:?}", nearest.unwrap_or_default())
}

/// The value's text, if it is of a kind that the option takes and its own parser accepts it.
fn check(argument: &Arg, setting: &Setting) -> Result<String, String> {
    let parser = argument.get_value_parser();
    let text = match setting {
        Setting::Text(text) => text.clone(),
        Setting::Number(text)
            if is::<Auto<u32>>(parser) || is::<Auto<Bytes>>(parser) || is::<Duration>(parser) =>
        {
            text.clone()
        }
        Setting::Number(_) => return Err("must be text, not a number: put it between quotes".to_owned()),
        Setting::Bool(value) if is::<Switch>(parser) || (is::<Listen>(parser) && !value) => value.to_string(),
        Setting::Bool(_) => return Err("must not be a boolean: put a text between quotes".to_owned()),
        Setting::Nothing => return Err("has no value".to_owned()),
        Setting::List => return Err("must be one value, not a list".to_owned()),
        Setting::Mapping => return Err("must be one value, not a mapping".to_owned()),
    };
    let name = argument.get_long().unwrap_or_default();
    Command::new("file")
        .no_binary_name(true)
        .arg(argument.clone().global(false))
        .try_get_matches_from([format!("--{name}={text}")])
        .map_err(|error| complaint(&error, &text))?;
    Ok(text)
}

fn is<T: 'static>(parser: &ValueParser) -> bool {
    parser.type_id() == TypeId::of::<T>()
}

/// What clap has against a value, without what it says about the command line.
pub(super) fn complaint(error: &clap::Error, value: &str) -> String {
    if let Some(cause) = std::error::Error::source(error) {
        return format!("{value:?}: {cause}");
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
            format!("{value:?}: must be one of {}", valid.join(", "))
        }
        _ => format!("{value:?}: must not be empty"),
    }
}

/// A scalar as it would stand in a flag, or what stands there instead of one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Setting {
    Text(String),
    Number(String),
    Bool(bool),
    Nothing,
    List,
    Mapping,
}

struct Entries(Vec<(Spanned<String>, Spanned<Setting>)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Mapping;

        impl<'de> Visitor<'de> for Mapping {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping from options to values")
            }

            fn visit_unit<E>(self) -> Result<Entries, E> {
                Ok(Entries(Vec::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_any(Mapping)
    }
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Setting;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_str<E>(self, text: &str) -> Result<Setting, E> {
                Ok(Setting::Text(text.to_owned()))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Setting, E> {
                Ok(Setting::Bool(value))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Setting, E> {
                Ok(Setting::Number(number.to_string()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Setting, E> {
                Ok(Setting::Number(number.to_string()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Setting, E> {
                Ok(Setting::Number(number.to_string()))
            }

            fn visit_unit<E>(self) -> Result<Setting, E> {
                Ok(Setting::Nothing)
            }

            fn visit_none<E>(self) -> Result<Setting, E> {
                Ok(Setting::Nothing)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Setting, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Setting::List)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Setting, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Setting::Mapping)
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, Vec<String>> {
        match read_text(Path::new("config.yaml"), text) {
            Ok(values) => Ok(values.into_iter().collect()),
            Err(problems) => Err(problems.iter().map(ToString::to_string).collect()),
        }
    }

    fn values(list: &[(&str, &str)]) -> Result<Vec<(String, String)>, Vec<String>> {
        Ok(list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn values_are_what_a_flag_would_say() {
        let text =
            "node: worker-1\ntable-peers: 65536\ncni-timeout: 2.5\nevents: off\nmetrics-address: ':9878'\n";
        assert_eq!(
            read(text),
            values(&[
                ("cni-timeout", "2.5"),
                ("events", "off"),
                ("metrics-address", ":9878"),
                ("node", "worker-1"),
                ("table-peers", "65536")
            ])
        );
        // As Helm and others write what was `off`.
        assert_eq!(
            read("events: false\nhealth-address: false\n"),
            values(&[("events", "false"), ("health-address", "false")])
        );
    }

    #[test]
    fn a_file_without_options_is_a_file() {
        for text in ["", "# nothing yet\n", "---\n", "{}", "null"] {
            assert_eq!(read(text), Ok(Vec::new()), "{text:?}");
        }
    }

    #[test]
    fn everything_wrong_is_told_with_its_place() {
        let text = "\
# options
manifest: /m
node: 5
table-peers: 12
table-flow-sets: 1500
attach: sideways
events: perhaps
socket: [a]
context:
bpffs: {a: b}
cni-timeout: 1h
node-name: x
log: true
";
        let expected = [
            "config.yaml: line 2, column 1: unknown key \"manifest\"; the nearest known one is \"manifests\"",
            "config.yaml: line 3, column 7: node: must be text, not a number: put it between quotes",
            "config.yaml: line 4, column 14: table-peers: \"12\": must be a number from 64 to 16777216, or auto",
            "config.yaml: line 5, column 18: table-flow-sets: \"1500\": must be a power of two, such as 2048, or auto",
            "config.yaml: line 6, column 9: attach: \"sideways\": must be one of auto, tcx, clsact",
            "config.yaml: line 7, column 9: events: \"perhaps\": must be one of on, off",
            "config.yaml: line 8, column 9: socket: must be one value, not a list",
            "config.yaml: line 9, column 8: context: has no value",
            "config.yaml: line 10, column 8: bpffs: must be one value, not a mapping",
            "config.yaml: line 11, column 14: cni-timeout: \"1h\": unknown unit \"h\": ms, s or m",
            "config.yaml: line 12, column 1: unknown key \"node-name\"; the nearest known one is \"node\"",
            "config.yaml: line 13, column 6: log: must not be a boolean: put a text between quotes",
        ];
        let problems = read(text).unwrap_err();
        for (problem, expected) in problems.iter().zip(expected) {
            assert_eq!(problem, expected);
        }
        assert_eq!(problems.len(), expected.len());
    }

    #[test]
    fn what_is_no_mapping_is_told() {
        for (text, words) in [
            ("- a\n", "a mapping from options to values"),
            ("words\n", "a mapping from options to values"),
            ("node: a\nnode: b\n", "line 2, column 1"),
            ("node: [\n", "line"),
            ("config: /other\n", "unknown key \"config\""),
            ("node: ''\n", "empty"),
            ("bpffs: ''\n", "empty"),
        ] {
            let problems = read(text).unwrap_err();
            assert!(problems.len() == 1 && problems[0].contains(words), "{text:?}: {problems:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let problems = read_file(Path::new("/nowhere/config.yaml")).unwrap_err();
        assert!(problems[0].to_string().starts_with("/nowhere/config.yaml: "), "{problems:?}");
        assert!(read_file(Path::new("/")).is_err());
    }
}
