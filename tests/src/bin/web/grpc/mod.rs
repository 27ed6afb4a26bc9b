//! A gRPC service and its client, by another implementation than the engine's.

pub(crate) mod call;
pub(crate) mod load;
pub(crate) mod serve;

#[allow(
    clippy::all,
    missing_docs,
    unreachable_pub,
    reason = "generated from proto/calls.proto"
)]
mod calls {
    tonic::include_proto!("nodemesh.tests");
}

/// More than any message of the tests: the default is 4 MiB.
const MESSAGE_MAX: usize = 64 << 20;
