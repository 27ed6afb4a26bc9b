//! Random policies, connections and requests, of few values, so that some fit.

use ipnet::IpNet;
use mesh_common::model::{
    Action, AuthorizationPolicy, Condition, Enforcement, ObjectKey, Operation, PathPattern, Pattern,
    PeerMode, RequestField, Rule, Source, Target, Values,
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::{Asked, Connection};

fn any_pattern(texts: &'static [&'static str]) -> impl Strategy<Value = Pattern> {
    (select(texts), 0usize..8, 0..8).prop_map(|(text, cut, form)| {
        let cut = cut.min(text.len() - 1);
        match form {
            0..4 => Pattern::Exact(text.to_owned()),
            4..6 => Pattern::Prefix(text[..=cut].to_owned()),
            6 => Pattern::Suffix(text[cut..].to_owned()),
            _ => Pattern::Present,
        }
    })
}

const PRINCIPALS: &[&str] = &["td/ns/a/sa/x", "td/ns/b/sa/y", "other/ns/a/sa/x", "td/ns/ab/sa/x"];
const NAMESPACES: &[&str] = &["a", "b", "ab"];
const SERVER_NAMES: &[&str] = &["a.example", "b.example", "a.test"];

fn any_network() -> impl Strategy<Value = IpNet> {
    select(
        &[
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.0.1/32",
            "0.0.0.0/0",
            "fd00::/8",
            "fd00::1/128",
        ][..],
    )
    .prop_map(|text| text.parse().unwrap())
}

fn any_account() -> impl Strategy<Value = ObjectKey> {
    (select(NAMESPACES), select(&["x", "y"][..]))
        .prop_map(|(namespace, name)| ObjectKey::new(namespace, name))
}

/// A field: mostly unused.
fn any_values<T: std::fmt::Debug + Clone>(
    value: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = Values<T>> {
    prop_oneof![
        5 => Just(Values { any: Vec::new(), none: Vec::new() }),
        2 => vec(value.clone(), 1..3).prop_map(|any| Values { any, none: Vec::new() }),
        1 => vec(value.clone(), 1..3).prop_map(|none| Values { any: Vec::new(), none }),
        1 => (vec(value.clone(), 1..3), vec(value, 1..3)).prop_map(|(any, none)| Values { any, none }),
    ]
}

/// A field about requests: hardly ever used, for it keeps rules from allowing TCP.
fn any_request_values<T: std::fmt::Debug + Clone + 'static>(
    value: impl Strategy<Value = T> + Clone + 'static,
) -> impl Strategy<Value = Values<T>> {
    prop_oneof![
        12 => Just(Values::default()),
        2 => any_values(value),
    ]
}

const METHODS: &[&str] = &["GET", "POST", "PUT"];
const PATHS: &[&str] = &["/", "/a", "/a/b", "/a/b/c", "/b/a"];
const TEMPLATES: &[&str] = &["/{*}", "/a/{*}", "/{*}/b/{**}", "/a/{**}", "/{**}/c"];
const HOSTS: &[&str] = &["a.example", "b.example"];
const REQUEST_PRINCIPALS: &[&str] = &["i/s", "i/t", "j/s"];
const GROUPS: &[&str] = &["dev", "ops", "devops"];

fn any_path_pattern() -> impl Strategy<Value = PathPattern> {
    prop_oneof![
        2 => any_pattern(PATHS).prop_map(PathPattern::Text),
        1 => select(TEMPLATES).prop_map(|template| PathPattern::Template(template.to_owned())),
    ]
}

pub(super) fn any_asked() -> impl Strategy<Value = Asked> {
    let header = (select(&["x-a", "x-b"][..]), select(GROUPS));
    let token = (
        select(&["i", "j"][..]),
        select(&["s", "t"][..]),
        vec(select(GROUPS), 0..3),
    );
    (
        select(METHODS),
        select(PATHS),
        select(&["a.example", "b.example", "A.Example"][..]),
        vec(header, 0..4),
        prop::option::of(token),
    )
        .prop_map(|(method, path, host, headers, token)| Asked {
            method,
            path,
            host,
            headers,
            token,
        })
}

