//! The `when` part of an authorization policy: a key that says what is looked at, and values for it.

use mesh_common::model::{Condition, RequestField};
use serde::Deserialize;

use super::Faults;
use super::matching::{Texts, network, pattern, port, principal, service_account, values};
use crate::config::decode::At;
use crate::config::fault::Fault;
use crate::config::names::closest;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawCondition {
    key: At<String>,
    #[serde(default)]
    values: Texts,
    #[serde(default)]
    not_values: Texts,
}

/// Reads one condition of a policy in the namespace `own`.
pub(super) fn condition(raw: At<RawCondition>, own: &str, faults: &mut Faults) -> Option<Condition> {
    let At {
        value:
            RawCondition {
                key,
                values: any,
                not_values: none,
            },
        place,
    } = raw;
    let key = faults.keep(parse(&key));
    if any.is_empty() && none.is_empty() {
        let fault = place.fault("no values to compare with", "add values, notValues or both");
        faults.0.push(fault);
        return None;
    }
    Some(match key? {
        Key::SourceIp => Condition::SourceIp(values(any, none, network, faults)),
        Key::RemoteIp => Condition::RemoteIp(values(any, none, network, faults)),
        Key::DestinationIp => Condition::DestinationIp(values(any, none, network, faults)),
        Key::DestinationPort => Condition::DestinationPort(values(any, none, port, faults)),
        Key::SourceNamespace => Condition::SourceNamespace(values(any, none, pattern, faults)),
        Key::SourcePrincipal => Condition::SourcePrincipal(values(any, none, principal, faults)),
        Key::SourceServiceAccount => {
            let account = |text: &At<String>| service_account(text, own);
            Condition::SourceServiceAccount(values(any, none, account, faults))
        }
        Key::Sni => Condition::Sni(values(any, none, pattern, faults)),
        Key::Request(field) => Condition::Request(field, values(any, none, pattern, faults)),
    })
}

enum Key {
    SourceIp,
    RemoteIp,
    DestinationIp,
    DestinationPort,
    SourceNamespace,
    SourcePrincipal,
    SourceServiceAccount,
    Sni,
    Request(RequestField),
}

/// The keys without brackets.
const KEYS: [&str; 11] = [
    "source.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "remote.ip",
    "destination.ip",
    "destination.port",
    "connection.sni",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
];

/// The keys that something in brackets follows.
const HEADERS: &str = "request.headers";
const CLAIMS: &str = "request.auth.claims";

fn parse(key: &At<String>) -> Result<Key, Fault> {
    Ok(match key.value.as_str() {
        "source.ip" => Key::SourceIp,
        "source.namespace" => Key::SourceNamespace,
        "source.principal" => Key::SourcePrincipal,
        "source.serviceAccount" => Key::SourceServiceAccount,
        "remote.ip" => Key::RemoteIp,
        "destination.ip" => Key::DestinationIp,
        "destination.port" => Key::DestinationPort,
        "connection.sni" => Key::Sni,
        "request.auth.principal" => Key::Request(RequestField::Principal),
        "request.auth.audiences" => Key::Request(RequestField::Audiences),
        "request.auth.presenter" => Key::Request(RequestField::Presenter),
        text => {
            let field = if let Some(rest) = text.strip_prefix(HEADERS) {
                header(rest)
            } else {
                text.strip_prefix(CLAIMS).and_then(claim)
            };
            return field.map(Key::Request).ok_or_else(|| unknown(key));
        }
    })
}

/// `[name]`
fn header(rest: &str) -> Option<RequestField> {
    let name = rest.strip_prefix('[')?.strip_suffix(']')?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (!name.is_empty() && name.bytes().all(token)).then(|| RequestField::Header(name.to_owned()))
}

/// `[claim]` or `[claim][nested]`
fn claim(rest: &str) -> Option<RequestField> {
    let inner = rest.strip_prefix('[')?.strip_suffix(']')?;
    let path: Vec<String> = inner.split("][").map(str::to_owned).collect();
    let fits = |step: &String| !step.is_empty() && !step.contains(['[', ']']);
    path.iter().all(fits).then_some(RequestField::Claim(path))
}

fn unknown(key: &At<String>) -> Fault {
    let text = key.value.as_str();
    let bracketed = [HEADERS, CLAIMS];
    let remedy = if let Some(of) = bracketed.iter().find(|of| text.starts_with(**of)) {
        format!("write {of}[name]")
    } else {
        let plain = text.split('[').next().unwrap_or(text);
        match closest(plain, KEYS.into_iter().chain(bracketed)) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("known are {}, {HEADERS}[], {CLAIMS}[]", KEYS.join(", ")),
        }
    };
    key.place.fault(format!("{text:?} is not a known key"), remedy)
}
