//! The kernel half, seen from user space: loading, attaching, pinning, and the maps both sides share.
//!
//! [`load`] brings the programs into the kernel and hands out [`Kernel`], through which enrolment writes the
//! maps; each data worker gets a [`WorkerMaps`] of its own. [`mod@probe`] only tries whether everything loads.
//! Links and shared maps are pinned and outlive the agent: a killed agent leaves its pods refused, not open.

pub mod bpffs;
pub mod diag;
pub mod direct;
pub mod load;
pub mod object;
pub mod pins;
pub mod probe;
pub(crate) mod raw;
pub mod tables;

pub use direct::DirectMaps;
pub use load::{Kernel, KernelError, WorkerMaps};
pub use probe::{Probe, probe};
