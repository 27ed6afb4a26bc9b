//! Istio's `security.istio.io` RequestAuthentication.
//!
//! A field that is not understood rejects the whole object: without it tokens could be taken that it keeps out.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri};
use mesh_common::model::{ClaimHeader, JwtKeys, JwtRule, OriginalToken, RequestAuthentication, TokenPlace};
use serde::Deserialize;

use super::Faults;
use super::authorization::{Selector, TargetRef, target};
use super::matching::empty;
use super::metadata::{self, Metadata};
use crate::config::decode::{At, Rules, decode};
use crate::config::fault::Fault;
use crate::config::names::dns_name;
use crate::config::object::{Object, Parsed};
use crate::config::tree::Node;

/// Reads and checks a request authentication.
pub(in crate::config) fn request_authentication(node: &Node) -> Result<Parsed, Vec<Fault>> {
    let RequestAuthenticationObject { metadata, spec } = decode(node, RULES)?;
    let mut faults = Faults::default();
    let key = metadata.key(dns_name, &mut faults);
    metadata.labels(&mut faults);
    let spec = spec.unwrap_or_default();
    let target = target(
        spec.selector,
        spec.target_refs,
        spec.target_ref,
        &key.namespace,
        &mut faults,
    );
    let rules: Vec<JwtRule> = spec
        .jwt_rules
        .into_iter()
        .filter_map(|rule| jwt_rule(rule, &mut faults))
        .collect();
    if !faults.0.is_empty() {
        return Err(faults.0);
    }
    let ignored = match rules.is_empty() {
        true => vec![node.place("spec").child("jwtRules").fault(
            "there are none, so no token is looked at",
            "add a rule with an issuer and its keys",
        )],
        false => Vec::new(),
    };
    let policy = RequestAuthentication { key, target, rules };
    Ok(Parsed {
        object: Object::RequestAuthentication(Arc::new(policy)),
        claims: Vec::new(),
        ignored,
    })
}

const RULES: Rules = &[
    ("RequestAuthenticationObject", &["apiVersion", "kind", "status"]),
    ("Metadata", metadata::IGNORED),
];

