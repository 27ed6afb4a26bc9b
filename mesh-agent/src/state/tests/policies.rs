//! The semantics of AuthorizationPolicy and PeerAuthentication for TCP, from the YAML to the verdict.
//!
//! Each table names what it is about. A connection is written in words, see [`connection`]; a verdict is what the
//! decision says of itself.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_common::model::PeerMode;

use super::{key, put_service, put_workload, workload};
use crate::config::{Change, Directory, File};
use crate::policy::{Channel, ConnectionFacts, Peer, Verdict};
use crate::state::Store;

/// A mesh of a few workloads and services, with these policies.
fn mesh(policies: &str) -> Store {
    let store = Store::new();
    store.apply(&[
        put_workload("shop/web", "app=web tier=front", "10.1.0.10 fd00::10"),
        put_workload("shop/db", "app=db", "10.1.0.11"),
        put_workload("bank/db", "app=db", "10.2.0.11"),
        put_workload("nodemesh-system/dns", "app=dns", "10.3.0.10"),
        put_service("shop/web", "app=web", "10.96.0.1"),
        put_service("shop/front", "tier=front", "10.96.0.2"),
        put_service("bank/web", "app=db", "10.96.0.3"),
    ]);
    store.apply(&changes(policies));
    store
}

/// What the files say when they hold this text.
fn changes(text: &str) -> Vec<Change> {
    let file = File {
        name: "policies.yaml".into(),
        content: Ok(text.to_owned()),
    };
    let update = Directory::new().load(&[file]);
    assert_eq!(update.rejections, [], "{text}");
    update.changes
}

/// An AuthorizationPolicy `namespace/name` with this `spec`.
fn authorization(name: &str, spec: &str) -> String {
    let key = key(name);
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {}, namespace: {}}}\nspec: {{{spec}}}\n---\n",
        key.name, key.namespace
    )
}

fn dry_run(name: &str, spec: &str) -> String {
    authorization(name, spec).replace(
        "metadata: {",
        "metadata: {annotations: {istio.io/dry-run: 'true'}, ",
    )
}

fn peer_authentication(name: &str, spec: &str) -> String {
    authorization(name, spec).replace("AuthorizationPolicy", "PeerAuthentication")
}

/// A connection in words: who calls (`plain`, or `td/ns/sa` by mutual TLS, `kernel:td/ns/sa` on the same node), then
/// where it differs from the usual `from=10.9.0.1 remote=` (the same) `to=10.1.0.10 port=8080` without `sni=`.
fn connection(words: &str) -> ConnectionFacts<'_> {
    let mut words = words.split_whitespace();
    let caller = words.next().unwrap();
    let caller_of = |text| {
        let mut parts = str::split(text, '/');
        let mut part = || parts.next().unwrap();
        Peer {
            trust_domain: part(),
            namespace: part(),
            service_account: part(),
        }
    };
    let channel = match caller.strip_prefix("kernel:") {
        Some(peer) => Channel::SameNode(caller_of(peer)),
        None if caller == "plain" => Channel::Plaintext,
        None => Channel::MutualTls(caller_of(caller)),
    };
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let (mut source, mut remote, mut to, mut port, mut sni) =
        (ip("10.9.0.1"), None, ip("10.1.0.10"), 8080, None);
    for word in words {
        match word.split_once('=').unwrap() {
            ("from", text) => source = ip(text),
            ("remote", text) => remote = Some(ip(text)),
            ("to", text) => to = ip(text),
            ("port", text) => port = text.parse().unwrap(),
            ("sni", text) => sni = Some(text),
            other => panic!("{other:?}"),
        }
    }
    ConnectionFacts {
        channel,
        source_ip: source,
        remote_ip: remote.unwrap_or(source),
        destination: (to, port).into(),
        sni,
    }
}

/// What is decided about a connection to a workload.
fn decided(store: &Store, to: &str, words: &str) -> String {
    let snapshot = store.load();
    let policy = snapshot.policy_of(snapshot.workload(&key(to)).unwrap());
    let facts = connection(words);
    let decision = policy.decide(&facts);
    let trace = policy.trace(facts);
    assert_eq!(trace.decision, decision, "what is explained is what is done");
    decision.to_string()
}

fn allows(store: &Store, to: &str, words: &str) -> bool {
    let snapshot = store.load();
    let policy = snapshot.policy_of(snapshot.workload(&key(to)).unwrap());
    policy.decide(&connection(words)).verdict() == Verdict::Allow
}

const WEB: &str = "cluster.local/shop/web";
const EVE: &str = "cluster.local/evil/eve";

