//! What the watches tell the store: plain data, no words of the API's.

use std::fmt;

use super::super::fault::Problem;
use super::super::object::{Kind, Object, ObjectKey, StandIn};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A list of all objects of the kind begins.
    Init(Kind),
    /// An object as it is now.
    Apply(Box<Sighting>),
    /// The list was complete: what was not in it is no more.
    InitDone(Kind),
    Delete(Departure),
    /// Why nothing comes of the kind at present; `None`: it does again.
    Trouble(Kind, Option<Problem>),
}

/// One version of an object, whole or broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub key: ObjectKey,
    pub uid: String,
    pub version: Version,
    pub content: Result<Object, StandIn>,
    /// Why it is broken.
    pub problems: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    pub key: ObjectKey,
    /// Of the object that went: a later one may have its name by now.
    pub uid: String,
    pub version: Version,
}

/// A resourceVersion. Those of one kind grow with time wherever they are numbers, as every Kubernetes API server has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    Number(u64),
    /// Says nothing but where a watch goes on; empty where it is missing.
    Opaque(Box<str>),
}

impl Version {
    pub fn parse(text: &str) -> Self {
        // Anything that a number would not be written as is opaque.
        match text.parse::<u64>() {
            Ok(number) if number.to_string() == text => Self::Number(number),
            _ => Self::Opaque(text.into()),
        }
    }

    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Opaque(text) if text.is_empty())
    }

    /// What cannot be compared is not older.
    pub fn is_older_than(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Number(this), Self::Number(other)) if this < other)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Opaque(text) => f.write_str(text),
        }
    }
}
