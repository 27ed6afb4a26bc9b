//! Routes of the Gateway API for a mesh (GAMMA, GEP-1294): a test for each of its rules, with real requests through the agents
//! of two nodes under mTLS. What is compared is the whole outcome: status, who answered, what it was asked, headers.

mod changes;
mod filters;
mod kit;
mod limits;
mod mirrors;

use anyhow::{Result, ensure};
use mesh_tests::{Mesh, Service, traffic};

use self::kit::{
    APP, apply, ask, ask_at, conditions, expect, expect_from, grpc, http, routed, routed_mesh, routed_with,
    to,
};

/// "A route whose parentRef is a Service applies to mesh traffic for that Service. `parentRef.port` limits it to one port."
#[test]
fn a_route_leads_its_parent_service_or_the_one_port_that_it_names() {
    routed("route-parent", |mesh| {
        apply(mesh, &[http("default/r", "web", &format!("[{{{}}}]", to("v1")))])?;
        let web = mesh.service("web").v4();
        for port in [80, 8080, 9000] {
            let said = ask_at(mesh, "client", &format!("{web}:{port}"), "/x", &[])?.said();
            ensure!(said == "200 v1 GET /x", "port {port}: {said}");
        }
        // The services that are only backends are led by nothing.
        expect(mesh, "v2", &[("/x", &[], "200 v2 GET /x")])?;
        apply(
            mesh,
            &[
                http("default/r", "web:8080", &format!("[{{{}}}]", to("v1"))),
                http("default/near", "near", &format!("[{{{}}}]", to("v2"))),
            ],
        )?;
        for (port, server) in [(80, "web"), (8080, "v1")] {
            let said = ask_at(mesh, "client", &format!("{web}:{port}"), "/x", &[])?.said();
            ensure!(said == format!("200 {server} GET /x"), "port {port}: {said}");
        }
        expect(mesh, "near", &[("/x", &[], "200 v2 GET /x")])
    });
}

/// Where each request finds its own way, only the first connection of a pod is held; where a route goes, connections are held
/// again, but for the one that finds out.
#[test]
fn only_the_first_connection_to_what_is_led_is_held() {
    Mesh::scenario(routed_mesh("route-let-in"), |mesh| {
        let _running = kit::start(mesh)?;
        let port = format!("{}:9000", mesh.service("web").v4());
        let ask = || anyhow::Ok(ask_at(mesh, "client", &port, "/x", &[])?.said());
        let others = kit::let_in()?;
        ensure!(others > 0, "the clients have asked services that speak HTTP");
        // A port of no protocol, and then one that is led.
        for _ in 0..2 {
            ensure!(ask()? == "200 web GET /x");
            ensure!(kit::let_in()? == others, "nobody said that this port speaks HTTP");
        }
        apply(
            mesh,
            &[http("default/r", "web:9000", &format!("[{{{}}}]", to("v1")))],
        )?;
        for _ in 0..3 {
            ensure!(ask()? == "200 v1 GET /x");
            ensure!(kit::let_in()? == others + 1, "one destination more");
        }
        apply(mesh, &[])?;
        for _ in 0..2 {
            ensure!(ask()? == "200 web GET /x");
            ensure!(kit::let_in()? == others, "held again");
        }
        Ok(())
    });
}

/// "A route on a Service replaces default routing: no rule matches → 404. No route at all → plain forwarding."
#[test]
fn a_route_replaces_default_routing_and_without_one_requests_go_on() {
    routed("route-default", |mesh| {
        expect(mesh, "web", &[("/other", &[], "200 web GET /other")])?;
        let rule = format!(
            "[{{matches: [{{path: {{type: Exact, value: /known}}}}], {}}}]",
            to("v1 ")
        );
        apply(mesh, &[http("default/r", "web", &rule)])?;
        expect(
            mesh,
            "web",
            &[
                ("/known", &[], "200 v1 GET /known"),
                ("/other", &[], "404 mesh no-route"),
                (
                    "/pkg.Service/Method",
                    &["-X", "POST", "content-type: application/grpc"],
                    "200 mesh no-route grpc 12",
                ),
            ],
        )?;
        let reply = ask(mesh, "client", "web", "/other", &[])?;
        let expected = "nodemesh: no-route, says the agent of node a on the source's side: no rule of the routes of \
                        service default/web, port 80, wants this request\n";
        ensure!(reply.body == expected, "{reply:?}");
        apply(mesh, &[])?;
        expect(mesh, "web", &[("/other", &[], "200 web GET /other")])
    });
}

