//! What an operator should know of the certificates before connections fail.
//!
//! `status` and `check` show the [`Problem`]s. Invariant: whatever will make a connection fail is a problem some time
//! before it does.

use std::time::{Duration, SystemTime};

use mesh_common::model::ServiceAccountKey;

use super::{CertificateState, CertificateStore, LastError};
use crate::identity::bundle::TrustBundle;
use crate::identity::certificate::Facts;
use crate::identity::schedule::Standing;

/// An authority is told of when less than a third of its life is left, but not earlier than this before its end.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);
const SOON_PART: u32 = 3;

/// Something that is not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether connections are refused for it already.
    pub severity: Severity,
    /// What.
    pub text: String,
    /// What to do.
    pub remedy: &'static str,
}

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing fails yet.
    Warning,
    /// Connections are refused.
    Failure,
}

const ASK_AUTHORITY: &str =
    "see that the agent can read the authority's directory (`run --ca`); `mesh-agent certs` has the details";
const NEW_INTERMEDIATE: &str = "make a new one with `mesh-agent ca intermediate`";
const NEW_ROOT: &str = "make a new one with `mesh-agent ca rotate-root`, and give it to every node";

impl CertificateStore {
    /// Everything that is not well, the worst first.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = problems(
            self.clock.now(),
            &self.states(),
            self.bundle().as_deref(),
            self.roots_error().as_deref(),
        );
        problems.sort_by_key(|problem| problem.severity == Severity::Warning);
        problems
    }
}

fn problems(
    now: SystemTime,
    states: &[CertificateState],
    bundle: Option<&TrustBundle>,
    roots_error: Option<&LastError>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for state in states {
        problems.extend(of_state(state, now));
    }
    if let Some(error) = roots_error {
        problems.push(Problem {
            severity: if bundle.is_some() {
                Severity::Warning
            } else {
                Severity::Failure
            },
            text: format!("the roots cannot be refreshed: {}", error.message),
            remedy: ASK_AUTHORITY,
        });
    }
    for root in bundle.iter().flat_map(|bundle| bundle.roots()) {
        problems.extend(of_authority("root", &root.facts, now, NEW_ROOT));
    }
    let mut signers: Vec<Facts> = Vec::new();
    for identity in states.iter().filter_map(|state| state.identity.as_ref()) {
        for signer in identity
            .chain()
            .iter()
            .skip(1)
            .filter_map(|signer| Facts::of(signer).ok())
        {
            // All leaves of a node have the same.
            if !signers.contains(&signer) {
                signers.push(signer);
            }
        }
    }
    for signer in &signers {
        problems.extend(of_authority("intermediate", signer, now, NEW_INTERMEDIATE));
    }
    problems
}

fn of_state(state: &CertificateState, now: SystemTime) -> Option<Problem> {
    let account: &ServiceAccountKey = &state.account;
    let until = state.identity.as_ref().map(|identity| identity.facts().not_after);
    let reason = match &state.last_error {
        Some(error) => format!(": {}", error.message),
        None => String::new(),
    };
    let (severity, text) = match state.standing {
        // Until the first answer there is nothing to say.
        Standing::Missing if state.failures == 0 => return None,
        Standing::Valid if state.failures == 0 => return None,
        Standing::Missing => (
            Severity::Failure,
            format!(
                "{account} has no certificate, {} attempts failed{reason}",
                state.failures
            ),
        ),
        Standing::Expired => (
            Severity::Failure,
            format!("the certificate of {account} has expired{reason}"),
        ),
        Standing::Valid | Standing::ExpiresSoon => {
            let left = until.and_then(|until| until.duration_since(now).ok());
            (
                Severity::Warning,
                format!(
                    "the certificate of {account} expires in {}, {} attempts to renew it failed{reason}",
                    in_words(left.unwrap_or_default()),
                    state.failures
                ),
            )
        }
    };
    Some(Problem {
        severity,
        text,
        remedy: ASK_AUTHORITY,
    })
}

fn of_authority(what: &str, facts: &Facts, now: SystemTime, remedy: &'static str) -> Option<Problem> {
    let named = format!("the {what} {} ({})", facts.serial, facts.subject);
    let Ok(left) = facts.not_after.duration_since(now) else {
        return Some(Problem {
            severity: Severity::Failure,
            text: format!("{named} has expired"),
            remedy,
        });
    };
    let life = facts.not_after.duration_since(facts.not_before);
    let soon = (life.unwrap_or_default() / SOON_PART).min(SOON);
    (left < soon).then(|| Problem {
        severity: Severity::Warning,
        text: format!("{named} expires in {}", in_words(left)),
        remedy,
    })
}

fn in_words(left: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(left.as_secs()))
}
