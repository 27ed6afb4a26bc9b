//! What is explained of requests: the rule, its filters and backends, and what the policies say.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::*;
use crate::{
    config::{Directory, File},
    http::{
        h1::{Limits, Reader, Switch},
        wire,
    },
    policy::jwt::signer::Signer,
};

/// A service in two versions behind one name; `web` speaks HTTP on port 80, and bytes on port 90.
const WORLD: &str = r"
{kind: Workload, metadata: {name: cart, namespace: shop}, spec: {serviceAccount: cart, node: a, addresses: [10.0.0.1]}}
{kind: Workload, metadata: {name: other, namespace: else}, spec: {serviceAccount: other, node: a, addresses: [10.0.0.9]}}
{kind: Workload, metadata: {name: v1, namespace: shop, labels: {app: web, v: one}}, spec: {serviceAccount: web, node: a, addresses: [10.0.0.2]}}
{kind: Workload, metadata: {name: v2, namespace: shop, labels: {app: web, v: two}}, spec: {serviceAccount: web, node: b, addresses: [10.0.1.2]}}
{kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIPs: [10.96.0.1], selector: {app: web}, ports: [{name: http, port: 80, appProtocol: http}, {name: raw, port: 90}]}}
{kind: Service, metadata: {name: v1, namespace: shop}, spec: {clusterIPs: [10.96.0.2], selector: {v: one}, ports: [{port: 80}]}}
{kind: Service, metadata: {name: v2, namespace: shop}, spec: {clusterIPs: [10.96.0.3], selector: {v: two}, ports: [{port: 80}]}}
{kind: Service, metadata: {name: empty, namespace: shop}, spec: {clusterIPs: [10.96.0.4], selector: {v: none}, ports: [{port: 80}]}}
";

/// The world with these documents besides.
fn world(documents: &[&str]) -> Store {
    let line = |line: &str| {
        let group = match line.split(',').next().unwrap_or_default() {
            kind if kind.contains("Workload") => "nodemesh.io/v1alpha1",
            kind if kind.contains("Service") => "v1",
            kind if kind.contains("Route") => "gateway.networking.k8s.io/v1",
            _ => "security.istio.io/v1",
        };
        line.replacen("{kind:", &format!("{{apiVersion: {group}, kind:"), 1)
    };
    let lines = WORLD.lines().chain(documents.iter().copied());
    let content: Vec<_> = lines.filter(|text| !text.is_empty()).map(line).collect();
    let file = File {
        name: "a.yaml".into(),
        content: Ok(content.join("\n---\n")),
    };
    let update = Directory::new().load(&[file]);
    assert_eq!(update.rejections, []);
    let store = Store::default();
    store.apply(&update.changes);
    store
}

fn head(method: &str, path: &str, headers: &[&str]) -> Option<RequestHead> {
    Some(RequestHead {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: headers.iter().map(|text| (*text).to_owned()).collect(),
    })
}

fn about(store: &Store, source: &str, destination: &str, request: Option<RequestHead>) -> ExplainReply {
    ask_about(store, Encryption::MutualTls, source, destination, request).unwrap()
}

/// Where a request to the service can go: backend, weight, what is asked for there, and the verdict.
fn ways<'r>(reply: &'r ExplainReply) -> Vec<(&'r str, u32, String, &'r str)> {
    let way = |way: &'r ExplainedWay| {
        let ExplainedWay {
            backend,
            weight,
            request,
            verdict,
            ..
        } = way;
        let path = request.as_ref().map(|head| head.path.clone()).unwrap_or_default();
        (backend.as_str(), *weight, path, verdict.as_str())
    };
    reply.ways.iter().map(way).collect()
}

const ALLOWED: &str = "allowed: no ALLOW policy concerns the workload";

