//! Every field about requests: what it matches, what it excludes, and what it means without a token or a header.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::*;
use crate::policy::{BeforeRequests, Entrance, Headers, Interest, RequestFacts, Token, normalize};

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

/// One rule, requests that match it whatever the action, requests that do not, and those that match only where that is
/// to their disadvantage: a DENY rule, but no ALLOW rule.
#[track_caller]
fn rule(rule: &str, matching: &[&str], others: &[&str], doubtful: &[&str]) {
    let allow = mesh(&authorization("shop/p", &format!("rules: [{rule}]")));
    let deny = mesh(&authorization(
        "shop/p",
        &format!("action: DENY, rules: [{rule}]"),
    ));
    for words in matching {
        assert_eq!(decided_on(&allow, WEB, words), ALLOWED, "{rule}: {words}");
    }
    for words in others.iter().chain(doubtful) {
        let decision = decided_on(&allow, WEB, words);
        assert_eq!(
            decision, "denied: no rule of the ALLOW policies matches",
            "{rule}: {words}"
        );
    }
    for words in matching.iter().chain(doubtful) {
        assert_eq!(decided_on(&deny, WEB, words), DENIED, "{rule}: {words}");
    }
    for words in others {
        let decision = decided_on(&deny, WEB, words);
        assert_eq!(
            decision, "allowed: no ALLOW policy concerns the workload",
            "{rule}: {words}"
        );
    }
}

#[track_caller]
fn operation(fields: &str, matching: &[&str], others: &[&str]) {
    rule(
        &format!("{{to: [{{operation: {{{fields}}}}}]}}"),
        matching,
        others,
        &[],
    );
}

#[test]
fn methods() {
    operation(
        "methods: [GET, HEAD]",
        &["GET /", "HEAD /"],
        &["POST /", "get /", "GETS /"],
    );
    operation("methods: ['P*']", &["POST /", "PUT /"], &["GET /"]);
    operation("methods: ['*T']", &["POST /", "PUT /", "GET /"], &["HEAD /"]);
    operation("methods: ['*']", &["GET /", "ANY /"], &[]);
    operation("notMethods: [GET]", &["POST /"], &["GET /"]);
    operation(
        "methods: ['P*'], notMethods: [PUT]",
        &["POST /"],
        &["PUT /", "GET /"],
    );
}

#[test]
fn paths() {
    operation(
        "paths: [/a, /b/c]",
        &["GET /a", "GET /b/c", "GET /a?x=/b"],
        &["GET /a/", "GET /A", "GET /b", "GET /"],
    );
    operation("paths: ['/a*']", &["GET /a", "GET /ab/c"], &["GET /b/a"]);
    operation(
        "paths: ['/a/*']",
        &["GET /a/", "GET /a/b/c"],
        &["GET /a", "GET /ab"],
    );
    operation(
        "paths: ['*/info']",
        &["GET /info", "GET /a/b/info"],
        &["GET /infos", "GET /info/"],
    );
    operation("paths: ['*']", &["GET /", "GET /a"], &[]);
    operation(
        "paths: ['/a/{*}/c']",
        &["GET /a/b/c"],
        &["GET /a/c", "GET /a/b/b/c", "GET /a/b/c/"],
    );
    operation(
        "paths: ['/a/{**}']",
        &["GET /a/", "GET /a/b/c"],
        &["GET /a", "GET /b"],
    );
    operation(
        "paths: ['/a/{*}/{**}', /x]",
        &["GET /a/b/c/d", "GET /x"],
        &["GET /a/b"],
    );
    operation(
        "notPaths: ['/admin*', '/x/{*}']",
        &["GET /", "GET /x", "GET /x/y/z"],
        &["GET /admin/x", "GET /x/y"],
    );
    operation(
        "paths: [/shop.Cart/Add]",
        &["POST /shop.Cart/Add"],
        &["POST /shop.Cart/add"],
    );
    // Whatever the spelling.
    operation(
        "paths: ['/admin*']",
        &[
            "GET /%61dmin",
            "GET //admin",
            "GET /x/../admin",
            "GET /x/%2e%2e/admin",
            "GET /x%2f..%2fadmin",
            "GET /x\\..\\admin",
            "GET /./admin",
            "GET http://else/admin",
        ],
        &["GET /x%252f..%252fadmin", "GET /?/admin"],
    );
    operation(
        "paths: ['/a%2fb', '/c d/é', '/e%3Af']",
        &["GET /a/b", "GET /c%20d/%C3%a9", "GET /e:f"],
        &["GET /a%25b"],
    );
}

