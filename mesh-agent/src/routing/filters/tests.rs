//! What filters do to requests and answers.

use http::header::HeaderName;
use http::{HeaderMap, request, response};
use mesh_common::model::{
    BackendTarget, Cors, HeaderModifier, Mirror, ObjectKey, PathModifier, Redirect, Rewrite, RouteFilter,
};

use super::*;

mod cors;

fn request(line: &str, headers: &[(&str, &str)]) -> request::Parts {
    let (method, target) = line.split_once(' ').unwrap();
    let mut request = http::Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn answer(headers: &[(&str, &str)]) -> response::Parts {
    let mut answer = http::Response::builder();
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    answer.body(()).unwrap().into_parts().0
}

/// All headers, by name, as `name: value`.
fn lines(headers: &HeaderMap) -> Vec<String> {
    let line = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
    let mut lines: Vec<_> = headers.iter().map(line).collect();
    lines.sort();
    lines
}

const AT: MatchedPath = MatchedPath {
    prefix: None,
    port: 8080,
};

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn change() -> HeaderModifier {
    HeaderModifier {
        set: pairs(&[("x-set", "new"), ("x-fresh", "1")]),
        add: pairs(&[("x-add", "b,c"), ("x-more", "1")]),
        remove: vec!["x-gone".to_owned(), "x-absent".to_owned()],
    }
}

const BEFORE: [(&str, &str); 6] = [
    ("x-set", "old"),
    ("X-Set", "older"),
    ("x-add", "a"),
    ("x-gone", "1"),
    ("x-gone", "2"),
    ("x-kept", "k"),
];

const AFTER: [&str; 5] = [
    "x-add: a,b,c",
    "x-fresh: 1",
    "x-kept: k",
    "x-more: 1",
    "x-set: new",
];

fn only(filter: RouteFilter) -> Filters {
    Filters::new(&[filter]).unwrap()
}

#[test]
fn request_headers_are_set_appended_to_and_removed() {
    let filters = only(RouteFilter::RequestHeaders(change()));
    let mut request = request("GET /", &BEFORE);
    assert!(matches!(
        filters.apply_request(&mut request, AT),
        FilterOutcome::Continue
    ));
    assert_eq!(lines(&request.headers), AFTER);
    let mut answer = answer(&BEFORE);
    filters.apply_response(&mut answer.headers, None);
    assert_eq!(answer.headers.len(), BEFORE.len());
}

#[test]
fn response_headers_are_set_appended_to_and_removed() {
    let filters = only(RouteFilter::ResponseHeaders(change()));
    let mut answer = answer(&BEFORE);
    filters.apply_response(&mut answer.headers, None);
    assert_eq!(lines(&answer.headers), AFTER);
}

#[test]
fn cookies_that_are_added_are_lines_of_their_own() {
    let filters = only(RouteFilter::ResponseHeaders(HeaderModifier {
        add: pairs(&[("set-cookie", "b=2"), ("x", "2")]),
        ..HeaderModifier::default()
    }));
    let mut answer = answer(&[("set-cookie", "a=1"), ("x", "0"), ("x", "1")]);
    filters.apply_response(&mut answer.headers, None);
    assert_eq!(
        lines(&answer.headers),
        ["set-cookie: a=1", "set-cookie: b=2", "x: 0,1,2"]
    );
}

#[test]
fn what_frames_a_message_cannot_be_changed() {
    for name in [
        "Content-Length",
        "transfer-encoding",
        "Connection",
        "te",
        "upgrade",
        "trailer",
        "keep-alive",
    ] {
        let change = HeaderModifier {
            remove: vec![name.to_owned()],
            ..HeaderModifier::default()
        };
        let refused = Filters::new(&[RouteFilter::RequestHeaders(change)]);
        assert_eq!(refused.unwrap_err().0, DropReason::UnsupportedValue, "{name}");
    }
}

#[test]
fn the_host_is_changed_wherever_it_stands() {
    let by_rewrite = only(RouteFilter::Rewrite(Rewrite {
        hostname: Some("new.example".to_owned()),
        path: None,
    }));
    let by_header = only(RouteFilter::RequestHeaders(HeaderModifier {
        set: pairs(&[("Host", "new.example")]),
        ..HeaderModifier::default()
    }));
    for filters in [by_rewrite, by_header] {
        for (line, headers, uri, host) in [
            ("GET /a?b", vec![("host", "old:80")], "/a?b", Some("new.example")),
            ("GET http://old/a?b", vec![], "http://new.example/a?b", None),
            (
                "GET http://old/a",
                vec![("host", "old")],
                "http://new.example/a",
                Some("new.example"),
            ),
            ("GET /", vec![], "/", Some("new.example")),
        ] {
            let mut request = request(line, &headers);
            filters.apply_request(&mut request, AT);
            assert_eq!(request.uri.to_string(), uri, "{line}");
            let seen = request
                .headers
                .get(http::header::HOST)
                .map(|host| host.to_str().unwrap());
            assert_eq!(seen, host, "{line}");
        }
    }
    for (change, what) in [
        (pairs(&[("host", "a b")]), "no host"),
        (pairs(&[("host", "u@h")]), "a user"),
    ] {
        let change = HeaderModifier {
            set: change,
            ..HeaderModifier::default()
        };
        assert!(
            Filters::new(&[RouteFilter::RequestHeaders(change)]).is_err(),
            "{what}"
        );
    }
}

fn rewritten(line: &str, path: PathModifier, prefix: Option<usize>) -> String {
    let filters = only(RouteFilter::Rewrite(Rewrite {
        hostname: None,
        path: Some(path),
    }));
    let mut request = request(line, &[]);
    let outcome = filters.apply_request(&mut request, MatchedPath { prefix, port: 80 });
    assert!(matches!(outcome, FilterOutcome::Continue), "{outcome:?}");
    request.uri.to_string()
}

#[test]
fn a_prefix_is_replaced_as_the_gateway_api_lists_it() {
    for (path, prefix, replacement, expected) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/bar", "/", "/xyz", "/xyz/bar"),
        ("/", "/", "/xyz", "/xyz/"),
        ("/foo/bar?q=/foo", "/foo", "/a/b", "/a/b/bar?q=/foo"),
    ] {
        let length = prefix.trim_end_matches('/').len();
        let replacement = PathModifier::Prefix(replacement.to_owned());
        let new = rewritten(&format!("GET {path}"), replacement.clone(), Some(length));
        assert_eq!(new, expected, "{path} {prefix} {replacement:?}");
    }
}