/// One rule, connections that match it and connections that do not, the same for ALLOW and DENY.
#[track_caller]
fn rule(rule: &str, matching: &[&str], others: &[&str]) {
    let allow = mesh(&authorization("shop/p", &format!("rules: [{rule}]")));
    let deny = mesh(&authorization(
        "shop/p",
        &format!("action: DENY, rules: [{rule}]"),
    ));
    for words in matching {
        assert_eq!(
            decided(&allow, "shop/web", words),
            "allowed by ALLOW policy shop/p, rule 0",
            "{rule}: {words}"
        );
        assert_eq!(
            decided(&deny, "shop/web", words),
            "denied by DENY policy shop/p, rule 0",
            "{rule}: {words}"
        );
    }
    for words in others {
        assert_eq!(
            decided(&allow, "shop/web", words),
            "denied: no rule of the ALLOW policies matches",
            "{rule}: {words}"
        );
        assert_eq!(
            decided(&deny, "shop/web", words),
            "allowed: no ALLOW policy concerns the workload",
            "{rule}: {words}"
        );
    }
}

#[test]
fn sources() {
    let source = |fields: &str| format!("{{from: [{{source: {{{fields}}}}}]}}");
    let by = |fields: &str, matching: &[&str], others: &[&str]| rule(&source(fields), matching, others);
    by(
        "principals: [cluster.local/ns/shop/sa/web]",
        &[WEB, "kernel:cluster.local/shop/web"],
        &[EVE, "plain", "cluster.local/shop/web2", "other/shop/web"],
    );
    by(
        "principals: [cluster.local/ns/shop/*]",
        &[WEB],
        &[EVE, "cluster.local/shopping/web", "plain"],
    );
    by(
        "principals: ['*/sa/web']",
        &[WEB, "other/evil/web"],
        &[EVE, "plain"],
    );
    by("principals: ['*']", &[WEB, EVE, "kernel:td/a/b"], &["plain"]);
    by("principals: [td/ns/a/sa/b, '*/sa/eve']", &["td/a/b", EVE], &[WEB]);
    by(
        "principals: ['*'], notPrincipals: ['*/sa/eve']",
        &[WEB],
        &[EVE, "plain"],
    );
    by("namespaces: [shop]", &[WEB, "other/shop/x"], &[EVE, "plain"]);
    by("namespaces: ['sh*', '*il']", &[WEB, EVE], &["td/bank/x", "plain"]);
    by("namespaces: ['*']", &[WEB, EVE], &["plain"]);
    by(
        "namespaces: ['*'], notNamespaces: [evil, ev*]",
        &[WEB],
        &[EVE, "plain"],
    );
    by(
        "serviceAccounts: [web, evil/eve]",
        &[WEB, EVE, "other/shop/web"],
        &["td/bank/web", "td/shop/eve", "plain"],
    );
    by(
        "ipBlocks: [10.9.0.0/24, 'fd00::/16']",
        &[
            "plain",
            "plain from=10.9.0.255",
            "plain from=fd00:1::1",
            "plain from=::ffff:10.9.0.7",
        ],
        &["plain from=10.9.1.0", "plain from=fd01::1"],
    );
    by(
        "ipBlocks: [10.9.0.7]",
        &["plain from=10.9.0.7"],
        &["plain from=10.9.0.8"],
    );
    by(
        "ipBlocks: ['::ffff:10.9.0.0/120']",
        &["plain from=10.9.0.7"],
        &["plain from=10.9.1.7"],
    );
    by(
        "notIpBlocks: [10.9.0.0/24]",
        &["plain from=10.9.1.0", "plain from=fd00::1"],
        &["plain"],
    );
    by(
        "ipBlocks: [10.0.0.0/8], notIpBlocks: [10.9.0.0/24]",
        &["plain from=10.8.0.1"],
        &["plain", "plain from=11.0.0.1"],
    );
    by(
        "remoteIpBlocks: [192.0.2.0/24]",
        &["plain remote=192.0.2.9"],
        &["plain from=192.0.2.9 remote=10.9.0.1"],
    );
    by(
        "notRemoteIpBlocks: [192.0.2.0/24]",
        &["plain from=192.0.2.9 remote=10.9.0.1"],
        &["plain remote=192.0.2.9"],
    );
    by(
        "namespaces: [shop], ipBlocks: [10.9.0.0/24]",
        &[WEB],
        &["cluster.local/shop/web from=10.8.0.1", EVE, "plain"],
    );
    rule(
        "{from: [{source: {namespaces: [evil]}}, {source: {ipBlocks: [10.8.0.0/16]}}]}",
        &[EVE, "plain from=10.8.0.1", "cluster.local/shop/web from=10.8.0.1"],
        &[WEB, "plain"],
    );
}