#[test]
fn a_request_goes_by_the_rule_that_wants_it_and_arrives_as_its_filters_leave_it() {
    let store = world(&[
        "{kind: HTTPRoute, metadata: {name: web, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: web, port: 80}], rules: [\
         {matches: [{path: {value: /api}, method: POST, headers: [{name: x-user, value: alice}]}], \
          filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /v}}}], \
          backendRefs: [{name: v1, port: 80, weight: 9}, {name: v2, port: 80, weight: 1, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-canary, value: '1'}]}}]}, {name: gone, port: 80, weight: 0}]},\
         {matches: [{path: {value: /}}], backendRefs: [{name: v1, port: 80}]}]}}",
    ]);
    let reply = about(
        &store,
        "shop/cart",
        "web.shop:80",
        head("POST", "/api/x?y", &["X-User: alice"]),
    );
    let rule = reply.rule.clone().unwrap();
    assert_eq!(
        (rule.kind.as_str(), rule.key.as_str(), rule.rule),
        ("HTTPRoute", "shop/web", 0)
    );
    assert_eq!(rule.matches, ["POST, path prefix /api, header x-user = alice"]);
    assert_eq!(rule.filters, ["rewrite: path prefix becomes /v"]);
    assert_eq!(rule.backends.len(), 2, "what has no weight is left out");
    assert_eq!(rule.backends[1].filters, ["request headers: x-canary set to 1"]);
    assert_eq!(
        ways(&reply),
        [
            ("shop/v1:80", 9, "/v/x?y".to_owned(), ALLOWED),
            ("shop/v2:80", 1, "/v/x?y".to_owned(), ALLOWED)
        ]
    );
    let arrives = reply.ways[1].request.clone().unwrap().headers;
    assert_eq!(arrives, ["x-user: alice", "host: web.shop", "x-canary: 1"]);
    let reply = about(&store, "shop/cart", "web.shop:80", head("", "/api/x", &[]));
    assert_eq!(reply.rule.unwrap().rule, 1);
    // Without a request it is said what is looked at.
    let reply = about(&store, "shop/cart", "web.shop:80", None);
    assert_eq!(
        reply.depends_on,
        ["HTTPRoute shop/web: method, path, header x-user"]
    );
    assert!(reply.rule.is_none() && reply.ways.is_empty());
    // On another port there are bytes.
    let reply = about(&store, "shop/cart", "web.shop:90", head("POST", "/api", &[]));
    assert!(
        reply.route.contains("all requests on a connection go there"),
        "{}",
        reply.route
    );
}

#[test]
fn routes_that_do_the_same_with_all_requests_need_none() {
    let store = world(&[
        "{kind: HTTPRoute, metadata: {name: web, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: [\
         {backendRefs: [{name: v1, port: 80, weight: 90}, {name: v2, port: 80, weight: 10}]}]}}",
    ]);
    let reply = about(&store, "shop/cart", "shop/web:80", None);
    assert_eq!(
        ways(&reply),
        [
            ("shop/v1:80", 90, String::new(), ALLOWED),
            ("shop/v2:80", 10, String::new(), ALLOWED)
        ]
    );
}

#[test]
fn what_the_mesh_answers_itself_is_said_with_its_status() {
    let store = world(&[
        "{kind: HTTPRoute, metadata: {name: web, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: web, port: 80}], rules: [\
         {matches: [{path: {value: /old}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: new.shop, statusCode: 301}}]},\
         {matches: [{path: {value: /none}}]},\
         {matches: [{path: {value: /empty}}], backendRefs: [{name: empty, port: 80}]},\
         {matches: [{path: {value: /gone}}], backendRefs: [{name: gone, port: 80}]},\
         {matches: [{path: {value: /half}}], backendRefs: [{name: gone, port: 80}, {name: v1, port: 80}]}]}}",
    ]);
    let said = |path| {
        let reply = about(&store, "shop/cart", "shop/web:80", head("", path, &[]));
        (reply.status, reply.route, reply.ways.len())
    };
    let answered =
        |status: u32, text: &str| (status, format!("answered by the mesh with {status}: {text}"), 0);
    assert_eq!(
        said("/"),
        answered(404, "no rule of HTTPRoute shop/web wants the request")
    );
    assert_eq!(
        said("/old/x"),
        answered(301, "a redirect to http://new.shop/old/x")
    );
    assert_eq!(
        said("/none"),
        answered(500, "the rule has no backend with a weight")
    );
    assert_eq!(said("/empty"), answered(503, "the service has no ready endpoint"));
    assert_eq!(said("/gone"), answered(500, "the service has no such port"));
    let reply = about(&store, "shop/cart", "shop/web:80", head("", "/half", &[]));
    assert_eq!((reply.status, reply.ways.len()), (0, 1));
    let fault = &reply.rule.unwrap().backends[0].fault;
    assert_eq!(fault, "500 by the mesh: the service has no such port");
}

