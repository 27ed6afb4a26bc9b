//! AuthorizationPolicy: what it becomes, and the exact words for what is wrong with it.

use super::*;

fn authorization(text: &str) -> AuthorizationPolicy {
    match load(text) {
        Ok(Change::PutAuthorizationPolicy(policy)) => Arc::unwrap_or_clone(policy),
        other => panic!("{other:?}"),
    }
}

fn with_rule(rule: &str) -> String {
    object("AuthorizationPolicy", &format!("rules: [{{{rule}}}]"))
}

/// A field with values and nothing excluded.
fn any<T>(any: Vec<T>) -> Values<T> {
    Values {
        any,
        none: Vec::new(),
    }
}

fn exact(texts: &[&str]) -> Vec<Pattern> {
    texts
        .iter()
        .map(|text| Pattern::Exact((*text).to_owned()))
        .collect()
}

#[test]
fn a_full_policy() {
    let text = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: guard
  namespace: shop
  labels: { app: web }
  annotations: { istio.io/dry-run: "true", other: { not: looked at } }
  uid: 0d6ab0f5-3c54-4d6e-9c3e-51d6ad2c5f3a
spec:
  selector: { matchLabels: { app: web } }
  action: DENY
  rules:
  - from:
    - source:
        principals: [cluster.local/ns/shop/sa/web, "*"]
        notPrincipals: ["cluster.local/ns/*", "*/sa/eve"]
        requestPrincipals: [issuer/subject]
        notRequestPrincipals: ["*"]
        namespaces: [shop]
        notNamespaces: [evil]
        ipBlocks: [10.1.2.3/16, 10.0.0.1, "::ffff:10.2.0.0/112"]
        notIpBlocks: ["fd00::/8"]
        remoteIpBlocks: [192.0.2.0/24]
        notRemoteIpBlocks: [192.0.2.1]
    - source: { serviceAccounts: [web, bank/teller], notServiceAccounts: [evil/eve] }
    to:
    - operation:
        hosts: ["*.example"]
        notHosts: [a.example]
        ports: ["80"]
        notPorts: ["443"]
        methods: [GET]
        notMethods: [POST]
        paths: [/a*, "/b/{*}/c/{**}"]
        notPaths: [/pkg.Service/Method]
    when:
    - { key: source.ip, values: [10.0.0.0/8] }
    - { key: remote.ip, notValues: [10.0.0.0/8] }
    - { key: source.namespace, values: [shop] }
    - { key: source.principal, values: [a] }
    - { key: source.serviceAccount, values: [web] }
    - { key: destination.ip, values: [10.1.0.10] }
    - { key: destination.port, values: ["80"] }
    - { key: connection.sni, values: [a], notValues: [b] }
    - { key: "request.headers[X-Team]", values: ["*"] }
    - { key: request.auth.principal, values: [a] }
    - { key: request.auth.audiences, values: [a] }
    - { key: request.auth.presenter, values: [a] }
    - { key: "request.auth.claims[realm][roles]", values: [admin] }
status: {}
"#;
    let net = |text: &str| text.parse().unwrap();
    let expected = AuthorizationPolicy {
        key: ObjectKey::new("shop", "guard"),
        action: Action::Deny,
        enforcement: Enforcement::DryRun,
        target: Target::Labels(labels(&[("app", "web")])),
        provider: None,
        rules: vec![Rule {
            from: vec![
                Source {
                    principals: Values {
                        any: vec![
                            Pattern::Exact("cluster.local/ns/shop/sa/web".to_owned()),
                            Pattern::Present,
                        ],
                        none: vec![
                            Pattern::Prefix("cluster.local/ns/".to_owned()),
                            Pattern::Suffix("/sa/eve".to_owned()),
                        ],
                    },
                    request_principals: Values {
                        any: exact(&["issuer/subject"]),
                        none: vec![Pattern::Present],
                    },
                    namespaces: Values {
                        any: exact(&["shop"]),
                        none: exact(&["evil"]),
                    },
                    service_accounts: Values::default(),
                    ip_blocks: Values {
                        any: vec![net("10.1.0.0/16"), net("10.0.0.1/32"), net("10.2.0.0/16")],
                        none: vec![net("fd00::/8")],
                    },
                    remote_ip_blocks: Values {
                        any: vec![net("192.0.2.0/24")],
                        none: vec![net("192.0.2.1/32")],
                    },
                },
                Source {
                    service_accounts: Values {
                        any: vec![ObjectKey::new("shop", "web"), ObjectKey::new("bank", "teller")],
                        none: vec![ObjectKey::new("evil", "eve")],
                    },
                    ..Source::default()
                },
            ],
            to: vec![Operation {
                hosts: Values {
                    any: vec![Pattern::Suffix(".example".to_owned())],
                    none: exact(&["a.example"]),
                },
                ports: Values {
                    any: vec![80],
                    none: vec![443],
                },
                methods: Values {
                    any: exact(&["GET"]),
                    none: exact(&["POST"]),
                },
                paths: Values {
                    any: vec![
                        PathPattern::Text(Pattern::Prefix("/a".to_owned())),
                        PathPattern::Template("/b/{*}/c/{**}".to_owned()),
                    ],
                    none: vec![PathPattern::Text(Pattern::Exact(
                        "/pkg.Service/Method".to_owned(),
                    ))],
                },
            }],
            when: vec![
                Condition::SourceIp(any(vec![net("10.0.0.0/8")])),
                Condition::RemoteIp(Values {
                    any: vec![],
                    none: vec![net("10.0.0.0/8")],
                }),
                Condition::SourceNamespace(any(exact(&["shop"]))),
                Condition::SourcePrincipal(any(exact(&["a"]))),
                Condition::SourceServiceAccount(any(vec![ObjectKey::new("shop", "web")])),
                Condition::DestinationIp(any(vec![net("10.1.0.10/32")])),
                Condition::DestinationPort(any(vec![80])),
                Condition::Sni(Values {
                    any: exact(&["a"]),
                    none: exact(&["b"]),
                }),
                Condition::Request(
                    RequestField::Header("X-Team".to_owned()),
                    any(vec![Pattern::Present]),
                ),
                Condition::Request(RequestField::Principal, any(exact(&["a"]))),
                Condition::Request(RequestField::Audiences, any(exact(&["a"]))),
                Condition::Request(RequestField::Presenter, any(exact(&["a"]))),
                Condition::Request(
                    RequestField::Claim(vec!["realm".to_owned(), "roles".to_owned()]),
                    any(exact(&["admin"])),
                ),
            ],
        }],
    };
    assert_eq!(authorization(text), expected);
    let old = text.replace("istio.io/v1\n", "istio.io/v1beta1\n");
    assert_eq!(authorization(&old), expected);
}

