//! Routes: the compiled table leads every request where a scan of all matches leads it.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use mesh_common::model::{
    HttpMatch, NamedMatch, ObjectKey, ParentRef, PathMatch, Route, RouteKind, RouteMatch, RouteRule,
    TextMatch,
};
use mesh_fuzz::routing::{CompiledRoute, RouteTable};
use mesh_fuzz::scan;

/// What is written with the bytes of the input; behind their end everything is 0.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn below(&mut self, bound: u8) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                first % bound
            }
            [] => 0,
        }
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.below(of.len() as u8))]
    }

    fn path(&mut self) -> String {
        let count = self.below(5);
        let segments: Vec<&str> = (0..count)
            .map(|_| self.one(&["a", "b", "ab", "A", "a.b"]))
            .collect();
        format!("/{}", segments.join("/"))
    }

    fn text(&mut self) -> TextMatch {
        let text = self.one(&["1", "2", "12", "[12]", "1.*", "[^1]+"]);
        match text.contains(['[', '.']) {
            true => TextMatch::Regex(text.to_owned()),
            false => TextMatch::Exact(text.to_owned()),
        }
    }

    /// Texts under different names.
    fn named(&mut self) -> Vec<NamedMatch> {
        let chosen = self.below(8);
        let names = ["x", "y", "z"].into_iter().enumerate();
        names
            .filter(|(bit, _)| chosen & (1 << bit) != 0)
            .map(|(_, name)| NamedMatch {
                name: name.to_owned(),
                value: self.text(),
            })
            .collect()
    }

    fn route_match(&mut self) -> RouteMatch {
        let path = match self.below(8) {
            0..3 => PathMatch::Exact(self.path()),
            3 => PathMatch::Prefix(format!("{}/", self.path()).replace("//", "/")),
            4..7 => PathMatch::Prefix(self.path()),
            _ => PathMatch::Regex(self.one(&["/.*", "/a", "/a/[ab]+", "/(a|b)(/.*)?"]).to_owned()),
        };
        RouteMatch::Http(HttpMatch {
            path,
            method: self
                .one(&[None, None, Some("GET"), Some("PUT")])
                .map(str::to_owned),
            headers: self.named(),
            query: self.named(),
        })
    }

    fn route(&mut self, number: u8) -> Route {
        let rules = 1 + self.below(4);
        Route {
            kind: RouteKind::Http,
            key: ObjectKey::new("shop", format!("r{number}")),
            created: self.one(&[None, Some(0), Some(1)]),
            parents: vec![ParentRef {
                service: ObjectKey::new("shop", "web"),
                port: None,
                section_name: None,
            }],
            hostnames: Vec::new(),
            rules: (0..rules)
                .map(|_| RouteRule {
                    matches: (0..1 + self.below(3)).map(|_| self.route_match()).collect(),
                    ..RouteRule::default()
                })
                .collect(),
        }
    }

    fn request(&mut self) -> http::request::Parts {
        let pairs = |choices: &mut Self| -> Vec<(&str, &str)> {
            let chosen = choices.below(8);
            let names = ["x", "y", "z"].into_iter().enumerate();
            names
                .filter(|(bit, _)| chosen & (1 << bit) != 0)
                .map(|(_, name)| (name, choices.one(&["1", "2", "12", "3"])))
                .collect()
        };
        let method = self.one(&["GET", "PUT", "POST"]);
        let slash = self.one(&["", "", "/"]);
        let path = format!("{}{slash}", self.path()).replace("//", "/");
        let query: Vec<String> = pairs(self)
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{path}?{}", query.join("&")));
        for (name, value) in pairs(self) {
            request = request.header(name, value);
        }
        request.body(()).expect("a request of good pieces").into_parts().0
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices(bytes);
    let count = 1 + choices.below(4);
    let routes: Vec<Route> = (0..count).map(|number| choices.route(number)).collect();
    let compiled = routes
        .iter()
        .map(|route| Arc::new(CompiledRoute::new(Arc::new(route.clone()))));
    let table = RouteTable::new(80, RouteKind::Http, compiled.collect());
    for _ in 0..8 {
        let request = choices.request();
        let matched = table.select(&request);
        let led = matched.map(|matched| format!("{} {}", matched.rule.route.key, matched.rule.index));
        assert_eq!(led, scan(&routes, &request), "{request:?} {routes:?}");
    }
});
