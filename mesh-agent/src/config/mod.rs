//! Where the mesh's objects come from: a directory of YAML files.

mod change;
mod rejection;

pub use change::Change;
pub use rejection::Rejection;
