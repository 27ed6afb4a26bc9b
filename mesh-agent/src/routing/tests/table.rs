//! Matching and precedence, one line of the Gateway API each.

use mesh_common::model::{HttpMatch, Route, RouteKind, TextMatch};

use super::kit::{Also, exact, grpc, is, led, like, prefix, regex, request, route, rule, table};

/// One route whose rules have one match each; which of them leads the request?
fn wins(matches: Vec<HttpMatch>, line: &str, headers: &[(&str, &str)]) -> Option<usize> {
    let rules = matches.into_iter().map(|one| rule(vec![one.one()])).collect();
    let table = table(vec![route(RouteKind::Http, "shop/r", rules)]);
    table
        .select(&request(line, headers))
        .map(|matched| matched.rule.index)
}

#[test]
fn an_exact_path_is_compared_as_a_whole() {
    for (path, matches) in [
        ("/abc", true),
        ("/abc?x=1", true),
        ("/abc/", false),
        ("/Abc", false),
        ("/abcd", false),
        ("/", false),
    ] {
        let won = wins(vec![exact("/abc")], &format!("GET {path}"), &[]);
        assert_eq!(won.is_some(), matches, "{path}");
    }
}

#[test]
fn a_prefix_is_compared_by_segment() {
    for (prefix_path, path, covered) in [
        ("/abc", "/abc", Some(4)),
        ("/abc", "/abc/", Some(4)),
        ("/abc", "/abc/def", Some(4)),
        ("/abc", "/abcd", None),
        ("/abc", "/ABC", None),
        ("/abc/", "/abc", Some(4)),
        ("/abc/", "/abc/def", Some(4)),
        ("/abc/def", "/abc", None),
        ("/abc", "/abc//def", Some(4)),
        ("/", "/abc", Some(0)),
        ("/", "/", Some(0)),
        ("/", "//", Some(0)),
    ] {
        let table = table(vec![route(
            RouteKind::Http,
            "shop/r",
            vec![rule(vec![prefix(prefix_path).one()])],
        )]);
        let request = request(&format!("GET {path}"), &[]);
        let matched = table.select(&request).map(|matched| matched.path.prefix);
        assert_eq!(matched, covered.map(Some), "{prefix_path} {path}");
    }
}

#[test]
fn a_rule_without_matches_wants_every_request() {
    let table = table(vec![route(RouteKind::Http, "shop/r", vec![rule(Vec::new())])]);
    for line in ["GET /", "POST /a/b?c", "OPTIONS *", "CONNECT web:80"] {
        assert_eq!(led(&table, line, &[]).as_deref(), Some("shop/r 0"), "{line}");
    }
}

#[test]
fn a_regular_expression_must_match_the_whole_path() {
    for (path, matches) in [
        ("/v1/x", true),
        ("/v22/x", true),
        ("/v1/x/y", false),
        ("/a/v1/x", false),
    ] {
        let won = wins(vec![regex("/v[0-9]+/x")], &format!("GET {path}"), &[]);
        assert_eq!(won.is_some(), matches, "{path}");
    }
    assert_eq!(wins(vec![regex("/a|/b")], "GET /bc", &[]), None);
}

#[test]
fn exact_goes_before_prefix_and_both_before_regular_expressions() {
    let all = || {
        vec![
            regex("/.*"),
            prefix("/"),
            prefix("/a"),
            exact("/a/b"),
            prefix("/a/b"),
        ]
    };
    assert_eq!(wins(all(), "GET /a/b", &[]), Some(3));
    assert_eq!(wins(all(), "GET /a/b/c", &[]), Some(4));
    assert_eq!(wins(all(), "GET /a/c", &[]), Some(2));
    assert_eq!(wins(all(), "GET /c", &[]), Some(1));
    assert_eq!(wins(vec![regex("/.*"), prefix("/a")], "GET /c", &[]), Some(0));
}

#[test]
fn a_path_that_others_of_its_wishes_rule_out_gives_way_to_a_shorter_one() {
    let all = vec![prefix("/"), prefix("/a"), exact("/a/b").method("PUT")];
    assert_eq!(wins(all.clone(), "GET /a/b", &[]), Some(1));
    assert_eq!(wins(all, "PUT /a/b", &[]), Some(2));
}

#[test]
fn then_the_method_then_headers_then_parameters_count() {
    let x = |n: usize| (0..n).fold(prefix("/"), |one, n| one.header(&format!("x{n}"), is("1")));
    let q = |one: HttpMatch, n: usize| (0..n).fold(one, |one, n| one.query(&format!("q{n}"), is("1")));
    let all = || {
        vec![
            prefix("/"),
            q(prefix("/"), 2),
            x(1),
            q(x(1), 1),
            x(2),
            prefix("/").method("GET"),
        ]
    };
    let both = [("x0", "1"), ("x1", "1")];
    assert_eq!(wins(all(), "GET /?q0=1&q1=1", &both), Some(5));
    assert_eq!(wins(all(), "PUT /?q0=1&q1=1", &both), Some(4));
    assert_eq!(wins(all(), "PUT /?q0=1&q1=1", &both[..1]), Some(3));
    assert_eq!(wins(all(), "PUT /", &both[..1]), Some(2));
    assert_eq!(wins(all(), "PUT /?q0=1&q1=1", &[]), Some(1));
    assert_eq!(wins(all(), "PUT /", &[]), Some(0));
}

