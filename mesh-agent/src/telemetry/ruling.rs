//! What was decided about a connection, as it is told.
//!
//! Whoever authorizes a connection makes one; the admin API shows it as a sentence. Invariant: it is put into words
//! only when somebody looks.

use std::fmt;

use mesh_common::model::ObjectKey;

/// A verdict with its reason, in the pieces of a sentence such as `denied by DENY policy shop/no-db, rule 0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Before the policy's name; the whole sentence where no policy is named.
    pub before: &'static str,
    /// The policy that decided, if a single one did.
    pub policy: Option<ObjectKey>,
    /// After the policy's name.
    pub after: &'static str,
    /// The rule that matched, from 0, at the end of the sentence.
    pub rule: Option<usize>,
}

impl Ruling {
    /// A sentence that names nothing.
    pub const fn plain(text: &'static str) -> Self {
        Self {
            before: text,
            policy: None,
            after: "",
            rule: None,
        }
    }
}

impl fmt::Display for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.before)?;
        if let Some(policy) = &self.policy {
            policy.fmt(f)?;
        }
        f.write_str(self.after)?;
        self.rule.map_or(Ok(()), |rule| rule.fmt(f))
    }
}