/// "Producer route: all clients. Consumer route: only clients in the route's namespace. Consumer beats producer; merging only
/// inside a group. Cross-namespace backendRefs in a mesh need no ReferenceGrant."
#[test]
fn consumer_routes_replace_producer_routes_for_their_own_namespace() {
    routed("route-groups", |mesh| {
        let rule = |path: &str, to_: &str| {
            format!(
                "[{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], {}}}]",
                to(to_)
            )
        };
        let producer = http("default/producer", "web", &rule("/", "v1"));
        let more = http("default/more", "web", &rule("/more", "near"));
        // Their backends are in another namespace than they are themselves.
        let consumer = http("guests/consumer", "web", &rule("/", "v2"));
        let narrow = http("guests/narrow", "web", &rule("/narrow", "near"));
        apply(mesh, &[producer.clone(), more.clone()])?;
        for from in ["client", "guest"] {
            expect_from(
                mesh,
                from,
                "web",
                &[
                    ("/x", &[], "200 v1 GET /x"),
                    ("/more/x", &[], "200 near GET /more/x"),
                ],
            )?;
        }
        apply(
            mesh,
            &[producer.clone(), more.clone(), consumer.clone(), narrow.clone()],
        )?;
        expect_from(
            mesh,
            "client",
            "web",
            &[
                ("/x", &[], "200 v1 GET /x"),
                ("/more/x", &[], "200 near GET /more/x"),
                ("/narrow", &[], "200 v1 GET /narrow"),
            ],
        )?;
        expect_from(
            mesh,
            "guest",
            "web",
            &[
                ("/x", &[], "200 v2 GET /x"),
                ("/more/x", &[], "200 v2 GET /more/x"),
                ("/narrow", &[], "200 near GET /narrow"),
            ],
        )?;
        // A consumer route that wants nothing of it: the producer's are not asked instead.
        apply(mesh, &[producer, narrow.clone()])?;
        expect_from(
            mesh,
            "guest",
            "web",
            &[
                ("/x", &[], "404 mesh no-route"),
                ("/narrow", &[], "200 near GET /narrow"),
            ],
        )?;
        // Without producer routes the others' requests go on as they are.
        apply(mesh, &[narrow])?;
        expect_from(mesh, "client", "web", &[("/x", &[], "200 web GET /x")])?;
        expect_from(mesh, "guest", "web", &[("/x", &[], "404 mesh no-route")])
    });
}

/// "The route is selected by the ClusterIP and port that was dialled; Host does not matter, `hostnames` on mesh routes is
/// ignored; traffic to a pod IP skips routes."
#[test]
fn routes_are_selected_by_the_address_that_was_dialled() {
    routed("route-address", |mesh| {
        let rule = format!("[{{{}}}]", to("v1"));
        let hosted =
            http("default/r", "web", &rule).replace("  rules:", "  hostnames: [only.example]\n  rules:");
        apply(mesh, &[hosted])?;
        expect(
            mesh,
            "web",
            &[
                ("/x", &[], "200 v1 GET /x"),
                ("/x", &["Host: v2.default"], "200 v1 GET /x"),
                ("/x", &["Host: only.example"], "200 v1 GET /x"),
            ],
        )?;
        let reply = ask(mesh, "client", "web", "/x", &["Host: v2.default"])?;
        ensure!(reply.saw("host").as_deref() == Some("v2.default"), "{reply:?}");
        // Another address, though the host is that of the service with the route.
        expect(mesh, "v2", &[("/x", &["Host: web.default"], "200 v2 GET /x")])?;
        let v6 = format!("[{}]", mesh.service("web").v6());
        let said = ask_at(mesh, "client", &v6, "/x", &[])?.said();
        ensure!(said == "200 v1 GET /x", "by IPv6: {said}");
        for pod in [
            mesh.pod("web").v4().to_string(),
            format!("[{}]", mesh.pod("web").v6()),
        ] {
            let said = ask_at(mesh, "client", &format!("{pod}:{APP}"), "/x", &[])?.said();
            ensure!(said == "200 web GET /x", "at {pod}: {said}");
        }
        Ok(())
    });
}

