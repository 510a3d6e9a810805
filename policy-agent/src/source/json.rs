//! Filling a JSON value as far as its text can be read.
//!
//! `serde_json::Value` alone would keep the last of two values of a key and tell nobody, and nothing of a broken document.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duplicates {
    Error,
    LastWins,
}

/// Writes what is read into a value that outlives the error which ends the reading.
pub(super) struct Fill<'a> {
    pub(super) into: &'a mut Value,
    pub(super) duplicates: Duplicates,
}

/// A value in which every key is there once.
pub(super) struct Unique(pub(super) Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::Null;
        Fill { into: &mut value, duplicates: Duplicates::Error }.deserialize(deserializer)?;
        Ok(Self(value))
    }
}

impl<'de> DeserializeSeed<'de> for Fill<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fill<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        *self.into = Value::Bool(value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        *self.into = Value::Number(value.into());
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        *self.into = Value::Number(value.into());
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("not a finite number"))?;
        *self.into = Value::Number(number);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        *self.into = Value::String(value.to_owned());
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        *self.into = Value::Null;
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut list = Vec::new();
        let result = loop {
            let mut item = Value::Null;
            match items.next_element_seed(Fill { into: &mut item, duplicates: self.duplicates }) {
                Ok(Some(())) => list.push(item),
                Ok(None) => break Ok(()),
                Err(error) => {
                    list.push(item);
                    break Err(error);
                }
            }
        };
        *self.into = Value::Array(list);
        result
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut map = Map::new();
        let result = loop {
            let key = match entries.next_key::<String>() {
                Ok(Some(key)) => key,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            if self.duplicates == Duplicates::Error && map.contains_key(&key) {
                break Err(de::Error::custom(format_args!("duplicate key {key:?}")));
            }
            let mut value = Value::Null;
            let filled = entries.next_value_seed(Fill { into: &mut value, duplicates: self.duplicates });
            map.insert(key, value);
            if let Err(error) = filled {
                break Err(error);
            }
        };
        *self.into = Value::Object(map);
        result
    }
}
