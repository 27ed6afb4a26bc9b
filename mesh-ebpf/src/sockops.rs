//! Carries a record from the socket that connects to the socket that accepts.
//!
//! The connecting socket publishes its record under its four-tuple before its request leaves; the accepted
//! socket takes it when the handshake is done. A connection that never gets there takes its record back: so its
//! socket is watched until its peer is known to have accepted, or until its end.

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_RB_NO_WAKEUP, BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_TCP_CLOSE, BPF_TCP_CLOSE_WAIT,
        BPF_TCP_CLOSING, BPF_TCP_FIN_WAIT2, BPF_TCP_LISTEN, BPF_TCP_SYN_SENT, bpf_sock, bpf_sock_ops,
    },
    helpers::{
        bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_sock_ops_cb_flags_set, generated::bpf_sk_storage_get,
    },
    macros::sock_ops,
    programs::SockOpsContext,
};
use mesh_common::kernel::{EventKind, FlowEvent, FlowKey, Ip, PortKey, RecordKind, SockAddr, SocketRecord};

use crate::ctx::field;
use crate::direct;
use crate::maps::{EVENTS, FLOWS, OPEN_PORTS, PODS, SOCKETS, SOURCES};

const AF_INET: u32 = 2;
const BPF_ANY: u64 = 0;

