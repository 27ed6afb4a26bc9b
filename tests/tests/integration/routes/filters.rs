//! "Filters: Request/ResponseHeaderModifier (set, add → appended with ",", remove), RequestRedirect (scheme, hostname, port,
//! path, 301 302 303 307 308), URLRewrite (hostname, full path, prefix), RequestMirror (percent or fraction), CORS; per rule
//! and per backendRef." Mirrors have a file of their own.

use anyhow::{Result, ensure};
use mesh_tests::Mesh;

use super::kit::{apply, ask, expect, http, routed, to};

/// A rule for paths below `/name`.
fn rule(name: &str, filters: &str) -> String {
    format!(
        "{{matches: [{{path: {{type: PathPrefix, value: /{name}}}}}], filters: [{filters}], {}}}",
        to("v1")
    )
}

/// A rule for paths below `/name` whose backend has the filters.
fn at_backend(name: &str, filters: &str) -> String {
    format!(
        "{{matches: [{{path: {{type: PathPrefix, value: /{name}}}}}], \
         backendRefs: [{{name: v1, port: 80, filters: [{filters}]}}]}}"
    )
}

fn lead(mesh: &Mesh, rules: &[String]) -> Result<()> {
    apply(
        mesh,
        &[http("default/r", "web", &format!("[{}]", rules.join(", ")))],
    )
}

/// RequestHeaderModifier, in a rule and at a backend, and both together: the rule's come first.
#[test]
fn request_headers_are_set_added_and_removed() {
    routed("filter-request", |mesh| {
        let change = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: new}, {name: X-Made, \
                      value: made}], add: [{name: X-Add, value: more}, {name: X-First, value: one}], remove: [X-Gone]}}";
        let again = "{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: X-Set, value: backend}], set: \
                     [{name: X-Made, value: backend}], remove: [X-Add]}}";
        let both =
            at_backend("both", again).replace("backendRefs:", &format!("filters: [{change}], backendRefs:"));
        lead(mesh, &[rule("rule", change), at_backend("backend", change), both])?;
        let sent = ["X-Set: old", "x-add: a", "x-add: b", "x-gone: 1", "x-other: 1"];
        for (path, expected) in [
            ("/rule", ["new", "made", "a,b,more", "one", "-", "1"]),
            ("/backend", ["new", "made", "a,b,more", "one", "-", "1"]),
            ("/both", ["new,backend", "backend", "-", "one", "-", "1"]),
        ] {
            let reply = ask(mesh, "client", "web", path, &sent)?;
            ensure!(reply.said() == format!("200 v1 GET {path}"), "{reply:?}");
            let names = ["x-set", "x-made", "x-add", "x-first", "x-gone", "x-other"];
            let saw = names.map(|name| reply.saw(name).unwrap_or("-".to_owned()));
            ensure!(saw == expected, "{path}: {saw:?}: {reply:?}");
            ensure!(
                reply
                    .saw("host")
                    .is_some_and(|host| host == mesh.service("web").v4().to_string()),
                "{reply:?}"
            );
        }
        Ok(())
    });
}

/// ResponseHeaderModifier, in a rule and at a backend, and both together: the backend's come first.
#[test]
fn response_headers_are_set_added_and_removed() {
    routed("filter-response", |mesh| {
        let change = "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Set, value: new}, {name: X-Made, \
                      value: made}], add: [{name: X-Add, value: more}, {name: X-First, value: one}, {name: Set-Cookie, \
                      value: b=2}], remove: [X-App]}}";
        let again =
            "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Add, value: backend}]}}";
        let both =
            at_backend("both", again).replace("backendRefs:", &format!("filters: [{change}], backendRefs:"));
        lead(mesh, &[rule("rule", change), at_backend("backend", change), both])?;
        let sent = [
            "X-Answer: X-Set=old",
            "X-Answer: X-Add=a",
            "X-Answer: X-Add=b",
            "X-Answer: Set-Cookie=a=1",
        ];
        for (path, add) in [
            ("/rule", "a,b,more"),
            ("/backend", "a,b,more"),
            ("/both", "backend,more"),
        ] {
            let reply = ask(mesh, "client", "web", path, &sent)?;
            ensure!(reply.said() == format!("200 v1 GET {path}"), "{reply:?}");
            for (name, expected) in [
                ("x-set", Some("new")),
                ("x-made", Some("made")),
                ("x-add", Some(add)),
                ("x-first", Some("one")),
                ("x-app", None),
                ("set-cookie", Some("a=1 | b=2")),
                ("content-type", Some("application/json")),
            ] {
                ensure!(
                    reply.header(name).as_deref() == expected,
                    "{path} {name}: {reply:?}"
                );
            }
        }
        Ok(())
    });
}