#[test]
fn hosts() {
    operation(
        "hosts: [Shop.Example, '*.test', 'b.example:8443']",
        &[
            "GET / host=shop.example",
            "GET / host=SHOP.EXAMPLE",
            "GET / host=shop.example:8080",
            "GET / host=shop.example.",
            "GET / host=shop.example.:80",
            "GET / host=a.Test:1",
            "GET / host=b.example:8443",
            "GET / host=b.example.:8443",
        ],
        &[
            "GET / host=xshop.example",
            "GET / host=b.example",
            "GET / host=b.example:844",
            "GET / host=test",
        ],
    );
    operation(
        "hosts: ['[fd00::1]']",
        &["GET / host=[fd00::1]", "GET / host=[FD00::1]:80"],
        &["GET / host=[fd00::2]"],
    );
    operation(
        "notHosts: [shop.example]",
        &["GET / host=else"],
        &[
            "GET / host=shop.example",
            "GET / host=SHOP.example:99",
            "GET / host=shop.example.",
        ],
    );
}

#[test]
fn headers() {
    let by = |values: &str, matching: &[&str], others: &[&str], doubtful: &[&str]| {
        rule(
            &format!("{{when: [{{key: 'request.headers[X-Role]', {values}}}]}}"),
            matching,
            others,
            doubtful,
        );
    };
    by(
        "values: [admin, 'dev*']",
        &[
            "GET / x-role:admin",
            "GET / X-ROLE:developer",
            "GET / x-role:admin x-role:dev",
        ],
        &["GET /", "GET / x-role:Admin", "GET / x-other:admin"],
        // One of them would do for the application, and none is denied by hiding behind another.
        &[
            "GET / x-role:admin x-role:guest",
            "GET / x-role:guest x-role:admin",
        ],
    );
    by(
        "values: ['*']",
        &["GET / x-role:x"],
        &["GET /", "GET / x-role:"],
        &[],
    );
    by(
        "notValues: [guest]",
        &["GET /", "GET / x-role:admin"],
        &["GET / x-role:guest"],
        &["GET / x-role:guest x-role:admin"],
    );
    rule(
        "{when: [{key: 'request.headers[Host]', values: [shop.example]}]}",
        &["GET / host=shop.example"],
        &["GET / host=else"],
        &[],
    );
}

#[test]
fn tokens() {
    let source = |fields: &str, matching: &[&str], others: &[&str], doubtful: &[&str]| {
        rule(
            &format!("{{from: [{{source: {{{fields}}}}}]}}"),
            matching,
            others,
            doubtful,
        );
    };
    let when = |name: &str, values: &str, matching: &[&str], others: &[&str], doubtful: &[&str]| {
        rule(
            &format!("{{when: [{{key: '{name}', {values}}}]}}"),
            matching,
            others,
            doubtful,
        );
    };
    let (amy, bob, nobody, none) = (
        "GET / token=amy",
        "GET / token=bob",
        "GET / token=nobody",
        "GET /",
    );
    source(
        "requestPrincipals: [issuer/amy]",
        &[amy],
        &[bob, nobody, none],
        &[],
    );
    source(
        "requestPrincipals: ['issuer/*', '*/bob']",
        &[amy, bob],
        &[nobody, none],
        &[],
    );
    source("requestPrincipals: ['*']", &[amy, bob], &[nobody, none], &[]);
    source(
        "notRequestPrincipals: [issuer/amy]",
        &[bob],
        &[amy],
        &[nobody, none],
    );
    source("notRequestPrincipals: ['*']", &[], &[amy, bob], &[nobody, none]);
    source(
        "requestPrincipals: ['*'], namespaces: [shop], notRequestPrincipals: [other/*]",
        &[amy],
        &[bob, none],
        &[],
    );
    let key = "request.auth.principal";
    when(key, "values: [issuer/amy]", &[amy], &[bob, none], &[]);
    when(key, "notValues: [issuer/amy]", &[bob], &[amy], &[none, nobody]);
    let key = "request.auth.audiences";
    when(key, "values: [shop]", &[amy], &[bob, nobody, none], &[]);
    when(key, "values: [bank]", &[amy, bob], &[nobody, none], &[]);
    when(key, "notValues: [shop]", &[bob, nobody], &[amy], &[none]);
    let key = "request.auth.presenter";
    when(key, "values: [app]", &[amy], &[bob, none], &[]);
    when(key, "notValues: [app]", &[bob], &[amy], &[none]);
    let key = "request.auth.claims[group]";
    when(key, "values: [staff]", &[amy, bob], &[nobody, none], &[]);
    when(key, "values: ['gue*']", &[bob], &[amy, none], &[]);
    when(key, "values: ['*']", &[amy, bob], &[nobody, none], &[]);
    when(key, "notValues: [guest]", &[amy, nobody], &[bob], &[none]);
    let key = "request.auth.claims[realm][roles]";
    when(key, "values: [seller]", &[amy], &[bob, none], &[]);
    when(
        "request.auth.claims[realm]",
        "values: ['*']",
        &[],
        &[amy, bob, none],
        &[],
    );
    when(
        "request.auth.claims[level]",
        "values: ['3']",
        &[amy],
        &[bob, none],
        &[],
    );
    when(
        "request.auth.claims[scope]",
        "values: [write]",
        &[amy],
        &[bob, none],
        &[],
    );
}

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
