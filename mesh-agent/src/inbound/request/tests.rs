//! Requests from the YAML of their policies to the answer, and to what the application gets.

use std::time::Duration;

use http::Request;
use serde_json::json;

use super::*;
use crate::{
    config::{Directory, File},
    inbound::Proof,
    policy::jwt::{KeySet, signer::Signer},
    telemetry::metrics::NodeFacts,
};

const WORKLOAD: &str = "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata: {name: web, namespace: shop}\n\
                        spec: {serviceAccount: web, node: here, addresses: [10.1.0.10]}\n---\n";

fn policy(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: shop}}\nspec: {{{spec}}}\n---\n"
    )
}

/// What the store holds becomes what a directory with this file says.
struct Mesh {
    store: Store,
    directory: Directory,
}

impl Mesh {
    fn new(policies: &str) -> Self {
        let mut mesh = Self {
            store: Store::new(),
            directory: Directory::new(),
        };
        mesh.say(policies);
        mesh
    }

    fn say(&mut self, policies: &str) {
        let file = File {
            name: "a.yaml".into(),
            content: Ok(format!("{WORKLOAD}{policies}")),
        };
        let update = self.directory.load(&[file]);
        assert_eq!(update.rejections, [], "{policies}");
        self.store.apply(&update.changes);
    }

    fn guard(&self) -> Guard {
        let snapshot = self.store.load();
        let entry = snapshot.workload(&ObjectKey::new("shop", "web")).unwrap();
        Guard {
            workload: Arc::clone(&entry.workload),
            proof: Proof::Certificate("spiffe://cluster.local/ns/shop/sa/client".parse().unwrap()),
            client: "10.9.0.1:40000".parse().unwrap(),
            addressed: "10.1.0.10:8080".parse().unwrap(),
        }
    }

