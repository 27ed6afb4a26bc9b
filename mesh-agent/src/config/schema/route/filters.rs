//! What a rule does beside sending requests on.

use mesh_common::model::{
    Cors, HeaderModifier, Mirror, PathModifier, Redirect, Rewrite, RouteFilter, RouteKind,
};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::values::{at_most, header_name, hostname, one_of, sized};
use super::{RawObject, Reading, target};
use crate::config::decode::At;
use crate::config::fault::{Fault, Place};
use crate::config::schema::ports::{plain, port};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawFilter {
    r#type: At<String>,
    request_header_modifier: Option<At<RawHeaders>>,
    response_header_modifier: Option<At<RawHeaders>>,
    request_mirror: Option<At<RawMirror>>,
    request_redirect: Option<At<RawRedirect>>,
    url_rewrite: Option<At<RawRewrite>>,
    cors: Option<At<RawCors>>,
    extension_ref: Option<At<RawExtension>>,
    external_auth: Option<At<IgnoredAny>>,
}

#[derive(Deserialize)]
struct RawHeaders {
    #[serde(default)]
    set: Vec<RawHeader>,
    #[serde(default)]
    add: Vec<RawHeader>,
    #[serde(default)]
    remove: Vec<At<String>>,
}

#[derive(Deserialize)]
struct RawHeader {
    name: At<String>,
    value: At<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMirror {
    backend_ref: At<RawObject>,
    percent: Option<At<i64>>,
    fraction: Option<At<RawFraction>>,
}

#[derive(Deserialize)]
struct RawFraction {
    numerator: i64,
    denominator: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRedirect {
    scheme: Option<At<String>>,
    hostname: Option<At<String>>,
    path: Option<At<RawPathModifier>>,
    port: Option<At<i64>>,
    status_code: Option<At<i64>>,
}

#[derive(Deserialize)]
struct RawRewrite {
    hostname: Option<At<String>>,
    path: Option<At<RawPathModifier>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPathModifier {
    r#type: At<String>,
    replace_full_path: Option<At<String>>,
    replace_prefix_match: Option<At<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCors {
    #[serde(default)]
    allow_origins: Vec<At<String>>,
    #[serde(default)]
    allow_credentials: bool,
    #[serde(default)]
    allow_methods: Vec<At<String>>,
    #[serde(default)]
    allow_headers: Vec<At<String>>,
    #[serde(default)]
    expose_headers: Vec<At<String>>,
    max_age: Option<At<i64>>,
}

#[derive(Deserialize)]
struct RawExtension {
    group: String,
    kind: String,
    name: String,
}

/// A type of filter, and whether it may stand in a list more than once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    RequestHeaders,
    ResponseHeaders,
    Mirror,
    Redirect,
    Rewrite,
    Cors,
    Extension,
    ExternalAuth,
}

const TYPES: [(&str, Type); 8] = [
    ("RequestHeaderModifier", Type::RequestHeaders),
    ("ResponseHeaderModifier", Type::ResponseHeaders),
    ("RequestMirror", Type::Mirror),
    ("ExtensionRef", Type::Extension),
    ("RequestRedirect", Type::Redirect),
    ("URLRewrite", Type::Rewrite),
    ("CORS", Type::Cors),
    ("ExternalAuth", Type::ExternalAuth),
];

/// The first of the types above that a GRPCRoute has.
const GRPC_TYPES: usize = 4;

pub(super) fn filters(
    list: Vec<At<RawFilter>>,
    place: &Place,
    reading: &mut Reading<'_>,
) -> Vec<RouteFilter> {
    at_most(list.len(), 16, "filters", place, &mut reading.faults);
    let mut seen = Vec::new();
    let mut read = Vec::new();
    for At { value: raw, place } in list {
        let known = match reading.kind {
            RouteKind::Http => &TYPES[..],
            RouteKind::Grpc => &TYPES[..GRPC_TYPES],
        };
        let Some(kind) = reading.faults.keep(one_of(&raw.r#type, "type of filter", known)) else {
            continue;
        };
        let repeatable = matches!(kind, Type::Mirror | Type::Extension);
        if seen.contains(&kind) && !repeatable {
            let reason = format!("{} stands there more than once", raw.r#type.value);
            reading
                .faults
                .0
                .push(place.fault(reason, "put everything into one filter"));
        }
        seen.push(kind);
        if let Some(filter) = filter(kind, raw, &place, reading) {
            read.push(filter);
        }
    }
    read
}

/// Whether the filter replaces the part of the path that a prefix matched.
pub(super) fn replaces_prefix(filter: &RouteFilter) -> bool {
    let path = match filter {
        RouteFilter::Redirect(redirect) => &redirect.path,
        RouteFilter::Rewrite(rewrite) => &rewrite.path,
        _ => &None,
    };
    matches!(path, Some(PathModifier::Prefix(_)))
}

fn filter(kind: Type, mut raw: RawFilter, place: &Place, reading: &mut Reading<'_>) -> Option<RouteFilter> {
    let own = match kind {
        Type::RequestHeaders => "requestHeaderModifier",
        Type::ResponseHeaders => "responseHeaderModifier",
        Type::Mirror => "requestMirror",
        Type::Redirect => "requestRedirect",
        Type::Rewrite => "urlRewrite",
        Type::Cors => "cors",
        Type::Extension => "extensionRef",
        Type::ExternalAuth => "externalAuth",
    };
    for (name, there) in [
        ("requestHeaderModifier", raw.request_header_modifier.is_some()),
        ("responseHeaderModifier", raw.response_header_modifier.is_some()),
        ("requestMirror", raw.request_mirror.is_some()),
        ("requestRedirect", raw.request_redirect.is_some()),
        ("urlRewrite", raw.url_rewrite.is_some()),
        ("cors", raw.cors.is_some()),
        ("extensionRef", raw.extension_ref.is_some()),
        ("externalAuth", raw.external_auth.is_some()),
    ] {
        if there && name != own {
            let reason = format!("the filter is of type {}", raw.r#type.value);
            let remedy = format!("remove {name}, or make it a filter of its own");
            reading.faults.0.push(place.child(name).fault(reason, remedy));
        } else if !there && name == own {
            let fault = place.child(own).fault("missing", "say what the filter does");
            reading.faults.0.push(fault);
        }
    }
    Some(match kind {
        Type::RequestHeaders => {
            RouteFilter::RequestHeaders(headers(raw.request_header_modifier.take()?, reading))
        }
        Type::ResponseHeaders => {
            RouteFilter::ResponseHeaders(headers(raw.response_header_modifier.take()?, reading))
        }
        Type::Mirror => RouteFilter::Mirror(mirror(raw.request_mirror.take()?, reading)?),
        Type::Redirect => RouteFilter::Redirect(redirect(raw.request_redirect.take()?.value, reading)),
        Type::Rewrite => {
            let raw = raw.url_rewrite.take()?.value;
            RouteFilter::Rewrite(Rewrite {
                hostname: host(raw.hostname, reading),
                path: path(raw.path, reading),
            })
        }
        Type::Cors => RouteFilter::Cors(cors(raw.cors.take()?, reading)),
        Type::Extension => {
            let RawExtension { group, kind, name } = raw.extension_ref.take()?.value;
            RouteFilter::Extension { group, kind, name }
        }
        Type::ExternalAuth => {
            let fault = place.fault(
                "external authorization is not supported",
                "remove the filter; AuthorizationPolicy says who may call the service",
            );
            reading.faults.0.push(fault);
            return None;
        }
    })
}

fn headers(At { value: raw, place }: At<RawHeaders>, reading: &mut Reading<'_>) -> HeaderModifier {
    let faults = &mut reading.faults;
    for (name, length) in [
        ("set", raw.set.len()),
        ("add", raw.add.len()),
        ("remove", raw.remove.len()),
    ] {
        at_most(length, 16, "headers", &place.child(name), faults);
    }
    let mut seen: Vec<String> = Vec::new();
    let mut name = |text: &At<String>| {
        let name = header_name(text)?;
        if seen.contains(&name) {
            let reason = format!("{name} is changed already");
            return Err(text.place.fault(reason, "do one thing to each header"));
        }
        seen.push(name.clone());
        Ok(name)
    };
    let mut pair = |raw: &RawHeader| {
        let name = name(&raw.name)?;
        let value = sized(&raw.value, 4096)?;
        let printable = value
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte) || byte == b'\t');
        if printable && value.trim() == value {
            Ok((name, value.to_owned()))
        } else {
            let remedy = "use printable ASCII characters, without spaces at the ends";
            Err(raw
                .value
                .place
                .fault(format!("{value:?} is not the value of a header"), remedy))
        }
    };
    let set = raw.set.iter().filter_map(|raw| faults.keep(pair(raw))).collect();
    let add = raw.add.iter().filter_map(|raw| faults.keep(pair(raw))).collect();
    HeaderModifier {
        set,
        add,
        remove: raw
            .remove
            .iter()
            .filter_map(|text| faults.keep(name(text)))
            .collect(),
    }
}

fn mirror(At { value: raw, place }: At<RawMirror>, reading: &mut Reading<'_>) -> Option<Mirror> {
    let At {
        value: backend,
        place: backend_place,
    } = raw.backend_ref;
    let target = target(backend, &backend_place, reading);
    let (numerator, denominator, at) = match (raw.percent, raw.fraction) {
        (Some(percent), Some(_)) => {
            let fault = percent
                .place
                .fault("stands beside fraction", "use one of the two");
            reading.faults.0.push(fault);
            return None;
        }
        (Some(percent), None) => (percent.value, 100, percent.place),
        (None, Some(At { value: raw, place })) => (raw.numerator, raw.denominator.unwrap_or(100), place),
        (None, None) => (100, 100, place),
    };
    let share = u32::try_from(numerator).ok().zip(u32::try_from(denominator).ok());
    let Some((numerator, denominator)) = share.filter(|(part, whole)| *whole > 0 && part <= whole) else {
        let reason = format!("{numerator} of {denominator} is not a share");
        let remedy = "use a percentage of 0 to 100, or a numerator that is at most the denominator";
        reading.faults.0.push(at.fault(reason, remedy));
        return None;
    };
    Some(Mirror {
        target,
        numerator,
        denominator,
    })
}

fn redirect(raw: RawRedirect, reading: &mut Reading<'_>) -> Redirect {
    let scheme = raw.scheme.and_then(|text| {
        let known = [("http", "http"), ("https", "https")];
        reading
            .faults
            .keep(one_of(&text, "scheme to redirect to", &known))
    });
    let status = raw
        .status_code
        .map_or(Ok(302), |code| match u16::try_from(code.value) {
            Ok(status @ (301 | 302 | 303 | 307 | 308)) => Ok(status),
            _ => Err(code.place.fault(
                format!("{} is not the status of a redirect", code.value),
                "use 301, 302, 303, 307 or 308",
            )),
        });
    let number = raw.port.map(|number| port(number.value, &number.place));
    Redirect {
        scheme: scheme.map(str::to_owned),
        hostname: host(raw.hostname, reading),
        path: path(raw.path, reading),
        port: number.and_then(|number| reading.faults.keep(number)),
        status: reading.faults.keep(status).unwrap_or_default(),
    }
}

fn host(text: Option<At<String>>, reading: &mut Reading<'_>) -> Option<String> {
    let text = text?;
    reading.faults.keep(hostname(&text.value, &text.place));
    Some(text.value)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Replace {
    Full,
    Prefix,
}

fn path(raw: Option<At<RawPathModifier>>, reading: &mut Reading<'_>) -> Option<PathModifier> {
    let At { value: raw, place } = raw?;
    let known = [
        ("ReplaceFullPath", Replace::Full),
        ("ReplacePrefixMatch", Replace::Prefix),
    ];
    let replace = reading
        .faults
        .keep(one_of(&raw.r#type, "way to replace a path", &known))?;
    let (own, name, other, other_name) = match replace {
        Replace::Full => (
            raw.replace_full_path,
            "replaceFullPath",
            raw.replace_prefix_match,
            "replacePrefixMatch",
        ),
        Replace::Prefix => (
            raw.replace_prefix_match,
            "replacePrefixMatch",
            raw.replace_full_path,
            "replaceFullPath",
        ),
    };
    if let Some(other) = other {
        let reason = format!("the type is {}", raw.r#type.value);
        reading
            .faults
            .0
            .push(other.place.fault(reason, format!("remove {other_name}")));
    }
    let Some(own) = own else {
        reading
            .faults
            .0
            .push(place.child(name).fault("missing", "write the new path"));
        return None;
    };
    let empty_prefix = replace == Replace::Prefix && own.value.is_empty();
    if !empty_prefix {
        reading.faults.keep(new_path(&own));
    }
    Some(match replace {
        Replace::Full => PathModifier::Full(own.value),
        Replace::Prefix => PathModifier::Prefix(own.value),
    })
}

/// A path that a request can get.
fn new_path(text: &At<String>) -> Result<(), Fault> {
    let path = sized(text, 1024)?;
    let parsed = path.parse::<http::uri::PathAndQuery>();
    if path.starts_with('/') && !path.contains(['?', '#']) && parsed.is_ok() {
        return Ok(());
    }
    let remedy = "begin with `/`, and leave out query and fragment";
    Err(text.place.fault(format!("{path:?} is not a path"), remedy))
}

fn cors(At { value: raw, place }: At<RawCors>, reading: &mut Reading<'_>) -> Cors {
    let mut list =
        |texts: Vec<At<String>>, name: &str, most: usize, fits: fn(&At<String>) -> Result<(), Fault>| {
            at_most(texts.len(), most, name, &place.child(name), &mut reading.faults);
            let alone = texts.len() == 1 || texts.iter().all(|text| text.value != "*");
            if !alone {
                let fault = place
                    .child(name)
                    .fault("`*` stands beside others", "leave `*` alone, or out");
                reading.faults.0.push(fault);
            }
            for text in texts.iter().filter(|text| text.value != "*") {
                reading.faults.keep(fits(text));
            }
            texts.into_iter().map(Some).filter_map(plain).collect()
        };
    let a_header = |text: &At<String>| header_name(text).map(drop);
    let read = (
        list(raw.allow_origins, "allowOrigins", 64, origin),
        list(raw.allow_methods, "allowMethods", 9, method),
        list(raw.allow_headers, "allowHeaders", 64, a_header),
        list(raw.expose_headers, "exposeHeaders", 64, a_header),
    );
    let max_age = raw.max_age.map_or(Ok(5), |age| match u32::try_from(age.value) {
        Ok(seconds) if (1..=i32::MAX.unsigned_abs()).contains(&seconds) => Ok(seconds),
        _ => Err(age.place.fault(
            format!("{} is not a number of seconds", age.value),
            "use at least 1",
        )),
    });
    let (allow_origins, allow_methods, allow_headers, expose_headers) = read;
    Cors {
        allow_origins,
        allow_credentials: raw.allow_credentials,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age: reading.faults.keep(max_age).unwrap_or_default(),
    }
}

/// `http://` or `https://`, a host that may be or begin with a wildcard, and perhaps a port.
fn origin(text: &At<String>) -> Result<(), Fault> {
    let parse = |text: &str| {
        let rest = text
            .strip_prefix("http://")
            .or_else(|| text.strip_prefix("https://"))?;
        let (host, port) = match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        };
        let plain = host.strip_prefix("*.").unwrap_or(host);
        let host_fits = host == "*" || crate::config::names::dns_name(plain).is_ok();
        let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        (host_fits && port_fits).then_some(())
    };
    parse(&text.value).ok_or_else(|| {
        text.place.fault(
            format!("{:?} is not an origin", text.value),
            "use `*`, or one such as https://www.example.com, https://*.example.com or http://example.com:8080",
        )
    })
}

fn method(text: &At<String>) -> Result<(), Fault> {
    let known = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    one_of(text, "method", &known.map(|name| (name, ())))
}
