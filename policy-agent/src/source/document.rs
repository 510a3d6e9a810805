//! A file's text as documents: each a JSON value, or what is left of one that is broken.

use std::io;

use serde::de::{DeserializeSeed as _, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::convert::DEFAULT_NAMESPACE;
use super::fault::{Problem, printable};
use super::json::{Duplicates, Fill, Unique};
use super::yaml;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Yaml,
}

#[derive(Debug)]
pub(super) struct Document {
    /// File and number, as problems name it.
    pub(super) source: String,
    pub(super) value: Value,
    pub(super) state: State,
}

/// How much of a document its value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Whole,
    /// All of it is there, but some of it is said twice.
    Ambiguous,
    /// The rest is unreadable.
    Beginning,
}

/// The documents, and what is wrong with those that are not whole.
pub(super) fn documents(file: &str, format: Format, text: &str) -> (Vec<Document>, Vec<Problem>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let read = match format {
        Format::Json => json(text),
        Format::Yaml => yaml(text),
    };
    let several = read.len() > 1;
    let mut documents = Vec::new();
    let mut problems = Vec::new();
    for (number, (value, state, message)) in (1_usize..).zip(read) {
        let source = if several { format!("{file}#{number}") } else { file.to_owned() };
        if let Some(message) = message {
            problems.push(Problem { source: source.clone(), message, ..Problem::default() });
        }
        documents.push(Document { source, value, state });
    }
    (documents, problems)
}

type Reading = (Value, State, Option<String>);

/// An API server takes 3 MiB, and etcd half of that. A list may be a whole cluster.
const LARGEST_OBJECT: usize = 8 << 20;

/// What tells which object a document is, without the rest of it: as values, large ones take a hundred times their size.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    api_version: String,
    kind: String,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct Metadata {
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

/// What becomes of a document that is too large for one object.
fn too_large(length: usize, head: impl FnOnce() -> Option<Head>) -> Option<Reading> {
    if length <= LARGEST_OBJECT {
        return None;
    }
    let head = head();
    if head.as_ref().is_some_and(|head| head.kind.ends_with("List")) {
        return None;
    }
    let described = head.as_ref().map_or_else(String::new, |Head { kind, metadata, .. }| {
        let name = [&metadata.namespace, &metadata.name].map(|part| part.as_deref().unwrap_or_default());
        format!("{kind} {}", name.join("/"))
    });
    let message = format!(
        "{} is larger than {} MiB, which no API server stores",
        if described.is_empty() { "the object".to_owned() } else { printable(&described, usize::MAX) },
        LARGEST_OBJECT >> 20
    );
    let value = head.and_then(|mut head| {
        // All of the metadata is known: where it has no namespace, that is not missing.
        head.metadata.namespace.get_or_insert_with(|| DEFAULT_NAMESPACE.to_owned());
        serde_json::to_value(head).ok()
    });
    let value = value.unwrap_or_default();
    Some((value, State::Beginning, Some(message)))
}

fn yaml(text: &str) -> Vec<Reading> {
    yaml::split(text)
        .into_iter()
        .map(|chunk| {
            if let Some(reading) = too_large(chunk.text.len(), || yaml::head(chunk)) {
                return reading;
            }
            match yaml::parse(chunk) {
                Ok(value) => (value, State::Whole, None),
                Err(broken) => {
                    let state = if broken.complete { State::Ambiguous } else { State::Beginning };
                    (broken.value, state, Some(broken.message))
                }
            }
        })
        .collect()
}

/// Values one after the other, as `kubectl` reads them. After a syntax error there is no telling where the next begins.
fn json(text: &str) -> Vec<Reading> {
    let mut list: Vec<Reading> = Vec::new();
    let mut rest = text;
    while !rest.trim_start().is_empty() {
        let mut syntax = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
        let well_formed = matches!(syntax.next(), Some(Ok(_)));
        let (this, next) = rest.split_at_checked(syntax.byte_offset()).unwrap_or((rest, ""));
        let (this, next) = if well_formed { (this, next) } else { (rest, "") };
        if let Some(reading) = too_large(this.len(), || serde_json::from_str(this).ok()) {
            list.push(reading);
            rest = next;
            continue;
        }
        match serde_json::from_str::<Unique>(this) {
            Ok(Unique(value)) => list.push((value, State::Whole, None)),
            Err(error) => {
                let mut value = Value::Null;
                let fill = Fill { into: &mut value, duplicates: Duplicates::LastWins };
                let filled = fill.deserialize(&mut serde_json::Deserializer::from_str(this));
                let state = if well_formed && filled.is_ok() { State::Ambiguous } else { State::Beginning };
                list.push((value, state, Some(message(&error, text, rest))));
            }
        }
        rest = next;
    }
    list
}

/// serde_json counts lines from where it began; readers count from the file's first.
fn message(error: &serde_json::Error, text: &str, rest: &str) -> String {
    let before = text.strip_suffix(rest).unwrap_or("").matches('\n').count();
    let whole = error.to_string();
    let end = whole.rfind(" at line ").unwrap_or(whole.len());
    let what = printable(whole.get(..end).unwrap_or(&whole), usize::MAX);
    format!("line {}, column {}: {what}", error.line().saturating_add(before), error.column())
}

/// What is wrong with bytes that are no text.
pub(super) fn decode(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        io::Error::new(io::ErrorKind::InvalidData, format!("is not UTF-8 text (byte {at})"))
    })
}
