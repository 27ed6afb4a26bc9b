//! Requests judged together with their connection: what is decided, when, and what must be read for it.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::*;
use crate::policy::{BeforeRequests, Entrance, Headers, Interest, RequestFacts, Token, normalize};

mod fields;

/// A request in values of its own.
struct Asked {
    method: String,
    path: String,
    host: String,
    headers: HeaderMap,
    token: Option<Token>,
}

/// A request in words: method and path, then `host=`, headers as `name:value`, and `token=` with one of [`claims`].
fn asked(words: &str) -> Asked {
    let mut words = words.split_whitespace();
    let mut asked = Asked {
        method: words.next().unwrap().to_owned(),
        path: normalize(words.next().unwrap()).unwrap().into_owned(),
        host: "web.shop".to_owned(),
        headers: HeaderMap::new(),
        token: None,
    };
    for word in words {
        if let Some(host) = word.strip_prefix("host=") {
            host.clone_into(&mut asked.host);
        } else if let Some(name) = word.strip_prefix("token=") {
            let Value::Object(claims) = claims(name) else {
                panic!()
            };
            asked.token = Some(Token::new(claims));
        } else {
            let (name, value) = word.split_once(':').unwrap();
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            asked.headers.append(name, HeaderValue::from_str(value).unwrap());
        }
    }
    asked
}

fn claims(name: &str) -> Value {
    match name {
        "amy" => {
            json!({"iss": "issuer", "sub": "amy", "aud": ["shop", "bank"], "azp": "app", "group": "staff",
            "realm": {"roles": ["buyer", "seller"]}, "level": 3, "scope": "read write"})
        }
        "bob" => json!({"iss": "other", "sub": "bob", "aud": "bank", "group": ["guest", "staff"]}),
        "nobody" => json!({"iss": "issuer"}),
        other => panic!("{other}"),
    }
}

fn decided_on(store: &Store, connection_words: &str, words: &str) -> String {
    let snapshot = store.load();
    let policy = snapshot.policy_of(snapshot.workload(&key("shop/web")).unwrap());
    let asked = asked(words);
    let facts = RequestFacts {
        connection: connection(connection_words),
        method: &asked.method,
        path: &asked.path,
        host: &asked.host,
        headers: Headers::Known(&asked.headers),
        token: asked.token.as_ref(),
    };
    let decision = policy.decide_request(&facts);
    assert_eq!(
        policy.trace_request(facts).decision,
        decision,
        "what is explained is what is done"
    );
    // What is denied before requests is denied for each of them.
    if let BeforeRequests::Deny(early) = policy.decide_connection_for_http(&facts.connection) {
        assert_eq!(early.verdict(), decision.verdict(), "{early}");
    }
    decision.to_string()
}

const ALLOWED: &str = "allowed by ALLOW policy shop/p, rule 0";
const DENIED: &str = "denied by DENY policy shop/p, rule 0";

#[test]
fn connection_and_request_together() {
    let rule = "rules: [{from: [{source: {namespaces: [shop], requestPrincipals: ['*']}}], \
                to: [{operation: {methods: [GET], paths: ['/a*'], ports: ['8080']}}, {operation: {methods: [PUT]}}], \
                when: [{key: 'request.headers[x]', values: [y]}, {key: source.ip, values: [10.9.0.0/16]}]}]";
    let store = mesh(&authorization("shop/p", rule));
    for (by, words, allowed) in [
        (WEB, "GET /a x:y token=amy", true),
        (WEB, "PUT /b x:y token=amy", true),
        (WEB, "GET /b x:y token=amy", false),
        (WEB, "GET /a token=amy", false),
        (WEB, "GET /a x:y", false),
        (EVE, "GET /a x:y token=amy", false),
        ("plain", "GET /a x:y token=amy", false),
        ("cluster.local/shop/web port=80", "GET /a x:y token=amy", false),
        (
            "cluster.local/shop/web from=10.8.0.1",
            "GET /a x:y token=amy",
            false,
        ),
    ] {
        assert_eq!(decided_on(&store, by, words) == ALLOWED, allowed, "{by} {words}");
    }
}

