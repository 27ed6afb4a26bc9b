//! Which requests a rule wants.

use mesh_common::model::{GrpcMatch, HttpMatch, NamedMatch, PathMatch, TextMatch};
use serde::Deserialize;

use super::Reading;
use super::values::{at_most, expression, header_name, one_of, sized};
use crate::config::decode::At;
use crate::config::fault::Fault;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawHttpMatch {
    path: Option<At<RawPath>>,
    headers: Vec<At<RawNamed>>,
    query_params: Vec<At<RawNamed>>,
    method: Option<At<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawGrpcMatch {
    method: Option<At<RawGrpcMethod>>,
    headers: Vec<At<RawNamed>>,
}

#[derive(Deserialize)]
struct RawPath {
    r#type: Option<At<String>>,
    value: Option<At<String>>,
}

#[derive(Deserialize)]
struct RawNamed {
    r#type: Option<At<String>>,
    name: At<String>,
    value: At<String>,
}

#[derive(Deserialize)]
struct RawGrpcMethod {
    r#type: Option<At<String>>,
    service: Option<At<String>>,
    method: Option<At<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    Exact,
    Regex,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ComparePath {
    Exact,
    Prefix,
    Regex,
}

pub(super) fn http_match(raw: RawHttpMatch, reading: &mut Reading<'_>) -> HttpMatch {
    const METHODS: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    let method = raw.method.and_then(|text| {
        let known = METHODS.map(|name| (name, name));
        reading.faults.keep(one_of(&text, "method", &known))
    });
    HttpMatch {
        path: path(raw.path, reading),
        method: method.map(str::to_owned),
        headers: named(raw.headers, Thing::Header, reading),
        query: named(raw.query_params, Thing::Parameter, reading),
    }
}

pub(super) fn grpc_match(raw: RawGrpcMatch, reading: &mut Reading<'_>) -> GrpcMatch {
    let mut read = GrpcMatch {
        headers: named(raw.headers, Thing::Header, reading),
        ..GrpcMatch::default()
    };
    let Some(At { value: raw, place }) = raw.method else {
        return read;
    };
    let filled = |text: Option<At<String>>| text.filter(|text| !text.value.is_empty());
    let (service, method) = (filled(raw.service), filled(raw.method));
    if service.is_none() && method.is_none() {
        let fault = place.fault("neither a service nor a method", "name one of them, or both");
        reading.faults.0.push(fault);
    }
    let compare = compare(raw.r#type, reading);
    let mut text = |text: Option<At<String>>, fits: fn(&str) -> bool| {
        let text = text?;
        let read = text_match(&text, compare, 1024).and_then(|read| match &read {
            TextMatch::Exact(exact) if !fits(exact) => Err(text.place.fault(
                format!("{exact:?} is not a name of a gRPC service or method"),
                "write the service with its package, such as shop.Cart, and the method alone, such as Get",
            )),
            _ => Ok(read),
        });
        reading.faults.keep(read)
    };
    read.service = text(service, |name| name.split('.').all(is_word));
    read.method = text(method, is_word);
    read
}

fn is_word(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(inner)
}

fn path(raw: Option<At<RawPath>>, reading: &mut Reading<'_>) -> PathMatch {
    let Some(At { value: raw, place }) = raw else {
        return PathMatch::default();
    };
    let known = [
        ("Exact", ComparePath::Exact),
        ("PathPrefix", ComparePath::Prefix),
        ("RegularExpression", ComparePath::Regex),
    ];
    let compare = raw.r#type.map(|text| one_of(&text, "type of path", &known));
    let compare = compare.unwrap_or(Ok(ComparePath::Prefix));
    let Some(compare) = reading.faults.keep(compare) else {
        return PathMatch::default();
    };
    let value = raw.value.unwrap_or_else(|| At {
        value: "/".to_owned(),
        place: place.child("value"),
    });
    let checked = sized(&value, 1024).and_then(|_| match compare {
        ComparePath::Regex => expression(&value),
        ComparePath::Exact | ComparePath::Prefix => plain_path(&value),
    });
    reading.faults.keep(checked);
    match compare {
        ComparePath::Exact => PathMatch::Exact(value.value),
        ComparePath::Prefix => PathMatch::Prefix(value.value),
        ComparePath::Regex => PathMatch::Regex(value.value),
    }
}

/// A path that can stand in a request, in its normal form.
fn plain_path(text: &At<String>) -> Result<(), Fault> {
    let path = text.value.as_str();
    let fault = |reason: &str, remedy: &str| Err(text.place.fault(format!("{path:?} {reason}"), remedy));
    if !path.starts_with('/') {
        return fault("does not begin with `/`", "write the whole path");
    }
    let mut segments = path[1..].split('/');
    if segments.any(|segment| matches!(segment, "." | "..")) || path.contains("//") {
        return fault("is not in its normal form", "leave out `//`, `/./` and `/../`");
    }
    if path.to_ascii_lowercase().contains("%2f") {
        return fault("has an escaped slash", "leave out `%2f`");
    }
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let escape = byte == b'%'
            && [bytes.next(), bytes.next()]
                .iter()
                .all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit()));
        if !escape && !byte.is_ascii_alphanumeric() && !b"-/._~!$&'()*+,;=:@".contains(&byte) {
            return fault("has characters that a path cannot have", "escape them as %XX");
        }
    }
    Ok(())
}

/// What has a name and a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thing {
    Header,
    Parameter,
}

fn named(list: Vec<At<RawNamed>>, thing: Thing, reading: &mut Reading<'_>) -> Vec<NamedMatch> {
    let (what, most) = match thing {
        Thing::Header => ("header", 4096),
        Thing::Parameter => ("query parameter", 1024),
    };
    if let Some(first) = list.first() {
        at_most(
            list.len(),
            16,
            &format!("{what}s"),
            &first.place,
            &mut reading.faults,
        );
    }
    let mut written: Vec<String> = Vec::new();
    let mut read: Vec<NamedMatch> = Vec::new();
    for At { value: raw, place } in list {
        let name = reading.faults.keep(header_name(&raw.name));
        let compare = compare(raw.r#type, reading);
        let value = reading.faults.keep(text_match(&raw.value, compare, most));
        let (Some(mut name), Some(value)) = (name, value) else {
            continue;
        };
        // Names of parameters, other than those of headers, are told apart by case.
        if thing == Thing::Parameter {
            name.clone_from(&raw.name.value);
        }
        if written.contains(&raw.name.value) {
            let reason = format!("{} is the name of another {what} already", raw.name.value);
            reading
                .faults
                .0
                .push(raw.name.place.fault(reason, "use each name once"));
        } else if read.iter().any(|known| known.name == name) {
            let reason = format!("{} stands there already, in other letters", raw.name.value);
            reading.ignored.push(place.fault(reason, "only the first counts"));
        } else {
            read.push(NamedMatch { name, value });
        }
        written.push(raw.name.value);
    }
    read
}

fn compare(text: Option<At<String>>, reading: &mut Reading<'_>) -> Compare {
    let known = [("Exact", Compare::Exact), ("RegularExpression", Compare::Regex)];
    let compare = text.map(|text| one_of(&text, "type of match", &known));
    let compare = compare.and_then(|compare| reading.faults.keep(compare));
    compare.unwrap_or(Compare::Exact)
}

fn text_match(text: &At<String>, compare: Compare, most: usize) -> Result<TextMatch, Fault> {
    let value = sized(text, most)?.to_owned();
    Ok(match compare {
        Compare::Exact => TextMatch::Exact(value),
        Compare::Regex => {
            expression(text)?;
            TextMatch::Regex(value)
        }
    })
}
