//! Finding where a block of lines ends: a head, or trailers.
//!
//! Invariant: each LF has its CR, and no byte is looked at twice, however many reads a head takes.

use memchr::memchr;

use super::ReadError;

/// How far a block was looked at. Start with the default for each block.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Scan {
    /// Where the current line begins.
    line: usize,
    /// Everything before was looked at.
    seen: usize,
}

impl Scan {
    /// The length of the block with its empty line, once that is there. `bytes` only ever grows between calls.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, ReadError> {
        while let Some(ahead) = memchr(b'\n', bytes.get(self.seen..).unwrap_or_default()) {
            let lf = self.seen + ahead;
            if lf == self.line || bytes[lf - 1] != b'\r' {
                return Err(ReadError::BareLf);
            }
            let is_empty = lf == self.line + 1;
            self.seen = lf + 1;
            self.line = lf + 1;
            if is_empty {
                return Ok(Some(lf + 1));
            }
        }
        self.seen = bytes.len();
        Ok(None)
    }

    /// True until the end of the first line was seen.
    pub(super) fn is_in_first_line(&self) -> bool {
        self.line == 0
    }
}
