//! From a tree to a typed value, with the path and position of every problem.
//!
//! The types are plain serde structs. Every field of a struct may be absent or null if its type allows it, and
//! a field that the struct does not have is a fault, unless [`ignored`](Rules) lists it. All unknown fields of a
//! document are reported, then the first value of a wrong type.

use std::cell::RefCell;
use std::fmt;

use serde::Deserialize;
use serde::de::value::{StrDeserializer, StringDeserializer, U32Deserializer};
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::fault::{Fault, Place, push_field};
use super::names::closest;
use super::tree::{Member, Node, Value};

/// Fields that are accepted and not looked at, by the name of the struct they belong to.
pub(super) type Rules = &'static [(&'static str, &'static [&'static str])];

/// A value together with its place.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// Reads a `T` out of a document.
pub(super) fn decode<'de, T: Deserialize<'de>>(node: &'de Node, rules: Rules) -> Result<T, Vec<Fault>> {
    let unknown = RefCell::new(Vec::new());
    let result = T::deserialize(Decoder {
        node,
        path: Path::Root,
        context: Context {
            rules,
            unknown: &unknown,
        },
    });
    let mut faults = unknown.into_inner();
    match result {
        Ok(value) if faults.is_empty() => Ok(value),
        Ok(_) => Err(faults),
        Err(error) => {
            faults.push(error.fault(&node.place("")));
            Err(faults)
        }
    }
}

#[derive(Clone, Copy)]
struct Decoder<'de, 'c> {
    node: &'de Node,
    path: Path<'c>,
    context: Context<'c>,
}

#[derive(Clone, Copy)]
struct Context<'c> {
    rules: Rules,
    unknown: &'c RefCell<Vec<Fault>>,
}

/// The way to a value, one step at a time up to the document.
#[derive(Clone, Copy)]
enum Path<'c> {
    Root,
    Field(&'c Path<'c>, &'c str),
    Index(&'c Path<'c>, usize),
}

impl Path<'_> {
    fn render(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Field(parent, name) => {
                let mut path = parent.render();
                push_field(&mut path, name);
                path
            }
            Self::Index(parent, index) => format!("{}[{index}]", parent.render()),
        }
    }
}

/// What serde reports, and where, once a decoder that knows the place has seen it pass.
#[derive(Debug)]
enum DecodeError {
    Message(String),
    /// What was expected instead of the value.
    Expected(String),
    Missing(&'static str),
    Placed(Box<Fault>),
}

impl DecodeError {
    fn fault(self, place: &Place) -> Fault {
        match self {
            Self::Message(message) => place.fault(message, ""),
            Self::Expected(expected) => place.fault(format!("expected {expected}"), ""),
            Self::Missing(name) => place.child(name).fault("missing", "add this field"),
            Self::Placed(fault) => *fault,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(message) => f.write_str(message),
            Self::Expected(expected) => write!(f, "expected {expected}"),
            Self::Missing(name) => write!(f, "{name} is missing"),
            Self::Placed(fault) => f.write_str(&fault.reason),
        }
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Message(message.to_string())
    }

    fn invalid_type(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::Expected(expected.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }
}

impl<'de> Decoder<'de, '_> {
    fn place(&self) -> Place {
        self.node.place(&self.path.render())
    }

    fn mismatch(&self, expected: &str, remedy: &str) -> DecodeError {
        let reason = format!("expected {expected}, found {}", self.node.value);
        DecodeError::Placed(Box::new(self.place().fault(reason, remedy)))
    }

    /// Adds this place to a problem that has none yet.
    fn placed<T>(&self, result: Result<T, DecodeError>) -> Result<T, DecodeError> {
        result.map_err(|error| match error {
            DecodeError::Placed(_) => error,
            DecodeError::Expected(expected) => self.mismatch(&expected, "write one instead"),
            error => DecodeError::Placed(Box::new(error.fault(&self.place()))),
        })
    }

    fn members(&self) -> Result<&'de [Member], DecodeError> {
        match &self.node.value {
            Value::Map(members) => Ok(members),
            _ => Err(self.mismatch("a map of fields", "write `field: value` lines below it")),
        }
    }

