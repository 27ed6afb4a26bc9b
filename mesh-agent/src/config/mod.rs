//! The mesh's objects from a directory of YAML files.
//!
//! [`DirectorySource`] reads and watches the directory and hands the text to a [`Directory`], which cuts it into
//! documents, decodes and checks each of them, settles what they say together, and answers with an [`Update`]:
//! the [`Change`]s for [`Store::apply`](crate::state::Store::apply) and a [`Rejection`] for everything it could
//! not take.
//!
//! Invariant: a mistake costs the object it is in, never another one; and an object that was good once stays in use
//! in that version until its document is good again or gone.

mod change;
mod claims;
mod decode;
mod directory;
mod document;
mod fault;
mod names;
mod object;
mod rejection;
mod schema;
mod source;
mod tree;

pub use change::Change;
pub use directory::{Directory, File, Update};
pub use rejection::Rejection;
pub use source::{DirectorySource, SourceError};
