//! Every field of a rule: what it matches, what it excludes, and what it means for peers without identity and for TCP.

use super::*;

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