#[test]
fn a_grpc_route_answers_in_its_own_words() {
    let store = world(&[
        "{kind: GRPCRoute, metadata: {name: web, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: web, port: 80}], rules: [\
         {matches: [{method: {service: pkg.Cart, method: Add}}], backendRefs: [{name: v1, port: 80}]}]}}",
    ]);
    let reply = about(
        &store,
        "shop/cart",
        "shop/web:80",
        head("POST", "/pkg.Cart/Add", &[]),
    );
    let rule = reply.rule.unwrap();
    assert_eq!(
        (rule.kind.as_str(), rule.matches),
        ("GRPCRoute", vec!["service = pkg.Cart, method = Add".to_owned()])
    );
    let reply = about(
        &store,
        "shop/cart",
        "shop/web:80",
        head("POST", "/pkg.Cart/Drop", &[]),
    );
    assert_eq!(
        reply.route,
        "answered by the mesh with 404, for gRPC with grpc-status 12: no rule of GRPCRoute shop/web wants the request"
    );
}

#[test]
fn clients_of_another_namespace_go_by_the_routes_that_are_theirs() {
    let route = |namespace, backend| {
        format!(
            "{{kind: HTTPRoute, metadata: {{name: r, namespace: {namespace}}}, spec: {{parentRefs: [{{group: '', kind: Service, name: web, namespace: shop, port: 80}}], \
             rules: [{{backendRefs: [{{name: {backend}, namespace: shop, port: 80}}]}}]}}}}"
        )
    };
    let store = world(&[&route("shop", "v1"), &route("else", "v2")]);
    for (source, key) in [("shop/cart", "shop/r"), ("else/other", "else/r")] {
        let reply = about(&store, source, "shop/web:80", head("", "", &[]));
        assert_eq!(reply.rule.unwrap().key, key);
    }
    // From outside the mesh nothing is routed.
    let reply = about(&store, "192.0.2.1", "shop/web:80", head("", "", &[]));
    assert!(
        reply.rule.is_none() && reply.route.contains("all requests on a connection go there"),
        "{}",
        reply.route
    );
}

const READERS: &str = "{kind: AuthorizationPolicy, metadata: {name: readers, namespace: shop}, spec: {selector: {matchLabels: {app: web}}, action: ALLOW, rules: [\
    {to: [{operation: {methods: [GET], paths: [/read/*]}}]}]}}";

#[test]
fn a_policy_about_requests_says_which_it_allows_and_why_not_the_others() {
    let store = world(&[READERS]);
    let reply = about(&store, "shop/cart", "shop/web:80", head("GET", "/read/x", &[]));
    assert!(
        reply.ways.iter().all(|way| way.allowed && way.status == 0),
        "{:?}",
        reply.ways
    );
    // A path in another spelling is judged in its one spelling.
    let reply = about(
        &store,
        "shop/cart",
        "shop/web:80",
        head("GET", "/read/../write", &[]),
    );
    let [local, remote] = &*reply.ways else {
        panic!("{:?}", reply.ways)
    };
    assert_eq!(local.verdict, "denied: no rule of the ALLOW policies matches");
    assert_eq!(
        local.policies[0].rules[0].misses,
        ["to[0] paths: no value matches"]
    );
    assert_eq!((local.status, remote.status), (403, 403));
    let reply = about(&store, "shop/cart", "shop/web:80", head("GET", "/read/%00", &[]));
    assert_eq!(reply.ways[0].status, 400, "{}", reply.ways[0].verdict);
    // Of the connection it can only be said what it depends on.
    let reply = about(&store, "shop/cart", "shop/web:80", None);
    assert_eq!(reply.ways[0].depends_on, ["ALLOW shop/readers: methods, paths"]);
    assert!(!reply.ways[0].allowed);
}

