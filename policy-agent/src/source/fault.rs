//! What is wrong with an input, and where: the same shape for files, documents and objects.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde::Serialize;

/// Values are shown, not dumped: a whole policy in a message hides the message.
const SHOWN_VALUE: usize = 100;
/// One object with a hundred thousand wrong CIDRs is one problem to its reader.
const MOST_FAULTS: usize = 50;

/// One fault, as `status` and the log show it. What cannot be told is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Problem {
    /// The file, with the document's number where it has several.
    pub source: String,
    /// Kind and name.
    pub object: String,
    /// Path inside the object.
    pub field: String,
    /// The value there, as short JSON.
    pub value: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.source, &self.object, &self.field, &self.value] {
            if !part.is_empty() {
                write!(f, "{}: ", escaped(part))?;
            }
        }
        f.write_str(&escaped(&self.message))
    }
}

impl Problem {
    /// For those who know the object.
    pub fn of_object(&self) -> String {
        Self { source: String::new(), object: String::new(), ..self.clone() }.to_string()
    }
}

/// A fault inside one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub field: String,
    pub value: String,
    pub message: String,
}

impl Fault {
    pub(super) fn problem(self, source: &str, object: &str) -> Problem {
        let Self { field, value, message } = self;
        Problem { source: source.to_owned(), object: object.to_owned(), field, value, message }
    }
}

/// A place in an object; lives on the stack, and becomes text only where a fault is.
#[derive(Clone, Copy, Debug)]
pub enum Field<'a> {
    Root,
    Key(&'a Self, &'a str),
    Index(&'a Self, usize),
}

impl Field<'_> {
    pub const fn key<'b>(&'b self, name: &'b str) -> Field<'b> {
        Field::Key(self, name)
    }

    pub const fn index(&self, at: usize) -> Field<'_> {
        Field::Index(self, at)
    }
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Index(parent, at) => write!(f, "{parent}[{at}]"),
            Self::Key(parent, name) => {
                let plain = !name.is_empty()
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
                match (parent, plain) {
                    (Self::Root, true) => f.write_str(name),
                    (_, true) => write!(f, "{parent}.{name}"),
                    (_, false) => write!(f, "{parent}[{}]", short_json(name)),
                }
            }
        }
    }
}

/// Collects the faults of one object.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    list: Vec<Fault>,
    untold: usize,
}

impl Faults {
    pub fn add(&mut self, at: &Field<'_>, value: &(impl Serialize + ?Sized), message: impl Into<String>) {
        if self.list.len() < MOST_FAULTS {
            let fault = Fault { field: at.to_string(), value: short_json(value), message: message.into() };
            self.list.push(fault);
        } else {
            self.untold += 1;
        }
    }

    /// A field that is not there has no value to show.
    pub fn add_missing(&mut self, at: &Field<'_>, message: impl Into<String>) {
        if self.list.len() < MOST_FAULTS {
            self.list.push(Fault { field: at.to_string(), value: String::new(), message: message.into() });
        } else {
            self.untold += 1;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn into_list(self) -> Vec<Fault> {
        let mut list = self.list;
        if self.untold > 0 {
            list.push(Fault {
                field: String::new(),
                value: String::new(),
                message: format!("and {} more errors", self.untold),
            });
        }
        list
    }

    /// `value`, unless something was wrong.
    pub fn result<T>(self, value: T) -> Result<T, Vec<Fault>> {
        if self.is_empty() { Ok(value) } else { Err(self.into_list()) }
    }
}

/// One line of JSON, cut where it gets long.
pub(super) fn short_json(value: &(impl Serialize + ?Sized)) -> String {
    /// Takes what fits and then makes the serializer stop: values may be megabytes.
    struct Short(Vec<u8>);

    impl std::io::Write for Short {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0.len() > SHOWN_VALUE * 4 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.0.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let mut short = Short(Vec::new());
    let whole = serde_json::to_writer(&mut short, value).is_ok();
    let text = String::from_utf8_lossy(&short.0);
    printable(&text, if whole { usize::MAX } else { SHOWN_VALUE })
}

/// Text from an input that is safe in a line of a log or a terminal, and not longer than a line.
pub(super) fn printable(text: &str, at_most: usize) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count >= at_most.min(SHOWN_VALUE) {
            out.push('…');
            break;
        }
        if is_unsafe(c) {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The same for text of any length.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return text.into();
    }
    let mut out = String::new();
    for c in text.chars() {
        match is_unsafe(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out.into()
}

/// What moves a terminal's cursor, ends a line, or makes it read in another order than it is written.
fn is_unsafe(c: char) -> bool {
    let reorders =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || reorders || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}