#[test]
fn short_policies() {
    let allow_nothing = AuthorizationPolicy {
        key: ObjectKey::new("shop", "p"),
        action: Action::Allow,
        enforcement: Enforcement::Enforced,
        target: Target::All,
        rules: Vec::new(),
        provider: None,
    };
    let policy = |spec: &str| authorization(&object("AuthorizationPolicy", spec));
    assert_eq!(policy(""), allow_nothing);
    assert_eq!(policy("rules: []"), allow_nothing);
    assert_eq!(policy("selector: {}, rules: ~"), allow_nothing);
    let head =
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\n";
    assert_eq!(authorization(head), allow_nothing);
    assert_eq!(policy("rules: [{}]").rules, [Rule::default()]);
    let bound = policy(
        "targetRefs: [{kind: Service, name: web}, {group: core, kind: Service, name: api, namespace: shop}]",
    );
    assert_eq!(
        bound.target,
        Target::Services(vec![ObjectKey::new("shop", "web"), ObjectKey::new("shop", "api")])
    );
    for (text, action) in [
        ("ALLOW", Action::Allow),
        ("DENY", Action::Deny),
        ("AUDIT", Action::Audit),
        ("CUSTOM, provider: {name: opa}", Action::Custom),
    ] {
        assert_eq!(policy(&format!("action: {text}, rules: [{{}}]")).action, action);
    }
}

