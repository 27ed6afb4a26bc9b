//! A problem inside one document: a [`Rejection`](super::Rejection) before file and object are known.

/// Where a value stands: its position in the file and its path in the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
    /// Such as `spec.ports[0].port`; empty for the object itself.
    pub(super) field: String,
}

/// What is wrong with a value, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) place: Place,
    pub(super) reason: String,
    pub(super) remedy: String,
}

impl Place {
    /// The place of a field that is absent here.
    pub(super) fn child(&self, name: &str) -> Self {
        let mut child = self.clone();
        push_field(&mut child.field, name);
        child
    }

    /// A problem at this place.
    pub(super) fn fault(&self, reason: impl Into<String>, remedy: impl Into<String>) -> Fault {
        Fault {
            place: self.clone(),
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }
}

/// Appends one step to a path; names that are no plain words are quoted in brackets.
pub(super) fn push_field(path: &mut String, name: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(plain) {
        path.push_str(&format!("[{name:?}]"));
    } else {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
    }
}