/// "Kinds on one Service port: GRPCRoute > HTTPRoute > TLSRoute > TCPRoute; losers get Accepted=False."
#[test]
fn a_grpc_route_silences_an_http_route_on_the_same_port() {
    routed("route-kinds", |mesh| {
        let method =
            "[{matches: [{method: {service: pkg.Shop, method: Buy}}], backendRefs: [{name: v2, port: 80}]}]";
        apply(
            mesh,
            &[
                http("default/http", "web", &format!("[{{{}}}]", to("v1"))),
                grpc("default/grpc", "web:80", method),
            ],
        )?;
        let call: &[&str] = &["-X", "POST", "content-type: application/grpc"];
        expect(
            mesh,
            "web",
            &[
                ("/pkg.Shop/Buy", call, "200 v2 POST /pkg.Shop/Buy"),
                ("/pkg.Shop/Sell", call, "200 mesh no-route grpc 12"),
                ("/x", &[], "404 mesh no-route"),
            ],
        )?;
        // On the ports that the GRPCRoute leaves alone the HTTPRoute leads.
        let at = format!("{}:8080", mesh.service("web").v4());
        let said = ask_at(mesh, "client", &at, "/x", &[])?.said();
        ensure!(said == "200 v1 GET /x", "{said}");
        let status = conditions(mesh, "default/http")?;
        ensure!(status["ports"] == serde_json::json!([8080, 9000]), "{status}");
        ensure!(
            status["conditions"][0]["message"] == "GRPCRoute default/grpc leads port 80",
            "{status}"
        );
        // Where it loses all its ports it is not accepted.
        apply(
            mesh,
            &[
                http("default/http", "web:80", &format!("[{{{}}}]", to("v1"))),
                grpc("default/grpc", "web", method),
            ],
        )?;
        let status = conditions(mesh, "default/http")?;
        let accepted = &status["conditions"][0];
        ensure!(
            accepted["type"] == "Accepted"
                && accepted["status"] == false
                && accepted["reason"] == "Conflicted",
            "{status}"
        );
        let shown = mesh.node("a").cli(&["routes", "default/http"])?.ok()?.stdout;
        ensure!(shown.contains("Conflicted"), "{shown}");
        Ok(())
    });
}

