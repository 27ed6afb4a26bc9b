//! Why a piece of configuration was not taken: where it stands, what it is, what is wrong, what would be right.

use std::fmt;
use std::path::PathBuf;

use mesh_common::model::ObjectKey;

/// One problem that keeps an object's new version from being used.
///
/// Shown as `shop.yaml:12:5: Workload shop/web-1: spec.ports[0].port: 70000 is not a port; use 1 to 65535`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejection {
    /// The file, or the directory when the problem is the directory's.
    pub file: PathBuf,
    /// The line, from 1; 0 when the problem is the file's.
    pub line: u32,
    /// The column in characters, from 1; 0 when the problem is the file's.
    pub column: u32,
    /// Kind and key of the object, as far as they could be read.
    pub object: Option<(String, ObjectKey)>,
    /// The path of the field, such as `spec.ports[0].port`.
    pub field: Option<String>,
    /// What is wrong.
    pub reason: String,
    /// What would be right.
    pub remedy: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if let Some((kind, key)) = &self.object {
            write!(f, ": {kind} {key}")?;
        }
        if let Some(field) = &self.field {
            write!(f, ": {field}")?;
        }
        write!(f, ": {}", self.reason)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}