#[test]
fn what_no_request_could_change_is_said_of_the_connection() {
    let deny = "{kind: AuthorizationPolicy, metadata: {name: no-cart, namespace: shop}, spec: {selector: {matchLabels: {app: web}}, action: DENY, rules: [\
        {from: [{source: {principals: [cluster.local/ns/shop/sa/cart]}}]}]}}";
    let audit = "{kind: AuthorizationPolicy, metadata: {name: notes, namespace: shop}, spec: {selector: {matchLabels: {app: web}}, action: AUDIT, rules: [\
        {to: [{operation: {methods: [GET]}}]}]}}";
    let reply = about(&world(&[READERS, deny]), "shop/cart", "shop/web:80", None);
    assert_eq!(
        reply.ways[0].verdict,
        "denied by DENY policy shop/no-cart, rule 0"
    );
    assert_eq!((reply.ways[0].status, reply.ways[0].depends_on.len()), (403, 0));
    // What decides nothing leaves nothing open.
    let reply = about(&world(&[audit]), "shop/cart", "shop/web:80", None);
    assert!(reply.ways[0].allowed);
}

#[test]
fn a_dry_run_says_what_it_would_do_and_changes_nothing() {
    let dry = "{kind: AuthorizationPolicy, metadata: {name: dry, namespace: shop, annotations: {istio.io/dry-run: 'true'}}, spec: {\
        selector: {matchLabels: {app: web}}, action: DENY, rules: [{to: [{operation: {paths: ['/admin*']}}]}]}}";
    let store = world(&[dry]);
    for (path, rehearsal) in [
        ("/x/..//%61dmin", "denied by DENY policy shop/dry, rule 0"),
        ("/x", "allowed: no ALLOW policy concerns the workload"),
        (
            "/a%zz",
            "policies that decide nothing see no such request: the path has a broken %-escape",
        ),
    ] {
        for to in ["shop/web:80", "shop/web:90"] {
            let reply = about(&store, "shop/cart", to, head("GET", path, &[]));
            let way = &reply.ways[0];
            assert_eq!(
                (way.allowed, way.status, way.verdict.as_str()),
                (true, 0, ALLOWED),
                "{path}"
            );
            assert_eq!(way.rehearsal, rehearsal, "{path} {to}");
        }
    }
}

#[test]
fn a_request_is_judged_without_what_does_not_go_on() {
    let admins = "{kind: AuthorizationPolicy, metadata: {name: admins, namespace: shop}, spec: {selector: {matchLabels: {app: web}}, action: DENY, rules: [\
        {when: [{key: 'request.headers[x-role]', values: [admin]}]}]}}";
    let store = world(&[admins]);
    let asked = |headers: &[&str]| {
        let mut reply = about(&store, "shop/cart", "shop/web:80", head("GET", "/", headers));
        let asked = reply.request.unwrap().headers;
        let way = reply.ways.remove(0);
        let mut arrives = way.request.unwrap().headers;
        arrives.sort_unstable();
        (way.allowed, way.status, asked, arrives)
    };
    let (allowed, status, ..) = asked(&["X-Role: admin"]);
    assert_eq!((allowed, status), (false, 403));
    let (allowed, status, asked_for, arrives) = asked(&[
        "X-Role: admin",
        "Connection: a, X-Role",
        "Nodemesh-Error: x",
        "X-Forwarded-Client-Cert: y",
        "Keep-Alive: 5",
        "Upgrade: b",
    ]);
    assert_eq!((allowed, status), (true, 0));
    assert_eq!(asked_for.len(), 7, "as it was asked: {asked_for:?}");
    assert_eq!(arrives, ["host: web.shop"]);
}