#[test]
fn faults_of_a_policy() {
    let one_star = "use one `*`, at the beginning or at the end";
    let network = "use one such as 10.1.0.10, 10.1.0.0/16 or fd00::/64";
    let account = "use its name, or its namespace, a slash and its name; patterns are not possible here";
    let resolved = "is like no path: `//`, `/./` and `/../` are resolved before paths are compared";
    let template = "let `{*}` and `{**}` stand for whole segments, without other wildcards";
    let entry = "add a field with at least one value, or remove the entry";
    let service = "use a Service of the core group";
    let source = |fields: &str| format!("rules: [{{from: [{{source: {{{fields}}}}}]}}]");
    let operation = |fields: &str| format!("rules: [{{to: [{{operation: {{{fields}}}}}]}}]");
    let when = |fields: &str| format!("rules: [{{when: [{{{fields}}}]}}]");
    let of_source = |rest: &str| format!("rules[0].from[0].source{rest}");
    let of_operation = |rest: &str| format!("rules[0].to[0].operation{rest}");
    let of_when = |rest: &str| format!("rules[0].when[0]{rest}");
    for (spec, column, expected) in [
        ("action: deny".to_owned(), 16, "action: \"deny\" is not an action; use ALLOW, DENY, AUDIT or CUSTOM".to_owned()),
        ("action: CUSTOM".to_owned(), 7, "provider: missing; name the external authorizer of a CUSTOM policy".to_owned()),
        ("provider: {name: opa}".to_owned(), 25, "provider.name: ALLOW policies have no provider; remove it, or make the action CUSTOM".to_owned()),
        ("rulez: []".to_owned(), 8, "rulez: unknown field; did you mean rules?".to_owned()),
        ("selector: {matchExpressions: []}".to_owned(), 19, "selector.matchExpressions: unknown field; known here: matchLabels".to_owned()),
        ("selector: {matchLabels: {app: 'a*'}}".to_owned(), 38, "selector.matchLabels.app: \"a*\" is not a label value; use up to 63 letters, digits and inner `-`, `_` or `.`".to_owned()),
        (
            "selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: web}]".to_owned(),
            18,
            "selector: stands beside a target; bind the policy either by labels or to services".to_owned(),
        ),
        (
            "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}]".to_owned(),
            21,
            format!("targetRefs[0]: gateway.networking.k8s.io Gateway cannot be the target of a policy here; {service}"),
        ),
        ("targetRef: {kind: Pod, name: web}".to_owned(), 19, format!("targetRef: Pod cannot be the target of a policy here; {service}")),
        (
            "targetRefs: [{kind: Service, name: web, namespace: bank}]".to_owned(),
            59,
            "targetRefs[0].namespace: \"bank\" is not the policy's own namespace; bind a policy to services of its own namespace".to_owned(),
        ),
        ("targetRefs: [{kind: Service}]".to_owned(), 21, "targetRefs[0].name: missing; add this field".to_owned()),
        ("rules: [{from: []}]".to_owned(), 23, "rules[0].from: empty; list at least one entry, or remove the field".to_owned()),
        ("rules: [{to: []}]".to_owned(), 21, "rules[0].to: empty; list at least one entry, or remove the field".to_owned()),
        ("rules: [~]".to_owned(), 16, "rules[0]: expected a map of fields, found nothing; write `field: value` lines below it".to_owned()),
        ("rules: [{from: [{}]}]".to_owned(), 24, "rules[0].from[0].source: missing; add this field".to_owned()),
        (source(""), 33, of_source(&format!(": empty; {entry}"))),
        (source("principals: []"), 33, of_source(&format!(": empty; {entry}"))),
        (operation(""), 34, of_operation(&format!(": empty; {entry}"))),
        (
            source("principals: ['spiffe://cluster.local/ns/a/sa/b']"),
            47,
            of_source(".principals[0]: \"spiffe://cluster.local/ns/a/sa/b\" is a SPIFFE id, not a principal; leave out spiffe://: \"cluster.local/ns/a/sa/b\""),
        ),
        (source("notPrincipals: ['']"), 50, of_source(".notPrincipals[0]: empty; write a value, or remove it")),
        (source("principals: ['a*b']"), 47, of_source(&format!(".principals[0]: \"a*b\" has `*` where it cannot stand; {one_star}"))),
        (source("namespaces: ['*a*']"), 47, of_source(&format!(".namespaces[0]: \"*a*\" has `*` where it cannot stand; {one_star}"))),
        (source("namespaces: ['**']"), 47, of_source(&format!(".namespaces[0]: \"**\" has `*` where it cannot stand; {one_star}"))),
        (source("namespaces: shop"), 46, of_source(".namespaces: expected a list, found the text \"shop\"; write `- item` lines below it")),
        (source("ipBlocks: [10.1.0.0/33]"), 45, of_source(&format!(".ipBlocks[0]: \"10.1.0.0/33\" is neither an address nor a network; {network}"))),
        (source("notIpBlocks: [10.1.0]"), 48, of_source(&format!(".notIpBlocks[0]: \"10.1.0\" is neither an address nor a network; {network}"))),
        (source("serviceAccounts: ['*']"), 52, of_source(&format!(".serviceAccounts[0]: \"*\" is not a service account; {account}"))),
        (source("serviceAccounts: [a/b/c]"), 52, of_source(&format!(".serviceAccounts[0]: \"a/b/c\" is not a service account; {account}"))),
        (
            source("serviceAccounts: [a], namespaces: [b]"),
            33,
            of_source(": service accounts stand beside principals or namespaces; use one of the two ways to name a peer"),
        ),
        (source("principal: [a]"), 34, of_source(".principal: unknown field; did you mean principals?")),
        (operation("ports: [80]"), 43, of_operation(".ports[0]: expected text, found the number 80; put it in quotes")),
        (operation("ports: ['0']"), 43, of_operation(".ports[0]: \"0\" is not a port; use 1 to 65535")),
        (operation("ports: ['http']"), 43, of_operation(".ports[0]: \"http\" is not a port; use 1 to 65535")),
        (operation("notPorts: ['+80']"), 46, of_operation(".notPorts[0]: \"+80\" is not a port; use 1 to 65535")),
        (operation("paths: ['/a{*}']"), 43, of_operation(&format!(".paths[0]: \"/a{{*}}\" is not a path template; {template}"))),
        (operation("paths: ['/{*}/b*']"), 43, of_operation(&format!(".paths[0]: \"/{{*}}/b*\" is not a path template; {template}"))),
        (operation("paths: ['{*}/b']"), 43, of_operation(".paths[0]: \"{*}/b\" is a path template that does not begin with `/`; write the whole path")),
        (operation("paths: ['/{**}/{*}']"), 43, of_operation(".paths[0]: \"/{**}/{*}\" has a wildcard behind `{**}`; make `{**}` the last one")),
        (operation("paths: ['/x/../y']"), 43, of_operation(&format!(".paths[0]: \"/x/../y\" {resolved}; write \"/y\""))),
        (operation("notPaths: ['//y*']"), 46, of_operation(&format!(".notPaths[0]: \"//y*\" {resolved}; write \"/y*\""))),
        (operation("paths: ['*/./y']"), 43, of_operation(&format!(".paths[0]: \"*/./y\" {resolved}; write \"*/y\""))),
        (operation("paths: ['/{*}//y/{**}']"), 43, of_operation(&format!(".paths[0]: \"/{{*}}//y/{{**}}\" {resolved}; write \"/{{*}}/y/{{**}}\""))),
        (operation("paths: ['/a?x=1']"), 43, of_operation(".paths[0]: \"/a?x=1\" is like no path: what follows `?` or `#` is no part of a path; write \"/a\"")),
        (operation("paths: ['/a#b*']"), 43, of_operation(".paths[0]: \"/a#b*\" is like no path: what follows `?` or `#` is no part of a path; write \"/a*\"")),
        (operation("paths: ['/a%zz/b']"), 43, of_operation(".paths[0]: \"/a%zz/b\" is like no path: the path has a broken %-escape; write a path as it is without its query, such as /cart/items")),
        (operation("paths: [admin]"), 43, of_operation(".paths[0]: \"admin\" is like no path: the path does not begin with `/`; write \"/admin\"")),
        (when("key: source.ips, values: [a]"), 30, of_when(".key: \"source.ips\" is not a known key; did you mean source.ip?")),
        (when("key: source.ip"), 24, of_when(": no values to compare with; add values, notValues or both")),
        (when("values: [a]"), 24, of_when(".key: missing; add this field")),
        (when("key: source.ip, values: [shop]"), 50, of_when(&format!(".values[0]: \"shop\" is neither an address nor a network; {network}"))),
        (when("key: destination.port, notValues: ['99999']"), 60, of_when(".notValues[0]: \"99999\" is not a port; use 1 to 65535")),
        (when("key: source.principal, values: ['spiffe://a']"), 57, of_when(".values[0]: \"spiffe://a\" is a SPIFFE id, not a principal; leave out spiffe://: \"a\"")),
        (when("key: request.headers, values: [a]"), 30, of_when(".key: \"request.headers\" is not a known key; write request.headers[name]")),
        (when("key: 'request.headers[]', values: [a]"), 30, of_when(".key: \"request.headers[]\" is not a known key; write request.headers[name]")),
        (when("key: 'request.auth.claims[a]b', values: [a]"), 30, of_when(".key: \"request.auth.claims[a]b\" is not a known key; write request.auth.claims[name]")),
        (when("key: 'request.header[a]', values: [a]"), 30, of_when(".key: \"request.header[a]\" is not a known key; did you mean request.headers?")),
        (
            when("key: experimental.envoy.filters.x, values: [a]"),
            30,
            of_when(".key: \"experimental.envoy.filters.x\" is not a known key; known are source.ip, source.namespace, source.principal, \
                     source.serviceAccount, remote.ip, destination.ip, destination.port, connection.sni, request.auth.principal, \
                     request.auth.audiences, request.auth.presenter, request.headers[], request.auth.claims[]"),
        ),
    ] {
        let text = object("AuthorizationPolicy", &spec);
        rejected(
            &text,
            &[&format!("shop.yaml:4:{column}: AuthorizationPolicy shop/p: spec.{expected}")],
        );
    }
}

