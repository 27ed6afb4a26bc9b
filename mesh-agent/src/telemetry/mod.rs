//! What the agent remembers of the connections it carries: those open now, those of the recent past, and sums.
//!
//! The data workers write, the admin API reads. Invariant: nothing here is written more than a few times a
//! connection, except the byte counters, which are plain atomics of that one connection.

mod budget;
mod connection;
mod flow;
mod registry;

pub use budget::{Budget, Budgets, LIMIT, LIMIT_LEAST, Seat, WINDOW_LEAST, WINDOW_MOST};
pub use connection::{Connection, ConnectionState, Destination, Direction, Opening, Process, Side};
pub use flow::{Flow, FlowKind, FlowLog, FlowSubject};
pub use registry::{Entry, Registry, Totals};
