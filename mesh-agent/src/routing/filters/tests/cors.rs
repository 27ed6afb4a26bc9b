//! Cross-origin requests.

use super::*;

fn cors() -> Cors {
    Cors {
        allow_origins: vec![
            "https://www.example".to_owned(),
            "https://*.bar.example".to_owned(),
        ],
        allow_credentials: false,
        allow_methods: vec!["GET".to_owned(), "PUT".to_owned()],
        allow_headers: vec!["x-a".to_owned(), "x-b".to_owned()],
        expose_headers: vec!["x-c".to_owned(), "x-d".to_owned()],
        max_age: 5,
    }
}

fn any(credentials: bool) -> Cors {
    let all = || vec!["*".to_owned()];
    Cors {
        allow_origins: all(),
        allow_credentials: credentials,
        allow_methods: all(),
        allow_headers: all(),
        expose_headers: all(),
        max_age: 60,
    }
}

/// The headers of the answer to a preflight request, if it is answered.
fn preflight(cors: Cors, line: &str, headers: &[(&str, &str)]) -> Option<Vec<String>> {
    let filters = only(RouteFilter::Cors(cors));
    match filters.apply_request(&mut request(line, headers), AT) {
        FilterOutcome::CorsPreflight(answer) => {
            assert_eq!(answer.status, 204);
            Some(lines(&answer.headers))
        }
        FilterOutcome::Continue => None,
        other => panic!("{other:?}"),
    }
}

fn asking(origin: &'static str) -> [(&'static str, &'static str); 3] {
    [
        ("origin", origin),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-a, x-q"),
    ]
}

#[test]
fn a_browser_that_asks_is_answered_at_once() {
    assert_eq!(
        preflight(cors(), "OPTIONS /", &asking("https://www.example")).unwrap(),
        [
            "access-control-allow-headers: x-a, x-b",
            "access-control-allow-methods: GET, PUT",
            "access-control-allow-origin: https://www.example",
            "access-control-max-age: 5",
            "vary: origin",
        ]
    );
}

#[test]
fn other_requests_are_sent_on() {
    let asked = asking("https://www.example");
    assert_eq!(preflight(cors(), "GET /", &asked), None);
    assert_eq!(preflight(cors(), "OPTIONS /", &asked[..1]), None);
    assert_eq!(preflight(cors(), "OPTIONS /", &asked[1..]), None);
    assert_eq!(preflight(cors(), "OPTIONS /", &[]), None);
}

#[test]
fn an_origin_that_is_not_allowed_is_told_nothing() {
    for (origin, allowed) in [
        ("https://www.example", true),
        ("https://www.example:443", true),
        ("HTTPS://WWW.EXAMPLE", true),
        ("https://www.example:8443", false),
        ("http://www.example", false),
        ("https://www.example.evil", false),
        ("https://a.bar.example", true),
        ("https://a.b.bar.example", true),
        ("https://bar.example", false),
        ("https://.bar.example", false),
        ("https://abar.example", false),
        ("https://a.bar.example.evil", false),
        ("https://evil/a.bar.example", false),
        ("https://evil@a.bar.example", false),
        ("null", false),
        ("", false),
    ] {
        let told = preflight(cors(), "OPTIONS /", &asking(origin)).unwrap();
        assert_eq!(told.len(), if allowed { 5 } else { 1 }, "{origin}: {told:?}");
        assert_eq!(told.last().unwrap(), "vary: origin");
    }
}

#[test]
fn wildcards_stay_wildcards_without_credentials() {
    assert_eq!(
        preflight(any(false), "OPTIONS /", &asking("null")).unwrap(),
        [
            "access-control-allow-headers: *",
            "access-control-allow-methods: *",
            "access-control-allow-origin: *",
            "access-control-max-age: 60",
        ]
    );
}

#[test]
fn wildcards_become_what_was_asked_for_with_credentials() {
    let asked = asking("https://a.example");
    let told = [
        "access-control-allow-credentials: true",
        "access-control-allow-headers: x-a, x-q",
        "access-control-allow-methods: PUT",
        "access-control-allow-origin: https://a.example",
        "access-control-max-age: 60",
        "vary: origin",
    ];
    assert_eq!(preflight(any(true), "OPTIONS /", &asked).unwrap(), told);
    let without_headers = preflight(any(true), "OPTIONS /", &asked[..2]).unwrap();
    assert!(
        !without_headers.iter().any(|line| line.contains("allow-headers")),
        "{without_headers:?}"
    );
}

fn answered(cors: Cors, origin: Option<&str>, before: &[(&str, &str)]) -> Vec<String> {
    let filters = only(RouteFilter::Cors(cors));
    let headers: Vec<_> = origin.iter().map(|origin| ("origin", *origin)).collect();
    let origin = filters.origin(&request("GET /", &headers));
    let mut answer = answer(before);
    filters.apply_response(&mut answer.headers, origin.as_ref());
    lines(&answer.headers)
}

#[test]
fn answers_say_who_may_see_them() {
    assert_eq!(
        answered(
            cors(),
            Some("https://a.bar.example"),
            &[("x-c", "1"), ("vary", "accept")]
        ),
        [
            "access-control-allow-origin: https://a.bar.example",
            "access-control-expose-headers: x-c, x-d",
            "vary: accept,origin",
            "x-c: 1",
        ]
    );
    assert_eq!(
        answered(cors(), Some("https://evil.example"), &[]),
        ["vary: origin"]
    );
    assert_eq!(answered(cors(), None, &[("vary", "Origin")]), ["vary: Origin"]);
}

#[test]
fn what_the_application_says_about_origins_is_replaced() {
    let own = [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "x"),
    ];
    assert_eq!(
        answered(cors(), Some("https://evil.example"), &own),
        ["vary: origin"]
    );
    assert_eq!(
        answered(any(false), Some("https://evil.example"), &own),
        [
            "access-control-allow-origin: *",
            "access-control-expose-headers: *"
        ]
    );
}

#[test]
fn all_headers_are_named_where_a_wildcard_would_be_none() {
    let told = answered(any(true), Some("https://a.example"), &[("x-c", "1")]);
    let exposed = told
        .iter()
        .find(|line| line.starts_with("access-control-expose-headers: "));
    let exposed = exposed.unwrap();
    assert!(exposed.contains("x-c") && !exposed.contains('*'), "{exposed}");
}

#[test]
fn without_the_filter_nothing_is_remembered_of_the_origin() {
    let filters = Filters::default();
    assert!(filters.is_empty());
    assert_eq!(
        filters.origin(&request("GET /", &[("origin", "https://a")])),
        None
    );
}

#[test]
fn origins_that_are_none_are_refused() {
    for origin in [
        "www.example",
        "https://",
        "https://a*.example.*",
        "https://a/b",
        "https://a:x",
    ] {
        let mut cors = cors();
        cors.allow_origins = vec![origin.to_owned()];
        assert!(Filters::new(&[RouteFilter::Cors(cors)]).is_err(), "{origin}");
    }
}