#[test]
fn before_the_first_request() {
    let before = |policies: &str, words: &str| {
        let store = mesh(policies);
        let snapshot = store.load();
        let policy = snapshot.policy_of(snapshot.workload(&key("shop/web")).unwrap());
        match policy.decide_connection_for_http(&connection(words)) {
            BeforeRequests::Ask => "ask".to_owned(),
            BeforeRequests::Deny(decision) => decision.to_string(),
        }
    };
    let get = "to: [{operation: {methods: [GET]}}]";
    let allow = |rule: &str| authorization("shop/p", &format!("rules: [{rule}]"));
    let deny = |rule: &str| authorization("shop/p", &format!("action: DENY, rules: [{rule}]"));
    let from_shop = "from: [{source: {namespaces: [shop]}}]";
    for (policies, words, expected) in [
        (String::new(), WEB, "ask"),
        (allow(&format!("{{{get}}}")), WEB, "ask"),
        (allow(&format!("{{{from_shop}, {get}}}")), WEB, "ask"),
        (
            allow(&format!("{{{from_shop}, {get}}}")),
            EVE,
            "denied: no rule of the ALLOW policies matches",
        ),
        (deny(&format!("{{{get}}}")), WEB, "ask"),
        (deny(&format!("{{{from_shop}, {get}}}")), WEB, "ask"),
        (deny("{to: [{operation: {notMethods: [GET]}}]}"), WEB, "ask"),
        (
            deny("{from: [{source: {notRequestPrincipals: ['*']}}]}"),
            "plain",
            "ask",
        ),
        (deny(&format!("{{{from_shop}}}")), WEB, DENIED),
        (
            deny("{from: [{source: {requestPrincipals: ['*']}}, {source: {namespaces: [shop]}}]}"),
            WEB,
            DENIED,
        ),
        (
            peer_authentication("shop/p", "mtls: {mode: STRICT}"),
            "plain",
            "denied: plaintext, and PeerAuthentication shop/p is STRICT",
        ),
        (
            authorization("shop/p", "action: CUSTOM, provider: {name: x}, rules: [{}]"),
            WEB,
            "denied: CUSTOM policy shop/p asks for external authorization, and there is none",
        ),
        (dry_run("shop/p", "action: DENY, rules: [{}]"), WEB, "ask"),
    ] {
        assert_eq!(before(&policies, words), expected, "{policies}");
    }
}

#[test]
fn whether_requests_must_be_read() {
    let tokens = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: t, namespace: shop}\n\
                  spec: {selector: {matchLabels: {app: web}}, jwtRules: [{issuer: a, jwksUri: 'http://a/'}]}\n---\n";
    for (policies, web, db) in [
        (String::new(), false, false),
        (
            authorization("shop/p", "rules: [{to: [{operation: {ports: ['80']}}]}]"),
            false,
            false,
        ),
        (
            authorization("shop/p", "rules: [{to: [{operation: {methods: [GET]}}]}]"),
            true,
            true,
        ),
        (
            dry_run(
                "shop/p",
                "action: DENY, rules: [{when: [{key: 'request.headers[a]', values: [b]}]}]",
            ),
            false,
            false,
        ),
        (tokens.to_owned(), true, false),
    ] {
        let store = mesh(&policies);
        let snapshot = store.load();
        for (name, expected) in [("shop/web", web), ("shop/db", db), ("bank/db", false)] {
            let policy = snapshot.policy_of(snapshot.workload(&key(name)).unwrap());
            assert_eq!(policy.needs_requests(), expected, "{name}: {policies}");
        }
    }
}

/// How a connection may go on of which nobody knows whether it carries requests.
fn entrance(policies: &str, words: &str) -> &'static str {
    let store = mesh(policies);
    let snapshot = store.load();
    let policy = snapshot.policy_of(snapshot.workload(&key("shop/web")).unwrap());
    match policy.admit(&connection(words)) {
        Entrance::Closed(_) => "closed",
        Entrance::Requests(_) => "requests",
        Entrance::Open(_, Interest::None) => "open",
        Entrance::Open(_, Interest::Reports) => "open, reports",
        Entrance::Open(_, Interest::Tokens) => "open, tokens",
    }
}