#[tokio::test]
async fn a_wish_to_leave_http_goes_on_where_the_engine_lets_it() {
    let store = world(&[]);
    let wishes = |protocol| {
        [
            "Connection: keep-alive, Upgrade".to_owned(),
            format!("Upgrade: {protocol}"),
        ]
    };
    for (method, protocol, goes_on) in [
        ("GET", "websocket", true),
        ("GET", "h2c", false),
        ("GET", "websocket, H2C", false),
        ("GET", "", false),
        ("POST", "websocket", false),
    ] {
        let lines = wishes(protocol);
        let reply = about(
            &store,
            "shop/cart",
            "shop/web:80",
            head(method, "/", &lines.each_ref().map(String::as_str)),
        );
        let arrives = &reply.ways[0].request.as_ref().unwrap().headers;
        let explained = arrives.iter().any(|line| line.starts_with("upgrade:"));
        let bytes = format!("{method} / HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", lines.join("\r\n"));
        let mut reader = Reader::new(bytes.as_bytes(), Limits::default());
        let mut read = reader.request().await.unwrap().unwrap();
        let switch = wire::receive(&mut read.parts, read.switch, read.body);
        let carried = matches!(switch, Switch::Upgrade(_));
        assert_eq!((explained, carried), (goes_on, goes_on), "{method} {protocol}");
    }
}

#[test]
fn connect_passes_only_where_nobody_reads_requests() {
    let route = "{kind: HTTPRoute, metadata: {name: web, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: web, port: 80}], rules: [\
         {backendRefs: [{name: v1, port: 80}]}]}}";
    for (documents, to, expected) in [
        (&[][..], "shop/web:80", (405, 0, true)),
        (&[route], "shop/web:80", (405, 0, true)),
        (&[READERS], "shop/web:90", (0, 405, false)),
        (&[], "shop/web:90", (0, 0, false)),
    ] {
        let reply = about(&world(documents), "shop/cart", to, head("CONNECT", "", &[]));
        let way = reply.ways.first();
        let seen = (reply.status, way.map_or(0, |way| way.status), way.is_none());
        assert_eq!(seen, expected, "{to}: {}", reply.route);
    }
}

#[test]
fn requests_to_a_service_without_endpoints_are_answered() {
    let led = "{kind: Service, metadata: {name: none, namespace: shop}, spec: {clusterIPs: [10.96.0.5], selector: {v: none}, ports: [{port: 80, appProtocol: http}]}}";
    let store = world(&[led]);
    for request in [None, head("GET", "/", &[])] {
        let reply = about(&store, "shop/cart", "shop/none:80", request.clone());
        assert_eq!(
            (reply.status, reply.route.as_str()),
            (
                503,
                "answered by the mesh with 503: the service has no ready endpoint"
            )
        );
        // Connections are refused where bytes are carried, and where nobody leads requests.
        for (source, to) in [("shop/cart", "shop/empty:80"), ("192.0.2.1", "shop/none:80")] {
            let reply = about(&store, source, to, request.clone());
            assert_eq!(
                (reply.status, reply.route.as_str()),
                (0, "refused: the service has no ready endpoint")
            );
        }
    }
}

