//! The kernel half's object file, embedded when it was built before the agent.

/// The eBPF object; `None` when the agent was built without `cargo xtask build-ebpf`.
pub static OBJECT: Option<&[u8]> = None;
