//! Istio's `security.istio.io` AuthorizationPolicy.
//!
//! A field that is not understood rejects the whole policy: to leave it out could let in what it keeps out.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_common::model::{
    Action, AuthorizationPolicy, Enforcement, ObjectKey, Operation, Rule, Source, Target,
};
use serde::Deserialize;

use super::Faults;
use super::condition::{RawCondition, condition};
use super::matching::{Texts, empty, network, path, pattern, port, principal, service_account, values};
use super::metadata::{self, Labels, Metadata, NAME, check};
use crate::config::decode::{At, Rules, decode};
use crate::config::fault::{Fault, Place};
use crate::config::names::{dns_label, dns_name};
use crate::config::object::{Object, Parsed};
use crate::config::tree::Node;

/// Reads and checks an authorization policy.
pub(in crate::config) fn authorization_policy(node: &Node) -> Result<Parsed, Vec<Fault>> {
    let AuthorizationObject { metadata, spec } = decode(node, RULES)?;
    let mut faults = Faults::default();
    let key = metadata.key(dns_name, &mut faults);
    metadata.labels(&mut faults);
    let enforcement = faults.keep(enforcement(node)).unwrap_or(Enforcement::Enforced);
    let At { value: spec, place } = spec.unwrap_or_else(|| At {
        value: AuthorizationSpec::default(),
        place: node.place("spec"),
    });
    let action_place = spec
        .action
        .as_ref()
        .map_or_else(|| place.clone(), |action| action.place.clone());
    let action = faults.keep(action(spec.action));
    let target = target(
        spec.selector,
        spec.target_refs,
        spec.target_ref,
        &key.namespace,
        &mut faults,
    );
    let rules = spec
        .rules
        .into_iter()
        .map(|rule| rule_of(rule, &key.namespace, &mut faults))
        .collect();
    let provider = spec.provider.map(|provider| provider.name);
    let action = action.unwrap_or(Action::Deny);
    match (&provider, action) {
        (None, Action::Custom) => {
            let fault = place
                .child("provider")
                .fault("missing", "name the external authorizer of a CUSTOM policy");
            faults.0.push(fault);
        }
        (Some(name), action) if action != Action::Custom => {
            let reason = format!("{action} policies have no provider");
            faults
                .0
                .push(name.place.fault(reason, "remove it, or make the action CUSTOM"));
        }
        (Some(name), _) if name.value.is_empty() => faults.0.push(empty(name)),
        _ => {}
    }
    if !faults.0.is_empty() {
        return Err(faults.0);
    }
    let policy = AuthorizationPolicy {
        key,
        action,
        enforcement,
        target,
        rules,
        provider: provider.map(|name| name.value),
    };
    Ok(Parsed {
        ignored: remarks(&policy, &action_place, &place),
        object: Object::AuthorizationPolicy(Arc::new(policy)),
        claims: Vec::new(),
    })
}

const RULES: Rules = &[
    ("AuthorizationObject", &["apiVersion", "kind", "status"]),
    ("Metadata", metadata::IGNORED),
];

#[derive(Deserialize)]
struct AuthorizationObject {
    metadata: Metadata,
    spec: Option<At<AuthorizationSpec>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthorizationSpec {
    selector: Option<At<Selector>>,
    #[serde(default)]
    target_refs: Vec<At<TargetRef>>,
    target_ref: Option<At<TargetRef>>,
    #[serde(default)]
    rules: Vec<RawRule>,
    action: Option<At<String>>,
    provider: Option<Provider>,
}

/// Labels that a workload must have.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Selector {
    #[serde(default)]
    pub(super) match_labels: Labels,
}

/// A service that a policy is bound to.
#[derive(Deserialize)]
pub(super) struct TargetRef {
    group: Option<At<String>>,
    kind: At<String>,
    name: At<String>,
    namespace: Option<At<String>>,
}

#[derive(Deserialize)]
struct Provider {
    name: At<String>,
}

