//! How several policies come to one decision, which policies never decide, and how a decision is explained.

use std::sync::Arc;

use super::*;

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

/// Second trap: what should protect a workload and is not there does not let anybody in.
#[test]
fn a_named_policy_that_is_not_known_denies() {
    let store = mesh("");
    let mut web = workload("shop/web", "app=web", "10.1.0.10");
    web.policies = vec![key("shop/guard"), key("bank/other")];
    store.apply(&[Change::PutWorkload(web.into())]);
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
fn what_a_policy_does_unexpectedly_is_known() {
    let request = "rules: [{to: [{operation: {methods: [GET]}}]}]";
    for (spec, remark) in [
        ("", Some("no rules: allows nothing")),
        ("action: AUDIT", Some("no rules: never matches")),
        ("action: DENY", Some("no rules: never matches")),
        (
            "action: CUSTOM, provider: {name: opa}, rules: [{}]",
            Some("no external authorizer: denies what it selects"),
        ),
        (
            request,
            Some("rules about requests only: allows no TCP connection"),
        ),
        (&format!("action: DENY, {request}"), None),
        ("rules: [{}]", None),
    ] {
        let store = mesh(&authorization("shop/p", spec));
        let policy = Arc::clone(store.load().authorization_policy(&key("shop/p")).unwrap());
        assert_eq!(policy.remark(), remark, "{spec}");
    }
}