fn any_source() -> impl Strategy<Value = Source> {
    (
        any_values(any_pattern(PRINCIPALS).boxed()),
        any_values(any_pattern(NAMESPACES).boxed()),
        any_values(any_account().boxed()),
        any_values(any_network().boxed()),
        any_values(any_network().boxed()),
        any_request_values(any_pattern(REQUEST_PRINCIPALS).boxed()),
    )
        .prop_map(
            |(principals, namespaces, service_accounts, ip_blocks, remote_ip_blocks, request_principals)| {
                Source {
                    principals,
                    request_principals,
                    namespaces,
                    service_accounts,
                    ip_blocks,
                    remote_ip_blocks,
                }
            },
        )
}

fn any_operation() -> impl Strategy<Value = Operation> {
    (
        any_values(80u16..83),
        any_request_values(any_pattern(METHODS).boxed()),
        any_request_values(any_path_pattern().boxed()),
        any_request_values(any_pattern(HOSTS).boxed()),
    )
        .prop_map(|(ports, methods, paths, hosts)| Operation {
            hosts,
            ports,
            methods,
            paths,
        })
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let networks = || any_values(any_network().boxed());
    prop_oneof![
        4 => networks().prop_map(Condition::SourceIp),
        4 => networks().prop_map(Condition::RemoteIp),
        4 => networks().prop_map(Condition::DestinationIp),
        4 => any_values(80u16..83).prop_map(Condition::DestinationPort),
        4 => any_values(any_pattern(NAMESPACES).boxed()).prop_map(Condition::SourceNamespace),
        4 => any_values(any_pattern(PRINCIPALS).boxed()).prop_map(Condition::SourcePrincipal),
        4 => any_values(any_account().boxed()).prop_map(Condition::SourceServiceAccount),
        4 => any_values(any_pattern(SERVER_NAMES).boxed()).prop_map(Condition::Sni),
        1 => any_values(any_pattern(REQUEST_PRINCIPALS).boxed())
            .prop_filter("a condition has values", |values| !values.is_empty())
            .prop_map(|values| Condition::Request(RequestField::Principal, values)),
        1 => any_values(any_pattern(GROUPS).boxed())
            .prop_filter("a condition has values", |values| !values.is_empty())
            .prop_map(|values| Condition::Request(RequestField::Claim(vec!["group".to_owned()]), values)),
        1 => any_values(any_pattern(GROUPS).boxed())
            .prop_filter("a condition has values", |values| !values.is_empty())
            .prop_map(|values| Condition::Request(RequestField::Header("x-a".to_owned()), values)),
    ]
}

pub(super) fn any_policy() -> impl Strategy<Value = AuthorizationPolicy> {
    let rule = (
        vec(any_source(), 0..3),
        vec(any_operation(), 0..3),
        vec(any_condition(), 0..2),
    )
        .prop_map(|(from, to, when)| Rule { from, to, when });
    let action = prop_oneof![
        8 => Just(Action::Allow),
        6 => Just(Action::Deny),
        2 => Just(Action::Audit),
        1 => Just(Action::Custom),
    ];
    let enforcement = prop_oneof![4 => Just(Enforcement::Enforced), 1 => Just(Enforcement::DryRun)];
    (vec(rule, 0..4), action, enforcement).prop_map(|(rules, action, enforcement)| AuthorizationPolicy {
        key: ObjectKey::new("shop", ""),
        action,
        enforcement,
        target: Target::All,
        rules,
        provider: None,
    })
}

pub(super) fn any_connection() -> impl Strategy<Value = Connection> {
    let ip = || {
        select(
            &[
                "10.1.0.1",
                "10.1.0.2",
                "10.2.0.1",
                "192.0.2.1",
                "fd00::1",
                "fd00::2",
                "2001:db8::1",
            ][..],
        )
        .prop_map(|text| text.parse().unwrap())
    };
    let peer = (
        select(&["td", "other"][..]),
        select(NAMESPACES),
        select(&["x", "y"][..]),
    );
    (
        prop::option::weighted(0.7, peer),
        any::<bool>(),
        (ip(), ip(), ip()),
        80u16..83,
        prop::option::of(select(SERVER_NAMES)),
    )
        .prop_map(
            |(peer, same_node, (source, remote, destination), port, sni)| Connection {
                peer,
                same_node,
                source,
                remote,
                destination,
                port,
                sni,
            },
        )
}

pub(super) fn any_mode() -> impl Strategy<Value = PeerMode> {
    select(&[PeerMode::Disable, PeerMode::Permissive, PeerMode::Strict][..])
}
