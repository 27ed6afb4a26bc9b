//! The data workers: threads pinned to a core, each with a runtime of its own.

pub mod worker;

pub use worker::{Worker, WorkerError, Workers};