#[sock_ops]
fn on_sock_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => publish(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => take(&ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => learn_source(&ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => watch_listener(&ctx),
        BPF_SOCK_OPS_STATE_CB => on_state(&ctx),
        _ => {}
    }
    1
}

/// Before the request leaves: the socket's record goes under its four-tuple.
#[inline(always)]
fn publish(ctx: &SockOpsContext) {
    let ends = Ends::of(ctx);
    let Some(record) = record_of(ctx.ops, 0) else {
        return;
    };
    // SAFETY: the record lives as long as the socket, which this callback holds.
    let record = unsafe { &*record };
    if record.via != ends.remote {
        return;
    }
    let key = FlowKey {
        netns: netns(ctx),
        src: ends.local,
        dst: ends.remote,
    };
    let published = if record.kind == RecordKind::Direct as u32 {
        direct::ask(key.netns, &ends.flow(), record)
    } else {
        FLOWS.insert(&key, record, BPF_ANY).is_ok()
    };
    if published {
        watch_state(ctx, true);
    }
}

/// The peer has answered: the client's socket learns under which address the network knows it.
///
/// It is watched on, because it may end before the peer has accepted: a reset that overtakes the last step of the
/// handshake, as it can when its sender moves to another core, leaves nobody to take the record.
#[inline(always)]
fn learn_source(ctx: &SockOpsContext) {
    if ctx.cb_flags() == 0 {
        // Nobody's concern: see `publish`.
        return;
    }
    let Some(record) = record_of(ctx.ops, 0) else {
        return watch_state(ctx, false);
    };
    // SAFETY: the record lives as long as the socket, which this callback holds; nobody else writes it now.
    let record = unsafe { &mut *record };
    if record.kind == RecordKind::Direct as u32 {
        return direct::opened(ctx, &Ends::of(ctx).flow());
    }
    if record.kind != RecordKind::Captured as u32 {
        return;
    }
    // SAFETY: the entry is this socket's alone.
    if let Some(source) = unsafe { SOURCES.get(record.cookie) } {
        record.local = *source;
        let _ = SOURCES.remove(record.cookie);
    }
}

/// The handshake is done: the accepted socket takes the record.
#[inline(always)]
fn take(ctx: &SockOpsContext) {
    // Inherited from a watched listener.
    if ctx.cb_flags() != 0 {
        watch_state(ctx, false);
    }
    let ends = Ends::of(ctx);
    let key = FlowKey {
        netns: netns(ctx),
        src: ends.remote,
        dst: ends.local,
    };
    // SAFETY: a connection has one accepted socket, so nobody else reads or removes this entry meanwhile.
    let Some(found) = (unsafe { FLOWS.get(&key) }) else {
        return direct::arrive(ctx, ends.remote, ends.local);
    };
    if let Some(record) = record_of(ctx.ops, BPF_SK_STORAGE_GET_F_CREATE.into()) {
        // SAFETY: both are valid values of the type; the storage is the accepted socket's own.
        unsafe {
            *record = *found;
            // Seen from here the peer is whoever connected.
            (*record).via = ends.remote;
            (*record).local = SockAddr::UNSPECIFIED;
        }
    }
    let _ = FLOWS.remove(&key);
}

/// A listener of a pod: learn when it goes, so that requests to its port are held again.
#[inline(always)]
fn watch_listener(ctx: &SockOpsContext) {
    // SAFETY: the value is not dereferenced.
    if unsafe { PODS.get(netns(ctx)) }.is_some() {
        watch_state(ctx, true);
    }
}

#[inline(always)]
fn on_state(ctx: &SockOpsContext) {
    let (old, new) = (ctx.arg(0), ctx.arg(1));
    match new {
        BPF_TCP_CLOSE => on_close(ctx, old),
        // The peer has ended its side, or has seen the end of ours: it has accepted.
        BPF_TCP_CLOSE_WAIT | BPF_TCP_FIN_WAIT2 | BPF_TCP_CLOSING => {
            let is_direct = record_of(ctx.ops, 0).is_some_and(|record| {
                // SAFETY: the record lives as long as the socket, which this callback holds.
                unsafe { (*record).kind == RecordKind::Direct as u32 }
            });
            // Of a direct connection the agent is told the end.
            if !is_direct {
                watch_state(ctx, false);
            }
        }
        _ => {}
    }
}

#[inline(always)]
fn on_close(ctx: &SockOpsContext, old: u32) {
    if let Some(record) = record_of(ctx.ops, 0) {
        // SAFETY: the record lives as long as the socket, which this callback holds.
        let record = unsafe { &*record };
        if record.kind == RecordKind::Direct as u32 {
            return direct::ended(ctx, &Ends::of(ctx).flow(), record, old);
        }
    }
    if old == BPF_TCP_LISTEN {
        let family = if ctx.family() == AF_INET { 4 } else { 6 };
        let mut key = PortKey {
            netns: netns(ctx),
            port: ctx.local_port() as u16,
            family,
            reserved: 0,
        };
        let _ = OPEN_PORTS.remove(&key);
        if family == 6 {
            // A dual-stack listener served IPv4 as well.
            key.family = 4;
            let _ = OPEN_PORTS.remove(&key);
        }
        return;
    }
    let ends = Ends::of(ctx);
    let netns = netns(ctx);
    // Mostly it was taken long ago. If not, nobody else can have put it there: the four-tuple is still this socket's.
    let _ = FLOWS.remove(FlowKey {
        netns,
        src: ends.local,
        dst: ends.remote,
    });
    if old == BPF_TCP_SYN_SENT {
        abandoned(ctx, netns);
    }
}

#[inline(always)]
fn abandoned(ctx: &SockOpsContext, netns: u64) {
    let Some(record) = record_of(ctx.ops, 0) else {
        return;
    };
    // SAFETY: the record lives as long as the socket, which this callback holds.
    let record = unsafe { &*record };
    if record.kind != RecordKind::Captured as u32 {
        return;
    }
    let _ = SOURCES.remove(record.cookie);
    // SAFETY: entries are replaced whole, never modified in place.
    let pod = unsafe { PODS.get(netns) }.map_or(0, |pod| pod.pod);
    let Some(mut entry) = EVENTS.reserve_untyped::<FlowEvent>(0) else {
        return;
    };
    entry.write(FlowEvent {
        // SAFETY: reads the clock.
        time: unsafe { bpf_ktime_get_ns() },
        netns,
        pod,
        kind: EventKind::Abandoned as u32,
        src: record.local,
        dst: record.peer,
        pid: record.pid,
        reserved: 0,
        cookie: record.cookie,
        comm: record.comm,
    });
    entry.submit(BPF_RB_NO_WAKEUP.into());
}

/// Asks for, or declines, the callback on state changes.
#[inline(always)]
fn watch_state(ctx: &SockOpsContext, watch: bool) {
    let flags = if watch {
        BPF_SOCK_OPS_STATE_CB_FLAG as i32
    } else {
        0
    };
    // SAFETY: the context is valid; the call fails only for unknown flags.
    let _ = unsafe { bpf_sock_ops_cb_flags_set(ctx.ops, flags) };
}

#[inline(always)]
fn netns(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the helper reads the namespace of the context's socket.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn record_of(ops: *mut bpf_sock_ops, flags: u64) -> Option<*mut SocketRecord> {
    // SAFETY: the verifier knows the field as a socket or null.
    let sk: *mut bpf_sock = unsafe { (*ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: not null; the storage is the socket's own.
    let record = unsafe {
        bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            flags,
        )
    }
    .cast::<SocketRecord>();
    (!record.is_null()).then_some(record)
}

/// Both ends of the context's socket, IPv4 mapped.
struct Ends {
    local: SockAddr,
    remote: SockAddr,
}

impl Ends {
    /// The connection as it is on the network, from the side that dialled.
    #[inline(always)]
    fn flow(&self) -> FlowKey {
        FlowKey {
            netns: 0,
            src: self.local,
            dst: self.remote,
        }
    }

    #[inline(always)]
    fn of(ctx: &SockOpsContext) -> Self {
        let c = ctx.ops;
        // SAFETY: the context is valid for the program's run; the fields of the other family read as zero.
        let (family, local_port, remote_port, local4, remote4, local6, remote6) = unsafe {
            (
                field!(c, family),
                field!(c, local_port) as u16,
                // The port stands in network byte order in the word's upper half.
                (u32::from_be(field!(c, remote_port)) & 0xffff) as u16,
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
        let (local, remote) = if family == AF_INET {
            (Ip::v4(local4), Ip::v4(remote4))
        } else {
            (Ip(local6), Ip(remote6))
        };
        Self {
            local: SockAddr::new(local, local_port),
            remote: SockAddr::new(remote, remote_port),
        }
    }
}
