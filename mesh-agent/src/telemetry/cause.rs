//! Why a connection was not, or is no more.
//!
//! Whoever refuses says it twice: in one word out of a fixed set, for metrics and filters, and in a sentence for
//! people. Invariant: the word never holds anything that a peer or a configuration chose.

use std::fmt;

/// A word and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// For metrics: lower case, with hyphens.
    pub word: &'static str,
    /// For people.
    pub text: String,
}

impl Cause {
    /// Both.
    pub fn new(word: &'static str, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { word, text }
    }

    /// The word of what is said by `text`, an error for example.
    pub fn of(word: &'static str, text: &impl ToString) -> Self {
        Self::new(word, text.to_string())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
