//! The table compared with a scan.

use mesh_common::model::{HttpMatch, PathMatch, Route, RouteKind, RouteMatch, RouteRule, TextMatch};
use proptest::prelude::*;

use super::kit::{self, Also, named, request, route};
use super::oracle::naive;

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "ab"]), 0..4)
        .prop_map(|segments| format!("/{}", segments.join("/")))
}

fn any_text() -> impl Strategy<Value = TextMatch> {
    prop_oneof![
        30 => prop::sample::select(vec!["1", "2", "12"]).prop_map(kit::is),
        1 => prop::sample::select(vec!["1", "[12]", "1.*", "[^1]+"]).prop_map(kit::like),
    ]
}

fn any_match() -> impl Strategy<Value = RouteMatch> {
    let path = prop_oneof![
        20 => any_path().prop_map(PathMatch::Exact),
        40 => (any_path(), prop::bool::ANY).prop_map(|(path, slash)| {
            PathMatch::Prefix(if slash && path != "/" { format!("{path}/") } else { path })
        }),
        4 => prop::sample::select(vec!["/.*", "/a", "/a/[ab]+", "/(a|b)(/.*)?"])
            .prop_map(|path| PathMatch::Regex(path.to_owned())),
    ];
    let method = prop::option::weighted(0.3, prop::sample::select(vec!["GET", "PUT"]));
    let wanted = || prop::collection::btree_map(prop::sample::select(vec!["x", "y", "z"]), any_text(), 0..3);
    (path, method, wanted(), wanted()).prop_map(|(path, method, headers, query)| {
        let list = |map: std::collections::BTreeMap<&str, TextMatch>| {
            map.into_iter().map(|(name, value)| named(name, value)).collect()
        };
        HttpMatch {
            path,
            method: method.map(str::to_owned),
            headers: list(headers),
            query: list(query),
        }
        .one()
    })
}

fn any_routes() -> impl Strategy<Value = Vec<Route>> {
    let rule = prop::collection::vec(any_match(), 1..4).prop_map(kit::rule);
    let rules = prop::collection::vec(rule, 1..9);
    let created = prop::option::of(0i64..3);
    prop::collection::vec((created, rules), 1..6).prop_map(|routes| {
        let routes = routes.into_iter().enumerate();
        routes
            .map(
                |(number, (created, rules)): (usize, (Option<i64>, Vec<RouteRule>))| Route {
                    created,
                    ..route(RouteKind::Http, &format!("shop/r{number}"), rules)
                },
            )
            .collect()
    })
}

fn any_request() -> impl Strategy<Value = (String, Vec<(&'static str, &'static str)>)> {
    let value = || prop::sample::select(vec!["1", "2", "12", "3"]);
    let pairs = || prop::collection::btree_map(prop::sample::select(vec!["x", "y", "z"]), value(), 0..4);
    let method = prop::sample::select(vec!["GET", "PUT", "POST"]);
    let slash = prop::sample::select(vec!["", "/"]);
    (method, any_path(), slash, pairs(), pairs()).prop_map(|(method, path, slash, headers, query)| {
        let query: Vec<_> = query
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let line = format!("{method} {path}{slash}?{}", query.join("&"));
        (line.replace("//", "/"), headers.into_iter().collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_table_finds_what_a_scan_finds(
        routes in any_routes(),
        requests in prop::collection::vec(any_request(), 16),
    ) {
        let table = kit::table(routes.clone());
        for (line, headers) in requests {
            let request = request(&line, &headers);
            prop_assert_eq!(kit::led(&table, &line, &headers), naive(&routes, &request), "{} {:?}", line, headers);
        }
    }

    #[test]
    fn the_order_in_which_routes_come_does_not_matter(
        routes in any_routes(),
        turn in 0usize..6,
        (line, headers) in any_request(),
    ) {
        let mut turned = routes.clone();
        turned.rotate_left(turn % routes.len());
        prop_assert_eq!(
            kit::led(&kit::table(routes), &line, &headers),
            kit::led(&kit::table(turned), &line, &headers)
        );
    }
}

/// Texts that no schema would let pass: the model can hold them, so compiling them must not panic.
fn any_odd_text() -> impl Strategy<Value = String> {
    prop_oneof!["\\PC{0,8}", "[/a*?#%()\\[]{0,8}", Just(String::new())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_that_the_model_can_hold_panics(
        paths in prop::collection::vec((0u8..3, any_odd_text()), 1..12),
        names in prop::collection::vec((any_odd_text(), any_odd_text()), 0..3),
        method in prop::option::of(any_odd_text()),
        replacement in any_odd_text(),
        target in "/[ab/%?=&+*]{0,12}",
    ) {
        use mesh_common::model::{PathModifier, Redirect, Rewrite, RouteFilter};
        let wanted = |list: &[(String, String)]| -> Vec<_> {
            list.iter().map(|(name, value)| named(name, kit::like(value))).collect()
        };
        let mut rules: Vec<_> = paths.into_iter().map(|(kind, path)| {
            let path = match kind {
                0 => PathMatch::Exact(path),
                1 => PathMatch::Prefix(path),
                _ => PathMatch::Regex(path),
            };
            kit::rule(vec![RouteMatch::Http(HttpMatch {
                path,
                method: method.clone(),
                headers: wanted(&names),
                query: wanted(&names),
            })])
        }).collect();
        rules.push(kit::filtered(vec![RouteFilter::Rewrite(Rewrite {
            hostname: Some(replacement.clone()),
            path: Some(PathModifier::Prefix(replacement.clone())),
        })]));
        rules.push(kit::filtered(vec![RouteFilter::Redirect(Redirect {
            scheme: None,
            hostname: None,
            path: Some(PathModifier::Full(replacement)),
            port: None,
            status: 301,
        })]));
        let table = kit::table(vec![route(RouteKind::Http, "shop/odd", rules)]);
        let mut request = request(&format!("GET {target}"), &[("a", "b"), ("host", "web")]);
        if let Some(matched) = table.select(&request) {
            drop(matched.rule.filters.apply_request(&mut request, matched.path));
        }
    }
}