#[test]
fn operations() {
    rule(
        "{to: [{operation: {ports: ['8080', '9090']}}]}",
        &["plain", "plain port=9090"],
        &["plain port=80"],
    );
    rule(
        "{to: [{operation: {notPorts: ['8080']}}]}",
        &["plain port=80"],
        &["plain"],
    );
    rule(
        "{to: [{operation: {ports: ['80', '81'], notPorts: ['80']}}]}",
        &["plain port=81"],
        &["plain port=80", "plain"],
    );
    rule(
        "{to: [{operation: {ports: ['80']}}, {operation: {ports: ['81']}}]}",
        &["plain port=80", "plain port=81"],
        &["plain"],
    );
    rule(
        "{from: [{source: {namespaces: [shop]}}], to: [{operation: {ports: ['8080']}}]}",
        &[WEB],
        &["cluster.local/shop/web port=80", EVE],
    );
}

#[test]
fn conditions() {
    let when = |key: &str, values: &str| format!("{{when: [{{key: {key}, {values}}}]}}");
    let by = |key: &str, values: &str, matching: &[&str], others: &[&str]| {
        rule(&when(key, values), matching, others)
    };
    by(
        "source.ip",
        "values: [10.9.0.0/24]",
        &["plain"],
        &["plain from=10.8.0.1"],
    );
    by(
        "source.ip",
        "notValues: [10.9.0.0/24]",
        &["plain from=10.8.0.1"],
        &["plain"],
    );
    by(
        "remote.ip",
        "values: [192.0.2.1]",
        &["plain remote=192.0.2.1"],
        &["plain", "plain from=192.0.2.1 remote=10.9.0.1"],
    );
    by(
        "destination.ip",
        "values: [10.1.0.10]",
        &["plain"],
        &["plain to=fd00::10"],
    );
    by(
        "destination.ip",
        "notValues: [10.1.0.10]",
        &["plain to=fd00::10"],
        &["plain"],
    );
    by(
        "destination.port",
        "values: ['8080']",
        &["plain"],
        &["plain port=80"],
    );
    by(
        "destination.port",
        "notValues: ['8080']",
        &["plain port=80"],
        &["plain"],
    );
    by(
        "source.namespace",
        "values: [shop, bank]",
        &[WEB, "td/bank/x"],
        &[EVE, "plain"],
    );
    by(
        "source.principal",
        "values: [cluster.local/ns/shop/*]",
        &[WEB],
        &[EVE, "plain"],
    );
    by(
        "source.principal",
        "values: ['*'], notValues: ['*/sa/eve']",
        &[WEB],
        &[EVE, "plain"],
    );
    by(
        "source.serviceAccount",
        "values: [web, evil/eve]",
        &[WEB, EVE],
        &["td/bank/web", "plain"],
    );
    by(
        "connection.sni",
        "values: [Db.Example, '*.shop']",
        &["plain sni=db.example", "plain sni=a.shop"],
        &["plain sni=x.example", "plain"],
    );
    by("connection.sni", "values: ['*']", &["plain sni=x"], &["plain"]);
    by(
        "connection.sni",
        "notValues: [db.example]",
        &["plain sni=x", "plain"],
        &["plain sni=db.example"],
    );
    rule(
        "{when: [{key: destination.port, values: ['8080']}, {key: source.ip, values: [10.9.0.1]}]}",
        &["plain"],
        &["plain port=80", "plain from=10.9.0.2"],
    );
}

#[test]
fn empty_spec_empty_rules_and_the_empty_rule() {
    for (spec, allowed, decision) in [
        ("", false, "denied: no rule of the ALLOW policies matches"),
        (
            "rules: []",
            false,
            "denied: no rule of the ALLOW policies matches",
        ),
        (
            "action: ALLOW",
            false,
            "denied: no rule of the ALLOW policies matches",
        ),
        ("rules: [{}]", true, "allowed by ALLOW policy shop/p, rule 0"),
        (
            "action: DENY",
            true,
            "allowed: no ALLOW policy concerns the workload",
        ),
        (
            "action: DENY, rules: [{}]",
            false,
            "denied by DENY policy shop/p, rule 0",
        ),
        (
            "action: AUDIT, rules: [{}]",
            true,
            "allowed: no ALLOW policy concerns the workload",
        ),
    ] {
        let store = mesh(&authorization("shop/p", spec));
        for words in [WEB, "plain"] {
            assert_eq!(decided(&store, "shop/web", words), decision, "{spec}");
            assert_eq!(allows(&store, "shop/web", words), allowed, "{spec}");
        }
    }
    let without_spec = authorization("shop/p", "").replace("spec: {}\n", "");
    assert!(
        !allows(&mesh(&without_spec), "shop/web", WEB),
        "no spec is an empty spec"
    );
    assert_eq!(
        decided(&mesh(""), "shop/web", "plain"),
        "allowed: no ALLOW policy concerns the workload"
    );
}

