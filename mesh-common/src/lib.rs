//! What crosses a border in Nodemesh.
//!
//! - [`kernel`]: the ABI between the kernel half (`mesh-ebpf`) and the node agent: map keys, map values and
//!   ring-buffer events. `no_std`, no dependencies, plain old data only.
//! - `model` (feature `model`): the mesh as plain data (workloads, services), without any I/O.
//!
//! Invariant: a type in [`kernel`] has no implicit padding and is valid for every bit pattern, so that it may
//! be copied between the kernel and user space byte for byte.
#![cfg_attr(not(any(test, feature = "model")), no_std)]
#![deny(unsafe_code)]

pub mod kernel;
#[cfg(feature = "model")]
pub mod model;
