//! The application sees the truth: `getpeername()`, `getsockname()`, and the address `accept()` returns.
//!
//! A record speaks only while the peer the kernel knows is the peer it was made for, so a socket that was
//! disconnected and used again shows nothing stale.

use aya_ebpf::{
    bindings::bpf_sock, helpers::generated::bpf_sk_storage_get, macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use mesh_common::kernel::{Ip, SockAddr, SocketRecord};

use crate::{
    ctx::{field, set},
    exempt,
    maps::SOCKETS,
};

#[cgroup_sock_addr(getpeername4)]
fn on_getpeername4(ctx: SockAddrContext) -> i32 {
    let shown = shown4(&ctx);
    if let Some(record) = record_of(&ctx)
        && record.via == shown
        && record.peer.ip.is_v4()
    {
        write4(&ctx, record.peer);
    }
    1
}

#[cgroup_sock_addr(getpeername6)]
fn on_getpeername6(ctx: SockAddrContext) -> i32 {
    let shown = shown6(&ctx);
    if let Some(record) = record_of(&ctx)
        && record.via == shown
    {
        write6(&ctx, record.peer);
    }
    1
}

#[cgroup_sock_addr(getsockname4)]
fn on_getsockname4(ctx: SockAddrContext) -> i32 {
    let shown = shown4(&ctx);
    if let Some(own) = own_address(&ctx, shown)
        && own.ip.is_v4()
    {
        write4(&ctx, own);
    }
    1
}

#[cgroup_sock_addr(getsockname6)]
fn on_getsockname6(ctx: SockAddrContext) -> i32 {
    let shown = shown6(&ctx);
    if let Some(own) = own_address(&ctx, shown) {
        write6(&ctx, own);
    }
    1
}

/// The address under which the network knows the socket, if that is not the one the kernel shows: the pod's own
/// in place of loopback, with the port that the agent connected from where that is another.
#[inline(always)]
fn own_address(ctx: &SockAddrContext, shown: SockAddr) -> Option<SockAddr> {
    let record = record_of(ctx)?;
    let own = record.local;
    if own.ip.is_unspecified() || !connected_to(ctx, record.via.port) {
        return None;
    }
    if own.port != 0 {
        return Some(own);
    }
    shown
        .ip
        .is_loopback()
        .then_some(SockAddr::new(own.ip, shown.port))
}

#[inline(always)]
fn shown4(ctx: &SockAddrContext) -> SockAddr {
    // SAFETY: the context is valid for the program's run.
    let (ip, port) = unsafe { (field!(ctx.sock_addr, user_ip4), field!(ctx.sock_addr, user_port)) };
    SockAddr::new(Ip::v4(ip), u16::from_be(port as u16))
}

#[inline(always)]
fn shown6(ctx: &SockAddrContext) -> SockAddr {
    let c = ctx.sock_addr;
    // SAFETY: the context is valid for the program's run.
    let (ip, port) = unsafe {
        (
            [
                field!(c, user_ip6[0]),
                field!(c, user_ip6[1]),
                field!(c, user_ip6[2]),
                field!(c, user_ip6[3]),
            ],
            field!(c, user_port),
        )
    };
    SockAddr::new(Ip(ip), u16::from_be(port as u16))
}

#[inline(always)]
fn write4(ctx: &SockAddrContext, addr: SockAddr) {
    // SAFETY: both fields are writable in these hooks.
    unsafe {
        set!(ctx.sock_addr, user_ip4, addr.ip.v4_word());
        set!(ctx.sock_addr, user_port, u32::from(addr.port.to_be()));
    }
}

#[inline(always)]
fn write6(ctx: &SockAddrContext, addr: SockAddr) {
    // SAFETY: the fields are writable in these hooks.
    unsafe {
        set!(ctx.sock_addr, user_ip6[0], addr.ip.0[0]);
        set!(ctx.sock_addr, user_ip6[1], addr.ip.0[1]);
        set!(ctx.sock_addr, user_ip6[2], addr.ip.0[2]);
        set!(ctx.sock_addr, user_ip6[3], addr.ip.0[3]);
        set!(ctx.sock_addr, user_port, u32::from(addr.port.to_be()));
    }
}

/// The socket's record, unless the agent asks: the agent wants the kernel's own addresses.
#[inline(always)]
fn record_of(ctx: &SockAddrContext) -> Option<&SocketRecord> {
    let sk = socket(ctx)?;
    // SAFETY: not null; without the create flag an absent record is null.
    let record = unsafe {
        bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            0,
        )
    }
    .cast::<SocketRecord>();
    if record.is_null() || exempt::is_agent() {
        return None;
    }
    // SAFETY: not null, and the storage lives as long as the socket.
    Some(unsafe { &*record })
}

#[inline(always)]
fn connected_to(ctx: &SockAddrContext, port: u16) -> bool {
    // SAFETY: the socket is not null; the field is readable, in network byte order.
    socket(ctx).is_some_and(|sk| u16::from_be(unsafe { (*sk).dst_port }) == port)
}

#[inline(always)]
fn socket(ctx: &SockAddrContext) -> Option<*mut bpf_sock> {
    // SAFETY: the verifier knows the field as a socket or null.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    (!sk.is_null()).then_some(sk)
}
