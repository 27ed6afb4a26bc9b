//! Connecting upstream, and carrying bytes once both sides stand.

pub(crate) use dial::tune;

mod dial;
mod relay;

pub use dial::{DialError, Dialer, Refusal, Source};
pub use relay::{Ending, abort, relay};
