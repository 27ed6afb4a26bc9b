//! The oracle: every match of every rule is asked, and the best one by the letter of the Gateway API wins.
//!
//! The unit tests and the fuzz target `routes` compare the table with it.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashMap;

use http::request::Parts;
use mesh_common::model::{HttpMatch, PathMatch, Route, RouteMatch, TextMatch};

fn text(wanted: &TextMatch, value: &str) -> bool {
    match wanted {
        TextMatch::Exact(text) => text == value,
        TextMatch::Regex(text) => EXPRESSIONS.with_borrow_mut(|known| {
            let expression = known
                .entry(text.clone())
                .or_insert_with(|| regex::Regex::new(&format!("^({text})$")).unwrap());
            expression.is_match(value)
        }),
    }
}

thread_local! {
    /// To compile an expression takes longer than everything else here.
    static EXPRESSIONS: RefCell<HashMap<String, regex::Regex>> = RefCell::default();
}

fn segments(path: &str) -> Vec<&str> {
    path.trim_matches('/')
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect()
}

/// Where a match stands in the order of precedence, lower first; `None` if the request does not fit it.
fn place(wanted: &HttpMatch, request: &Parts) -> Option<impl Ord + use<>> {
    let path = request.uri.path();
    let by_path = match &wanted.path {
        PathMatch::Exact(exact) => (exact == path).then_some((0, Reverse(0))),
        PathMatch::Prefix(prefix) => {
            let length = segments(prefix).join("/").len();
            segments(path)
                .starts_with(&segments(prefix))
                .then_some((1, Reverse(length)))
        }
        PathMatch::Regex(_) => {
            let PathMatch::Regex(pattern) = &wanted.path else {
                return None;
            };
            text(&TextMatch::Regex(pattern.clone()), path).then_some((2, Reverse(0)))
        }
    }?;
    let method = wanted
        .method
        .as_ref()
        .is_none_or(|method| request.method == method.as_str());
    let headers = wanted.headers.iter().all(|header| {
        let value = request.headers.get(&header.name);
        value.is_some_and(|value| text(&header.value, value.to_str().unwrap()))
    });
    let query = wanted.query.iter().all(|parameter| {
        let mut pairs = request.uri.query().unwrap_or_default().split('&');
        let found = pairs.find_map(|pair| pair.strip_prefix(&format!("{}=", parameter.name)));
        found.is_some_and(|value| text(&parameter.value, value))
    });
    (method && headers && query).then_some((
        by_path,
        Reverse(wanted.method.is_some()),
        Reverse(wanted.headers.len()),
        Reverse(wanted.query.len()),
    ))
}

/// Which route and rule leads a request: `shop/a 0`.
pub(crate) fn naive(routes: &[Route], request: &Parts) -> Option<String> {
    let mut found = Vec::new();
    for route in routes {
        for (index, rule) in route.rules.iter().enumerate() {
            for wanted in &rule.matches {
                let RouteMatch::Http(wanted) = wanted else {
                    continue;
                };
                if let Some(place) = place(wanted, request) {
                    let age = (route.created.is_none(), route.created);
                    found.push((place, age, route.key.to_string(), index));
                }
            }
        }
    }
    let (_, _, key, index) = found.into_iter().min()?;
    Some(format!("{key} {index}"))
}
