//! Ports and their names, as all kinds write them.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use crate::config::decode::At;
use crate::config::fault::{Fault, Place};

/// A port number, 1 to 65535.
pub(super) fn port(number: i64, place: &Place) -> Result<u16, Fault> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(place.fault(format!("{number} is not a port"), "use 1 to 65535")),
    }
}

/// Finds what stands in one object twice.
pub(super) struct Unique<T> {
    seen: HashMap<T, String>,
    what: &'static str,
}

impl<T: std::hash::Hash + Eq + fmt::Display> Unique<T> {
    /// `what` is the word for one of these things.
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            seen: HashMap::new(),
            what,
        }
    }

    /// A fault if the value was added before; the first stays.
    pub(super) fn add(&mut self, value: T, place: &Place) -> Result<(), Fault> {
        match self.seen.get(&value) {
            Some(first) => Err(place.fault(
                format!("{value} is the {} of {first} already", self.what),
                format!("use each {} once", self.what),
            )),
            None => {
                self.seen.insert(value, place.field.clone());
                Ok(())
            }
        }
    }
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NumberOrName {
    Number(i64),
    Name(String),
}

impl<'de> Deserialize<'de> for NumberOrName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = NumberOrName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number or a port name")
            }

            fn visit_i64<E>(self, number: i64) -> Result<NumberOrName, E> {
                Ok(NumberOrName::Number(number))
            }

            fn visit_str<E>(self, name: &str) -> Result<NumberOrName, E> {
                Ok(NumberOrName::Name(name.to_owned()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The text inside, without its place.
pub(super) fn plain(text: Option<At<String>>) -> Option<String> {
    text.map(|text| text.value)
}