#[test]
fn a_token_counts_where_its_keys_are_known() {
    let signer = Signer::ed("one");
    let inline = json!({"keys": [signer.jwk]});
    let policy = |keys: &str| {
        format!(
            "{{kind: RequestAuthentication, metadata: {{name: tokens, namespace: shop}}, spec: {{selector: {{matchLabels: {{app: web}}}}, jwtRules: [{{issuer: me, {keys}}}]}}}}"
        )
    };
    let store = world(&[&policy(&format!("jwks: '{inline}'"))]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let token = signer.sign(&json!({"iss": "me", "sub": "x", "exp": now + 600}));
    let asked = |store: &Store, token: &str| {
        let header = format!("Authorization: Bearer {token}");
        let reply = about(store, "shop/cart", "shop/web:80", head("", "", &[&header]));
        let way = |way: &ExplainedWay| (way.allowed, way.status, way.verdict.clone());
        reply.ways.iter().map(way).collect::<Vec<_>>()
    };
    assert!(asked(&store, &token).iter().all(|(allowed, ..)| *allowed));
    let bad = asked(&store, "nonsense");
    assert!(
        bad.iter()
            .all(|(allowed, status, verdict)| !allowed && *status == 401 && verdict.starts_with("denied: ")),
        "{bad:?}"
    );
    // Keys that are fetched are with the agent of the node where they are needed.
    let store = world(&[&policy("jwksUri: 'http://keys/'")]);
    let [local, remote] = &*asked(&store, &token) else {
        panic!("two ways")
    };
    assert_eq!(
        (local.1, local.2.as_str()),
        (
            503,
            "denied: the keys of issuer me are not known: not fetched yet"
        )
    );
    assert_eq!(
        (remote.1, remote.2.as_str()),
        (
            0,
            "depends on the token; ask the agent of node b, which has the keys"
        )
    );
    // Without a request, the token is what it depends on.
    let reply = about(&store, "shop/cart", "shop/web:80", None);
    assert_eq!(
        reply.ways[0].depends_on,
        ["RequestAuthentication shop/tokens: the token"]
    );
}

#[test]
fn what_is_no_request_is_told_apart() {
    let store = world(&[]);
    for request in [
        head("G ET", "", &[]),
        head("", "no-slash", &[]),
        head("", "/a b", &[]),
        head("", "", &["no colon"]),
        head("", "", &["na me: x"]),
        head("", "", &["name: a\nb: c"]),
    ] {
        let error = ask_about(
            &store,
            Encryption::MutualTls,
            "shop/cart",
            "shop/web:80",
            request.clone(),
        );
        assert!(matches!(error, Err(ExplainError::Request(_))), "{request:?}");
    }
}

#[test]
fn where_connections_go_as_a_whole_requests_are_judged_all_the_same() {
    let store = world(&[READERS]);
    // A port for bytes, the workload itself, and a client outside of the mesh.
    for (source, destination) in [
        ("shop/cart", "shop/web:90"),
        ("shop/cart", "shop/v1:80"),
        ("shop/cart", "10.0.1.2:90"),
        ("192.0.2.1", "10.0.0.2:80"),
    ] {
        let judged = |method| {
            let reply = about(&store, source, destination, head(method, "/read/x", &[]));
            (reply.ways[0].allowed, reply.ways[0].status)
        };
        assert_eq!(judged("GET"), (true, 0), "{source} {destination}");
        assert_eq!(judged("POST"), (false, 403), "{source} {destination}");
        let reply = about(&store, source, destination, None);
        let [way, ..] = &*reply.ways else { panic!("no way") };
        assert_eq!(way.depends_on, ["ALLOW shop/readers: methods, paths"]);
        assert!(
            way.verdict
                .ends_with("what is none is denied: no rule of the ALLOW policies matches"),
            "{}",
            way.verdict
        );
    }
    // Where no policy looks at requests, there is nothing to read.
    let reply = about(&world(&[]), "shop/cart", "shop/web:90", head("GET", "/", &[]));
    assert!(reply.ways[0].allowed && reply.ways[0].request.is_none());
}

#[test]
fn a_route_leads_requests_also_where_the_port_says_nothing_and_not_by_hbone() {
    let store = world(&[
        "{kind: HTTPRoute, metadata: {name: raw, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: web, port: 90}], \
         rules: [{backendRefs: [{name: away, port: 80}]}]}}",
        "{kind: Workload, metadata: {name: away, namespace: shop, labels: {app: away}}, spec: {serviceAccount: away, node: z, addresses: [10.0.2.2], tunnelProtocol: HBONE}}",
        "{kind: Service, metadata: {name: away, namespace: shop}, spec: {clusterIPs: [10.96.0.9], selector: {app: away}, ports: [{port: 80}]}}",
    ]);
    let reply = about(&store, "shop/cart", "shop/web:90", head("", "", &[]));
    assert_eq!(reply.rule.unwrap().key, "shop/raw");
    assert_eq!(
        (reply.ways[0].allowed, reply.ways[0].status),
        (false, 503),
        "{:?}",
        reply.ways
    );
}
