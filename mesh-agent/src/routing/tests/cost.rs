//! What a look into the table costs. Run with `--ignored --nocapture`, best in release.

use std::hint::black_box;
use std::time::Instant;

use http::request::Parts;
use mesh_common::model::{Route, RouteKind, RouteMatch};

use super::kit::{Also, compiled, exact, is, prefix, request, route, rule};
use crate::routing::RouteTable;

/// Routes with 16 rules each, as the Gateway API allows.
fn table(matches: impl Iterator<Item = RouteMatch>) -> RouteTable {
    let matches: Vec<_> = matches.collect();
    let routes = matches.chunks(16).enumerate().map(|(number, matches)| {
        let rules = matches.iter().map(|one| rule(vec![one.clone()])).collect();
        compiled(Route {
            ..route(RouteKind::Http, &format!("shop/r{number}"), rules)
        })
    });
    RouteTable::new(80, RouteKind::Http, routes.collect())
}

fn measure(what: &str, rules: usize, table: &RouteTable, requests: &[Parts]) {
    const ROUNDS: usize = 200_000;
    assert!(requests.iter().all(|request| table.select(request).is_some()));
    let begin = Instant::now();
    for round in 0..ROUNDS {
        black_box(table.select(black_box(&requests[round % requests.len()])));
    }
    let each = begin.elapsed().as_nanos() / ROUNDS as u128;
    println!("{what:24} {rules:5} rules {each:6} ns");
}

#[test]
#[ignore = "prints figures, proves nothing"]
fn cost_of_a_look() {
    let headers = [
        ("host", "web"),
        ("user-agent", "curl/8"),
        ("accept", "*/*"),
        ("tenant", "0"),
    ];
    for rules in [1, 100, 1_000] {
        let each = |make: &dyn Fn(usize) -> RouteMatch| table((0..rules).map(make));
        let ask = |line: &dyn Fn(usize) -> String| -> Vec<Parts> {
            let picks = (0..rules).step_by(rules.div_ceil(50));
            picks.map(|n| request(&line(n), &headers)).collect()
        };
        let exact_paths = each(&|n| exact(&format!("/api/v1/item{n}")).one());
        measure(
            "exact path",
            rules,
            &exact_paths,
            &ask(&|n| format!("GET /api/v1/item{n}")),
        );
        let prefixes = each(&|n| prefix(&format!("/api/v1/item{n}")).one());
        measure(
            "prefix",
            rules,
            &prefixes,
            &ask(&|n| format!("GET /api/v1/item{n}/part/7")),
        );
        let by_header = each(&|n| prefix("/").header("tenant", is(&n.to_string())).one());
        let asked: Vec<_> = (0..rules)
            .step_by(rules.div_ceil(50))
            .map(|n| {
                let tenant = n.to_string();
                let mut headers = headers;
                headers[3].1 = &tenant;
                request("GET /cart", &headers)
            })
            .collect();
        measure("one path, by header", rules, &by_header, &asked);
        let by_query = each(&|n| prefix("/").query("tenant", is(&n.to_string())).one());
        measure(
            "one path, by parameter",
            rules,
            &by_query,
            &ask(&|n| format!("GET /cart?x=1&tenant={n}")),
        );
    }
}

#[test]
#[ignore = "prints figures, proves nothing"]
fn cost_of_a_table() {
    for rules in [1, 100, 1_000] {
        let matches = || (0..rules).map(|n| prefix(&format!("/api/v1/item{n}")).one());
        let routes: Vec<_> = table(matches()).routes().to_vec();
        let begin = Instant::now();
        black_box(RouteTable::new(80, RouteKind::Http, routes));
        println!(
            "put together {rules:5} rules {:6} µs",
            begin.elapsed().as_micros()
        );
    }
}