    /// Reports the members that a struct does not know and returns the others that have a value.
    fn known_members(
        &self,
        name: &str,
        fields: &'static [&'static str],
    ) -> Result<Vec<&'de Member>, DecodeError> {
        let rules = self.context.rules.iter().find(|(of, _)| *of == name);
        let ignored = rules.map_or(&[][..], |(_, ignored)| *ignored);
        let mut known = Vec::with_capacity(fields.len());
        for member in self.members()? {
            if fields.contains(&member.key.as_str()) {
                if member.node.value != Value::Null {
                    known.push(member);
                }
            } else if !ignored.contains(&member.key.as_str()) {
                let all = || fields.iter().chain(ignored).copied();
                let remedy = match closest(&member.key, all()) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("known here: {}", fields.join(", ")),
                };
                let field = Path::Field(&self.path, &member.key).render();
                let place = Place {
                    line: member.line,
                    column: member.column,
                    field,
                };
                self.context
                    .unknown
                    .borrow_mut()
                    .push(place.fault("unknown field", remedy));
            }
        }
        Ok(known)
    }
}

impl<'de> Deserializer<'de> for Decoder<'de, '_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let result = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(_) => return self.deserialize_seq(visitor),
            Value::Map(_) => return self.deserialize_map(visitor),
        };
        self.placed(result)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            _ => Err(self.mismatch("true or false", "write true or false without quotes")),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Integer(value) => visitor.visit_i64(*value),
            _ => Err(self.mismatch("a whole number", "write it in digits without quotes")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(_) | Value::Map(_) => Err(self.mismatch("text", "write a single value")),
            _ => Err(self.mismatch("text", "put it in quotes")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if name == AT {
            visitor.visit_seq(AtParts {
                decoder: self,
                next: 0,
            })
        } else {
            visitor.visit_newtype_struct(self)
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let Value::List(items) = &self.node.value else {
            return Err(self.mismatch("a list", "write `- item` lines below it"));
        };
        self.placed(visitor.visit_seq(Items {
            decoder: self,
            items: items.iter().enumerate(),
        }))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let members = self.members()?.iter().collect::<Vec<_>>().into_iter();
        self.placed(visitor.visit_map(Members {
            decoder: self,
            members,
            value: None,
        }))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let members = self.known_members(name, fields)?.into_iter();
        self.placed(visitor.visit_map(Members {
            decoder: self,
            members,
            value: None,
        }))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
        enum identifier
    }
}

struct Items<'de, 'c> {
    decoder: Decoder<'de, 'c>,
    items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some((index, node)) = self.items.next() else {
            return Ok(None);
        };
        let path = Path::Index(&self.decoder.path, index);
        seed.deserialize(Decoder {
            node,
            path,
            context: self.decoder.context,
        })
        .map(Some)
    }
}

struct Members<'de, 'c> {
    decoder: Decoder<'de, 'c>,
    members: std::vec::IntoIter<&'de Member>,
    value: Option<&'de Member>,
}

impl<'de> MapAccess<'de> for Members<'de, '_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        self.value = self.members.next();
        let Some(member) = self.value else { return Ok(None) };
        let key: StrDeserializer<'_, DecodeError> = member.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let Some(member) = self.value.take() else {
            return Err(DecodeError::Message(
                "a value was asked for before its key".to_owned(),
            ));
        };
        let path = Path::Field(&self.decoder.path, &member.key);
        seed.deserialize(Decoder {
            node: &member.node,
            path,
            context: self.decoder.context,
        })
    }
}

/// The name by which [`At`] asks the decoder for a place as well; no struct can have it.
const AT: &str = "@";

/// What [`At`] is made of: line, column, path, value.
struct AtParts<'de, 'c> {
    decoder: Decoder<'de, 'c>,
    next: u8,
}

impl<'de> SeqAccess<'de> for AtParts<'de, '_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        self.next += 1;
        let decoder = self.decoder;
        let part = match self.next {
            1 => seed.deserialize(U32Deserializer::new(decoder.node.line)),
            2 => seed.deserialize(U32Deserializer::new(decoder.node.column)),
            3 => seed.deserialize(StringDeserializer::new(decoder.path.render())),
            4 => seed.deserialize(decoder),
            _ => return Ok(None),
        };
        part.map(Some)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(AT, AtVisitor(std::marker::PhantomData))
    }
}

struct AtVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for AtVisitor<T> {
    type Value = At<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value with its place")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<At<T>, A::Error> {
        let short = || de::Error::custom("a value without its place");
        let line = parts.next_element()?.ok_or_else(short)?;
        let column = parts.next_element()?.ok_or_else(short)?;
        let field = parts.next_element()?.ok_or_else(short)?;
        let value = parts.next_element()?.ok_or_else(short)?;
        Ok(At {
            value,
            place: Place { line, column, field },
        })
    }
}
