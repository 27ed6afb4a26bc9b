//! The part that all objects have: name, namespace, labels.

use std::collections::BTreeMap;

use mesh_common::model::ObjectKey;
use serde::Deserialize;

use super::Faults;
use crate::config::decode::At;
use crate::config::names::{dns_label, label_key, label_value};
use crate::config::object::DEFAULT_NAMESPACE;

/// A text to check: why it does not fit, if it does not.
pub(super) type Rule = fn(&str) -> Result<(), String>;

#[derive(Deserialize)]
pub(super) struct Metadata {
    name: At<String>,
    namespace: Option<At<String>>,
    #[serde(default)]
    labels: BTreeMap<String, At<String>>,
}

/// Labels by name, each value with its place.
pub(super) type Labels = BTreeMap<String, At<String>>;

/// What Kubernetes keeps beside these in the metadata of an object.
pub(super) const IGNORED: &[&str] = &[
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

impl Metadata {
    /// Namespace and name; `rule` says what a name of this kind looks like.
    pub(super) fn key(&self, rule: Rule, faults: &mut Faults) -> ObjectKey {
        check(&self.name, rule, NAME, faults);
        let namespace = self.namespace.as_ref();
        if let Some(namespace) = namespace {
            check(namespace, dns_label, NAME, faults);
        }
        let namespace = namespace.map_or(DEFAULT_NAMESPACE, |namespace| &namespace.value);
        ObjectKey::new(namespace, self.name.value.as_str())
    }

    pub(super) fn labels(self, faults: &mut Faults) -> BTreeMap<String, String> {
        labels(self.labels, faults)
    }
}

/// What a DNS name is made of.
pub(super) const NAME: &str = "use lower-case letters, digits and inner hyphens";

const LABEL: &str = "use up to 63 letters, digits and inner `-`, `_` or `.`";

/// Adds a fault if the text does not fit the rule.
pub(super) fn check(text: &At<String>, rule: Rule, remedy: &str, faults: &mut Faults) {
    faults.keep(rule(&text.value).map_err(|reason| text.place.fault(reason, remedy)));
}

/// Checks a map of labels, also one that selects by them.
pub(super) fn labels(labels: Labels, faults: &mut Faults) -> BTreeMap<String, String> {
    let checked = labels.into_iter().map(|(key, value)| {
        faults.keep(label_key(&key).map_err(|reason| value.place.fault(reason, LABEL)));
        check(&value, label_value, LABEL, faults);
        (key, value.value)
    });
    checked.collect()
}