#[test]
fn what_must_be_read_of_a_connection_follows_from_the_rules_that_could_concern_it() {
    let tokens = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: t, namespace: shop}\n\
                  spec: {jwtRules: [{issuer: a, jwksUri: 'http://a/'}]}\n---\n";
    let allow = |rule: &str| authorization("shop/a", &format!("rules: [{rule}]"));
    let deny = |rule: &str| authorization("shop/d", &format!("action: DENY, rules: [{rule}]"));
    let l7 = "{to: [{operation: {methods: [GET]}}]}";
    let elsewhere = "{to: [{operation: {methods: [GET], ports: ['81']}}]}";
    for (policies, words, expected) in [
        (String::new(), "plain", "open"),
        (tokens.to_owned(), "plain", "open, tokens"),
        (
            deny("{from: [{source: {notPrincipals: [x]}}]}"),
            "plain",
            "closed",
        ),
        (deny(l7), "plain", "requests"),
        (deny(elsewhere), "plain", "open"),
        (allow(l7), "plain", "requests"),
        // Not even a request could be allowed on this port.
        (allow(elsewhere), "plain", "closed"),
        (
            allow("{from: [{source: {principals: ['*']}}], to: [{operation: {paths: [/a]}}]}"),
            "plain",
            "closed",
        ),
        (
            allow("{from: [{source: {principals: ['*']}}], to: [{operation: {paths: [/a]}}]}"),
            WEB,
            "requests",
        ),
        (allow("{}"), "plain", "open"),
        (allow("{}") + tokens, WEB, "open, tokens"),
        (allow("{}") + &deny(l7), WEB, "requests"),
        (
            dry_run("shop/p", &format!("action: DENY, rules: [{l7}]")),
            WEB,
            "open, reports",
        ),
        (
            dry_run("shop/p", &format!("action: DENY, rules: [{elsewhere}]")),
            WEB,
            "open",
        ),
        (dry_run("shop/p", &format!("rules: [{l7}]")), WEB, "open, reports"),
        (dry_run("shop/p", "action: DENY, rules: [{}]"), WEB, "open"),
        (
            authorization("shop/p", &format!("action: AUDIT, rules: [{l7}]")),
            WEB,
            "open, reports",
        ),
    ] {
        assert_eq!(entrance(&policies, words), expected, "{words}: {policies}");
    }
}

#[test]
fn explained_step_by_step() {
    let policies = authorization(
        "shop/allow",
        "rules: [{to: [{operation: {methods: [POST], paths: [/a]}}]}, \
         {from: [{source: {notRequestPrincipals: [x]}}], when: [{key: 'request.headers[x-role]', values: [admin]}]}, \
         {when: [{key: 'request.headers[x-role]', values: [admin]}]}]",
    ) + &dry_run(
        "shop/try",
        "action: DENY, rules: [{to: [{operation: {paths: ['/a/{**}']}}]}]",
    );
    let store = mesh(&policies);
    let snapshot = store.load();
    let policy = snapshot.policy_of(snapshot.workload(&key("shop/web")).unwrap());
    let asked = asked("POST /a/../a/b");
    let facts = RequestFacts {
        connection: connection(WEB),
        method: &asked.method,
        path: &asked.path,
        host: &asked.host,
        headers: Headers::Known(&asked.headers),
        token: None,
    };
    assert_eq!(
        policy.trace_request(facts).to_string(),
        "\
identity: cluster.local/ns/shop/sa/web, by mutual TLS
request: POST /a/b, host web.shop
token: none
mode: PERMISSIVE, by default
policy: shop/allow, ALLOW
  rule 0: no match
    to[0] paths: no value matches
  rule 1: no match
    from[0] notRequestPrincipals: the request has no token
  rule 2: no match
    when[0] request.headers[x-role]: the request has no such header
policy: shop/try, DENY, dry run
  rule 0: match
verdict: denied: no rule of the ALLOW policies matches
with dry run: denied by DENY policy shop/try, rule 0
"
    );
    assert_eq!(policy.reports_request(&facts).count(), 1);
}