#[test]
fn a_whole_path_is_replaced_and_the_query_stays() {
    let full = || PathModifier::Full("/new".to_owned());
    assert_eq!(rewritten("GET /a/b?c=d", full(), None), "/new?c=d");
    assert_eq!(rewritten("GET http://web/a", full(), None), "http://web/new");
}

#[test]
fn a_prefix_that_is_not_known_fails() {
    let filters = only(RouteFilter::Rewrite(Rewrite {
        hostname: None,
        path: Some(PathModifier::Prefix("/x".to_owned())),
    }));
    let outcome = filters.apply_request(&mut request("GET /a", &[]), AT);
    assert!(
        matches!(outcome, FilterOutcome::Failed(FilterFailure::Target(_))),
        "{outcome:?}"
    );
}

#[test]
fn paths_that_are_none_are_refused() {
    for path in ["x", "", "/a?b", "/a#b", "/a b"] {
        let rewrite = RouteFilter::Rewrite(Rewrite {
            hostname: None,
            path: Some(PathModifier::Full(path.to_owned())),
        });
        assert!(Filters::new(&[rewrite]).is_err(), "{path}");
    }
}

fn redirect() -> Redirect {
    Redirect {
        scheme: None,
        hostname: None,
        path: None,
        port: None,
        status: 302,
    }
}

fn redirected(redirect: Redirect, line: &str, host: Option<&str>, matched: MatchedPath) -> (u16, String) {
    let filters = only(RouteFilter::Redirect(redirect));
    let headers: Vec<_> = host.iter().map(|host| ("host", *host)).collect();
    match filters.apply_request(&mut request(line, &headers), matched) {
        FilterOutcome::Redirect(answer) => {
            let location = answer.headers["location"].to_str().unwrap().to_owned();
            (answer.status.as_u16(), location)
        }
        other => panic!("{other:?}"),
    }
}

fn location(redirect: Redirect, port: u16) -> String {
    let matched = MatchedPath {
        prefix: Some(2),
        port,
    };
    redirected(redirect, "GET /a/b?c=d", Some("old.example:1234"), matched).1
}

#[test]
fn a_redirect_keeps_what_it_does_not_name() {
    assert_eq!(location(redirect(), 80), "http://old.example/a/b?c=d");
    assert_eq!(
        location(
            Redirect {
                hostname: Some("new.example".to_owned()),
                ..redirect()
            },
            80
        ),
        "http://new.example/a/b?c=d"
    );
}

