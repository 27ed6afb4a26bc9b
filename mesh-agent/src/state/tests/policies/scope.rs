//! Which policies concern a workload, which mode counts, and what a change replaces.

use std::sync::Arc;

use mesh_common::model::PeerMode;

use super::super::put_service;
use super::*;

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
