//! The reference read aloud: what policies say of a connection or a request, without the code under test.

use mesh_common::model::{
    Action, AuthorizationPolicy, Condition, Enforcement, ObjectKey, Operation, PathPattern, Pattern,
    RequestField, Rule, Source, Values,
};

use super::{Asked, Connection};

struct Naive<'a> {
    connection: &'a Connection,
    /// `None` judges the connection as TCP.
    asked: Option<&'a Asked>,
    action: Action,
}

/// Yes, no, or a question about requests.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Yes,
    No,
    AboutRequests,
}

impl Naive<'_> {
    /// A field: one of the values, none of the excluded ones.
    fn field<T>(&self, values: &Values<T>, is: impl Fn(&T) -> bool) -> Answer {
        let wanted = values.any.is_empty() || values.any.iter().any(&is);
        let excluded = values.none.iter().any(&is);
        if wanted && !excluded {
            Answer::Yes
        } else {
            Answer::No
        }
    }

    /// A field about the peer: without identity no value fits, and only those who do not want to allow anybody may
    /// call that "not one of them".
    fn peer_field<T>(&self, values: &Values<T>, is: impl Fn(&T, (&str, &str, &str)) -> bool) -> Answer {
        match self.connection.peer {
            Some(peer) => self.field(values, |value| is(value, peer)),
            None if !values.any.is_empty() => Answer::No,
            None if !values.none.is_empty() && self.action == Action::Allow => Answer::No,
            None => Answer::Yes,
        }
    }

    /// A field about requests.
    fn request_field<T>(&self, values: &Values<T>, is: impl Fn(&T, &Asked) -> bool) -> Answer {
        match self.asked {
            _ if values.any.is_empty() && values.none.is_empty() => Answer::Yes,
            None => Answer::AboutRequests,
            Some(asked) => self.field(values, |value| is(value, asked)),
        }
    }

    /// A field about the token: as one about the peer.
    fn token_field(&self, values: &Values<Pattern>, texts: impl Fn(&Asked) -> Vec<String>) -> Answer {
        let missing = self.asked.is_some_and(|asked| asked.token.is_none());
        match missing {
            true if !values.any.is_empty() => Answer::No,
            true if !values.none.is_empty() && self.action == Action::Allow => Answer::No,
            true => Answer::Yes,
            false => self.request_field(values, |pattern, asked| {
                texts(asked).iter().any(|text| fits(pattern, text))
            }),
        }
    }

    fn request_principals(&self, values: &Values<Pattern>) -> Answer {
        self.token_field(values, |asked| {
            let token = asked.token.iter();
            token
                .map(|(issuer, subject, _)| format!("{issuer}/{subject}"))
                .collect()
        })
    }

    /// A header: absent it has no value; of several values those count that are worse for the caller.
    fn header(&self, name: &str, values: &Values<Pattern>) -> Answer {
        let Some(asked) = self.asked else {
            return Answer::AboutRequests;
        };
        let named = asked.headers.iter().filter(|(own, _)| *own == name);
        let own: Vec<&str> = named.map(|(_, value)| *value).collect();
        let single = |value: &&str| self.field(values, |pattern| fits(pattern, value)) == Answer::Yes;
        let wanted =
            |value: &&str| values.any.is_empty() || values.any.iter().any(|pattern| fits(pattern, value));
        let spared = |value: &&str| !values.none.iter().any(|pattern| fits(pattern, value));
        let holds = match (own.is_empty(), self.action) {
            (true, _) => values.any.is_empty(),
            (false, Action::Allow) => own.iter().all(single),
            // One value is wanted, and one, be it another, is not excluded.
            (false, _) => own.iter().any(wanted) && own.iter().any(spared),
        };
        if holds { Answer::Yes } else { Answer::No }
    }

    fn principals(&self, values: &Values<Pattern>) -> Answer {
        self.peer_field(values, |pattern, (domain, namespace, account)| {
            fits(pattern, &format!("{domain}/ns/{namespace}/sa/{account}"))
        })
    }

    fn namespaces(&self, values: &Values<Pattern>) -> Answer {
        self.peer_field(values, |pattern, (_, namespace, _)| fits(pattern, namespace))
    }

    fn accounts(&self, values: &Values<ObjectKey>) -> Answer {
        self.peer_field(values, |key, (_, namespace, account)| {
            key.to_string() == format!("{namespace}/{account}")
        })
    }

    fn source(&self, source: &Source) -> Vec<Answer> {
        vec![
            self.principals(&source.principals),
            self.namespaces(&source.namespaces),
            self.accounts(&source.service_accounts),
            self.field(&source.ip_blocks, |net| net.contains(&self.connection.source)),
            self.field(&source.remote_ip_blocks, |net| {
                net.contains(&self.connection.remote)
            }),
            self.request_principals(&source.request_principals),
        ]
    }

    fn operation(&self, operation: &Operation) -> Vec<Answer> {
        vec![
            self.field(&operation.ports, |port| *port == self.connection.port),
            self.request_field(&operation.hosts, |pattern, asked| {
                fits(pattern, &asked.host.to_lowercase())
            }),
            self.request_field(&operation.methods, |pattern, asked| fits(pattern, asked.method)),
            self.request_field(&operation.paths, |pattern, asked| match pattern {
                PathPattern::Text(pattern) => fits(pattern, asked.path),
                PathPattern::Template(template) => {
                    let pattern = template.replace("{**}", ".*").replace("{*}", "[^/]+");
                    regex::Regex::new(&format!("^{pattern}$"))
                        .unwrap()
                        .is_match(asked.path)
                }
            }),
        ]
    }

    fn condition(&self, condition: &Condition) -> Answer {
        let at = self.connection;
        match condition {
            Condition::SourceIp(values) => self.field(values, |net| net.contains(&at.source)),
            Condition::RemoteIp(values) => self.field(values, |net| net.contains(&at.remote)),
            Condition::DestinationIp(values) => self.field(values, |net| net.contains(&at.destination)),
            Condition::DestinationPort(values) => self.field(values, |port| *port == at.port),
            Condition::SourceNamespace(values) => self.namespaces(values),
            Condition::SourcePrincipal(values) => self.principals(values),
            Condition::SourceServiceAccount(values) => self.accounts(values),
            Condition::Sni(values) => {
                self.field(values, |pattern| at.sni.is_some_and(|sni| fits(pattern, sni)))
            }
            Condition::Request(RequestField::Header(name), values) => self.header(name, values),
            Condition::Request(RequestField::Principal, values) => self.request_principals(values),
            Condition::Request(RequestField::Claim(_), values) => self.token_field(values, |asked| {
                let groups = asked.token.iter().flat_map(|(_, _, groups)| groups);
                groups.map(|group| (*group).to_owned()).collect()
            }),
            Condition::Request(..) => unreachable!("not generated"),
        }
    }

    fn rule(&self, rule: &Rule) -> bool {
        let from: Vec<_> = rule.from.iter().map(|source| self.source(source)).collect();
        let to: Vec<_> = rule
            .to
            .iter()
            .map(|operation| self.operation(operation))
            .collect();
        let when: Vec<_> = rule
            .when
            .iter()
            .map(|condition| self.condition(condition))
            .collect();
        let mut answers = from.iter().chain(&to).flatten().chain(&when);
        if self.action == Action::Allow && answers.any(|answer| *answer == Answer::AboutRequests) {
            return false;
        }
        let entry = |answers: &Vec<Answer>| answers.iter().all(|answer| *answer != Answer::No);
        (from.is_empty() || from.iter().any(entry)) && (to.is_empty() || to.iter().any(entry)) && entry(&when)
    }
}