/// RequestRedirect: every field alone and together, and each status.
#[test]
fn redirects_answer_with_the_location_that_the_rule_says() {
    routed("filter-redirect", |mesh| {
        let redirect = |name: &str, fields: &str| {
            format!(
                "{{matches: [{{path: {{type: PathPrefix, value: /{name}}}}}], filters: [{{type: RequestRedirect, \
                 requestRedirect: {{{fields}}}}}]}}"
            )
        };
        let mut rules = vec![
            redirect("host", "hostname: new.example"),
            redirect("scheme", "scheme: https"),
            redirect("schemeport", "scheme: https, port: 8443"),
            redirect("port", "port: 8080"),
            redirect("port80", "port: 80"),
            redirect(
                "full",
                "path: {type: ReplaceFullPath, replaceFullPath: /over/there}",
            ),
            redirect(
                "prefix",
                "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}",
            ),
            redirect("root", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}"),
            redirect(
                "all",
                "scheme: https, hostname: new.example, port: 444, path: {type: ReplacePrefixMatch, replacePrefixMatch: \
                 /x}, statusCode: 308",
            ),
        ];
        let statuses = [301, 302, 303, 307, 308];
        rules.extend(
            statuses.map(|code| redirect(&format!("s{code}"), &format!("hostname: n, statusCode: {code}"))),
        );
        lead(mesh, &rules)?;
        let host: &[&str] = &["Host: shop.example:99"];
        expect(
            mesh,
            "web",
            &[
                ("/host/a?q=1", host, "302 to http://new.example/host/a?q=1"),
                ("/scheme/a", host, "302 to https://shop.example/scheme/a"),
                ("/schemeport", host, "302 to https://shop.example:8443/schemeport"),
                ("/port/a", host, "302 to http://shop.example:8080/port/a"),
                ("/port80", host, "302 to http://shop.example/port80"),
                ("/full/a?q=1", host, "302 to http://shop.example/over/there?q=1"),
                ("/prefix/a?q=1", host, "302 to http://shop.example/new/a?q=1"),
                ("/prefix", host, "302 to http://shop.example/new"),
                ("/root/a", host, "302 to http://shop.example/a"),
                ("/root", host, "302 to http://shop.example/"),
                ("/all/a?q=1", host, "308 to https://new.example:444/x/a?q=1"),
            ],
        )?;
        for code in statuses {
            let path = format!("/s{code}");
            let expected = format!("{code} to http://n{path}");
            expect(
                mesh,
                "web",
                &[(&path, host, &expected), (&path, &["-d", "body"], &expected)],
            )?;
        }
        let reply = ask(mesh, "client", "web", "/host", &[])?;
        ensure!(
            reply.body.is_empty() && reply.header("content-length").as_deref() == Some("0"),
            "{reply:?}"
        );
        // The connection goes on after it.
        let at = format!("http://{}/s301", mesh.service("web").v4());
        let twice = mesh.pod("client").run(
            "curl",
            &[
                "-sS",
                "-o",
                "/dev/null",
                "-o",
                "/dev/null",
                "-w",
                "%{num_connects}",
                &at,
                &at,
            ],
        )?;
        ensure!(twice.ok()?.stdout == "10", "one connection for both");
        Ok(())
    });
}

/// URLRewrite: host, full path, prefix, in a rule and at a backend.
#[test]
fn rewrites_change_what_the_backend_is_asked() {
    routed("filter-rewrite", |mesh| {
        let rewrite = |fields: &str| format!("{{type: URLRewrite, urlRewrite: {{{fields}}}}}");
        let host = rewrite("hostname: inside.example");
        let full = rewrite("path: {type: ReplaceFullPath, replaceFullPath: /one}");
        let prefix = rewrite("path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}");
        let root = rewrite("path: {type: ReplacePrefixMatch, replacePrefixMatch: /}");
        let all =
            rewrite("hostname: inside.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new/}");
        let rules = [
            rule("host", &host),
            rule("full", &full),
            rule("prefix", &prefix),
            rule("root", &root),
            rule("all", &all),
            at_backend("b-prefix", &prefix),
            at_backend("b-host", &host),
        ];
        lead(mesh, &rules)?;
        for (path, target, seen_host) in [
            ("/host/a", "/host/a", "inside.example"),
            ("/full/a?q=1", "/one?q=1", "shop.example"),
            ("/prefix/a%20b?q=1", "/new/a%20b?q=1", "shop.example"),
            ("/prefix", "/new", "shop.example"),
            ("/prefix/", "/new/", "shop.example"),
            ("/root/a", "/a", "shop.example"),
            ("/root", "/", "shop.example"),
            ("/all/a", "/new/a", "inside.example"),
            ("/b-prefix/a", "/new/a", "shop.example"),
            ("/b-host/a", "/b-host/a", "inside.example"),
        ] {
            let reply = ask(mesh, "client", "web", path, &["Host: shop.example"])?;
            ensure!(
                reply.said() == format!("200 v1 GET {target}"),
                "{path}: {reply:?}"
            );
            ensure!(
                reply.saw("host").as_deref() == Some(seen_host),
                "{path}: {reply:?}"
            );
        }
        Ok(())
    });
}