#[test]
fn the_port_of_a_redirect_follows_the_scheme_and_well_known_ones_are_left_out() {
    for (scheme, port, dialled, expected) in [
        (None, None, 80, "http://old.example/a/b?c=d"),
        (None, None, 8080, "http://old.example:8080/a/b?c=d"),
        (None, Some(80), 8080, "http://old.example/a/b?c=d"),
        (None, Some(443), 8080, "http://old.example:443/a/b?c=d"),
        (Some("https"), None, 8080, "https://old.example/a/b?c=d"),
        (Some("http"), None, 8080, "http://old.example/a/b?c=d"),
        (Some("https"), Some(443), 8080, "https://old.example/a/b?c=d"),
        (Some("https"), Some(80), 8080, "https://old.example:80/a/b?c=d"),
        (Some("https"), Some(8443), 80, "https://old.example:8443/a/b?c=d"),
    ] {
        let redirect = Redirect {
            scheme: scheme.map(str::to_owned),
            port,
            ..redirect()
        };
        assert_eq!(location(redirect, dialled), expected);
    }
}

#[test]
fn a_redirect_can_change_the_path() {
    for (path, expected) in [
        (
            PathModifier::Full("/new".to_owned()),
            "http://old.example/new?c=d",
        ),
        (
            PathModifier::Prefix("/new".to_owned()),
            "http://old.example/new/b?c=d",
        ),
        (PathModifier::Prefix(String::new()), "http://old.example/b?c=d"),
    ] {
        let redirect = Redirect {
            path: Some(path),
            ..redirect()
        };
        assert_eq!(location(redirect, 80), expected);
    }
}

#[test]
fn a_redirect_has_the_status_it_was_given() {
    for status in [301, 302, 303, 307, 308] {
        let redirect = Redirect { status, ..redirect() };
        assert_eq!(
            redirected(redirect, "GET /", Some("web"), AT),
            (status, "http://web:8080/".to_owned())
        );
    }
    let wrong = RouteFilter::Redirect(Redirect {
        status: 304,
        ..redirect()
    });
    assert_eq!(
        Filters::new(&[wrong]).unwrap_err().0,
        DropReason::UnsupportedValue
    );
}

#[test]
fn a_redirect_takes_host_and_scheme_from_the_target_if_they_are_there() {
    let to = |line, host| {
        redirected(
            redirect(),
            line,
            host,
            MatchedPath {
                prefix: None,
                port: 443,
            },
        )
        .1
    };
    assert_eq!(to("GET https://web/a", None), "https://web/a");
    assert_eq!(to("GET http://web:1/a", Some("other")), "http://web:443/a");
    assert_eq!(to("GET /a", Some("[fd00::1]:80")), "http://[fd00::1]:443/a");
    assert_eq!(to("GET /a", Some("user@web:80")), "http://web:443/a");
}

#[test]
fn a_redirect_without_a_host_fails() {
    let filters = only(RouteFilter::Redirect(redirect()));
    for headers in [
        vec![],
        vec![("host", "")],
        vec![("host", "a b")],
        vec![("host", "a/b")],
    ] {
        let outcome = filters.apply_request(&mut request("GET /", &headers), AT);
        assert!(
            matches!(outcome, FilterOutcome::Failed(FilterFailure::NoHost)),
            "{headers:?} {outcome:?}"
        );
    }
}

#[test]
fn an_unknown_extension_fails_before_anything_else() {
    let filters = Filters::new(&[
        RouteFilter::Redirect(redirect()),
        RouteFilter::Extension {
            group: "example.com".to_owned(),
            kind: "Auth".to_owned(),
            name: "a".to_owned(),
        },
    ]);
    let outcome = filters
        .unwrap()
        .apply_request(&mut request("GET /", &[("host", "web")]), AT);
    let FilterOutcome::Failed(failure) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(failure.to_string(), "the filter example.com Auth a is not known");
}

fn mirror(name: &str, numerator: u32, denominator: u32) -> RouteFilter {
    RouteFilter::Mirror(Mirror {
        target: BackendTarget::Service {
            service: ObjectKey::new("shop", name),
            port: 80,
        },
        numerator,
        denominator,
    })
}

#[test]
fn copies_are_made_of_a_share_of_the_requests() {
    let filters = Filters::new(&[
        mirror("all", 100, 100),
        mirror("none", 0, 100),
        mirror("some", 1, 4),
        mirror("more", 3, 4),
    ]);
    let filters = filters.unwrap();
    let mut counts = std::collections::BTreeMap::new();
    let total = 100_000u64;
    for n in 0..total {
        // Evenly spread, without chance.
        let random = n.wrapping_mul(u64::MAX / total);
        for to in filters.mirrors(random) {
            *counts.entry(to.to_string()).or_insert(0u64) += 1;
        }
    }
    assert_eq!(counts["shop/all:80"], total);
    assert!(!counts.contains_key("shop/none:80"));
    // Five standard deviations of a binomial distribution: once in more than a million.
    let deviation = 700;
    assert!(
        counts["shop/some:80"].abs_diff(total / 4) < deviation,
        "{counts:?}"
    );
    assert!(
        counts["shop/more:80"].abs_diff(total * 3 / 4) < deviation,
        "{counts:?}"
    );
}
