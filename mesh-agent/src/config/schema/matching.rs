//! What authorization policies compare with: patterns for text, networks, ports, service accounts.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use mesh_common::model::{ObjectKey, PathPattern, Pattern, Values};

use super::Faults;
use crate::config::decode::At;
use crate::config::fault::Fault;
use crate::config::names::{dns_label, dns_name};
use crate::policy::pattern::{Extent, check};

/// Texts as they stand in a policy.
pub(super) type Texts = Vec<At<String>>;

/// Reads the values that a field wants, and those that it excludes.
pub(super) fn values<T>(
    any: Texts,
    none: Texts,
    read: impl Fn(&At<String>) -> Result<T, Fault>,
    faults: &mut Faults,
) -> Values<T> {
    let mut list = |texts: Texts| texts.iter().filter_map(|text| faults.keep(read(text))).collect();
    Values {
        any: list(any),
        none: list(none),
    }
}

/// `abc`, `abc*`, `*abc` or `*`.
pub(super) fn pattern(text: &At<String>) -> Result<Pattern, Fault> {
    let value = text.value.as_str();
    let pattern = match (value.strip_prefix('*'), value.strip_suffix('*')) {
        _ if value.is_empty() => return Err(empty(text)),
        _ if value == "*" => return Ok(Pattern::Present),
        (Some(suffix), None) => Pattern::Suffix(suffix.to_owned()),
        (None, Some(prefix)) => Pattern::Prefix(prefix.to_owned()),
        _ => Pattern::Exact(value.to_owned()),
    };
    match &pattern {
        Pattern::Exact(rest) | Pattern::Prefix(rest) | Pattern::Suffix(rest) if rest.contains('*') => {
            Err(text.place.fault(
                format!("{value:?} has `*` where it cannot stand"),
                "use one `*`, at the beginning or at the end",
            ))
        }
        _ => Ok(pattern),
    }
}

/// A pattern for a peer's identity.
pub(super) fn principal(text: &At<String>) -> Result<Pattern, Fault> {
    match text.value.split_once("spiffe://") {
        Some((_, rest)) => Err(text.place.fault(
            format!("{:?} is a SPIFFE id, not a principal", text.value),
            format!("leave out spiffe://: {rest:?}"),
        )),
        None => pattern(text),
    }
}

/// A pattern for a path, or a template with `{*}` and `{**}`, that some path is like.
pub(super) fn path(text: &At<String>) -> Result<PathPattern, Fault> {
    let value = text.value.as_str();
    if !value.contains(['{', '}']) {
        let pattern = pattern(text)?;
        match &pattern {
            Pattern::Exact(path) => some_path(text, path, Extent::Whole)?,
            Pattern::Prefix(start) => some_path(text, start, Extent::Beginning)?,
            Pattern::Suffix(end) => some_path(text, end, Extent::End)?,
            Pattern::Present => {}
        }
        return Ok(PathPattern::Text(pattern));
    }
    let fault = |reason: &str, remedy: &str| Err(text.place.fault(format!("{value:?} {reason}"), remedy));
    let Some(path) = value.strip_prefix('/') else {
        return fault(
            "is a path template that does not begin with `/`",
            "write the whole path",
        );
    };
    let mut open = true;
    for segment in path.split('/') {
        match segment {
            "{*}" | "{**}" if !open => {
                return fault("has a wildcard behind `{**}`", "make `{**}` the last one");
            }
            "{*}" => {}
            "{**}" => open = false,
            _ if segment.contains(['{', '}', '*']) => {
                return fault(
                    "is not a path template",
                    "let `{*}` and `{**}` stand for whole segments, without other wildcards",
                );
            }
            _ => {}
        }
    }
    // With these segments no path is spelt otherwise.
    let example = value.replace("{**}", WHATEVER).replace("{*}", ANYTHING);
    some_path(text, &example, Extent::Whole)?;
    Ok(PathPattern::Template(value.to_owned()))
}

/// Stand for the wildcards of a template, and in no path that somebody writes.
const ANYTHING: &str = "(*)";
const WHATEVER: &str = "(**)";

/// Refuses what no path is like: a rule that denies it would deny nothing.
fn some_path(text: &At<String>, part: &str, extent: Extent) -> Result<(), Fault> {
    check(part, extent).map_err(|never| {
        let remedy = match never.meant {
            Some(meant) => {
                let meant = meant.replace(WHATEVER, "{**}").replace(ANYTHING, "{*}");
                match extent {
                    Extent::Whole => format!("write {meant:?}"),
                    Extent::Beginning => format!("write \"{meant}*\""),
                    Extent::End => format!("write \"*{meant}\""),
                }
            }
            None => "write a path as it is without its query, such as /cart/items".to_owned(),
        };
        text.place
            .fault(format!("{:?} is like no path: {}", text.value, never.why), remedy)
    })
}

/// A network, or an address that stands for itself alone.
pub(super) fn network(text: &At<String>) -> Result<IpNet, Fault> {
    let value = text.value.as_str();
    let network = match value.parse::<IpAddr>() {
        Ok(ip) => Some(IpNet::from(ip)),
        Err(_) => value.parse::<IpNet>().ok(),
    };
    match network {
        Some(network) => Ok(canonical(network.trunc())),
        None => Err(text.place.fault(
            format!("{value:?} is neither an address nor a network"),
            "use one such as 10.1.0.10, 10.1.0.0/16 or fd00::/64",
        )),
    }
}

/// A port in quotes, as Istio writes it.
pub(super) fn port(text: &At<String>) -> Result<u16, Fault> {
    let digits = text.value.bytes().all(|byte| byte.is_ascii_digit());
    match text.value.parse::<u16>() {
        Ok(port) if port > 0 && digits => Ok(port),
        _ => Err(text
            .place
            .fault(format!("{:?} is not a port", text.value), "use 1 to 65535")),
    }
}

/// `namespace/account`, or `account` of the policy's own namespace.
pub(super) fn service_account(text: &At<String>, own: &str) -> Result<ObjectKey, Fault> {
    let (namespace, name) = text.value.split_once('/').unwrap_or((own, &text.value));
    if dns_label(namespace).is_ok() && dns_name(name).is_ok() {
        Ok(ObjectKey::new(namespace, name))
    } else {
        Err(text.place.fault(
            format!("{:?} is not a service account", text.value),
            "use its name, or its namespace, a slash and its name; patterns are not possible here",
        ))
    }
}

/// A value that may not be empty is.
pub(super) fn empty(text: &At<String>) -> Fault {
    text.place.fault("empty", "write a value, or remove it")
}

/// An IPv4-mapped network as the IPv4 network that it is.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let v4 = v6.network().to_ipv4_mapped();
    let length = v6.prefix_len().checked_sub(96);
    match v4.zip(length).map(|(ip, length)| Ipv4Net::new(ip, length)) {
        Some(Ok(v4)) => IpNet::V4(v4),
        _ => network,
    }
}