#[test]
fn custom_goes_before_deny_and_deny_before_allow() {
    let allow = authorization("shop/allow", "rules: [{}]");
    let deny = authorization(
        "shop/deny",
        "action: DENY, rules: [{from: [{source: {namespaces: [evil]}}]}, {to: [{operation: {ports: ['80']}}]}]",
    );
    let custom = authorization(
        "shop/ext",
        "action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {ports: ['1']}}]}]",
    );
    let strict = peer_authentication("shop/strict", "mtls: {mode: STRICT}");
    let nothing = "denied: CUSTOM policy shop/ext asks for external authorization, and there is none";
    for (policies, words, decision) in [
        (
            vec![&allow, &deny],
            EVE,
            "denied by DENY policy shop/deny, rule 0",
        ),
        (
            vec![&allow, &deny],
            "plain port=80",
            "denied by DENY policy shop/deny, rule 1",
        ),
        (
            vec![&allow, &deny],
            WEB,
            "allowed by ALLOW policy shop/allow, rule 0",
        ),
        (vec![&deny], WEB, "allowed: no ALLOW policy concerns the workload"),
        (vec![&allow, &deny, &custom], EVE, nothing),
        (vec![&custom], WEB, nothing),
        (
            vec![&custom, &strict],
            "plain",
            "denied: plaintext, and PeerAuthentication shop/strict is STRICT",
        ),
        (
            vec![&allow, &strict],
            "plain",
            "denied: plaintext, and PeerAuthentication shop/strict is STRICT",
        ),
        (
            vec![&allow, &strict],
            "kernel:cluster.local/shop/web",
            "allowed by ALLOW policy shop/allow, rule 0",
        ),
    ] {
        let text: String = policies.into_iter().map(String::as_str).collect();
        assert_eq!(decided(&mesh(&text), "shop/web", words), decision, "{text}");
    }
    let two = authorization("shop/a", "rules: [{to: [{operation: {ports: ['1']}}]}]")
        + &authorization(
            "shop/b",
            "rules: [{to: [{operation: {ports: ['2']}}]}, {to: [{operation: {ports: ['8080']}}]}]",
        );
    assert_eq!(
        decided(&mesh(&two), "shop/web", "plain"),
        "allowed by ALLOW policy shop/b, rule 1"
    );
}

#[test]
fn fields_of_requests_on_tcp() {
    for field in [
        "methods: [GET]",
        "notMethods: [GET]",
        "paths: [/a]",
        "notPaths: ['/a/{*}']",
        "hosts: [a]",
        "notHosts: [a]",
    ] {
        let to = format!("rules: [{{to: [{{operation: {{{field}, ports: ['8080']}}}}]}}]");
        let name = field.split(':').next().unwrap();
        let allow = mesh(&authorization("shop/p", &to));
        assert_eq!(
            decided(&allow, "shop/web", WEB),
            "denied: no rule of the ALLOW policies matches",
            "{field}"
        );
        let snapshot = allow.load();
        let policy = snapshot.policy_of(snapshot.workload(&key("shop/web")).unwrap());
        let trace = policy.trace(connection(WEB)).to_string();
        assert!(
            trace.contains(&format!("    {name} is about requests, and this is TCP\n")),
            "{trace}"
        );
        let deny = mesh(&authorization("shop/p", &format!("action: DENY, {to}")));
        assert_eq!(
            decided(&deny, "shop/web", WEB),
            "denied by DENY policy shop/p, rule 0",
            "{field} is dropped"
        );
        assert!(allows(&deny, "shop/web", "plain port=80"), "the port is not");
    }
    for rule in [
        "{from: [{source: {requestPrincipals: ['*']}}]}",
        "{from: [{source: {notRequestPrincipals: ['*']}}]}",
        "{when: [{key: 'request.headers[x]', values: [a]}]}",
        "{when: [{key: request.auth.principal, values: [a]}]}",
        "{when: [{key: request.auth.audiences, values: [a]}]}",
        "{when: [{key: request.auth.presenter, notValues: [a]}]}",
        "{when: [{key: 'request.auth.claims[a][b]', values: [a]}]}",
        // One alternative about requests keeps the whole rule from allowing.
        "{to: [{operation: {ports: ['8080']}}, {operation: {methods: [GET]}}]}",
    ] {
        let allow = mesh(&authorization("shop/p", &format!("rules: [{rule}]")));
        assert!(!allows(&allow, "shop/web", WEB), "{rule}");
        let deny = mesh(&authorization(
            "shop/p",
            &format!("action: DENY, rules: [{rule}]"),
        ));
        assert_eq!(
            decided(&deny, "shop/web", WEB),
            "denied by DENY policy shop/p, rule 0",
            "{rule}"
        );
    }
    let other_rule = authorization(
        "shop/p",
        "rules: [{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {ports: ['8080']}}]}]",
    );
    assert_eq!(
        decided(&mesh(&other_rule), "shop/web", WEB),
        "allowed by ALLOW policy shop/p, rule 1"
    );
}

