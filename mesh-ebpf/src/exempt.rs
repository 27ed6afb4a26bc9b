//! Whom the programs leave alone: the agent itself, and connections that stay inside the pod.

use aya_ebpf::helpers::bpf_get_current_cgroup_id;
use mesh_common::kernel::{Ip, PodEntry};

use crate::maps::AGENTS;

/// True when the calling process is an agent. Decided by cgroup, which a pod cannot choose; a socket mark can be.
#[inline(always)]
pub fn is_agent() -> bool {
    // SAFETY: the helper only reads the current task; only called from process context.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: the value is not dereferenced.
    unsafe { AGENTS.get(cgroup) }.is_some()
}

/// True when a connection from `pod` to `dst` never leaves the pod.
#[inline(always)]
pub fn stays_inside(pod: &PodEntry, dst: &Ip) -> bool {
    dst.is_loopback() || dst.is_unspecified() || *dst == pod.ip4 || *dst == pod.ip6
}