    fn judge(&self, gate: &Gate, request: &Parts) -> Result<Authorized, RequestDenied> {
        self.guard()
            .check_request(&self.store.load(), gate, &Metrics::new(), request)
    }
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn get(uri: &str) -> Parts {
    request("GET", uri, &[("host", "web.shop")])
}

/// The path and query that the application gets, or the status and the word that the client gets.
fn fate(mesh: &Mesh, mut request: Parts) -> String {
    match mesh.judge(&Gate::default(), &request) {
        Ok(authorized) => {
            authorized.apply(&mut request);
            request.uri.to_string()
        }
        Err(denied) => format!("{} {}", denied.status().as_u16(), denied.word()),
    }
}

#[test]
fn the_application_gets_the_path_that_was_judged() {
    let mesh = Mesh::new(&policy(
        "AuthorizationPolicy",
        "action: DENY, rules: [{to: [{operation: {paths: ['/admin*']}}]}]",
    ));
    for (uri, expected) in [
        ("/a?b=c", "/a?b=c"),
        ("/x/../a//b?c=/../d", "/a/b?c=/../d"),
        ("/%61", "/a"),
        ("/%2561", "/%2561"),
        ("http://web.shop/./a?b", "http://web.shop/a?b"),
        ("*", "*"),
        ("/admin", "403 deny-rule"),
        ("/x/..%2fadmin?a", "403 deny-rule"),
        ("//admin", "403 deny-rule"),
        ("http://web.shop/%61dmin", "403 deny-rule"),
        ("/%00", "400 bad-path"),
        ("/%zz", "400 bad-path"),
        ("/..;/admin", "400 bad-path"),
    ] {
        assert_eq!(fate(&mesh, get(uri)), expected, "{uri}");
    }
    assert_eq!(fate(&mesh, request("CONNECT", "web.shop:80", &[])), "web.shop:80");
    let other = policy(
        "AuthorizationPolicy",
        "rules: [{to: [{operation: {methods: [GET]}}]}]",
    );
    for policies in [String::new(), other] {
        assert_eq!(
            fate(&Mesh::new(&policies), get("/x/../a//%61")),
            "/x/../a//%61",
            "nobody asks for paths"
        );
    }
}

fn dry(policy: &str) -> String {
    policy.replace(
        "namespace: shop}",
        "namespace: shop, annotations: {istio.io/dry-run: \"true\"}}",
    )
}

#[test]
fn policies_that_decide_nothing_change_no_path() {
    let admin = "rules: [{to: [{operation: {paths: ['/admin*']}}]}]";
    let deny = policy("AuthorizationPolicy", &format!("action: DENY, {admin}"));
    let audit = policy("AuthorizationPolicy", &format!("action: AUDIT, {admin}"));
    for policies in [dry(&deny), dry(&audit), audit.clone()] {
        let mesh = Mesh::new(&policies);
        assert!(!mesh.guard().needs_requests(&mesh.store.load()), "{policies}");
        for uri in ["/a%zz", "/x/..;/y", "//x/../y", "/admin", "/%61dmin", "/%00"] {
            assert_eq!(fate(&mesh, get(uri)), uri, "{policies}");
        }
    }
    // Beside one that decides the path is that of all.
    let beside = deny.replace("name: p,", "name: q,").replace("/admin*", "/shut*");
    let mesh = Mesh::new(&(dry(&deny) + &beside));
    assert_eq!(fate(&mesh, get("//x/../y")), "/y");
    assert_eq!(fate(&mesh, get("/a%zz")), "400 bad-path");
}

#[test]
fn policies_that_decide_nothing_see_paths_in_their_one_spelling() {
    let mesh = Mesh::new(&dry(&policy(
        "AuthorizationPolicy",
        "action: DENY, rules: [{to: [{operation: {paths: ['/admin*']}}]}]",
    )));
    let (snapshot, guard) = (mesh.store.load(), mesh.guard());
    let policy = snapshot.policy_of(snapshot.workload(&guard.workload.key).unwrap());
    for (uri, expected) in [
        ("/x/..//%61dmin", Ok(true)),
        ("/x//../y", Ok(false)),
        ("/a%zz", Err(BadPath::Escape)),
        ("/..;/admin", Err(BadPath::Parameter)),
    ] {
        let request = get(uri);
        let judged = Judged::of(&policy, None, &request).unwrap();
        let matches = judged
            .reported_facts(guard.facts())
            .map(|facts| policy.reports_request(&facts).next().is_some());
        assert_eq!(matches, expected, "{uri}");
    }
}

#[test]
fn what_policies_say_that_decide_nothing_is_counted_for_requests() {
    let admin = "rules: [{to: [{operation: {paths: ['/admin*']}}]}]";
    let audit =
        policy("AuthorizationPolicy", &format!("action: AUDIT, {admin}")).replace("name: p,", "name: a,");
    let rehearsed = dry(&policy("AuthorizationPolicy", &format!("action: DENY, {admin}")));
    let mesh = Mesh::new(&(audit + &rehearsed));
    let (gate, metrics, guard) = (Gate::default(), Metrics::new(), mesh.guard());
    // More than are logged.
    for _ in 0..2 * REPORTS_A_SECOND {
        let judged = guard.check_request(&mesh.store.load(), &gate, &metrics, &get("//admin"));
        assert!(judged.is_ok());
    }
    for uri in ["/", "/a%zz"] {
        guard.report_unjudged(&mesh.store.load(), &gate, &metrics, &get(uri));
    }
    let text = metrics
        .text(std::time::Instant::now(), NodeFacts::default())
        .unwrap();
    let samples: Vec<_> = text
        .lines()
        .filter(|line| {
            line.starts_with("nodemesh_policy_reports_total{")
                || line.starts_with("nodemesh_dry_run_decisions_total{")
        })
        .collect();
    let sample = |labels: &str, count: u32| {
        let found = samples
            .iter()
            .find(|line| labels.split(' ').all(|label| line.contains(label)));
        assert!(
            found.is_some_and(|line| line.ends_with(&format!(" {count}"))),
            "{labels}: {text}"
        );
    };
    sample("policy=\"a\" policy_namespace=\"shop\"", 2 * REPORTS_A_SECOND);
    sample("policy=\"p\" policy_namespace=\"shop\"", 2 * REPORTS_A_SECOND);
    sample(
        "verdict=\"deny\" enforced=\"allow\" workload=\"web\"",
        2 * REPORTS_A_SECOND,
    );
    // A path that cannot be judged is not rehearsed.
    sample("verdict=\"allow\" enforced=\"allow\" workload=\"web\"", 1);
    assert_eq!(samples.len(), 4, "{samples:?}");
}

#[test]
fn who_denies_and_why() {
    let mesh = Mesh::new(&policy(
        "AuthorizationPolicy",
        "rules: [{to: [{operation: {methods: [GET], hosts: [web.shop]}}]}]",
    ));
    let gate = Gate::default();
    assert!(mesh.judge(&gate, &get("/")).is_ok());
    assert!(
        mesh.judge(&gate, &request("GET", "http://web.shop/", &[("host", "else")]))
            .is_ok()
    );
    assert!(
        mesh.judge(&gate, &request("GET", "http://else/", &[("host", "web.shop")]))
            .is_err()
    );
    let denied = mesh
        .judge(&gate, &request("POST", "/", &[("host", "web.shop")]))
        .unwrap_err();
    assert_eq!(
        denied,
        RequestDenied::Forbidden {
            reason: "denied: no rule of the ALLOW policies matches".to_owned(),
            word: "nothing-allows",
            policy: None,
            rule: None,
        }
    );
    assert_eq!(denied.status(), StatusCode::FORBIDDEN);
    let guard = mesh.guard();
    assert!(guard.needs_requests(&mesh.store.load()));
    assert!(guard.check(&mesh.store.load()).is_err(), "as TCP it is denied");
    assert!(guard.check_before_requests(&mesh.store.load()).is_ok());
    mesh.store
        .apply(&[crate::config::Change::RemoveWorkload(ObjectKey::new(
            "shop", "web",
        ))]);
    let snapshot = mesh.store.load();
    let denied = guard
        .check_request(&snapshot, &gate, &Metrics::new(), &get("/"))
        .unwrap_err();
    assert_eq!(denied.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(guard.needs_requests(&snapshot) && guard.check_before_requests(&snapshot).is_err());
}

fn tokens(keys: &str, more: &str) -> String {
    policy(
        "RequestAuthentication",
        &format!("jwtRules: [{{issuer: i, {keys}, {more}}}]"),
    )
}

fn inline(signer: &Signer) -> String {
    format!("jwks: '{}'", json!({"keys": [signer.jwk]}))
}

#[test]
fn tokens_and_what_they_tell() {
    let signer = Signer::ec("a");
    let outputs = "outputClaimToHeaders: [{header: X-Role, claim: role}]";
    let by_token = policy(
        "AuthorizationPolicy",
        "rules: [{from: [{source: {requestPrincipals: ['i/*']}}], to: [{operation: {paths: [/token]}}]}, \
         {to: [{operation: {paths: [/header]}}], when: [{key: 'request.headers[x-role]', values: [admin]}]}, \
         {to: [{operation: {paths: [/open]}}]}]",
    );
    let mesh = Mesh::new(&(tokens(&inline(&signer), outputs) + &by_token));
    let token = |claims: serde_json::Value| format!("Bearer {}", signer.sign(&claims));
    let amy = token(json!({"iss": "i", "sub": "amy", "role": "admin"}));
    let bob = token(json!({"iss": "i", "sub": "bob", "role": "guest"}));
    let old = token(json!({"iss": "i", "sub": "bob", "exp": 1}));
    let fate_of = |path: &str, headers: &[(&str, &str)]| fate(&mesh, request("GET", path, headers));
    let denied = "403 nothing-allows";
    for (path, headers, expected) in [
        ("/token", &[("authorization", amy.as_str())][..], "/token"),
        ("/token", &[], denied),
        ("/open", &[], "/open"),
        ("/open", &[("authorization", old.as_str())], "401 bad-token"),
        ("/open", &[("authorization", "Bearer x.y.z")], "401 bad-token"),
        ("/open", &[("authorization", "Basic x")], "/open"),
        ("/header", &[("authorization", amy.as_str())], "/header"),
        ("/header", &[("authorization", bob.as_str())], denied),
        // Only a token can say this, not its bearer.
        ("/header", &[("x-role", "admin")], denied),
        (
            "/header",
            &[("authorization", bob.as_str()), ("x-role", "admin")],
            denied,
        ),
    ] {
        assert_eq!(fate_of(path, headers), expected, "{path} {headers:?}");
    }
    let gate = Gate::default();
    let mut parts = request("GET", "/token", &[("authorization", &amy), ("x-role", "root")]);
    let authorized = mesh.judge(&gate, &parts).unwrap();
    assert_eq!(authorized.principal().as_deref(), Some("i/amy"));
    authorized.apply(&mut parts);
    assert_eq!(parts.headers.len(), 1, "{:?}", parts.headers);
    assert_eq!(parts.headers["x-role"], "admin");
    let mut parts = request("GET", "/open", &[("x-role", "root")]);
    mesh.judge(&gate, &parts).unwrap().apply(&mut parts);
    assert!(parts.headers.is_empty(), "{:?}", parts.headers);

    let denied = mesh
        .judge(&gate, &request("GET", "/open", &[("authorization", &old)]))
        .unwrap_err();
    assert_eq!(denied.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        denied.challenge().unwrap(),
        "Bearer error=\"invalid_token\", error_description=\"the token has expired\""
    );
}

#[tokio::test]
async fn a_key_that_is_missed_is_waited_for() {
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let mesh = Mesh::new(&tokens("jwksUri: 'http://keys/'", "timeout: 5s"));
    let cell = {
        let snapshot = mesh.store.load();
        let policy = snapshot.request_authentications().next().unwrap();
        Arc::clone(policy.keys().next().unwrap())
    };
    let set = |signer: &Signer| {
        KeySet::parse(json!({"keys": [signer.jwk]}).to_string().as_bytes()).map_err(|error| error.to_string())
    };
    let bearing = |signer: &Signer| {
        let token = format!("Bearer {}", signer.sign(&json!({"iss": "i", "sub": "s"})));
        request("GET", "/", &[("authorization", &token)])
    };
    let (gate, metrics, guard) = (Gate::default(), Metrics::new(), mesh.guard());
    let by_new = bearing(&new);
    let denied = guard
        .check_request(&mesh.store.load(), &gate, &metrics, &by_new)
        .unwrap_err();
    assert_eq!((denied.status().as_u16(), denied.word()), (503, "no-keys"));
    let fetch = async |signer: &Signer| {
        tokio::time::timeout(Duration::from_secs(10), cell.wished())
            .await
            .expect("somebody asks for keys");
        cell.begin();
        cell.end(set(signer));
    };
    let by_old = bearing(&old);
    let (first, ()) = tokio::join!(
        guard.authorize(&mesh.store, &gate, &metrics, &by_old),
        fetch(&old)
    );
    assert!(first.is_ok());
    // The keys have just been fetched: a token by another is refused at once, whoever sends how many of them.
    let denied = guard
        .authorize(&mesh.store, &gate, &metrics, &by_new)
        .await
        .unwrap_err();
    assert_eq!((denied.status().as_u16(), denied.word()), (401, "bad-token"));
    // While a fetch is under way, it is waited for.
    cell.begin();
    let (rotated, ()) = tokio::join!(guard.authorize(&mesh.store, &gate, &metrics, &by_new), async {
        tokio::task::yield_now().await;
        cell.end(set(&new));
    });
    assert!(rotated.is_ok());
    let denied = guard
        .authorize(&mesh.store, &gate, &metrics, &bearing(&old))
        .await
        .unwrap_err();
    assert_eq!(denied.word(), "bad-token", "the old key counts no more");
}

#[test]
fn keys_outlive_changes_of_those_who_name_them() {
    let mut mesh = Mesh::new(&tokens("jwksUri: 'http://keys/'", "timeout: 5s"));
    let cells = |mesh: &Mesh| -> Vec<Arc<KeyCell>> {
        let snapshot = mesh.store.load();
        let policies = snapshot.request_authentications();
        policies
            .flat_map(|policy| policy.keys().cloned().collect::<Vec<_>>())
            .collect()
    };
    let before = cells(&mesh);
    mesh.say(
        &(tokens("jwksUri: 'http://keys/'", "timeout: 5s, audiences: [a]")
            + &tokens("jwksUri: 'http://else/'", "timeout: 5s").replace("name: p", "name: q")),
    );
    let after = cells(&mesh);
    assert!(Arc::ptr_eq(&before[0], &after[0]));
    assert_eq!(after[1].url(), Some("http://else/"));
    mesh.say("");
    assert!(cells(&mesh).is_empty());
    assert!(!mesh.guard().needs_requests(&mesh.store.load()));
}

#[test]
fn open_streams_when_policies_change() {
    let signer = Signer::ec("a");
    let authentication = tokens(
        &inline(&signer),
        "outputClaimToHeaders: [{header: x-role, claim: role}]",
    );
    let allow = |rule: &str| policy("AuthorizationPolicy", &format!("rules: [{rule}]"));
    let mut mesh = Mesh::new(&(authentication.clone() + &allow("{to: [{operation: {paths: ['/s/*']}}]}")));
    let gate = Gate::default();
    let token = format!(
        "Bearer {}",
        signer.sign(&json!({"iss": "i", "sub": "amy", "role": "admin"}))
    );
    let parts = request(
        "POST",
        "/x/../s/Chat",
        &[
            ("authorization", &token),
            ("host", "web.shop"),
            ("x-role", "root"),
        ],
    );
    let keep = |mesh: &Mesh| {
        let authorized = mesh.judge(&gate, &parts).unwrap();
        mesh.guard().keep(&mesh.store.load(), &authorized, &parts)
    };
    let kept = keep(&mesh);
    for (rule, allowed) in [
        (
            "{to: [{operation: {paths: [/s/Chat], methods: [POST], hosts: [web.shop]}}]}",
            true,
        ),
        ("{to: [{operation: {paths: [/s/Other]}}]}", false),
        ("{from: [{source: {requestPrincipals: [i/amy]}}]}", true),
        ("{from: [{source: {requestPrincipals: [i/bob]}}]}", false),
        ("{from: [{source: {namespaces: [bank]}}]}", false),
        // No headers were kept, for nobody asked for any.
        (
            "{when: [{key: 'request.headers[x-role]', values: [admin]}]}",
            false,
        ),
    ] {
        mesh.say(&(authentication.clone() + &allow(rule)));
        let still = mesh.guard().still_allows(&mesh.store.load(), &kept);
        assert_eq!(still.is_ok(), allowed, "{rule}: {still:?}");
    }
    let kept = keep(&mesh);
    assert!(mesh.guard().still_allows(&mesh.store.load(), &kept).is_ok());
    mesh.say(&(authentication + &allow("{when: [{key: 'request.headers[x-role]', values: [root]}]}")));
    let denied = mesh.guard().still_allows(&mesh.store.load(), &kept).unwrap_err();
    assert_eq!(
        denied.word(),
        "nothing-allows",
        "not what the client said of itself"
    );
}

#[test]
fn what_headers_cannot_change_is_judged_without_them() {
    let mut mesh = Mesh::new(&policy("AuthorizationPolicy", "rules: [{}]"));
    let parts = request("GET", "/x", &[("host", "web.shop"), ("x-role", "admin")]);
    let authorized = mesh.judge(&Gate::default(), &parts).unwrap();
    let kept = mesh.guard().keep(&mesh.store.load(), &authorized, &parts);
    let when = |more: &str| {
        format!(
            "when: [{{key: 'request.headers[x-role]', values: [admin]}}], to: [{{operation: {{{more}}}}}]"
        )
    };
    let unknown = Some("headers-not-kept");
    for (spec, word) in [
        // Another rule allows it.
        (
            format!(
                "rules: [{{{}}}, {{to: [{{operation: {{paths: [/x]}}}}]}}]",
                when("paths: [/x]")
            ),
            None,
        ),
        // Whatever the header was, the path does not match.
        (
            format!("rules: [{{{}}}]", when("paths: [/y]")),
            Some("nothing-allows"),
        ),
        (format!("rules: [{{{}}}]", when("paths: [/x]")), unknown),
        (
            format!("action: DENY, rules: [{{{}}}]", when("paths: [/y]")),
            None,
        ),
        (
            format!("action: DENY, rules: [{{{}}}]", when("paths: [/x]")),
            unknown,
        ),
        (
            "action: DENY, rules: [{when: [{key: 'request.headers[x-role]', notValues: [admin]}]}]"
                .to_owned(),
            unknown,
        ),
        (
            "rules: [{when: [{key: 'request.headers[x-role]', notValues: [guest]}]}]".to_owned(),
            unknown,
        ),
        // The host is kept.
        (
            "rules: [{when: [{key: 'request.headers[host]', values: [web.shop]}]}]".to_owned(),
            None,
        ),
    ] {
        mesh.say(&policy("AuthorizationPolicy", &spec));
        let still = mesh.guard().still_allows(&mesh.store.load(), &kept);
        let denied = still.err().map(|denied| denied.word());
        assert_eq!(denied, word, "{spec}");
    }
}

#[test]
fn reports_do_not_follow_the_load() {
    let reports = Reports::default();
    let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
    let many = |seconds| (0..1000).filter(|_| reports.may(at(seconds))).count();
    assert_eq!((many(1), many(1), many(2)), (50, 0, 50));
}
