//! Connections between pods of one node that need no agent on their way.
//!
//! The agent says who may dial what; a connection that it says so of goes where it was dialled, by itself:
//! 1. [`target`], in `connect()`: the pod is known by its namespace, which it cannot choose; there must be room;
//! 2. [`ask`], before the request leaves: the connection is noted in `PASSAGES` under its four-tuple;
//! 3. [`is_expected`], where the request arrives: only a request that was noted passes the agent's listeners;
//! 4. [`arrive`], [`opened`], [`ended`]: the agent is told.
//!
//! Invariant: whatever is not known, not current any more, or without a living agent, goes the agent's way, where it
//! is judged or refused.

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_ANY, BPF_NOEXIST, BPF_RB_NO_WAKEUP, BPF_TCP_CLOSE_WAIT, BPF_TCP_CLOSING, BPF_TCP_FIN_WAIT2,
        BPF_TCP_LAST_ACK, BPF_TCP_SYN_SENT, BPF_TCP_TIME_WAIT, bpf_sock,
    },
    helpers::{
        bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_ktime_get_ns,
        generated::{bpf_map_lookup_elem, bpf_sk_release},
    },
    programs::SockOpsContext,
};
use mesh_common::kernel::{
    DIRECT_TARGETS, DirectKey, FlowKey, ListenerKey, PASSAGE_ASKED, PASSAGE_OPEN, Passage, PassageEvent,
    PassageEventKind, PodEntry, SockAddr, SocketRecord,
};

use crate::{
    ctx::field,
    maps::{DIRECT, FULL, GENERATION, LISTENER_SOCKETS, PASSAGE_EVENTS, PASSAGES, PODS, ROOM},
};

/// Where a connection from a pod to `dialled` may go by itself; `None` if it is the agent's to carry.
#[inline(always)]
pub fn target(
    netns: u64,
    pod: &PodEntry,
    dialled: &SockAddr,
    sk: *mut bpf_sock,
    socket: u64,
) -> Option<SockAddr> {
    let generation = *GENERATION.get(0)?;
    let key = DirectKey {
        netns,
        dialled: *dialled,
        reserved: 0,
    };
    // SAFETY: entries are replaced whole, never modified in place.
    let entry = unsafe { DIRECT.get(key) }?;
    if generation == 0 || entry.generation != generation || entry.count == 0 {
        return None;
    }
    if !is_itself(pod, dialled, sk) {
        return None;
    }
    let choice = if entry.count > 1 {
        // SAFETY: the helper has no conditions.
        unsafe { bpf_get_prandom_u32() % entry.count }
    } else {
        0
    };
    // Masked for the verifier: the bound does not survive the division.
    let target = entry.targets[choice as usize & (DIRECT_TARGETS - 1)];
    (is_attended(&target) && take_room(socket)).then_some(target)
}

/// Takes room for a socket. Its connection is noted only when its port is known, too late to give it to the agent; so it has
/// its room from here to its end.
#[inline(always)]
fn take_room(socket: u64) -> bool {
    // SAFETY: reads the clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let taken = ROOM.insert(socket, now, BPF_ANY.into()).is_ok();
    if !taken && let Some(full) = FULL.get_ptr_mut(0) {
        // SAFETY: a live word that this core alone writes.
        unsafe { *full += 1 };
    }
    taken
}

/// True for a socket that did not choose its address and device, or chose the pod's own. Any other is shown to the
/// application with the pod's address, which only the agent can do.
#[inline(always)]
fn is_itself(pod: &PodEntry, dialled: &SockAddr, sk: *mut bpf_sock) -> bool {
    // SAFETY: the caller checked that the socket is not null; all these fields are readable.
    let (device, source4, source6) = unsafe {
        (
            field!(sk, bound_dev_if),
            field!(sk, src_ip4),
            [
                field!(sk, src_ip6[0]),
                field!(sk, src_ip6[1]),
                field!(sk, src_ip6[2]),
                field!(sk, src_ip6[3]),
            ],
        )
    };
    if device != 0 {
        return false;
    }
    if dialled.ip.is_v4() {
        return source4 == 0 || source4 == pod.ip4.v4_word();
    }
    source6 == [0; 4] || source6 == pod.ip6.0
}

/// Before the request leaves: notes the connection. What is not noted is refused where it arrives.
#[inline(never)]
pub fn ask(netns: u64, flow: &FlowKey, record: &SocketRecord) -> bool {
    // SAFETY: entries are replaced whole, never modified in place.
    let Some(pod) = (unsafe { PODS.get(netns) }) else {
        return false;
    };
    if flow.src.ip != pod.ip4 && flow.src.ip != pod.ip6 {
        // The namespace's routes choose an address that is not the pod's: not for us.
        let _ = DIRECT.remove(DirectKey {
            netns,
            dialled: record.peer,
            reserved: 0,
        });
        return false;
    }
    let passage = Passage {
        netns,
        client: record.cookie,
        server: 0,
        server_netns: 0,
        // SAFETY: reads the clock.
        since: unsafe { bpf_ktime_get_ns() },
        dialled: record.peer,
        state: PASSAGE_ASKED,
        pid: record.pid,
        reserved: 0,
        comm: record.comm,
    };
    // Whoever had this four-tuple before is gone, or the kernel would not have given it away.
    let _ = PASSAGES.remove(flow);
    PASSAGES.insert(flow, passage, BPF_NOEXIST.into()).is_ok()
}