/// CORS: preflight requests are answered, answers to others say who may read them.
#[test]
fn cors_answers_browsers() {
    routed("filter-cors", |mesh| {
        let cors = |fields: &str| format!("{{type: CORS, cors: {{{fields}}}}}");
        let strict = cors(
            "allowOrigins: ['https://shop.example', 'https://*.shop.example'], allowMethods: [GET, PUT], allowHeaders: \
             [X-A, X-B], exposeHeaders: [X-App], allowCredentials: true, maxAge: 7",
        );
        let any = cors("allowOrigins: ['*']");
        lead(
            mesh,
            &[
                rule("strict", &strict),
                rule("any", &any),
                at_backend("backend", &strict),
            ],
        )?;
        let asks = [
            "access-control-request-method: PUT",
            "access-control-request-headers: x-a",
        ];
        for path in ["/strict", "/backend"] {
            for (origin, allowed) in [
                ("https://shop.example", true),
                ("https://a.b.shop.example", true),
                ("http://shop.example", false),
                ("https://evil.example", false),
            ] {
                let header = format!("origin: {origin}");
                let preflight = ask(
                    mesh,
                    "client",
                    "web",
                    path,
                    &["-X", "OPTIONS", &header, asks[0], asks[1]],
                )?;
                ensure!(
                    preflight.status == 204 && preflight.body.is_empty(),
                    "{preflight:?}"
                );
                for (name, value) in [
                    ("access-control-allow-origin", origin),
                    ("access-control-allow-methods", "GET, PUT"),
                    ("access-control-allow-headers", "X-A, X-B"),
                    ("access-control-allow-credentials", "true"),
                    ("access-control-max-age", "7"),
                ] {
                    let expected = allowed.then_some(value);
                    ensure!(
                        preflight.header(name).as_deref() == expected,
                        "{origin} {name}: {preflight:?}"
                    );
                }
                // The application's own word about origins is replaced.
                let own = "X-Answer: Access-Control-Allow-Origin=https://app.example";
                let answer = ask(mesh, "client", "web", path, &[&header, own])?;
                ensure!(answer.said() == format!("200 v1 GET {path}"), "{answer:?}");
                for (name, value) in [
                    ("access-control-allow-origin", origin),
                    ("access-control-allow-credentials", "true"),
                    ("access-control-expose-headers", "X-App"),
                ] {
                    let expected = allowed.then_some(value);
                    ensure!(
                        answer.header(name).as_deref() == expected,
                        "{origin} {name}: {answer:?}"
                    );
                }
                ensure!(answer.header("vary").as_deref() == Some("origin"), "{answer:?}");
            }
        }
        let answer = ask(mesh, "client", "web", "/any", &["origin: https://any.example"])?;
        ensure!(
            answer.header("access-control-allow-origin").as_deref() == Some("*"),
            "{answer:?}"
        );
        // No question of a browser: the application is asked.
        expect(
            mesh,
            "web",
            &[("/strict", &["-X", "OPTIONS"], "200 v1 OPTIONS /strict")],
        )
    });
}

/// A filter that is not known cannot be left out: the request fails.
#[test]
fn a_filter_that_is_not_known_fails_the_request() {
    routed("filter-unknown", |mesh| {
        let unknown = "{type: ExtensionRef, extensionRef: {group: x.example, kind: Wasm, name: w}}";
        lead(mesh, &[rule("x", unknown), rule("y", "")])?;
        expect(
            mesh,
            "web",
            &[("/x", &[], "500 mesh internal"), ("/y", &[], "200 v1 GET /y")],
        )
    });
}
