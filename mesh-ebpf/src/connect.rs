//! Outbound capture: `connect()` of an enrolled pod is rewritten to the agent's listener in the pod's namespace.
//!
//! The rewritten address lies in 127/8, its last three bytes taken from a hash of what was dialled: one address
//! for all would funnel every connection of the pod through one four-tuple space of some 28,000 ports. IPv6 has
//! only `::1`, where the listeners' ports spread the load. A socket bound to a device cannot reach loopback and
//! gets the pod's own address instead.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_RB_NO_WAKEUP, BPF_SK_STORAGE_GET_F_CREATE},
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_netns_cookie,
        bpf_get_smp_processor_id, bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_set_retval,
        generated::{bpf_sk_storage_delete, bpf_sk_storage_get},
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use mesh_common::kernel::{
    EventKind, FlowEvent, Ip, MAX_WORKERS, PodEntry, RecordKind, SockAddr, SocketRecord,
};

use crate::{
    ctx::{field, set},
    direct, exempt,
    maps::{EVENTS, LOADS, PODS, SOCKETS},
};

const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;
const ECONNREFUSED: i32 = 111;
/// Let the system call go on.
const PROCEED: i32 = 1;
/// Fail the system call with the value given to `bpf_set_retval`.
const FAIL: i32 = 0;

#[cgroup_sock_addr(connect4)]
fn on_connect4(ctx: SockAddrContext) -> i32 {
    let c = ctx.sock_addr;
    // SAFETY: the context is valid for the program's run.
    let (ip, port, kind, protocol) = unsafe {
        (
            field!(c, user_ip4),
            field!(c, user_port),
            field!(c, type_),
            field!(c, protocol),
        )
    };
    let dialled = SockAddr::new(Ip::v4(ip), u16::from_be(port as u16));
    match capture(&ctx, dialled, kind, protocol) {
        Verdict::Leave => PROCEED,
        Verdict::Refuse => FAIL,
        Verdict::Redirect(via) => {
            // SAFETY: as above; both fields are writable in connect hooks.
            unsafe {
                set!(c, user_ip4, via.ip.v4_word());
                set!(c, user_port, u32::from(via.port.to_be()));
            }
            PROCEED
        }
    }
}

#[cgroup_sock_addr(connect6)]
fn on_connect6(ctx: SockAddrContext) -> i32 {
    let c = ctx.sock_addr;
    // SAFETY: as in `on_connect4`.
    let (ip, port, kind, protocol) = unsafe {
        (
            [
                field!(c, user_ip6[0]),
                field!(c, user_ip6[1]),
                field!(c, user_ip6[2]),
                field!(c, user_ip6[3]),
            ],
            field!(c, user_port),
            field!(c, type_),
            field!(c, protocol),
        )
    };
    let dialled = SockAddr::new(Ip(ip), u16::from_be(port as u16));
    match capture(&ctx, dialled, kind, protocol) {
        Verdict::Leave => PROCEED,
        Verdict::Refuse => FAIL,
        Verdict::Redirect(via) => {
            // SAFETY: as in `on_connect4`.
            unsafe {
                set!(c, user_ip6[0], via.ip.0[0]);
                set!(c, user_ip6[1], via.ip.0[1]);
                set!(c, user_ip6[2], via.ip.0[2]);
                set!(c, user_ip6[3], via.ip.0[3]);
                set!(c, user_port, u32::from(via.port.to_be()));
            }
            PROCEED
        }
    }
}

enum Verdict {
    Leave,
    Refuse,
    Redirect(SockAddr),
}