#[derive(Deserialize)]
struct RawRule {
    from: Option<At<Vec<FromEntry>>>,
    to: Option<At<Vec<ToEntry>>>,
    #[serde(default)]
    when: Vec<At<RawCondition>>,
}

#[derive(Deserialize)]
struct FromEntry {
    source: At<RawSource>,
}

#[derive(Deserialize)]
struct ToEntry {
    operation: At<RawOperation>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSource {
    principals: Texts,
    not_principals: Texts,
    request_principals: Texts,
    not_request_principals: Texts,
    namespaces: Texts,
    not_namespaces: Texts,
    service_accounts: Texts,
    not_service_accounts: Texts,
    ip_blocks: Texts,
    not_ip_blocks: Texts,
    remote_ip_blocks: Texts,
    not_remote_ip_blocks: Texts,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawOperation {
    hosts: Texts,
    not_hosts: Texts,
    ports: Texts,
    not_ports: Texts,
    methods: Texts,
    not_methods: Texts,
    paths: Texts,
    not_paths: Texts,
}

/// The annotation that makes a policy report and not decide.
const DRY_RUN: &str = "istio.io/dry-run";

fn enforcement(object: &Node) -> Result<Enforcement, Fault> {
    let annotations = object
        .get("metadata")
        .and_then(|metadata| metadata.get("annotations"));
    let Some(node) = annotations.and_then(|annotations| annotations.get(DRY_RUN)) else {
        return Ok(Enforcement::Enforced);
    };
    match node.text() {
        Some("true") => Ok(Enforcement::DryRun),
        Some("false") => Ok(Enforcement::Enforced),
        _ => {
            let place = node.place("metadata.annotations").child(DRY_RUN);
            Err(place.fault(
                format!("found {}", node.value),
                "use \"true\" or \"false\", in quotes",
            ))
        }
    }
}

fn action(text: Option<At<String>>) -> Result<Action, Fault> {
    let Some(text) = text else {
        return Ok(Action::Allow);
    };
    let actions = [Action::Allow, Action::Deny, Action::Audit, Action::Custom];
    match actions
        .into_iter()
        .find(|action| action.to_string() == text.value)
    {
        Some(action) => Ok(action),
        None => Err(text.place.fault(
            format!("{:?} is not an action", text.value),
            "use ALLOW, DENY, AUDIT or CUSTOM",
        )),
    }
}

/// Which workloads of its scope a policy concerns.
pub(super) fn target(
    selector: Option<At<Selector>>,
    refs: Vec<At<TargetRef>>,
    single: Option<At<TargetRef>>,
    own: &str,
    faults: &mut Faults,
) -> Target {
    let labels = match selector {
        Some(selector) => {
            if !refs.is_empty() || single.is_some() {
                let fault = selector.place.fault(
                    "stands beside a target",
                    "bind the policy either by labels or to services",
                );
                faults.0.push(fault);
            }
            metadata::labels(selector.value.match_labels, faults)
        }
        None => BTreeMap::new(),
    };
    let services: Vec<ObjectKey> = refs
        .into_iter()
        .chain(single)
        .map(|target| service(target, own, faults))
        .collect();
    if !services.is_empty() {
        Target::Services(services)
    } else if labels.is_empty() {
        Target::All
    } else {
        Target::Labels(labels)
    }
}

fn service(At { value: target, place }: At<TargetRef>, own: &str, faults: &mut Faults) -> ObjectKey {
    let group = target.group.as_ref().map_or("", |group| &group.value);
    if target.kind.value != "Service" || !matches!(group, "" | "core") {
        let kind = match group {
            "" => target.kind.value.clone(),
            group => format!("{group} {}", target.kind.value),
        };
        let reason = format!("{kind} cannot be the target of a policy here");
        faults
            .0
            .push(place.fault(reason, "use a Service of the core group"));
    }
    check(&target.name, dns_label, NAME, faults);
    if let Some(namespace) = target.namespace.filter(|namespace| namespace.value != own) {
        let reason = format!("{:?} is not the policy's own namespace", namespace.value);
        faults.0.push(
            namespace
                .place
                .fault(reason, "bind a policy to services of its own namespace"),
        );
    }
    ObjectKey::new(own, target.name.value)
}

fn rule_of(raw: RawRule, own: &str, faults: &mut Faults) -> Rule {
    let from = entries(raw.from, faults).into_iter();
    let from = from.map(|from| source(from.source, own, faults)).collect();
    let to = entries(raw.to, faults).into_iter();
    let to = to.map(|to| operation(to.operation, faults)).collect();
    let when = raw.when.into_iter();
    let when = when.filter_map(|raw| condition(raw, own, faults)).collect();
    Rule { from, to, when }
}

/// The entries of a list that may be absent, but not empty: that would be no alternative at all.
fn entries<T>(list: Option<At<Vec<T>>>, faults: &mut Faults) -> Vec<T> {
    let Some(list) = list else { return Vec::new() };
    if list.value.is_empty() {
        faults.0.push(
            list.place
                .fault("empty", "list at least one entry, or remove the field"),
        );
    }
    list.value
}

fn source(At { value: raw, place }: At<RawSource>, own: &str, faults: &mut Faults) -> Source {
    let account = |text: &At<String>| service_account(text, own);
    let source = Source {
        principals: values(raw.principals, raw.not_principals, principal, faults),
        request_principals: values(
            raw.request_principals,
            raw.not_request_principals,
            pattern,
            faults,
        ),
        namespaces: values(raw.namespaces, raw.not_namespaces, pattern, faults),
        service_accounts: values(raw.service_accounts, raw.not_service_accounts, account, faults),
        ip_blocks: values(raw.ip_blocks, raw.not_ip_blocks, network, faults),
        remote_ip_blocks: values(raw.remote_ip_blocks, raw.not_remote_ip_blocks, network, faults),
    };
    let others = !source.principals.is_empty() || !source.namespaces.is_empty();
    if !source.service_accounts.is_empty() && others {
        let reason = "service accounts stand beside principals or namespaces";
        faults
            .0
            .push(place.fault(reason, "use one of the two ways to name a peer"));
    }
    if source == Source::default() {
        empty_entry(&place, faults);
    }
    source
}

fn operation(At { value: raw, place }: At<RawOperation>, faults: &mut Faults) -> Operation {
    let operation = Operation {
        hosts: values(raw.hosts, raw.not_hosts, pattern, faults),
        ports: values(raw.ports, raw.not_ports, port, faults),
        methods: values(raw.methods, raw.not_methods, pattern, faults),
        paths: values(raw.paths, raw.not_paths, path, faults),
    };
    if operation == Operation::default() {
        empty_entry(&place, faults);
    }
    operation
}

/// An entry without a value is a slip. If its values were wrong, that has been said already.
fn empty_entry(place: &Place, faults: &mut Faults) {
    let inside = |fault: &Fault| fault.place.field.starts_with(&place.field);
    if !faults.0.iter().any(inside) {
        faults.0.push(place.fault(
            "empty",
            "add a field with at least one value, or remove the entry",
        ));
    }
}

/// What a policy does that its author may not expect.
fn remarks(policy: &AuthorizationPolicy, action: &Place, spec: &Place) -> Vec<Fault> {
    let mut remarks = Vec::new();
    if policy.action == Action::Custom {
        remarks.push(action.fault(
            "external authorization is not supported",
            "connections to the workloads that the policy selects are denied",
        ));
    } else if policy.rules.is_empty() && policy.action != Action::Allow {
        remarks.push(spec.child("rules").fault(
            format!("there are none, so this {} policy never matches", policy.action),
            "write `rules: [{}]` to match everything",
        ));
    }
    remarks
}
