//! Every field about requests: what it matches, what it excludes, and what it means without a token or a header.

use super::*;

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
