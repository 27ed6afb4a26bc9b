//! What an agent must be able to tell and to do for the admin API.
//!
//! The agent implements [`Inspect`]; the server calls it from the admin runtime. Invariant: no method blocks for
//! longer than it takes to copy what it returns.

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tokio::sync::broadcast;

use super::proto;
use crate::telemetry::Flow;

/// A running agent, as the admin API sees it.
pub trait Inspect: Send + Sync + 'static {
    /// Which build this is, and as which process it runs.
    fn version(&self) -> proto::VersionReply;

    /// How the agent is.
    fn status(&self) -> proto::StatusReply;

    /// All workloads, in any order.
    fn workloads(&self) -> Vec<proto::Workload>;

    /// All services, in any order.
    fn services(&self) -> Vec<proto::Service>;

    /// All routes with their conditions, in any order.
    fn routes(&self) -> Vec<proto::Route>;

    /// The certificates of this node's service accounts, in any order.
    fn certificates(&self) -> Vec<proto::Certificate>;

    /// All policies, in any order.
    fn policies(&self) -> Vec<proto::Policy>;

    /// What would become of a connection.
    fn explain(&self, asked: &proto::ExplainRequest) -> Result<proto::ExplainReply, ExplainError>;

    /// All open connections, in any order.
    fn connections(&self) -> Vec<proto::Connection>;

    /// The recent flows and those to come, without a gap between them.
    fn flows(&self) -> FlowFeed;

    /// Replaces the log filter and returns the one until now.
    fn set_log(&self, directives: &str) -> Result<String, LogError>;

    /// Begins to drain, or moves the deadline when draining already; `None` takes the agent's own time limit.
    fn drain(&self, deadline: Option<Duration>) -> proto::DrainReply;

    /// Gives way to the successor: releases the lock and leaves the socket, then drains.
    fn handover(&self, successor: &proto::HandoverRequest) -> Result<proto::HandoverReply, HandoverError>;
}

/// The past and the future of flows, cut at one instant.
#[derive(Debug)]
pub struct FlowFeed {
    /// What the agent remembers, oldest first.
    pub recent: Vec<Arc<Flow>>,
    /// Everything after that.
    pub live: broadcast::Receiver<Arc<Flow>>,
}

/// A question that has no answer.
#[derive(Debug, Error)]
pub enum ExplainError {
    /// Neither a workload nor an address.
    #[error("`{0}` is neither a workload that this agent knows (namespace/name) nor an IP address")]
    Source(String),
    /// Not a destination and a port.
    #[error("`{0}` is not HOST:PORT, such as `shop/web:80`, `web.shop:80`, `10.0.0.7:80` or `[fd00::7]:80`")]
    Destination(String),
    /// Not a part of a request.
    #[error(
        "`{0}` cannot be part of a request: a method like `GET`, a path like `/cart?id=1`, a header like `Name: value`"
    )]
    Request(String),
    /// Nothing of that name is known.
    #[error("this agent knows neither a service nor a workload `{0}`")]
    Unknown(String),
    /// The destination has no address that the source could dial.
    #[error("{0} has no address")]
    NoAddress(String),
}

/// A log filter that cannot be used.
#[derive(Debug, Error)]
#[error("`{directives}` is not a log filter: {reason}")]
pub struct LogError {
    /// As they were given.
    pub directives: String,
    /// What is wrong with them.
    pub reason: String,
}

/// Why an agent does not give way.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// The two cannot share the pinned maps.
    #[error("layouts differ: this agent has version {own}, its successor {successor}")]
    Abi {
        /// Version of the running agent.
        own: u32,
        /// Version of the successor.
        successor: u32,
    },
    /// The agent is ending or has been taken over before.
    #[error("the agent is already {state}")]
    NotServing {
        /// What it is doing.
        state: String,
    },
}