#[test]
fn headers_are_compared_whole_without_regard_to_the_case_of_their_names() {
    let wanted = || {
        vec![
            prefix("/")
                .header("version", is("v2"))
                .header("color", like("(red|blue)")),
        ]
    };
    let asked = |version, color| wins(wanted(), "GET /", &[("Version", version), ("COLOR", color)]);
    assert_eq!(asked("v2", "red"), Some(0));
    assert_eq!(asked("v22", "red"), None);
    assert_eq!(asked("V2", "red"), None);
    assert_eq!(asked("v2", "reddish"), None);
    assert_eq!(wins(wanted(), "GET /", &[("version", "v2")]), None);
}

#[test]
fn parameters_are_compared_by_their_first_value() {
    let wanted = || vec![prefix("/").query("animal", is("wh ale"))];
    assert_eq!(wins(wanted(), "GET /?animal=wh%20ale", &[]), Some(0));
    assert_eq!(wins(wanted(), "GET /?animal=wh+ale&animal=cat", &[]), Some(0));
    assert_eq!(wins(wanted(), "GET /?animal=cat&animal=wh+ale", &[]), None);
    assert_eq!(wins(wanted(), "GET /?Animal=wh+ale", &[]), None);
    assert_eq!(wins(wanted(), "GET /", &[]), None);
}

fn at(name: &str, created: Option<i64>) -> Route {
    Route {
        created,
        ..route(RouteKind::Http, name, vec![rule(Vec::new()), rule(Vec::new())])
    }
}

#[test]
fn equals_are_settled_by_age_then_name_then_place() {
    for (routes, winner) in [
        (vec![at("shop/a", Some(2)), at("shop/b", Some(1))], "shop/b 0"),
        (vec![at("shop/b", Some(1)), at("shop/a", Some(1))], "shop/a 0"),
        (vec![at("shop/a", None), at("shop/b", Some(9))], "shop/b 0"),
        (vec![at("shop/b", None), at("shop/a", None)], "shop/a 0"),
        // By the letters of `namespace/name`, where `-` comes before `/`.
        (vec![at("a/z", None), at("a-b/a", None)], "a-b/a 0"),
    ] {
        assert_eq!(led(&table(routes), "GET /", &[]).as_deref(), Some(winner));
    }
}

#[test]
fn rules_of_several_routes_are_one_list() {
    let old = Route {
        created: Some(1),
        ..route(RouteKind::Http, "shop/old", vec![rule(vec![prefix("/").one()])])
    };
    let young = Route {
        created: Some(2),
        ..route(
            RouteKind::Http,
            "shop/young",
            vec![rule(vec![prefix("/a").one()])],
        )
    };
    let table = table(vec![old, young]);
    assert_eq!(led(&table, "GET /a", &[]).as_deref(), Some("shop/young 0"));
    assert_eq!(led(&table, "GET /b", &[]).as_deref(), Some("shop/old 0"));
}

#[test]
fn grpc_is_matched_by_service_and_method() {
    let exact = |service: Option<TextMatch>, method: Option<TextMatch>| rule(vec![grpc(service, method)]);
    let rules = vec![
        exact(None, None),
        exact(None, Some(is("Get"))),
        exact(Some(like("shop\\..*")), None),
        exact(Some(is("shop.Cart")), None),
        exact(Some(is("shop.Cart")), Some(like("G.*"))),
        exact(Some(is("shop.Cart")), Some(is("Get"))),
    ];
    let table = table(vec![route(RouteKind::Grpc, "shop/g", rules)]);
    for (path, rule) in [
        ("/shop.Cart/Get", 5),
        ("/shop.Cart/Give", 4),
        ("/shop.Cart/Put", 3),
        ("/shop.Shelf/Get", 2),
        ("/other/Get", 1),
        ("/other/Put", 0),
        ("/shop.Cart/Get/more", 0),
        ("/shop.Cart", 0),
        ("/", 0),
    ] {
        let won = table
            .select(&request(&format!("POST {path}"), &[]))
            .map(|matched| matched.rule.index);
        assert_eq!(won, Some(rule), "{path}");
    }
}

#[test]
fn what_no_rule_wants_has_no_rule() {
    assert_eq!(wins(vec![exact("/a"), prefix("/b")], "GET /c", &[]), None);
    assert_eq!(wins(Vec::new(), "GET /c", &[]), None);
}

#[test]
fn many_rules_for_one_path_are_told_apart() {
    let mut matches: Vec<_> = (0..100)
        .map(|n| prefix("/").header("tenant", is(&n.to_string())))
        .collect();
    matches.extend((0..100).map(|n| prefix("/").query("tenant", is(&n.to_string()))));
    matches.push(prefix("/").method("DELETE"));
    matches.push(prefix("/").header("tenant", like("[a-z]+")));
    matches.push(prefix("/"));
    for (line, tenant, winner) in [
        ("GET /", "17", 17),
        ("GET /?tenant=5", "99", 99),
        ("GET /?tenant=5", "100", 105),
        ("DELETE /?tenant=5", "17", 200),
        ("GET /", "abc", 201),
        ("GET /", "-", 202),
    ] {
        let won = wins(matches.clone(), line, &[("tenant", tenant)]);
        assert_eq!(won, Some(winner), "{line} {tenant}");
    }
}