/// "Match precedence: Exact path, longest PathPrefix (by path segment), method, number of headers, number of query parameters,
/// oldest route, namespace/name, first rule."
#[test]
fn the_most_specific_match_wins() {
    routed("route-precedence", |mesh| {
        // Each step of the ladder names itself in a header of the request; the rules stand in the wrong order on purpose.
        let rule = |name: &str, matches: &str| {
            format!(
                "{{matches: [{{{matches}}}], backendRefs: [{{name: v1, port: 80}}], filters: [{{type: RequestHeaderModifier, \
                 requestHeaderModifier: {{set: [{{name: x-rule, value: {name}}}]}}}}]}}"
            )
        };
        let path = |kind: &str, value: &str| format!("path: {{type: {kind}, value: {value}}}");
        let one = "headers: [{name: a, value: '1'}]";
        let two = "headers: [{name: a, value: '1'}, {name: b, value: '1'}]";
        let rules = [
            rule("prefix-root", &path("PathPrefix", "/")),
            rule("first", &path("PathPrefix", "/a")),
            rule("second", &path("PathPrefix", "/a")),
            rule(
                "query",
                &format!(
                    "{}, queryParams: [{{name: q, value: '1'}}]",
                    path("PathPrefix", "/a")
                ),
            ),
            rule(
                "queries",
                &format!(
                    "{}, queryParams: [{{name: q, value: '1'}}, {{name: r, value: '1'}}]",
                    path("PathPrefix", "/a")
                ),
            ),
            rule("header", &format!("{}, {one}", path("PathPrefix", "/a"))),
            rule("headers", &format!("{}, {two}", path("PathPrefix", "/a"))),
            rule("method", &format!("{}, method: PUT", path("PathPrefix", "/a"))),
            rule("longer", &path("PathPrefix", "/a/b")),
            rule("regex", &path("RegularExpression", "'/a/b.*'")),
            rule("regex-only", &path("RegularExpression", "'/[0-9]+'")),
            rule("exact", &path("Exact", "/a/b/c")),
        ];
        let first = http("default/r", "web", &format!("[{}]", rules.join(", ")));
        // No creation time on the first: whatever has one is older.
        let older = |name: &str, created: &str, rule: &str| {
            http(name, "web", &format!("[{rule}]")).replace(
                "metadata: {",
                &format!("metadata: {{creationTimestamp: '{created}', "),
            )
        };
        let routes = [
            first,
            older(
                "default/young",
                "2025-01-02T00:00:00Z",
                &rule("young", &path("PathPrefix", "/age")),
            ),
            older(
                "default/zold",
                "2025-01-01T00:00:00Z",
                &rule("old", &path("PathPrefix", "/age")),
            ),
            older(
                "default/bb",
                "2025-01-01T00:00:00Z",
                &rule("later-name", &path("PathPrefix", "/name")),
            ),
            older(
                "default/ba",
                "2025-01-01T00:00:00Z",
                &rule("earlier-name", &path("PathPrefix", "/name")),
            ),
        ];
        apply(mesh, &routes)?;
        let (a, b) = ("a: 1", "b: 1");
        for (path, args, expected) in [
            ("/a/b/c", vec!["-X", "PUT", a, b], "exact"),
            ("/a/b/c?q=1", vec![], "exact"),
            ("/a/b/d", vec!["-X", "PUT", a, b], "longer"),
            ("/a/b", vec![], "longer"),
            ("/a/b/", vec![], "longer"),
            ("/a/bc", vec!["-X", "PUT", a, b], "method"),
            ("/a?q=1&r=1", vec![a, b], "headers"),
            ("/a?q=1&r=1", vec![a], "header"),
            ("/a?q=1&r=1", vec![], "queries"),
            ("/a?q=1&r=2", vec![], "query"),
            ("/a?r=1", vec!["a: 2"], "first"),
            ("/a/", vec![], "first"),
            // Not whole segments of the prefix.
            ("/ab", vec![a, b], "prefix-root"),
            // A prefix goes before an expression, however short it is.
            ("/12", vec![], "prefix-root"),
            ("/age/x", vec![], "old"),
            ("/name/x", vec![], "earlier-name"),
        ] {
            let reply = ask(mesh, "client", "web", path, &args)?;
            let rule = reply.saw("x-rule");
            ensure!(
                rule.as_deref() == Some(expected),
                "{path} {args:?}: {expected}: {reply:?}"
            );
        }
        Ok(())
    });
}

/// "RegularExpression is supported, after prefixes."
#[test]
fn regular_expressions_match_paths_headers_and_parameters() {
    routed("route-regex", |mesh| {
        let matches = |text: &str, server: &str| format!("{{matches: [{{{text}}}], {}}}", to(server));
        let rules = [
            matches("path: {type: RegularExpression, value: '/v[0-9]+/.*'}", "v1"),
            matches(
                "headers: [{type: RegularExpression, name: x-user, value: 'a.*z'}], path: {value: /h}",
                "v2",
            ),
            matches(
                "queryParams: [{type: RegularExpression, name: q, value: '[0-9]+'}], path: {value: /q}",
                "near",
            ),
            matches("path: {type: PathPrefix, value: /v1/fixed}", "v2"),
        ];
        apply(
            mesh,
            &[http("default/r", "web", &format!("[{}]", rules.join(", ")))],
        )?;
        expect(
            mesh,
            "web",
            &[
                ("/v12/x", &[], "200 v1 GET /v12/x"),
                // The whole text, not a part of it.
                ("/x/v12/x", &[], "404 mesh no-route"),
                ("/v/x", &[], "404 mesh no-route"),
                ("/v1/fixed/x", &[], "200 v2 GET /v1/fixed/x"),
                ("/h", &["x-user: abcz"], "200 v2 GET /h"),
                ("/h", &["x-user: abczd"], "404 mesh no-route"),
                ("/q?q=42", &[], "200 near GET /q?q=42"),
                ("/q?q=4x", &[], "404 mesh no-route"),
            ],
        )
    });
}

