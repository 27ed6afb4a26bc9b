//! HTTPRoute and GRPCRoute: what they become, and the exact words for what is wrong with them.

use std::sync::Arc;
use std::time::Duration;

use mesh_common::model::{
    BackendTarget, GrpcMatch, HttpMatch, NamedMatch, ObjectKey, ParentRef, PathMatch, PathModifier, Route,
    RouteFilter, RouteKind, RouteMatch, TextMatch,
};

use super::load;
use crate::config::{Change, Directory, File, Update};

fn update(text: &str) -> Update {
    let file = File {
        name: "shop.yaml".into(),
        content: Ok(text.to_owned()),
    };
    Directory::new().load(&[file])
}

/// The route, which may have remarks.
fn route(text: &str) -> Route {
    let mut update = update(text);
    match update.changes.pop() {
        Some(Change::PutRoute(route)) => Arc::unwrap_or_clone(route),
        _ => panic!("{update:?}"),
    }
}

fn http(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: web}}]\n  rules:\n{rules}"
    )
}

fn grpc(rules: &str) -> String {
    http(rules).replace("HTTPRoute", "GRPCRoute")
}

/// Field, reason and remedy of each rejection.
fn faults(text: &str) -> Vec<String> {
    let rejections = update(text).rejections;
    let line = |rejection: &crate::config::Rejection| {
        let field = rejection.field.clone().unwrap_or_default();
        format!("{field}: {} | {}", rejection.reason, rejection.remedy)
    };
    rejections.iter().map(line).collect()
}

#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    assert!(update(text).changes.is_empty(), "{text}");
    assert_eq!(faults(text), expected, "{text}");
}

