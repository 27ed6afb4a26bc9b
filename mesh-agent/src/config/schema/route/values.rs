//! Values that routes are made of.

use std::time::{Duration, UNIX_EPOCH};

use http::header::HeaderName;

use super::Faults;
use crate::config::decode::At;
use crate::config::fault::{Fault, Place};
use crate::config::names::{closest, dns_name};
use crate::config::tree::{Node, Value};

/// A fault if a list is longer than the Gateway API lets it be.
pub(super) fn at_most(length: usize, most: usize, what: &str, place: &Place, faults: &mut Faults) {
    if length > most {
        let reason = format!("{length} {what}, and {most} are possible");
        faults
            .0
            .push(place.fault(reason, "write a further route for the rest"));
    }
}

/// A fault if a text is empty, or longer than the Gateway API lets it be.
pub(super) fn sized(text: &At<String>, most: usize) -> Result<&str, Fault> {
    match text.value.len() {
        0 => Err(text.place.fault("empty", "write a value")),
        length if length > most => Err(text.place.fault(
            format!("{length} bytes long, and {most} are possible"),
            "make it shorter",
        )),
        _ => Ok(&text.value),
    }
}

/// The one of several words that stands there.
pub(super) fn one_of<T: Copy>(text: &At<String>, what: &str, words: &[(&str, T)]) -> Result<T, Fault> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
        return Ok(*value);
    }
    let names = || words.iter().map(|(word, _)| *word);
    let remedy = match closest(&text.value, names()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("use {}", names().collect::<Vec<_>>().join(", ")),
    };
    Err(text
        .place
        .fault(format!("{:?} is not a {what}", text.value), remedy))
}

/// The name of a header, in lower case.
pub(super) fn header_name(text: &At<String>) -> Result<String, Fault> {
    let name = sized(text, 256)?;
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(_) => Err(text.place.fault(
            format!("{name:?} is not the name of a header"),
            "use letters, digits and hyphens; pseudo-headers such as :path cannot be used",
        )),
    }
}

/// A host by its full name.
pub(super) fn hostname(name: &str, place: &Place) -> Result<(), Fault> {
    let remedy = "use a name such as web.example.com, without a port";
    if name.parse::<std::net::Ipv4Addr>().is_ok() {
        return Err(place.fault(format!("{name:?} is an address, not a host name"), remedy));
    }
    dns_name(name).map_err(|reason| place.fault(reason, remedy))
}

/// A regular expression. One that is right, but takes too much, is a matter of the route's conditions.
pub(super) fn expression(text: &At<String>) -> Result<(), Fault> {
    match regex::bytes::Regex::new(&text.value) {
        Err(regex::Error::Syntax(message)) => {
            let last = message.lines().last().unwrap_or_default();
            let reason = last.trim().trim_start_matches("error: ");
            Err(text.place.fault(
                format!("{:?} is not a regular expression: {reason}", text.value),
                "use the syntax of RE2, without look-around and back-references",
            ))
        }
        _ => Ok(()),
    }
}

/// A duration as GEP-2257 defines it: up to four numbers of up to five digits with h, m, s or ms.
pub(super) fn duration(text: &At<String>) -> Result<Duration, Fault> {
    let wrong = || {
        text.place.fault(
            format!("{:?} is not a duration", text.value),
            "use one such as 10s, 1m30s or 250ms",
        )
    };
    let mut rest = text.value.as_str();
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = rest.split_at(digits);
        let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let unit = units.iter().find(|(name, _)| unit.starts_with(name));
        let (Some((name, millis)), 1..=5) = (unit, digits) else {
            return Err(wrong());
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total += Duration::from_millis(number * millis);
        parts += 1;
        rest = &rest[digits + name.len()..];
    }
    if (1..=4).contains(&parts) {
        Ok(total)
    } else {
        Err(wrong())
    }
}

/// `metadata.creationTimestamp` in seconds since the Unix epoch, if it is given: it decides between routes.
pub(super) fn created(object: &Node) -> Result<Option<i64>, Fault> {
    const FIELD: &str = "creationTimestamp";
    let metadata = object.get("metadata");
    let Some(node) = metadata.and_then(|metadata| metadata.get(FIELD)) else {
        return Ok(None);
    };
    if node.value == Value::Null {
        return Ok(None);
    }
    let time = node
        .text()
        .and_then(|text| humantime::parse_rfc3339(text).ok())
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .and_then(|since| i64::try_from(since.as_secs()).ok());
    match time {
        Some(seconds) => Ok(Some(seconds)),
        None => Err(node.place("metadata.creationTimestamp").fault(
            format!("found {}", node.value),
            "use a time such as \"2026-01-31T12:00:00Z\", or leave it out",
        )),
    }
}
