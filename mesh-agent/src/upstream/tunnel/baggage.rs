//! `baggage` (W3C Baggage): what a workload says about itself, for the telemetry of HBONE peers.
//!
//! Written for the source with a request and for the destination with its answer, in the keys that Istio uses. Never
//! read: it proves nothing, and what we know of a peer comes from its certificate and the configuration.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_common::model::Workload;

static BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// Labels that name the service a workload belongs to, the most telling first.
const SERVICE: &[&str] = &["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
/// Labels that name its version.
const VERSION: &[&str] = &[
    "service.istio.io/canonical-revision",
    "app.kubernetes.io/version",
    "version",
];

/// Writes what is known about a workload; keys without a value are left out.
pub(crate) fn write(headers: &mut HeaderMap, workload: &Workload) {
    let label = |names: &[&str]| names.iter().find_map(|name| workload.labels.get(*name));
    let name = workload.key.name.as_ref();
    let entries = [
        ("k8s.namespace.name", Some(workload.key.namespace.as_ref())),
        ("k8s.pod.name", Some(name)),
        (
            "service.name",
            label(SERVICE).map_or(Some(name), |label| Some(label)),
        ),
        ("service.version", label(VERSION).map(String::as_str)),
        (
            "cloud.region",
            label(&["topology.kubernetes.io/region"]).map(String::as_str),
        ),
        (
            "cloud.availability_zone",
            label(&["topology.kubernetes.io/zone"]).map(String::as_str),
        ),
    ];
    let mut text = String::new();
    for (key, value) in entries {
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            continue;
        };
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(key);
        text.push('=');
        encode(&mut text, value);
    }
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(BAGGAGE.clone(), value);
    }
}

/// Names and label values are letters, digits, `-`, `_` and `.`; anything else is percent-encoded.
fn encode(text: &mut String, value: &str) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::model::TunnelProtocol;

    use super::*;
    use crate::samples;

    fn written(labels: &[(&str, &str)]) -> String {
        let workload = Workload {
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            service_account: "web".to_owned(),
            tunnel: TunnelProtocol::Hbone,
            ..samples::workload("shop", "web-1")
        };
        let mut headers = HeaderMap::new();
        write(&mut headers, &workload);
        headers[&BAGGAGE].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_workload_says_what_its_labels_say() {
        assert_eq!(
            written(&[
                ("app", "web"),
                ("version", "v2"),
                ("topology.kubernetes.io/region", "north"),
                ("topology.kubernetes.io/zone", "north-1"),
            ]),
            "k8s.namespace.name=shop,k8s.pod.name=web-1,service.name=web,service.version=v2,\
             cloud.region=north,cloud.availability_zone=north-1"
        );
        let canonical = [("app", "web"), ("service.istio.io/canonical-name", "front")];
        assert!(written(&canonical).contains("service.name=front"));
    }

    #[test]
    fn without_labels_the_name_serves_and_empty_keys_are_left_out() {
        assert_eq!(
            written(&[("version", "")]),
            "k8s.namespace.name=shop,k8s.pod.name=web-1,service.name=web-1"
        );
    }

    #[test]
    fn no_value_can_write_another_key() {
        assert!(
            written(&[("app", "a,k8s.pod.name=b ü")]).ends_with("service.name=a%2Ck8s.pod.name%3Db%20%C3%BC")
        );
    }
}
