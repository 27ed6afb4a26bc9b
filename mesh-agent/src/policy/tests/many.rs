//! So many policies that they are indexed: the same is decided as by the reference, and few are asked.

use mesh_common::model::{Operation, PathPattern, Pattern, Rule, Source, Target, Values};

use super::super::facts::{Kind, Subject};
use super::super::index::RuleIndex;
use super::*;

/// Policies of few values, so that some rules match. In most cases all are of one action, for a DENY that matches hides
/// the others.
fn many_policies() -> impl Strategy<Value = Vec<AuthorizationPolicy>> {
    let only = prop_oneof![
        2 => Just(None),
        2 => Just(Some(Action::Allow)),
        2 => Just(Some(Action::Deny)),
        1 => Just(Some(Action::Audit)),
    ];
    (vec(any_policy(), 4..40), only).prop_map(|(mut policies, only)| {
        for policy in &mut policies {
            // One CUSTOM policy decides before all others.
            let usual = if policy.action == Action::Custom {
                Action::Allow
            } else {
                policy.action
            };
            policy.action = only.unwrap_or(usual);
            // A rule without conditions decides as soon.
            policy.rules.retain(|rule| *rule != Rule::default());
        }
        policies
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn many_policies_decide_as_the_reference_says(
        policies in many_policies(),
        connections in vec(any_connection(), 1..8),
        asked in vec(any_asked(), 1..4),
    ) {
        compare(policies, &connections, &asked)?;
    }
}

fn one<T>(value: T) -> Values<T> {
    Values {
        any: vec![value],
        none: Vec::new(),
    }
}

/// An index over 1,000 policies of one rule each.
fn index(action: Action, kind: Kind, rule: impl Fn(usize) -> (Source, Operation)) -> RuleIndex {
    let policies: Vec<_> = (0..1000)
        .map(|number| {
            let (source, operation) = rule(number);
            let rule = Rule {
                from: vec![source],
                to: vec![operation],
                when: Vec::new(),
            };
            let key = ObjectKey::new("shop", number.to_string());
            let (enforcement, target) = (Enforcement::Enforced, Target::All);
            AuthorizationPolicy {
                key,
                action,
                enforcement,
                target,
                rules: vec![rule],
                provider: None,
            }
        })
        .map(|policy| Arc::new(CompiledPolicy::new(Arc::new(policy))))
        .collect();
    RuleIndex::new(&policies, kind)
}

/// How many rules are asked about a subject.
fn asked(index: &RuleIndex, subject: Subject<'_, '_>) -> usize {
    let mut count = 0;
    index.each(subject, |places| count += places.len());
    count
}

/// What the rule with a number wants to see.
type Made<'m> = &'m dyn Fn(usize) -> (Source, Operation);

#[test]
fn few_of_many_rules_are_asked() {
    let connection = Connection {
        peer: Some(("td", "n7", "x7")),
        same_node: false,
        source: [10, 0, 0, 1].into(),
        remote: [10, 0, 0, 1].into(),
        destination: [10, 0, 0, 2].into(),
        port: 807,
        sni: None,
    };
    let facts = connection.facts();
    let request = Asked {
        method: "GET",
        path: "/team-7/b",
        host: "",
        headers: Vec::new(),
        token: None,
    };
    let lent = request.lent();
    let request = request.facts(&connection, &lent);

    let of_client = |principal| Source {
        principals: one(principal),
        ..Source::default()
    };
    let at_path = |path| Operation {
        paths: one(path),
        methods: one(Pattern::Exact("GET".into())),
        ..Operation::default()
    };
    let client = || of_client(Pattern::Prefix("td/ns/n7/".into()));
    let by_client = |number: usize| {
        (
            of_client(Pattern::Exact(format!("td/ns/n{number}/sa/x{number}"))),
            Operation::default(),
        )
    };
    let by_namespace = |number: usize| {
        (
            Source {
                namespaces: one(Pattern::Exact(format!("n{number}"))),
                ..Source::default()
            },
            at_path(PathPattern::Text(Pattern::Suffix("b".into()))),
        )
    };
    let by_account = |number: usize| {
        (
            Source {
                service_accounts: one(ObjectKey::new(format!("n{number}"), format!("x{number}"))),
                ..Source::default()
            },
            Operation::default(),
        )
    };
    let by_port = |number: usize| {
        (
            client(),
            Operation {
                ports: one(800 + u16::try_from(number).unwrap()),
                ..Operation::default()
            },
        )
    };
    let by_path = |number: usize| {
        (
            client(),
            at_path(PathPattern::Text(Pattern::Exact(format!("/team-{number}/b")))),
        )
    };
    let by_prefix = |number: usize| {
        (
            client(),
            at_path(PathPattern::Text(Pattern::Prefix(format!("/team-{number}/")))),
        )
    };
    let by_template = |number: usize| {
        (
            client(),
            at_path(PathPattern::Template(format!("/team-{number}/{{*}}"))),
        )
    };

    let rules: [(&str, Made<'_>); 4] = [
        ("client", &by_client),
        ("namespace", &by_namespace),
        ("account", &by_account),
        ("port", &by_port),
    ];
    for (name, rule) in rules {
        let connection = index(Action::Deny, Kind::Connection, rule);
        assert_eq!(asked(&connection, Subject::Connection(&facts)), 1, "{name}");
        let requests = index(Action::Allow, Kind::Requests, rule);
        assert_eq!(asked(&requests, Subject::Requests(&facts)), 1, "{name}");
    }
    let of_requests: [(&str, Made<'_>); 3] = [
        ("path", &by_path),
        ("prefix", &by_prefix),
        ("template", &by_template),
    ];
    for (name, rule) in rules.into_iter().chain(of_requests) {
        let requests = index(Action::Allow, Kind::Request, rule);
        assert_eq!(asked(&requests, Subject::Request(&request)), 1, "{name}");
    }
    // What such rules permit is no TCP, and what they object to is not known before there is a request.
    for (_, rule) in of_requests {
        assert_eq!(
            asked(
                &index(Action::Allow, Kind::Connection, rule),
                Subject::Connection(&facts)
            ),
            0
        );
        assert_eq!(
            asked(
                &index(Action::Deny, Kind::Requests, rule),
                Subject::Requests(&facts)
            ),
            0
        );
    }
}
