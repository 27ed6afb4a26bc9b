//! Inbound capture: in an enrolled pod's namespace every connection request that is not the pod's own goes to
//! the agent's listener. Without a listener it is refused, never delivered.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP, helpers::bpf_ktime_get_ns, macros::sk_lookup, programs::SkLookupContext,
};
use mesh_common::kernel::{EventKind, FlowEvent, FlowKey, Ip, ListenerKey, SockAddr};

use crate::{
    connect::least_loaded,
    ctx::field,
    direct,
    maps::{EVENTS, HELD, INBOUND, LISTENER_SOCKETS},
};

const AF_INET: u32 = 2;
const IPPROTO_TCP: u32 = 6;
const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;

#[sk_lookup]
fn on_sk_lookup(ctx: SkLookupContext) -> u32 {
    let c = ctx.lookup;
    // SAFETY: the context is valid for the program's run.
    let (protocol, family, local_port, remote_port) = unsafe {
        (
            field!(c, protocol),
            field!(c, family),
            field!(c, local_port),
            field!(c, remote_port),
        )
    };
    // SAFETY: as above; the fields of the other family read as zero.
    let (local4, remote4, local6, remote6) = unsafe {
        (
            field!(c, local_ip4),
            field!(c, remote_ip4),
            [
                field!(c, local_ip6[0]),
                field!(c, local_ip6[1]),
                field!(c, local_ip6[2]),
                field!(c, local_ip6[3]),
            ],
            [
                field!(c, remote_ip6[0]),
                field!(c, remote_ip6[1]),
                field!(c, remote_ip6[2]),
                field!(c, remote_ip6[3]),
            ],
        )
    };
    if protocol != IPPROTO_TCP {
        return SK_PASS;
    }
    let (remote_port, local_port) = (u16::from_be(remote_port), local_port as u16);
    let (local, remote) = if family == AF_INET {
        (Ip::v4(local4), Ip::v4(remote4))
    } else {
        (Ip(local6), Ip(remote6))
    };
    // The pod talks to itself, or the agent to the application. The kernel drops such sources when they come
    // from outside: IPv4 as martians, `::1` in the receive path; a forged own address cannot be answered.
    if remote.is_loopback() || local.is_loopback() || remote == local {
        return SK_PASS;
    }
    // SAFETY: entries are replaced whole, never modified in place.
    let (pod, workers) = match unsafe { INBOUND.get(local) } {
        Some(entry) => (entry.pod, entry.workers),
        None => (0, 0),
    };
    let (src, dst) = (
        SockAddr::new(remote, remote_port),
        SockAddr::new(local, local_port),
    );
    if direct::is_expected(&src, &dst) {
        // To the application's own listener, or to its refusal.
        return SK_PASS;
    }
    // SAFETY: the value is copied at once.
    let worker = match unsafe { HELD.get(FlowKey { netns: 0, src, dst }) } {
        Some(worker) if *worker < workers => Some(*worker),
        _ => least_loaded(workers),
    };
    if let Some(worker) = worker
        && LISTENER_SOCKETS
            .redirect_sk_lookup(&ctx, ListenerKey { ip: local, worker }, 0)
            .is_ok()
    {
        return SK_PASS;
    }
    dropped(pod, src, dst);
    SK_DROP
}

#[inline(always)]
fn dropped(pod: u32, src: SockAddr, dst: SockAddr) {
    let Some(mut entry) = EVENTS.reserve_untyped::<FlowEvent>(0) else {
        return;
    };
    entry.write(FlowEvent {
        // SAFETY: reads the clock.
        time: unsafe { bpf_ktime_get_ns() },
        netns: 0,
        pod,
        kind: EventKind::Dropped as u32,
        src,
        dst,
        pid: 0,
        reserved: 0,
        cookie: 0,
        comm: [0; 16],
    });
    entry.submit(BPF_RB_NO_WAKEUP.into());
}