/// First trap: a peer of whom nothing is known is not "somebody else".
#[test]
fn excluding_peers_does_not_allow_strangers() {
    for rule in [
        "{from: [{source: {notPrincipals: [cluster.local/ns/evil/sa/eve]}}]}",
        "{from: [{source: {notNamespaces: [evil]}}]}",
        "{from: [{source: {notServiceAccounts: [evil/eve]}}]}",
        "{from: [{source: {notPrincipals: ['*/sa/eve'], ipBlocks: [10.0.0.0/8]}}]}",
        "{when: [{key: source.principal, notValues: ['*/sa/eve']}]}",
        "{when: [{key: source.namespace, notValues: [evil]}]}",
        "{when: [{key: source.serviceAccount, notValues: [evil/eve]}]}",
    ] {
        let allow = mesh(&authorization("shop/p", &format!("rules: [{rule}]")));
        assert!(allows(&allow, "shop/web", WEB), "{rule}");
        assert!(!allows(&allow, "shop/web", EVE), "{rule}");
        assert!(!allows(&allow, "shop/web", "plain"), "{rule}");
        let deny = mesh(&authorization(
            "shop/p",
            &format!("action: DENY, rules: [{rule}]"),
        ));
        assert!(!allows(&deny, "shop/web", WEB), "{rule}");
        assert!(allows(&deny, "shop/web", EVE), "{rule}");
        assert!(
            !allows(&deny, "shop/web", "plain"),
            "a stranger is not the one who is spared: {rule}"
        );
    }
}

/// Second trap: what should protect a workload and is not there does not let anybody in.
#[test]
fn a_named_policy_that_is_not_known_denies() {
    let store = mesh("");
    let mut web = workload("shop/web", "app=web", "10.1.0.10");
    web.policies = vec![key("shop/guard"), key("bank/other")];
    store.apply(&[Change::PutWorkload(web)]);
    let unknown = "denied: the workload names AuthorizationPolicy shop/guard, which is not known";
    assert_eq!(decided(&store, "shop/web", WEB), unknown);
    let guard = authorization(
        "shop/guard",
        "selector: {matchLabels: {app: elsewhere}}, rules: [{from: [{source: {namespaces: [shop]}}]}]",
    );
    store.apply(&changes(&guard));
    assert_eq!(
        decided(&store, "shop/web", WEB),
        unknown.replace("shop/guard", "bank/other")
    );
    store.apply(&changes(&authorization(
        "bank/other",
        "action: DENY, rules: [{to: [{operation: {ports: ['80']}}]}]",
    )));
    assert_eq!(
        decided(&store, "shop/web", WEB),
        "allowed by ALLOW policy shop/guard, rule 0"
    );
    assert_eq!(
        decided(&store, "shop/web", "plain port=80"),
        "denied by DENY policy bank/other, rule 0"
    );
    assert_eq!(
        decided(&store, "shop/web", EVE),
        "denied: no rule of the ALLOW policies matches"
    );
    store.apply(&[Change::RemoveAuthorizationPolicy(key("shop/guard"))]);
    assert_eq!(decided(&store, "shop/web", WEB), unknown);
}