/// "Service `appProtocol`: `http`, `kubernetes.io/h2c`, `kubernetes.io/ws`, `https`/`tls` (opaque), `grpc`, `tcp` (opaque)."
#[test]
fn the_protocol_that_a_port_declares_decides_whether_it_is_led() {
    let led = ["http", "kubernetes.io/h2c", "kubernetes.io/ws", "grpc", "HTTP2"];
    let opaque = ["https", "tls", "tcp", "kubernetes.io/wss"];
    let mut service = Service::new("all").selector("app", "web");
    let ports = || led.iter().chain(&opaque).zip(7000..);
    for (protocol, port) in ports() {
        service = service.port(port, APP).app_protocol(protocol);
    }
    // Neither declared nor known: bytes, unless a route says that it is HTTP.
    let service = service
        .port(90, APP)
        .port(91, APP)
        .app_protocol("example.com/own");
    routed_with(routed_mesh("route-protocols").service(service), |mesh| {
        let all = mesh.service("all").v4();
        let at = |port: u16, path: &str| ask_at(mesh, "client", &format!("{all}:{port}"), path, &[]);
        // Whoever is led is answered by the mesh when what is asked for is no HTTP.
        let is_led = |port: u16| -> Result<bool> {
            let broken = ask_at(
                mesh,
                "client",
                &format!("{all}:{port}"),
                "/x",
                &["a: b", "nodemesh-x: 1"],
            )?;
            ensure!(broken.status == 200, "{broken:?}");
            Ok(broken.saw("nodemesh-x").is_none())
        };
        for (protocol, port) in ports() {
            ensure!(is_led(port)? == led.contains(protocol), "{protocol}, no route");
        }
        ensure!(!is_led(90)? && !is_led(91)?, "undeclared, no route");
        apply(mesh, &[http("default/r", "all", &format!("[{{{}}}]", to("v1")))])?;
        for (protocol, port) in ports() {
            let said = at(port, "/x")?.said();
            let server = if led.contains(protocol) { "v1" } else { "web" };
            ensure!(said == format!("200 {server} GET /x"), "{protocol}: {said}");
        }
        for port in [90, 91] {
            let said = at(port, "/x")?.said();
            ensure!(said == "200 v1 GET /x", "{port}: {said}");
        }
        let status = conditions(mesh, "default/r")?;
        let message = status["conditions"][0]["message"].as_str().unwrap_or_default();
        ensure!(
            message.contains("port 7005 is carried as bytes, as its appProtocol https says"),
            "{status}"
        );
        // A route on nothing but such a port is not accepted.
        apply(
            mesh,
            &[http("default/r", "all:7005", &format!("[{{{}}}]", to("v1")))],
        )?;
        let status = conditions(mesh, "default/r")?;
        ensure!(
            status["conditions"][0]["status"] == false
                && status["conditions"][0]["reason"] == "UnsupportedValue",
            "{status}"
        );
        Ok(())
    });
}