#[inline(always)]
fn capture(ctx: &SockAddrContext, dialled: SockAddr, kind: u32, protocol: u32) -> Verdict {
    // SAFETY: the helper reads the namespace of the context's socket.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: entries are replaced whole, never modified in place.
    let Some(pod) = (unsafe { PODS.get(netns) }) else {
        return Verdict::Leave;
    };
    if kind != SOCK_STREAM || exempt::is_agent() {
        return Verdict::Leave;
    }
    // SAFETY: the verifier knows the field as a socket or null.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if sk.is_null() {
        return refuse(netns, pod, &dialled);
    }
    // SAFETY: not null; the field is readable.
    let device = unsafe { (*sk).bound_dev_if };
    if exempt::stays_inside(pod, &dialled.ip) {
        // SAFETY: not null. A socket connected before must not keep its former peer's name.
        unsafe { bpf_sk_storage_delete((&raw const SOCKETS).cast_mut().cast(), sk.cast()) };
        return Verdict::Leave;
    }
    if protocol != IPPROTO_TCP {
        // SCTP and the like are the receiver's to refuse; of MPTCP the record would not reach the agent.
        return if protocol == IPPROTO_MPTCP {
            refuse(netns, pod, &dialled)
        } else {
            Verdict::Leave
        };
    }

    let own = if dialled.ip.is_v4() { pod.ip4 } else { pod.ip6 };
    // SAFETY: the helper reads the cookie of the context's socket.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let (via, shown, kind) = match direct::target(netns, pod, &dialled, sk, cookie) {
        Some(target) => (target, Ip::UNSPECIFIED, RecordKind::Direct),
        None => {
            let hash = hash(&dialled);
            let Some(port) = least_loaded_port(pod) else {
                return refuse(netns, pod, &dialled);
            };
            let ip = if device != 0 && !own.is_unspecified() {
                own
            } else if dialled.ip.is_v4() {
                loopback_for(hash)
            } else {
                Ip([0, 0, 0, 1u32.to_be()])
            };
            (SockAddr::new(ip, port), own, RecordKind::Captured)
        }
    };

    // SAFETY: not null; the storage is the socket's own.
    let record = unsafe {
        bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
    }
    .cast::<SocketRecord>();
    if record.is_null() {
        return refuse(netns, pod, &dialled);
    }
    // SAFETY: not null, and of the map's value type; only this system call writes it.
    unsafe {
        (*record).peer = dialled;
        (*record).via = via;
        (*record).local = SockAddr::new(shown, 0);
        (*record).kind = kind as u32;
        (*record).cookie = cookie;
        (*record).cgroup = bpf_get_current_cgroup_id();
        (*record).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*record).comm = bpf_get_current_comm().unwrap_or_default();
    }
    Verdict::Redirect(via)
}

/// Refuses the connection as a closed port would, which every program knows how to handle.
#[inline(never)]
fn refuse(netns: u64, pod: &PodEntry, dialled: &SockAddr) -> Verdict {
    // SAFETY: allowed in connect hooks.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    let Some(mut entry) = EVENTS.reserve_untyped::<FlowEvent>(0) else {
        return Verdict::Refuse;
    };
    let own = if dialled.ip.is_v4() { pod.ip4 } else { pod.ip6 };
    // SAFETY: the helpers only read the current task and the clock.
    let event = unsafe {
        FlowEvent {
            time: bpf_ktime_get_ns(),
            netns,
            pod: pod.pod,
            kind: EventKind::Refused as u32,
            src: SockAddr::new(own, 0),
            dst: *dialled,
            pid: (bpf_get_current_pid_tgid() >> 32) as u32,
            reserved: 0,
            cookie: 0,
            comm: bpf_get_current_comm().unwrap_or_default(),
        }
    };
    entry.write(event);
    entry.submit(BPF_RB_NO_WAKEUP.into());
    Verdict::Refuse
}

/// The listener port of the worker with the fewest connections.
#[inline(always)]
fn least_loaded_port(pod: &PodEntry) -> Option<u16> {
    let worker = least_loaded(pod.workers)?;
    // Masked for the verifier: the bound does not survive the loop.
    Some(pod.ports[worker as usize & (MAX_WORKERS - 1)])
}

/// The worker with the fewest connections; among equals the one pinned to the core that this runs on, where the connection's
/// packets most likely will be handled: it is woken without an interrupt to another core, and finds them in the cache.
/// `None` without workers.
#[inline(always)]
pub fn least_loaded(workers: u32) -> Option<u32> {
    // SAFETY: the helper only reads the number of the core.
    let here = unsafe { bpf_get_smp_processor_id() };
    let mut best = here.checked_rem(workers)?;
    let mut least = LOADS.get(best).copied().unwrap_or(0);
    let mut i = 0;
    while i < MAX_WORKERS as u32 {
        if i >= workers {
            break;
        }
        let load = LOADS.get(i).copied().unwrap_or(u64::MAX);
        if load < least {
            least = load;
            best = i;
        }
        i += 1;
    }
    Some(best)
}

/// FNV-1a over the destination's words.
#[inline(always)]
fn hash(dst: &SockAddr) -> u32 {
    let mut hash: u32 = 0x811c_9dc5;
    let words = [
        dst.ip.0[0],
        dst.ip.0[1],
        dst.ip.0[2],
        dst.ip.0[3],
        u32::from(dst.port),
    ];
    let mut i = 0;
    while i < 5 {
        hash = (hash ^ words[i]).wrapping_mul(0x0100_0193);
        hash ^= hash >> 15;
        i += 1;
    }
    hash
}

/// An address in 127.1.0.0 to 127.254.255.255, clear of 127.0.0.0/16, which people use, and of the broadcast.
#[inline(always)]
fn loopback_for(hash: u32) -> Ip {
    let second = 1 + ((hash >> 16) & 0xff) % 254;
    Ip::v4(((127 << 24) | (second << 16) | (hash & 0xffff)).to_be())
}
