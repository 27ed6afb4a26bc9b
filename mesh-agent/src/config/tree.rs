//! A YAML document as a tree in which every value knows its place in it.
//!
//! `parse` hands documents in; `decode` and `object` read the tree. It stands between the YAML library and the
//! typed objects so that an object can be identified before it is decoded, each item of a list can fail alone,
//! and every problem has a position.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error, Location, Spanned};

use super::fault::{Fault, Place};

/// A value and its position in the document, both from 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) value: Value,
}

/// A YAML value by the rules of YAML 1.2: `yes` and `no` are text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Member>),
}

/// One key of a map with its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) key: String,
    pub(super) node: Node,
}

/// Reads one document; a document without content is [`Value::Null`].
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        reject_unsupported_tags: true,
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_events: MAX_NODES,
            max_nodes: MAX_NODES,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPEATED },
    };
    let raw: Spanned<RawValue> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| syntax_fault(&error))?;
    Ok(node(raw))
}

impl Node {
    /// The value of a key, if this is a map that has it and it is not null.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Value::Map(members) = &self.value else {
            return None;
        };
        let member = members.iter().find(|member| member.key == key)?;
        (member.node.value != Value::Null).then_some(&member.node)
    }

    /// The text, if this is one.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn place(&self, field: &str) -> Place {
        Place {
            line: self.line,
            column: self.column,
            field: field.to_owned(),
        }
    }
}

/// What the value is, for messages.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Bool(value) => write!(f, "the boolean {value}"),
            Self::Integer(value) => write!(f, "the number {value}"),
            Self::Float(value) => write!(f, "the number {value}"),
            Self::Text(text) if text.chars().count() > 40 => f.write_str("a long text"),
            Self::Text(text) => write!(f, "the text {text:?}"),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a map"),
        }
    }
}

/// Deep enough for any object, shallow enough for any stack.
const MAX_DEPTH: usize = 128;

/// Enough for a list of a hundred thousand objects.
const MAX_NODES: usize = 20_000_000;

/// How many values aliases may stand for; a few lines of them can ask for billions.
const MAX_REPEATED: usize = 100_000;

fn node(raw: Spanned<RawValue>) -> Node {
    let (line, column) = position(raw.referenced);
    let value = match raw.value {
        RawValue::Plain(value) => value,
        RawValue::List(items) => Value::List(items.into_iter().map(node).collect()),
        RawValue::Map(members) => Value::Map(
            members
                .into_iter()
                .map(|(key, value)| {
                    let (line, column) = position(key.referenced);
                    Member {
                        line,
                        column,
                        key: key.value,
                        node: node(value),
                    }
                })
                .collect(),
        ),
    };
    Node { line, column, value }
}

fn position(location: Location) -> (u32, u32) {
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    (number(location.line()), number(location.column()))
}

fn syntax_fault(error: &Error) -> Fault {
    let error = error.without_snippet();
    let (line, column) = match error.location() {
        Some(location) => position(location),
        None => (1, 1),
    };
    let place = Place {
        line,
        column,
        field: String::new(),
    };
    if let Error::DuplicateMappingKey { key: Some(key), .. } = error {
        return place.fault(
            format!("the key {key} stands here a second time"),
            "remove one of the two",
        );
    }
    let message = error.to_string();
    // The position is told apart from the message, and for the whole file.
    let message = message
        .rfind(" at line ")
        .map_or(message.as_str(), |at| &message[..at]);
    place.fault(
        format!("not valid YAML: {message}"),
        "correct the syntax of this document",
    )
}

enum RawValue {
    Plain(Value),
    List(Vec<Spanned<RawValue>>),
    Map(Vec<(Spanned<String>, Spanned<RawValue>)>),
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Plain(Value::Null))
    }

    fn visit_none<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Plain(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<RawValue, E> {
        Ok(RawValue::Plain(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<RawValue, E> {
        Ok(RawValue::Plain(Value::Integer(value)))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<RawValue, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => Err(E::custom(format_args!("the number {value} is too large"))),
        }
    }

    fn visit_f64<E>(self, value: f64) -> Result<RawValue, E> {
        Ok(RawValue::Plain(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<RawValue, E> {
        Ok(RawValue::Plain(Value::Text(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<RawValue, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(RawValue::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<RawValue, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = access.next_entry()? {
            members.push(member);
        }
        Ok(RawValue::Map(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_place_in_the_document() {
        let root = parse("a: 1\nb:\n  - x: yes\n    y: ~\n").unwrap();
        assert_eq!(
            root.get("a").unwrap(),
            &Node {
                line: 1,
                column: 4,
                value: Value::Integer(1)
            }
        );
        let Value::List(items) = &root.get("b").unwrap().value else {
            panic!("not a list")
        };
        assert_eq!((items[0].line, items[0].column), (3, 5));
        assert_eq!(items[0].get("x").unwrap().text(), Some("yes"));
        assert_eq!(items[0].get("y"), None, "null is as good as absent");
    }

    #[test]
    fn json_with_tabs_is_read() {
        let root = parse("{\n\t\"a\": \"x\\u00e9\\/\",\n\t\"b\": [\n\t\t1\n\t]\n}\n").unwrap();
        assert_eq!(root.get("a").unwrap().text(), Some("xé/"));
    }

    #[test]
    fn no_content_is_null() {
        for text in ["", "# only a comment\n", "---\n", "---\n# c\n...\n", "\u{feff}"] {
            assert_eq!(parse(text).map(|node| node.value), Ok(Value::Null), "{text:?}");
        }
    }

    #[test]
    fn syntax_errors_have_a_position_and_no_noise() {
        for (text, line, column, reason) in [
            ("a: [1,\n", 1, 4, "not valid YAML: unclosed bracket '['"),
            (
                "a: b: c\n",
                1,
                5,
                "not valid YAML: mapping values are not allowed in this context",
            ),
            ("a: 1\na: 2\n", 2, 1, "the key a stands here a second time"),
            ("a: *x\n", 1, 4, "not valid YAML: alias references unknown anchor"),
            ("? [a]\n: b\n", 1, 3, "not valid YAML: expected string scalar"),
        ] {
            let fault = parse(text).unwrap_err();
            assert_eq!(
                (fault.place.line, fault.place.column, fault.reason.as_str()),
                (line, column, reason)
            );
        }
    }

    #[test]
    fn deep_nesting_and_alias_bombs_are_refused() {
        let deep = "[".repeat(100_000);
        assert!(parse(&deep).is_err());
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = level - 1;
            let list = vec![format!("*a{before}"); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        assert!(parse(&bomb).is_err());
    }
}
