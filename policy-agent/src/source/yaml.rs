//! YAML: a stream cut into documents, so that one that is broken spoils no other, and each document as a JSON value.

use serde::de::DeserializeSeed as _;
use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Error, MessageFormatter as _, Options, UserMessageFormatter};

use super::document::Head;
use super::fault::printable;
use super::json::{Duplicates, Fill};

/// A document of a stream, and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk<'a> {
    pub(super) text: &'a str,
    /// Lines before it.
    pub(super) line: u64,
}

/// The documents that have content. The specification lets no scalar contain a marker line, whatever its style: lines tell.
pub(super) fn split(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let mut begin = 0;
    let mut begin_line = 0;
    // Directives and comments belong to the document that their `---` opens.
    let mut opened = false;
    let mut content = false;
    let mut offset = 0;
    let mut take = |from: usize, to: usize, line: u64, content: bool| {
        if let (true, Some(text)) = (content, text.get(from..to)) {
            chunks.push(Chunk { text, line });
        }
    };
    for (line, number) in text.split_inclusive('\n').zip(0_u64..) {
        let next = offset + line.len();
        if let Some(rest) = after_marker(line, "---") {
            if opened || content {
                take(begin, offset, begin_line, content);
                (begin, begin_line) = (offset, number);
            }
            opened = true;
            content = has_content(rest);
        } else if after_marker(line, "...").is_some() {
            take(begin, offset, begin_line, content);
            (begin, begin_line, opened, content) = (next, number + 1, false, false);
        } else {
            let directive = !opened && !content && line.starts_with('%');
            content |= !directive && has_content(line);
        }
        offset = next;
    }
    take(begin, text.len(), begin_line, content);
    chunks
}

fn after_marker<'a>(line: &'a str, marker: &str) -> Option<&'a str> {
    line.strip_prefix(marker).filter(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn has_content(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#')
}

/// Why a document could not be read, and what can still be made out of it: enough to know which object it is.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) message: String,
    pub(super) value: Value,
    /// The value is all of the document, though some keys were there twice.
    pub(super) complete: bool,
}

pub(super) fn parse(chunk: Chunk<'_>) -> Result<Value, Broken> {
    let strict = options(chunk.text.len(), DuplicateKeyPolicy::Error);
    let error = match serde_saphyr::from_str_with_options(chunk.text, strict) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let tolerant = options(chunk.text.len(), DuplicateKeyPolicy::PassThrough);
    let mut value = Value::Null;
    let fill = Fill { into: &mut value, duplicates: Duplicates::LastWins };
    let filled =
        serde_saphyr::with_deserializer_from_str_with_options(chunk.text, tolerant, |d| fill.deserialize(d));
    Err(Broken { message: message(&error, chunk.line), value, complete: filled.is_ok() })
}

/// Which object it is, if that can be told without the rest of it.
pub(super) fn head(chunk: Chunk<'_>) -> Option<Head> {
    let options = options(chunk.text.len(), DuplicateKeyPolicy::Error);
    serde_saphyr::from_str_with_options(chunk.text, options).ok()
}

fn options(length: usize, duplicate_keys: DuplicateKeyPolicy) -> Options {
    // Without aliases no document has more nodes than bytes, so size alone is no reason to refuse one; what aliases
    // multiply is bounded apart, and how deep they nest.
    let events = length.saturating_mul(4).saturating_add(64);
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: events,
            max_nodes: events,
            max_documents: 1,
            max_depth: 64,
            max_recorded_anchor_events: 200_000,
            // Fifty pods that share one anchor's labels are no attack.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 200_000,
            max_replay_stack_depth: 16,
        },
        duplicate_keys: duplicate_keys,
        emit_comments: false,
        // `y`, `no` and `on` are words: a label `country: no` means Norway.
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

fn message(error: &Error, lines_before: u64) -> String {
    let text = UserMessageFormatter.format_message(error.without_snippet());
    let text = printable(&text, usize::MAX);
    match error.location() {
        Some(at) => {
            format!("line {}, column {}: {text}", at.line().saturating_add(lines_before), at.column())
        }
        None => text,
    }
}