fn fits(pattern: &Pattern, text: &str) -> bool {
    match pattern {
        Pattern::Exact(exact) => text == exact,
        Pattern::Prefix(prefix) => text.starts_with(prefix.as_str()),
        Pattern::Suffix(suffix) => text.ends_with(suffix.as_str()),
        Pattern::Present => !text.is_empty(),
    }
}

/// The first rule of a policy that matches.
pub(super) fn naive_match(
    policy: &AuthorizationPolicy,
    connection: &Connection,
    asked: Option<&Asked>,
) -> Option<usize> {
    let action = policy.action;
    policy.rules.iter().position(|rule| {
        Naive {
            connection,
            asked,
            action,
        }
        .rule(rule)
    })
}

/// The order of the reference: CUSTOM, DENY, no ALLOW, ALLOW, deny. Policies come in the order of their names.
pub(super) fn naive_decision(
    policies: &[AuthorizationPolicy],
    connection: &Connection,
    asked: Option<&Asked>,
    dry_run: bool,
) -> String {
    let acting: Vec<_> = policies
        .iter()
        .filter(|policy| dry_run || policy.enforcement == Enforcement::Enforced)
        .collect();
    let of = |action| acting.iter().filter(move |policy| policy.action == action);
    if let Some(policy) = of(Action::Custom).next() {
        return format!(
            "denied: CUSTOM policy {} asks for external authorization, and there is none",
            policy.key
        );
    }
    for policy in of(Action::Deny) {
        if let Some(rule) = naive_match(policy, connection, asked) {
            return format!("denied by DENY policy {}, rule {rule}", policy.key);
        }
    }
    if of(Action::Allow).next().is_none() {
        return "allowed: no ALLOW policy concerns the workload".to_owned();
    }
    for policy in of(Action::Allow) {
        if let Some(rule) = naive_match(policy, connection, asked) {
            return format!("allowed by ALLOW policy {}, rule {rule}", policy.key);
        }
    }
    "denied: no rule of the ALLOW policies matches".to_owned()
}
