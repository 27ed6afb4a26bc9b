//! Whether a connection to a pod of this node may be: its policies asked about who came, from where, to what.
//!
//! Asked when a connection begins and again whenever the configuration changes, so that a policy that comes later also
//! ends what it does not allow. Invariant: a workload that is not known any more lets nobody in.

use std::{net::SocketAddr, sync::Arc};

use mesh_common::model::{Declared, ObjectKey, SpiffeId, Workload};
use thiserror::Error;

use crate::{
    policy::{Channel, ConnectionFacts, Decision, Entrance, Interest, Verdict},
    state::Snapshot,
    telemetry::{Ruling, metrics::Metrics},
};

/// How the other end proved who it is.
#[derive(Clone, Debug)]
pub enum Proof {
    /// It did not: plaintext.
    None,
    /// By a certificate, under mutual TLS.
    Certificate(SpiffeId),
    /// By the kernel, which knows the network namespace that the connection comes from.
    Kernel(SpiffeId),
}

/// What must hold for a connection as long as it lives.
#[derive(Clone, Debug)]
pub struct Guard {
    /// The workload that is connected to.
    pub workload: Arc<Workload>,
    /// Who came.
    pub proof: Proof,
    /// From where.
    pub client: SocketAddr,
    /// The workload's address and port.
    pub addressed: SocketAddr,
}

/// A connection that may be, and on which terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// What allows it.
    pub ruling: Ruling,
    /// What must be read of it.
    pub reading: Reading,
}

/// What must be read of a connection whose bytes come as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Nothing: no policy has more to say of requests on it.
    Unread,
    /// A copy, to tell what policies that decide nothing say of the requests in it. The bytes go on as they are.
    Reported,
    /// Requests, if there are any, to judge their tokens. Everything else passes.
    Tokens,
    /// Requests, each judged by itself. Nothing else passes.
    RequestsOnly,
}

/// A connection that may not be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// By a policy, or for want of one that allows.
    #[error("{ruling}")]
    Policy {
        /// The reason in one word.
        word: &'static str,
        /// The decision.
        ruling: Ruling,
    },
    /// The workload is not in the mesh.
    #[error("denied: workload {0} is not known any more")]
    Unknown(ObjectKey),
}

impl Denied {
    /// The reason in one word, for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Policy { word, .. } => word,
            Self::Unknown(_) => "unknown-workload",
        }
    }

    /// As it is told of the connection.
    pub fn ruling(&self) -> Ruling {
        match self {
            Self::Policy { ruling, .. } => ruling.clone(),
            Self::Unknown(_) => Ruling::plain("denied: the workload is not known any more"),
        }
    }
}

impl Proof {
    /// Who was proved to be there.
    pub fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Certificate(id) | Self::Kernel(id) => Some(id),
            Self::None => None,
        }
    }
}

impl Denied {
    /// By a decision that denies.
    pub(super) fn by(decision: &Decision<'_>) -> Self {
        Self::Policy {
            word: decision.reason.word(),
            ruling: ruling(decision),
        }
    }
}

impl Guard {
    /// Asks the policies as they are in `snapshot`, and says what allows the connection.
    pub fn check(&self, snapshot: &Snapshot) -> Result<Ruling, Denied> {
        let Some(entry) = snapshot.workload(&self.workload.key) else {
            return Err(Denied::Unknown(self.workload.key.clone()));
        };
        let policy = snapshot.policy_of(entry);
        let decision = policy.decide(&self.facts());
        match decision.verdict() {
            Verdict::Allow => Ok(ruling(&decision)),
            Verdict::Deny => Err(Denied::by(&decision)),
        }
    }

    /// In place of [`Guard::check`] for a connection whose bytes could be requests: says what must be read of it. Nothing is
    /// where the port is declared to carry bytes.
    pub fn admit(&self, snapshot: &Snapshot) -> Result<Admitted, Denied> {
        let Some(entry) = snapshot.workload(&self.workload.key) else {
            return Err(Denied::Unknown(self.workload.key.clone()));
        };
        let declared = snapshot.declared(&self.workload, self.addressed.port());
        match (snapshot.policy_of(entry).admit(&self.facts()), declared) {
            // Rules about requests see TCP on such a port.
            (Entrance::Closed(decision), _) | (Entrance::Requests(decision), Declared::Bytes) => {
                Err(Denied::by(&decision))
            }
            (Entrance::Open(decision, _), Declared::Bytes) => Ok(Admitted {
                ruling: ruling(&decision),
                reading: Reading::Unread,
            }),
            (Entrance::Requests(_), _) => Ok(Admitted {
                ruling: Ruling::plain("each request is judged by itself"),
                reading: Reading::RequestsOnly,
            }),
            (Entrance::Open(decision, interest), _) => Ok(Admitted {
                ruling: ruling(&decision),
                reading: match interest {
                    Interest::None => Reading::Unread,
                    Interest::Reports => Reading::Reported,
                    Interest::Tokens => Reading::Tokens,
                },
            }),
        }
    }

    /// Logs and counts what policies that decide nothing would have said: AUDIT, and those in dry run.
    pub fn report(&self, snapshot: &Snapshot, metrics: &Metrics) {
        let Some(entry) = snapshot.workload(&self.workload.key) else {
            return;
        };
        let policy = snapshot.policy_of(entry);
        let facts = self.facts();
        for report in policy.reports(&facts) {
            metrics.count_report(&report.policy.key);
            tracing::info!(
                workload = %self.workload.key,
                client = %self.client,
                policy = %report.policy.key,
                rule = report.rule,
                "a policy that decides nothing matches"
            );
        }
        let Some(rehearsed) = policy.rehearse(&facts) else {
            return;
        };
        let enforced = policy.decide(&facts).verdict();
        metrics.count_rehearsal(&self.workload.key, rehearsed.verdict().word(), enforced.word());
        if rehearsed.verdict() != enforced {
            tracing::info!(
                workload = %self.workload.key,
                client = %self.client,
                "would be otherwise if the policies in dry run were enforced: {rehearsed}"
            );
        }
    }

    pub(super) fn facts(&self) -> ConnectionFacts<'_> {
        ConnectionFacts {
            channel: match &self.proof {
                Proof::None => Channel::Plaintext,
                Proof::Certificate(id) => Channel::MutualTls(id.into()),
                Proof::Kernel(id) => Channel::SameNode(id.into()),
            },
            source_ip: self.client.ip(),
            remote_ip: self.client.ip(),
            destination: self.addressed,
            sni: None,
        }
    }
}

fn ruling(decision: &Decision<'_>) -> Ruling {
    let (before, after) = decision.reason.words();
    Ruling {
        before,
        policy: decision.policy().cloned(),
        after,
        rule: decision.rule(),
    }
}
