//! What the agent remembers of the connections it carries: those open now, those of the recent past, and sums; and
//! what it counts for [`metrics`].
//!
//! The data workers write, the admin API reads. Invariant: nothing here is written more than a few times a
//! connection, except the byte counters, which are plain atomics of that one connection.

mod access;
mod budget;
mod cause;
mod connection;
mod flow;
pub mod metrics;
mod registry;
mod request;
mod ruling;
mod throttle;

pub use access::{AccessLog, Flushed};
pub use budget::{
    Budget, Budgets, Claim, Full, Guest, Kind, LIMIT_LEAST, Limited, Limits, Place, Resource, Seat, TURN,
    WINDOW_LEAST, WINDOW_MOST, WINDOW_REST,
};
pub use cause::Cause;
pub use connection::{Channel, Connection, ConnectionState, Destination, Direction, Opening, Process, Side};
pub use flow::{Flow, FlowKind, FlowLog, FlowSubject};
pub use registry::{Entry, Registry, Totals};
pub use request::{RequestEnds, RequestFlow, escaped};
pub use ruling::Ruling;
pub use throttle::Throttle;