/// Third trap: a field that is not understood is not left out, the object stays as it was.
#[test]
fn an_unsupported_field_rejects_the_whole_policy() {
    let good = authorization(
        "shop/p",
        "action: DENY, rules: [{from: [{source: {namespaces: [evil]}}]}]",
    );
    let store = mesh("");
    let mut directory = Directory::new();
    let mut load = |text: &str| {
        let file = File {
            name: "p.yaml".into(),
            content: Ok(text.to_owned()),
        };
        let update = directory.load(&[file]);
        store.apply(&update.changes);
        update
            .rejections
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(load(&good), [""; 0]);
    assert!(!allows(&store, "shop/web", EVE));
    let bad = good.replace("namespaces: [evil]", "namespaces: [nobody], hostnames: [evil]");
    assert_eq!(load(&bad).len(), 1);
    assert!(!allows(&store, "shop/web", EVE), "the last good version holds");
    assert_eq!(load(""), [""; 0]);
    assert!(allows(&store, "shop/web", EVE));
}

#[test]
fn scope() {
    let deny = |name: &str, more: &str| authorization(name, &format!("action: DENY, rules: [{{}}]{more}"));
    let all = ["shop/web", "shop/db", "bank/db", "nodemesh-system/dns"];
    for (policy, concerned) in [
        (deny("nodemesh-system/p", ""), &all[..]),
        (
            deny("nodemesh-system/p", ", selector: {matchLabels: {app: db}}"),
            &["shop/db", "bank/db"],
        ),
        (deny("shop/p", ""), &["shop/web", "shop/db"]),
        (deny("shop/p", ", selector: {}"), &["shop/web", "shop/db"]),
        (
            deny("shop/p", ", selector: {matchLabels: {app: db}}"),
            &["shop/db"],
        ),
        (
            deny("shop/p", ", selector: {matchLabels: {app: web, tier: front}}"),
            &["shop/web"],
        ),
        (
            deny("shop/p", ", selector: {matchLabels: {app: web, tier: back}}"),
            &[],
        ),
        (
            deny("shop/p", ", targetRefs: [{kind: Service, name: web}]"),
            &["shop/web"],
        ),
        (
            deny(
                "shop/p",
                ", targetRef: {kind: Service, group: core, name: front, namespace: shop}",
            ),
            &["shop/web"],
        ),
        (
            deny("shop/p", ", targetRefs: [{kind: Service, group: '', name: db}]"),
            &[],
        ),
        (
            deny(
                "bank/p",
                ", targetRefs: [{kind: Service, name: front}, {kind: Service, name: web}]",
            ),
            &["bank/db"],
        ),
        (
            deny("nodemesh-system/p", ", targetRefs: [{kind: Service, name: web}]"),
            &[],
        ),
        (deny("elsewhere/p", ""), &[]),
    ] {
        let store = mesh(&policy);
        let found: Vec<_> = all.into_iter().filter(|to| !allows(&store, to, WEB)).collect();
        assert_eq!(found, concerned, "{policy}");
    }
}

#[test]
fn another_root_namespace() {
    let store = Store::with_root_namespace("istio-system");
    assert_eq!(&**store.load().root_namespace(), "istio-system");
    store.apply(&[put_workload("shop/web", "", "10.1.0.10")]);
    store.apply(&changes(&authorization("nodemesh-system/p", "")));
    assert!(allows(&store, "shop/web", WEB));
    store.apply(&changes(&authorization("istio-system/p", "")));
    assert!(!allows(&store, "shop/web", WEB));
}

#[test]
fn dry_run_and_audit_report_and_never_decide() {
    let policies = dry_run("shop/allow", "rules: [{from: [{source: {namespaces: [bank]}}]}]")
        + &dry_run(
            "shop/deny",
            "action: DENY, rules: [{}, {from: [{source: {namespaces: [evil]}}]}]",
        )
        .replace("[{}, ", "[")
        + &dry_run(
            "shop/ext",
            "action: CUSTOM, provider: {name: opa}, selector: {matchLabels: {app: db}}",
        )
        + &dry_run(
            "shop/log-too",
            "action: AUDIT, rules: [{to: [{operation: {ports: ['80']}}]}]",
        )
        + &authorization(
            "shop/log",
            "action: AUDIT, rules: [{to: [{operation: {ports: ['80'], methods: [GET]}}]}, {from: [{source: {namespaces: [evil]}}]}]",
        );
    let store = mesh(&policies);
    for (to, words, reports, rehearsal) in [
        (
            "shop/web",
            WEB,
            "",
            "denied: no rule of the ALLOW policies matches",
        ),
        (
            "shop/web",
            "td/bank/x",
            "allow 0",
            "allowed by ALLOW policy shop/allow, rule 0",
        ),
        (
            "shop/web",
            EVE,
            "deny 0, log 1",
            "denied by DENY policy shop/deny, rule 0",
        ),
        (
            "shop/web",
            "plain port=80",
            "log 0, log-too 0",
            "denied: no rule of the ALLOW policies matches",
        ),
        (
            "shop/db",
            WEB,
            "ext -",
            "denied: CUSTOM policy shop/ext asks for external authorization, and there is none",
        ),
    ] {
        assert_eq!(
            decided(&store, to, words),
            "allowed: no ALLOW policy concerns the workload"
        );
        let snapshot = store.load();
        let policy = snapshot.policy_of(snapshot.workload(&key(to)).unwrap());
        let facts = connection(words);
        let found: Vec<_> = policy
            .reports(&facts)
            .map(|report| {
                let rule = report.rule.map_or("-".to_owned(), |rule| rule.to_string());
                format!("{} {rule}", report.policy.key.name)
            })
            .collect();
        assert_eq!(found.join(", "), reports, "{to} {words}");
        assert_eq!(
            policy.rehearse(&facts).unwrap().to_string(),
            rehearsal,
            "{to} {words}"
        );
    }
    let enforced = mesh(&authorization("shop/p", "").replace(
        "metadata: {",
        "metadata: {annotations: {istio.io/dry-run: 'false'}, ",
    ));
    assert!(!allows(&enforced, "shop/web", WEB));
    let snapshot = enforced.load();
    let policy = snapshot.policy_of(snapshot.workload(&key("shop/web")).unwrap());
    assert_eq!(policy.rehearse(&connection(WEB)), None);
}

#[test]
fn peer_modes() {
    let mtls = |mode: &str| format!("mtls: {{mode: {mode}}}");
    let web = |more: &str| format!("selector: {{matchLabels: {{app: web}}}}, {more}");
    let root = |mode: &str| peer_authentication("nodemesh-system/mesh", &mtls(mode));
    let namespace = |mode: &str| peer_authentication("shop/ns", &mtls(mode));
    let own = |more: &str| peer_authentication("shop/own", &web(more));
    use PeerMode::{Disable, Permissive, Strict};
    for (policies, port, mode, from) in [
        (vec![], 8080, Permissive, None),
        (vec![root("STRICT")], 8080, Strict, Some("nodemesh-system/mesh")),
        (vec![root("UNSET")], 8080, Permissive, None),
        (
            vec![root("STRICT"), namespace("DISABLE")],
            8080,
            Disable,
            Some("shop/ns"),
        ),
        (
            vec![root("STRICT"), namespace("UNSET")],
            8080,
            Strict,
            Some("nodemesh-system/mesh"),
        ),
        (
            vec![root("STRICT"), peer_authentication("shop/ns", "")],
            8080,
            Strict,
            Some("nodemesh-system/mesh"),
        ),
        (
            vec![
                root("STRICT"),
                namespace("STRICT"),
                own("mtls: {mode: PERMISSIVE}"),
            ],
            8080,
            Permissive,
            Some("shop/own"),
        ),
        (
            vec![namespace("STRICT"), own("mtls: {mode: UNSET}")],
            8080,
            Strict,
            Some("shop/ns"),
        ),
        (
            vec![namespace("STRICT"), own("portLevelMtls: {8080: {mode: DISABLE}}")],
            8080,
            Disable,
            Some("shop/own"),
        ),
        (
            vec![namespace("STRICT"), own("portLevelMtls: {8080: {mode: DISABLE}}")],
            9090,
            Strict,
            Some("shop/ns"),
        ),
        (
            vec![namespace("STRICT"), own("portLevelMtls: {8080: {mode: UNSET}}")],
            8080,
            Strict,
            Some("shop/ns"),
        ),
        (
            vec![own("mtls: {mode: STRICT}, portLevelMtls: {'8080': {}}")],
            8080,
            Strict,
            Some("shop/own"),
        ),
        (
            vec![
                peer_authentication("shop/a", &mtls("STRICT")),
                peer_authentication("shop/b", &mtls("DISABLE")),
            ],
            1,
            Strict,
            Some("shop/a"),
        ),
        (
            vec![
                peer_authentication("nodemesh-system/a", &web("mtls: {mode: STRICT}")),
                namespace("DISABLE"),
            ],
            1,
            Strict,
            Some("nodemesh-system/a"),
        ),
        (
            vec![
                peer_authentication("nodemesh-system/a", &web("mtls: {mode: STRICT}")),
                own("mtls: {mode: DISABLE}"),
            ],
            1,
            Disable,
            Some("shop/own"),
        ),
        (
            vec![peer_authentication("bank/a", &mtls("STRICT"))],
            1,
            Permissive,
            None,
        ),
        (
            vec![peer_authentication(
                "shop/a",
                "selector: {matchLabels: {app: db}}, mtls: {mode: STRICT}",
            )],
            1,
            Permissive,
            None,
        ),
    ] {
        let text = policies.concat();
        let store = mesh(&text);
        let snapshot = store.load();
        let policy = snapshot.policy_of(snapshot.workload(&key("shop/web")).unwrap());
        let found = policy.modes().at(port);
        assert_eq!(
            (
                found.mode,
                found.from.as_ref().map(ToString::to_string).as_deref()
            ),
            (mode, from),
            "{text}"
        );
        let plain = format!("plain port={port}");
        assert_eq!(allows(&store, "shop/web", &plain), mode != Strict, "{text}");
        for known in [WEB, "kernel:cluster.local/shop/web"] {
            assert!(
                allows(&store, "shop/web", &format!("{known} port={port}")),
                "{text}"
            );
        }
    }
}

#[test]
fn explained_step_by_step() {
    let policies = authorization(
        "shop/deny",
        "action: DENY, rules: [{from: [{source: {namespaces: [evil]}}]}]",
    ) + &authorization(
        "shop/allow",
        "rules: [{to: [{operation: {methods: [GET]}}]}, \
             {from: [{source: {notPrincipals: [a]}}, {source: {ipBlocks: [10.9.0.0/16]}}], when: [{key: source.ip, notValues: [10.9.0.1]}]}]",
    ) + &dry_run("shop/try", "action: DENY, rules: [{}]")
        + &peer_authentication("nodemesh-system/mesh", "mtls: {mode: PERMISSIVE}");
    let store = mesh(&policies);
    let snapshot = store.load();
    let policy = snapshot.policy_of(snapshot.workload(&key("shop/web")).unwrap());
    assert_eq!(
        policy.trace(connection("plain")).to_string(),
        "\
identity: none, plaintext from 10.9.0.1
mode: PERMISSIVE, PeerAuthentication nodemesh-system/mesh
policy: shop/deny, DENY
  rule 0: no match
    from[0] namespaces: the peer has no identity
policy: shop/allow, ALLOW
  rule 0: no match
    methods is about requests, and this is TCP
  rule 1: no match
    from[0] notPrincipals: the peer has no identity
    when[0] source.ip: an excluded value matches
policy: shop/try, DENY, dry run
  rule 0: match
verdict: denied: no rule of the ALLOW policies matches
with dry run: denied by DENY policy shop/try, rule 0
"
    );
    let snapshot = store.load();
    let db = snapshot.policy_of(snapshot.workload(&key("bank/db")).unwrap());
    assert_eq!(
        db.trace(connection("kernel:cluster.local/shop/web")).to_string(),
        "\
identity: cluster.local/ns/shop/sa/web, by the kernel
mode: PERMISSIVE, PeerAuthentication nodemesh-system/mesh
verdict: allowed: no ALLOW policy concerns the workload
"
    );
}

#[test]
fn a_change_replaces_the_answers_that_it_concerns_and_no_others() {
    let store = mesh(&authorization("shop/db", "selector: {matchLabels: {app: db}}"));
    let answer = |name: &str| {
        let snapshot = store.load();
        snapshot.policy_of(snapshot.workload(&key(name)).unwrap())
    };
    let (web, db, bank) = (answer("shop/web"), answer("shop/db"), answer("bank/db"));
    assert!(
        Arc::ptr_eq(&web, &answer("shop/web")),
        "asked again, answered the same"
    );
    let before = Arc::clone(&store.load());
    store.apply(&changes(&authorization(
        "shop/db",
        "selector: {matchLabels: {app: db}}, rules: [{}]",
    )));
    assert!(
        Arc::ptr_eq(&web, &answer("shop/web")),
        "it selects another workload"
    );
    assert!(
        Arc::ptr_eq(&bank, &answer("bank/db")),
        "it is in another namespace"
    );
    assert!(!Arc::ptr_eq(&db, &answer("shop/db")));
    let newer = answer("shop/db");
    let of_before = before.policy_of(before.workload(&key("shop/db")).unwrap());
    assert_eq!(of_before, db, "an older snapshot has its own answer");
    assert!(
        Arc::ptr_eq(&newer, &answer("shop/db")),
        "and leaves the newer one alone"
    );

    store.apply(&[put_workload("bank/other", "", "10.2.0.99")]);
    assert!(Arc::ptr_eq(&web, &answer("shop/web")), "nothing about policies");
    store.apply(&changes(&authorization(
        "nodemesh-system/all",
        "action: DENY, rules: [{}]",
    )));
    for name in ["shop/web", "shop/db", "bank/db"] {
        assert!(!allows(&store, name, WEB), "the root namespace concerns everyone");
    }
    store.apply(&[Change::RemoveAuthorizationPolicy(key("nodemesh-system/all"))]);
    assert!(allows(&store, "bank/db", WEB));
}

#[test]
fn a_service_that_comes_changes_or_goes_moves_the_policies_bound_to_it() {
    let store = mesh(&authorization(
        "shop/p",
        "targetRefs: [{kind: Service, name: api}]",
    ));
    let denied = || -> Vec<_> {
        let all = ["shop/web", "shop/db"];
        all.into_iter().filter(|to| !allows(&store, to, WEB)).collect()
    };
    assert_eq!(denied(), [""; 0]);
    store.apply(&[put_service("shop/api", "app=web", "10.96.0.9")]);
    assert_eq!(denied(), ["shop/web"]);
    store.apply(&[put_service("shop/api", "app=db", "10.96.0.9")]);
    assert_eq!(denied(), ["shop/db"]);
    store.apply(&[put_workload("shop/web", "app=db", "10.1.0.10")]);
    assert_eq!(denied(), ["shop/web", "shop/db"]);
    store.apply(&[Change::RemoveService(key("shop/api"))]);
    assert_eq!(denied(), [""; 0]);
}