/// A server that speaks first is not waited for on a port that a route declares to be HTTP, and not harmed on any other.
#[test]
fn a_server_that_speaks_first_is_heard_where_no_route_leads() {
    let service = Service::new("greeter")
        .selector("app", "web")
        .port(25, 7825)
        .port(26, 7825);
    routed_with(routed_mesh("route-greeter").service(service), |mesh| {
        let _greeter = traffic::serve(mesh.pod("web"), "greet", 7825)?;
        apply(
            mesh,
            &[http("default/r", "greeter:26", &format!("[{{{}}}]", to("v1")))],
        )?;
        let greeter = mesh.service("greeter").v4().to_string();
        let at = traffic::at(mesh.service("greeter").v4(), 25);
        let said = traffic::report(mesh.pod("client"), &["banner", "--to", &at, "--count", "5"])?;
        let banner = said["banner"].as_str().unwrap_or_default();
        ensure!(banner.starts_with("220 web greets"), "{said}");
        let said = ask_at(mesh, "client", &format!("{greeter}:26"), "/x", &[])?.said();
        ensure!(said == "200 v1 GET /x", "{said}");
        Ok(())
    });
}

/// "Status: `parents[]` keyed by parentRef + controllerName. Accepted (Accepted, NoMatchingParent, UnsupportedValue,
/// IncompatibleFilters, Conflicted), ResolvedRefs (ResolvedRefs, InvalidKind, BackendNotFound, RefNotPermitted),
/// PartiallyInvalid." No reference is refused in a mesh, so RefNotPermitted does not occur; Conflicted stands above.
#[test]
fn each_parent_of_a_route_has_its_conditions() {
    routed("route-status", |mesh| {
        let fine = to("v1");
        let bad_filter = "{filters: [{type: URLRewrite, urlRewrite: {hostname: a.example}}, {type: RequestRedirect, \
                          requestRedirect: {hostname: b.example}}]}";
        let ours = format!(
            "{{{fine}, filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: nodemesh-client, \
             value: x}}]}}}}]}}"
        );
        let bucket = "{backendRefs: [{group: storage.example, kind: Bucket, name: b, port: 80}]}";
        apply(
            mesh,
            &[
                http("default/fine", "web", &format!("[{{{fine}}}]")),
                http("default/gone", "gone", &format!("[{{{fine}}}]")),
                http("default/port", "web:81", &format!("[{{{fine}}}]")),
                http("default/incompatible", "web", &format!("[{bad_filter}]")),
                http("default/unsupported", "web", &format!("[{ours}]")),
                http("default/partial", "web", &format!("[{{{fine}}}, {bad_filter}]")),
                http("default/missing", "v2", &format!("[{{{}}}]", to("nowhere"))),
                http("default/bucket", "near", &format!("[{bucket}]")),
            ],
        )?;
        for (route, expected) in [
            ("fine", "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs"),
            (
                "gone",
                "Accepted=False/NoMatchingParent ResolvedRefs=True/ResolvedRefs",
            ),
            (
                "port",
                "Accepted=False/NoMatchingParent ResolvedRefs=True/ResolvedRefs",
            ),
            (
                "incompatible",
                "Accepted=False/IncompatibleFilters ResolvedRefs=True/ResolvedRefs",
            ),
            (
                "unsupported",
                "Accepted=False/UnsupportedValue ResolvedRefs=True/ResolvedRefs",
            ),
            (
                "partial",
                "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs PartiallyInvalid=True/IncompatibleFilters",
            ),
            (
                "missing",
                "Accepted=True/Accepted ResolvedRefs=False/BackendNotFound",
            ),
            ("bucket", "Accepted=True/Accepted ResolvedRefs=False/InvalidKind"),
        ] {
            let status = conditions(mesh, &format!("default/{route}"))?;
            let said: Vec<_> = status["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|one| {
                    let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
                    let holds = if one["status"] == true { "True" } else { "False" };
                    format!("{}={holds}/{}", text("type"), text("reason"))
                })
                .collect();
            ensure!(said.join(" ") == expected, "{route}: {status}");
            ensure!(status["controllerName"] == "nodemesh.io/mesh", "{status}");
        }
        // What the conditions say is what happens.
        expect(mesh, "v2", &[("/x", &[], "500 mesh no-backend")])?;
        expect(mesh, "near", &[("/x", &[], "500 mesh no-backend")])?;
        expect(mesh, "web", &[("/x", &[], "200 v1 GET /x")])
    });
}