#[derive(Deserialize)]
struct RequestAuthenticationObject {
    metadata: Metadata,
    spec: Option<RequestAuthenticationSpec>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestAuthenticationSpec {
    selector: Option<At<Selector>>,
    #[serde(default)]
    target_refs: Vec<At<TargetRef>>,
    target_ref: Option<At<TargetRef>>,
    #[serde(default)]
    jwt_rules: Vec<At<RawRule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRule {
    issuer: At<String>,
    #[serde(default)]
    audiences: Vec<At<String>>,
    jwks_uri: Option<At<String>>,
    jwks: Option<At<String>>,
    #[serde(default)]
    from_headers: Vec<RawHeader>,
    #[serde(default)]
    from_params: Vec<At<String>>,
    #[serde(default)]
    from_cookies: Vec<At<String>>,
    output_payload_to_header: Option<At<String>>,
    #[serde(default)]
    output_claim_to_headers: Vec<RawClaimHeader>,
    #[serde(default)]
    forward_original_token: bool,
    timeout: Option<At<String>>,
}

#[derive(Deserialize)]
struct RawHeader {
    name: At<String>,
    prefix: Option<String>,
}

#[derive(Deserialize)]
struct RawClaimHeader {
    header: At<String>,
    claim: At<String>,
}

/// How long a fetch may take unless the rule says so, and at the most.
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

fn jwt_rule(At { value: raw, place }: At<RawRule>, faults: &mut Faults) -> Option<JwtRule> {
    let keys = match (raw.jwks, raw.jwks_uri) {
        (Some(inline), None) => faults.keep(key_set(inline)),
        (None, Some(url)) => faults.keep(key_url(url)),
        (Some(_), Some(_)) => {
            let fault = place.fault("jwks and jwksUri stand side by side", "remove one of them");
            faults.0.push(fault);
            None
        }
        (None, None) => {
            faults.0.push(place.fault(
                "the rule has no keys",
                "add jwksUri, or jwks with a key set; the issuer is not asked where its keys are",
            ));
            None
        }
    };
    for text in raw.audiences.iter().chain([&raw.issuer]) {
        if text.value.is_empty() {
            faults.0.push(empty(text));
        }
    }
    let mut places = Vec::new();
    for from in raw.from_headers {
        if let Some(name) = faults.keep(header(&from.name)) {
            places.push(TokenPlace::Header(name, from.prefix.unwrap_or_default()));
        }
    }
    for name in raw.from_params.iter().chain(&raw.from_cookies) {
        if let Some(bad) = name.value.chars().find(|letter| !is_plain(*letter)) {
            let reason = format!("{bad:?} cannot stand in this name");
            faults.0.push(
                name.place
                    .fault(reason, "use letters, digits and `-`, `_`, `.` or `~`"),
            );
        } else if name.value.is_empty() {
            faults.0.push(empty(name));
        }
    }
    let text = |name: At<String>| name.value;
    places.extend(raw.from_params.into_iter().map(text).map(TokenPlace::Parameter));
    places.extend(raw.from_cookies.into_iter().map(text).map(TokenPlace::Cookie));
    if places.is_empty() {
        places = vec![
            TokenPlace::Header("authorization".to_owned(), "Bearer ".to_owned()),
            TokenPlace::Parameter("access_token".to_owned()),
        ];
    }
    let payload_header = raw.output_payload_to_header.map(|name| output(&name, faults));
    let claim_headers = raw
        .output_claim_to_headers
        .into_iter()
        .map(|raw| {
            let claim: Vec<String> = raw.claim.value.split('.').map(str::to_owned).collect();
            if claim.iter().any(String::is_empty) {
                let reason = format!("{:?} is not a claim", raw.claim.value);
                faults.0.push(
                    raw.claim
                        .place
                        .fault(reason, "use a name, or names joined by dots"),
                );
            }
            ClaimHeader {
                header: output(&raw.header, faults),
                claim,
            }
        })
        .collect();
    let timeout = match raw.timeout {
        Some(text) => faults.keep(duration(&text)),
        None => Some(TIMEOUT),
    };
    Some(JwtRule {
        issuer: raw.issuer.value,
        audiences: raw.audiences.into_iter().map(text).collect(),
        keys: keys?,
        places,
        payload_header,
        claim_headers,
        original: match raw.forward_original_token {
            true => OriginalToken::Forwarded,
            false => OriginalToken::Removed,
        },
        timeout: timeout?,
    })
}

/// A key set that has a key which can be used.
fn key_set(text: At<String>) -> Result<JwtKeys, Fault> {
    let set: Result<serde_json::Value, _> = serde_json::from_str(&text.value);
    let fault = |reason: String| {
        let remedy = "write a JSON Web Key Set such as {\"keys\": [{\"kty\": \"RSA\", …}]}";
        Err(text.place.fault(reason, remedy))
    };
    let keys = match &set {
        Ok(set) => set.get("keys").and_then(serde_json::Value::as_array),
        Err(error) => return fault(format!("not JSON: {error}")),
    };
    let Some(keys) = keys else {
        return fault("has no list of keys".to_owned());
    };
    let types = keys.iter().filter_map(|key| key.get("kty")?.as_str());
    if !types.into_iter().any(|kind| matches!(kind, "RSA" | "EC" | "OKP")) {
        return fault("has no public key: kty RSA, EC or OKP".to_owned());
    }
    Ok(JwtKeys::Inline(text.value))
}

fn key_url(text: At<String>) -> Result<JwtKeys, Fault> {
    let fetchable = |uri: &Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri
                .authority()
                .is_some_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'))
    };
    match text.value.parse::<Uri>() {
        Ok(uri) if fetchable(&uri) => Ok(JwtKeys::Url(text.value)),
        _ => Err(text.place.fault(
            format!("{:?} is not a URL that keys can be fetched from", text.value),
            "use http://host/path or https://host/path",
        )),
    }
}

fn header(name: &At<String>) -> Result<String, Fault> {
    match name.value.parse::<HeaderName>() {
        Ok(known) => Ok(known.as_str().to_owned()),
        Err(_) => Err(name.place.fault(
            format!("{:?} is not the name of a header", name.value),
            "use letters, digits and hyphens",
        )),
    }
}

/// Headers that say how a request is carried; a claim must not.
const RESERVED: [&str; 8] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn output(name: &At<String>, faults: &mut Faults) -> String {
    let known = faults.keep(header(name)).unwrap_or_default();
    if RESERVED.contains(&known.as_str()) {
        let reason = format!("{known} says how a request is carried");
        faults
            .0
            .push(name.place.fault(reason, "use another header for claims"));
    }
    known
}

fn is_plain(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "-_.~".contains(letter)
}

/// `5s`, `1m30s`, `250ms`
fn duration(text: &At<String>) -> Result<Duration, Fault> {
    match text.value.parse::<humantime::Duration>() {
        Ok(time) if !time.is_zero() && *time <= MAX_TIMEOUT => Ok(*time),
        _ => Err(text.place.fault(
            format!("{:?} is not a time between 0 and 60 s", text.value),
            "use one such as 5s or 500ms",
        )),
    }
}