#[test]
fn everything_wrong_with_a_policy_is_told_at_once() {
    rejected(
        &with_rule("from: [{source: {ipBlocks: [x]}}], to: [{operation: {ports: [y]}}], when: [{key: z, values: [a]}]")
            .replace("values: [a]", "values: []"),
        &[
            "shop.yaml:4:45: AuthorizationPolicy shop/p: spec.rules[0].from[0].source.ipBlocks[0]: \"x\" is neither an \
             address nor a network; use one such as 10.1.0.10, 10.1.0.0/16 or fd00::/64",
            "shop.yaml:4:78: AuthorizationPolicy shop/p: spec.rules[0].to[0].operation.ports[0]: \"y\" is not a port; \
             use 1 to 65535",
            "shop.yaml:4:98: AuthorizationPolicy shop/p: spec.rules[0].when[0].key: \"z\" is not a known key; known are \
             source.ip, source.namespace, source.principal, source.serviceAccount, remote.ip, destination.ip, \
             destination.port, connection.sni, request.auth.principal, request.auth.audiences, request.auth.presenter, \
             request.headers[], request.auth.claims[]",
            "shop.yaml:4:92: AuthorizationPolicy shop/p: spec.rules[0].when[0]: no values to compare with; add values, \
             notValues or both",
        ],
    );
}