/// Whether a request on its way to the application at `dst` was let go by [`ask`], and an agent stands by.
#[inline(always)]
pub fn is_expected(src: &SockAddr, dst: &SockAddr) -> bool {
    let flow = FlowKey {
        netns: 0,
        src: *src,
        dst: *dst,
    };
    // SAFETY: one word is read, which is never half written.
    let Some(passage) = (unsafe { PASSAGES.get(flow) }) else {
        return false;
    };
    passage.state == PASSAGE_ASKED && is_attended(dst)
}

/// Whether an agent listens for this address: so it is a pod's that is enrolled now, and somebody watches. An agent's
/// listeners leave the map when it ends, in whatever way.
#[inline(always)]
fn is_attended(dst: &SockAddr) -> bool {
    let key = ListenerKey {
        ip: dst.ip,
        worker: 0,
    };
    // SAFETY: the map and the key are of the types that belong together.
    let listener = unsafe {
        bpf_map_lookup_elem(
            (&raw const LISTENER_SOCKETS).cast_mut().cast(),
            (&raw const key).cast_mut().cast(),
        )
    };
    if listener.is_null() {
        return false;
    }
    // SAFETY: the lookup took a reference, which is given back once.
    unsafe { bpf_sk_release(listener) };
    true
}

/// The destination's socket stands. Called for each accepted socket of the pods.
#[inline(always)]
pub fn arrive(ctx: &SockOpsContext, src: SockAddr, dst: SockAddr) {
    let flow = FlowKey { netns: 0, src, dst };
    let Some(passage) = PASSAGES.get_ptr_mut(flow) else {
        return;
    };
    // SAFETY: words of a live entry, each written in one piece; only this callback writes them.
    unsafe {
        (*passage).server_netns = bpf_get_netns_cookie(ctx.as_ptr());
        (*passage).server = bpf_get_socket_cookie(ctx.as_ptr());
        (*passage).state = PASSAGE_OPEN;
    }
}

/// The destination has answered.
#[inline(always)]
pub fn opened(ctx: &SockOpsContext, flow: &FlowKey) {
    tell(ctx, flow, PassageEventKind::Opened, 0);
}

/// The client's socket has ended.
#[inline(always)]
pub fn ended(ctx: &SockOpsContext, flow: &FlowKey, record: &SocketRecord, before: u32) {
    tell(ctx, flow, PassageEventKind::Ended, before);
    // SAFETY: the value is not used beyond this comparison.
    let is_own = unsafe { PASSAGES.get(flow) }.is_some_and(|passage| passage.client == record.cookie);
    if is_own {
        let _ = PASSAGES.remove(flow);
    }
    let _ = ROOM.remove(record.cookie);
}

#[inline(never)]
fn tell(ctx: &SockOpsContext, flow: &FlowKey, kind: PassageEventKind, before: u32) {
    // SAFETY: the context is valid for the program's run.
    let (acked, received) = unsafe { (field!(ctx.ops, bytes_acked), field!(ctx.ops, bytes_received)) };
    // SAFETY: the value is copied at once.
    let Some(passage) = (unsafe { PASSAGES.get(flow) }) else {
        return;
    };
    let Some(mut entry) = PASSAGE_EVENTS.reserve_untyped::<PassageEvent>(0) else {
        // The agent looks through all passages now and then.
        return;
    };
    let event = entry.as_mut_ptr();
    // The kernel counts the beginning and the end of each stream as a byte.
    let begun = u64::from(before != BPF_TCP_SYN_SENT);
    let end_acked = u64::from(matches!(
        before,
        BPF_TCP_FIN_WAIT2 | BPF_TCP_TIME_WAIT | BPF_TCP_LAST_ACK | BPF_TCP_CLOSING
    ));
    let end_received = u64::from(matches!(
        before,
        BPF_TCP_FIN_WAIT2 | BPF_TCP_TIME_WAIT | BPF_TCP_LAST_ACK | BPF_TCP_CLOSING | BPF_TCP_CLOSE_WAIT
    ));
    // SAFETY: the reservation is of this type's size, and every field is written before it is submitted.
    unsafe {
        (*event).time = bpf_ktime_get_ns();
        (*event).flow = *flow;
        (*event).passage = *passage;
        (*event).kind = kind as u32;
        (*event).before = before;
        (*event).sent = acked.saturating_sub(begun + end_acked);
        (*event).received = received.saturating_sub(end_received);
    }
    entry.submit(BPF_RB_NO_WAKEUP.into());
}