const FULL: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop, creationTimestamp: '2026-01-02T03:04:05Z', labels: {app: web}}
spec:
  parentRefs:
  - {group: '', kind: Service, name: web, port: 80}
  - {group: '', kind: Service, name: web, port: 8080}
  - {group: core, kind: Service, name: cart, namespace: other, sectionName: http}
  rules:
  - name: first
    matches:
    - path: {type: Exact, value: /a}
      method: PUT
      headers: [{name: X-Env, value: test}, {type: RegularExpression, name: x-v, value: 'v[0-9]+'}]
      queryParams: [{name: Page, value: '1'}]
    - {}
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: X-A, value: a}], add: [{name: x-b, value: 'b, c'}], remove: [x-c]}
    - {type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}, percent: 42}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 81}, fraction: {numerator: 1, denominator: 3}}}
    backendRefs:
    - {name: web-v1, port: 80, weight: 90}
    - name: web-v2
      namespace: other
      port: 80
      filters: [{type: URLRewrite, urlRewrite: {hostname: v2.example, path: {type: ReplaceFullPath, replaceFullPath: /v2}}}]
    - {group: example.com, kind: Bucket, name: b, weight: 0}
    timeouts: {request: 1m30s, backendRequest: 500ms}
    retry: {codes: [500, 503], attempts: 2, backoff: 25ms}
  - matches: [{path: {value: /old}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {scheme: https, port: 8443, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}}
    - type: CORS
      cors: {allowOrigins: ['https://*.example.com'], allowMethods: [GET], allowHeaders: ['*'], maxAge: 60}
";

#[test]
fn a_full_http_route() {
    let route = route(FULL);
    assert_eq!(route.kind, RouteKind::Http);
    assert_eq!(route.key, ObjectKey::new("shop", "web"));
    assert_eq!(route.created, Some(1_767_323_045));
    let parents: Vec<_> = route.parents.iter().map(ToString::to_string).collect();
    assert_eq!(parents, ["shop/web:80", "shop/web:8080", "other/cart#http"]);
    let [first, second] = &route.rules[..] else {
        panic!("{route:?}")
    };
    assert_eq!(first.name.as_deref(), Some("first"));
    let exact = |text: &str| TextMatch::Exact(text.to_owned());
    let named = |name: &str, value| NamedMatch {
        name: name.to_owned(),
        value,
    };
    assert_eq!(
        first.matches[0],
        RouteMatch::Http(HttpMatch {
            path: PathMatch::Exact("/a".to_owned()),
            method: Some("PUT".to_owned()),
            headers: vec![
                named("x-env", exact("test")),
                named("x-v", TextMatch::Regex("v[0-9]+".to_owned())),
            ],
            query: vec![named("Page", exact("1"))],
        })
    );
    let RouteMatch::Http(everything) = &first.matches[1] else {
        panic!()
    };
    assert_eq!(everything.path, PathMatch::Prefix("/".to_owned()));
    let [
        RouteFilter::RequestHeaders(headers),
        RouteFilter::Mirror(percent),
        RouteFilter::Mirror(fraction),
    ] = &first.filters[..]
    else {
        panic!("{:?}", first.filters)
    };
    assert_eq!(headers.set, [("x-a".to_owned(), "a".to_owned())]);
    assert_eq!(headers.add, [("x-b".to_owned(), "b, c".to_owned())]);
    assert_eq!(headers.remove, ["x-c"]);
    assert_eq!((percent.numerator, percent.denominator), (42, 100));
    assert_eq!((fraction.numerator, fraction.denominator), (1, 3));
    let backends: Vec<_> = first
        .backends
        .iter()
        .map(|backend| format!("{}={}", backend.target, backend.weight))
        .collect();
    assert_eq!(
        backends,
        [
            "shop/web-v1:80=90",
            "other/web-v2:80=1",
            "example.com Bucket shop/b=0"
        ]
    );
    assert!(matches!(
        &first.backends[1].filters[..],
        [RouteFilter::Rewrite(_)]
    ));
    assert_eq!(first.timeouts.request, Some(Duration::from_secs(90)));
    assert_eq!(first.timeouts.backend_request, Some(Duration::from_millis(500)));
    let retry = first.retry.clone().unwrap();
    assert_eq!((retry.codes, retry.attempts), (vec![500, 503], Some(2)));
    assert_eq!(retry.backoff, Some(Duration::from_millis(25)));
    let [RouteFilter::Redirect(redirect), RouteFilter::Cors(cors)] = &second.filters[..] else {
        panic!("{:?}", second.filters)
    };
    assert_eq!(redirect.path, Some(PathModifier::Prefix(String::new())));
    assert_eq!((redirect.status, redirect.port), (301, Some(8443)));
    assert_eq!((cors.max_age, cors.allow_credentials), (60, false));
}

#[test]
fn a_full_grpc_route() {
    let text = grpc(
        "  - matches:\n    - method: {service: shop.Cart, method: Get}\n      headers: [{name: v, value: '1'}]\n    \
         - method: {type: RegularExpression, method: 'G.*'}\n    backendRefs: [{name: cart, port: 9090}]\n",
    );
    let route = route(&text);
    assert_eq!(route.kind, RouteKind::Grpc);
    assert_eq!(
        route.rules[0].matches,
        [
            RouteMatch::Grpc(GrpcMatch {
                service: Some(TextMatch::Exact("shop.Cart".to_owned())),
                method: Some(TextMatch::Exact("Get".to_owned())),
                headers: vec![NamedMatch {
                    name: "v".to_owned(),
                    value: TextMatch::Exact("1".to_owned())
                }],
            }),
            RouteMatch::Grpc(GrpcMatch {
                method: Some(TextMatch::Regex("G.*".to_owned())),
                ..GrpcMatch::default()
            }),
        ]
    );
    let cart = BackendTarget::Service {
        service: ObjectKey::new("shop", "cart"),
        port: 9090,
    };
    assert_eq!(route.rules[0].backends[0].target, cart);
}

#[test]
fn what_is_left_out_has_the_gateway_apis_defaults() {
    let text = http("").replace("  rules:\n", "");
    let route = route(&text);
    assert_eq!(route.rules.len(), 1);
    assert_eq!(route.created, None);
    let parent = ParentRef {
        service: ObjectKey::new("shop", "web"),
        port: None,
        section_name: None,
    };
    assert_eq!(route.parents, [parent]);
}

#[test]
fn what_has_no_effect_is_remarked() {
    let text = http("  - matches: [{headers: [{name: a, value: '1'}, {name: A, value: '2'}]}]\n")
        .replace("spec:\n", "spec:\n  hostnames: [web.example]\n")
        .replace(
            "name: web}]",
            "name: web}, {name: edge}, {kind: Service, name: web}]",
        );
    let route = route(&text);
    assert_eq!(route.parents.len(), 1);
    let RouteMatch::Http(matched) = &route.rules[0].matches[0] else {
        panic!()
    };
    assert_eq!(matched.headers.len(), 1);
    let told = format!("{:?}", update(&text));
    for words in [
        "gateway.networking.k8s.io Gateway edge is no parent for the mesh",
        "to mean a service, write `group",
        "hostnames have no effect in a mesh",
        "A stands there already, in other letters",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
}

#[test]
fn place_and_words_of_a_mistake() {
    let text = http("  - matches: [{path: {type: Prefix, value: /}}]\n    weights: 1\n");
    assert_eq!(
        load(&text).unwrap_err(),
        [
            "shop.yaml:8:5: HTTPRoute shop/web: spec.rules[0].weights: unknown field; known here: name, matches, filters, \
          backendRefs, timeouts, retry, sessionPersistence"
        ]
    );
}

#[test]
fn matches_that_are_wrong() {
    let one = |body: &str| http(&format!("  - matches: [{{{body}}}]\n"));
    refused(
        &one("path: {type: Prefix, value: /}"),
        &[
            "spec.rules[0].matches[0].path.type: \"Prefix\" is not a type of path | use Exact, PathPrefix, RegularExpression",
        ],
    );
    for (path, reason) in [
        ("a", "\"a\" does not begin with `/` | write the whole path"),
        (
            "/a//b",
            "\"/a//b\" is not in its normal form | leave out `//`, `/./` and `/../`",
        ),
        (
            "/a/..",
            "\"/a/..\" is not in its normal form | leave out `//`, `/./` and `/../`",
        ),
        ("/a%2Fb", "\"/a%2Fb\" has an escaped slash | leave out `%2f`"),
        (
            "/a b",
            "\"/a b\" has characters that a path cannot have | escape them as %XX",
        ),
        (
            "/a%4",
            "\"/a%4\" has characters that a path cannot have | escape them as %XX",
        ),
    ] {
        refused(
            &one(&format!("path: {{value: '{path}'}}")),
            &[&format!("spec.rules[0].matches[0].path.value: {reason}")],
        );
    }
    refused(
        &one("path: {type: RegularExpression, value: '/('}"),
        &[
            "spec.rules[0].matches[0].path.value: \"/(\" is not a regular expression: unclosed group | use the syntax of RE2, \
           without look-around and back-references",
        ],
    );
    refused(
        &one("method: get"),
        &["spec.rules[0].matches[0].method: \"get\" is not a method | did you mean GET?"],
    );
    refused(
        &one(
            "headers: [{name: ':path', value: a}, {name: a, value: ''}, {name: b, value: '1'}, {name: b, value: '2'}]",
        ),
        &[
            "spec.rules[0].matches[0].headers[0].name: \":path\" is not the name of a header | use letters, digits and \
             hyphens; pseudo-headers such as :path cannot be used",
            "spec.rules[0].matches[0].headers[1].value: empty | write a value",
            "spec.rules[0].matches[0].headers[3].name: b is the name of another header already | use each name once",
        ],
    );
    refused(
        &grpc("  - matches: [{method: {type: Exact}}, {method: {service: a/b}}]\n"),
        &[
            "spec.rules[0].matches[0].method: neither a service nor a method | name one of them, or both",
            "spec.rules[0].matches[1].method.service: \"a/b\" is not a name of a gRPC service or method | write the \
             service with its package, such as shop.Cart, and the method alone, such as Get",
        ],
    );
}

#[test]
fn filters_that_are_wrong() {
    let one = |body: &str| http(&format!("  - filters: [{body}]\n"));
    refused(
        &one("{type: RequestRedirect}"),
        &["spec.rules[0].filters[0].requestRedirect: missing | say what the filter does"],
    );
    refused(
        &one("{type: CORS, cors: {}, urlRewrite: {}}"),
        &[
            "spec.rules[0].filters[0].urlRewrite: the filter is of type CORS | remove urlRewrite, or make it a filter of its own",
        ],
    );
    refused(
        &one("{type: URLRewrite, urlRewrite: {}}, {type: URLRewrite, urlRewrite: {}}"),
        &[
            "spec.rules[0].filters[1]: URLRewrite stands there more than once | put everything into one filter",
        ],
    );
    refused(
        &one(
            "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: '1'}], remove: [A]}}",
        ),
        &[
            "spec.rules[0].filters[0].requestHeaderModifier.remove[0]: a is changed already | do one thing to each header",
        ],
    );
    refused(
        &one("{type: RequestRedirect, requestRedirect: {statusCode: 304, hostname: 'web:80', scheme: ftp}}"),
        &[
            "spec.rules[0].filters[0].requestRedirect.scheme: \"ftp\" is not a scheme to redirect to | use http, https",
            "spec.rules[0].filters[0].requestRedirect.hostname: \"web:80\" is not a DNS name | use a name such as \
             web.example.com, without a port",
            "spec.rules[0].filters[0].requestRedirect.statusCode: 304 is not the status of a redirect | use 301, 302, 303, \
             307 or 308",
        ],
    );
    refused(
        &one("{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}, percent: 101}}"),
        &[
            "spec.rules[0].filters[0].requestMirror.percent: 101 of 100 is not a share | use a percentage of 0 to 100, or a \
           numerator that is at most the denominator",
        ],
    );
    refused(
        &one("{type: CORS, cors: {allowOrigins: ['*', 'www.example'], maxAge: 0}}"),
        &[
            "spec.rules[0].filters[0].cors.allowOrigins: `*` stands beside others | leave `*` alone, or out",
            "spec.rules[0].filters[0].cors.allowOrigins[1]: \"www.example\" is not an origin | use `*`, or one such as \
             https://www.example.com, https://*.example.com or http://example.com:8080",
            "spec.rules[0].filters[0].cors.maxAge: 0 is not a number of seconds | use at least 1",
        ],
    );
    refused(
        &one("{type: ExternalAuth, externalAuth: {protocol: GRPC}}"),
        &[
            "spec.rules[0].filters[0]: external authorization is not supported | remove the filter; AuthorizationPolicy says \
           who may call the service",
        ],
    );
    refused(
        &grpc("  - filters: [{type: URLRewrite, urlRewrite: {}}]\n"),
        &[
            "spec.rules[0].filters[0].type: \"URLRewrite\" is not a type of filter | use RequestHeaderModifier, \
           ResponseHeaderModifier, RequestMirror, ExtensionRef",
        ],
    );
}

#[test]
fn rules_that_are_wrong() {
    refused(
        &http(
            "  - filters: [{type: RequestRedirect, requestRedirect: {}}]\n    backendRefs: [{name: a, port: 80}]\n",
        ),
        &[
            "spec.rules[0].backendRefs: RequestRedirect leaves nothing to send to backends | remove the backends, or the filter",
        ],
    );
    let rewrite = "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]\n";
    let words = "spec.rules[0]: ReplacePrefixMatch needs exactly one match, of type PathPrefix | write one rule for each prefix";
    refused(
        &http(&format!(
            "  - matches: [{{path: {{type: Exact, value: /a}}}}]\n    {rewrite}"
        )),
        &[words],
    );
    refused(
        &http(&format!(
            "  - matches: [{{}}, {{path: {{value: /a}}}}]\n    {rewrite}"
        )),
        &[words],
    );
    refused(
        &http("  - backendRefs: [{name: a}, {name: b, port: 0, weight: 1000001}]\n"),
        &[
            "spec.rules[0].backendRefs[0].port: missing | name the port of the service that requests go to",
            "spec.rules[0].backendRefs[1].weight: 1000001 is not a weight | use 0 to 1000000",
            "spec.rules[0].backendRefs[1].port: 0 is not a port | use 1 to 65535",
        ],
    );
    refused(
        &http("  - timeouts: {request: 1s, backendRequest: 2s}\n"),
        &[
            "spec.rules[0].timeouts.backendRequest: longer than the timeout of the whole request | make it at most as long as \
           timeouts.request",
        ],
    );
    assert!(load(&http("  - timeouts: {request: 0s, backendRequest: 2s}\n")).is_ok());
    refused(
        &http("  - sessionPersistence: {sessionName: a}\n"),
        &[
            "spec.rules[0].sessionPersistence: session persistence is not supported | remove it; without it, requests of one \
           client go to all endpoints",
        ],
    );
    refused(
        &http("  - retry: {codes: [399, 500, 500], attempts: -1}\n"),
        &[
            "spec.rules[0].retry.codes[0]: 399 is not a status to try again after | use 400 to 599",
            "spec.rules[0].retry.codes[2]: 500 stands here twice | list each code once",
            "spec.rules[0].retry.attempts: -1 is not a number of tries | use a whole number that is not negative",
        ],
    );
    refused(
        &http("  - {name: a}\n  - {name: a}\n"),
        &["spec.rules[1].name: a is the name of spec.rules[0].name already | use each name once"],
    );
}

#[test]
fn durations_are_those_of_gep_2257() {
    for (text, millis) in [
        ("0s", 0),
        ("10s", 10_000),
        ("1h2m3s4ms", 3_723_004),
        ("99999h", 359_996_400_000),
    ] {
        let route = route(&http(&format!("  - timeouts: {{request: {text}}}\n")));
        assert_eq!(
            route.rules[0].timeouts.request,
            Some(Duration::from_millis(millis)),
            "{text}"
        );
    }
    for text in [
        "10",
        "s",
        "1.5s",
        "-1s",
        "100000s",
        "1h1m1s1ms1h",
        "1d",
        "''",
        "1us",
        "1 s",
    ] {
        let told = faults(&http(&format!(
            "  - timeouts: {{request: \"{}\"}}\n",
            text.trim_matches('\'')
        )));
        assert!(
            told.len() == 1 && told[0].contains("is not a duration"),
            "{text}: {told:?}"
        );
    }
}

#[test]
fn too_many_of_anything() {
    let many = |one: &str, count: usize| vec![one; count].join(", ");
    let told = |text: String| faults(&text).join("\n");
    let rules: String = (0..17).map(|_| "  - {}\n").collect();
    assert!(told(http(&rules)).contains("spec.rules: 17 rules, and 16 are possible"));
    assert!(told(http(&format!("  - matches: [{}]\n", many("{}", 65)))).contains("65 matches, and 64"));
    let backends = format!("  - backendRefs: [{}]\n", many("{name: a, port: 80}", 17));
    assert!(told(http(&backends)).contains("17 backends, and 16"));
    let rules: String = (0..3)
        .map(|_| format!("  - matches: [{}]\n", many("{}", 43)))
        .collect();
    assert!(told(http(&rules)).contains("129 matches in all rules together, and 128"));
    assert!(told(grpc(&format!("  - matches: [{}]\n", many("{}", 9)))).contains("9 matches, and 8"));
}

#[test]
fn parents_must_be_distinct() {
    let with = |parents: &str| http("  - {}\n").replace("name: web}]", &format!("name: web}}, {parents}]"));
    refused(
        &with("{group: '', kind: Service, name: web}"),
        &["spec.parentRefs[1]: shop/web is a parent already | name each parent once"],
    );
    refused(
        &with("{group: '', kind: Service, name: web, port: 80}"),
        &[
            "spec.parentRefs[1]: another reference to shop/web has other fields | give port or sectionName in all references \
           to one service, or name it once",
        ],
    );
}

#[test]
fn a_time_of_creation_must_be_one() {
    let at = |time: &str| {
        http("  - {}\n").replace(
            "namespace: shop}",
            &format!("namespace: shop, creationTimestamp: {time}}}"),
        )
    };
    refused(
        &at("yesterday"),
        &[
            "metadata.creationTimestamp: found the text \"yesterday\" | use a time such as \"2026-01-31T12:00:00Z\", or leave it out",
        ],
    );
    assert_eq!(route(&at("null")).created, None);
}