#[test]
fn the_dry_run_annotation() {
    let text = |value: &str| {
        object("AuthorizationPolicy", "").replace(
            "{name",
            &format!("{{annotations: {{istio.io/dry-run: {value}}}, name"),
        )
    };
    assert_eq!(authorization(&text("'true'")).enforcement, Enforcement::DryRun);
    assert_eq!(authorization(&text("'false'")).enforcement, Enforcement::Enforced);
    for (value, found) in [("true", "the boolean true"), ("'yes'", "the text \"yes\"")] {
        rejected(
            &text(value),
            &[&format!(
                "shop.yaml:3:44: AuthorizationPolicy shop/p: metadata.annotations[\"istio.io/dry-run\"]: found {found}; \
                 use \"true\" or \"false\", in quotes"
            )],
        );
    }
}

#[test]
fn what_a_policy_does_unexpectedly_is_told() {
    for (spec, expected) in [
        (
            "rules: [{}], action: CUSTOM, provider: {name: opa}",
            "shop.yaml:4:29: AuthorizationPolicy shop/p: spec.action: external authorization is not supported; \
             connections to the workloads that the policy selects are denied",
        ),
        (
            "action: DENY",
            "shop.yaml:4:7: AuthorizationPolicy shop/p: spec.rules: there are none, so this DENY policy never matches; \
             write `rules: [{}]` to match everything",
        ),
    ] {
        let file = File {
            name: "shop.yaml".into(),
            content: Ok(object("AuthorizationPolicy", spec)),
        };
        let update = Directory::new().load(&[file]);
        assert_eq!((update.changes.len(), update.rejections.len()), (1, 0));
        let remarks: Vec<_> = update.ignored.iter().map(ToString::to_string).collect();
        assert_eq!(remarks, [expected]);
    }
}
