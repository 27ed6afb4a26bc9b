//! Holds a connection request at the agent's listener until the agent knows its fate.
//!
//! The kernel would complete the handshake by itself, and the client would believe in a connection before
//! anybody knows whether its real destination answers. This socket filter on the listener drops the request
//! and hands it to the agent instead; the agent dials, and sends the request on (marked), answers it with a
//! reset or an unreachable, or leaves the client to its own time-out. Without an agent there is no listener,
//! and the kernel refuses.
//!
//! Where the agent would let the client in without asking anybody, it says so in `LET_IN` and `OPEN_PORTS`, and
//! nothing is held.

use aya_ebpf::{
    EbpfContext,
    bindings::__sk_buff,
    check_bounds_signed,
    helpers::{
        bpf_get_socket_cookie,
        generated::{bpf_skb_load_bytes, bpf_skb_load_bytes_relative},
    },
    macros::socket_filter,
    programs::SkBuffContext,
};
use mesh_common::kernel::{
    FlowKey, Ip, LetInKey, PORT_LET_THROUGH, PortKey, SockAddr, SocketRecord, SynEvent, TCP_HEADER_MAX,
};

use crate::maps::{CONFIG, FLOWS, HELD, LET_IN, LISTENERS, OPEN_PORTS, SYN_RINGS};

const PASS: i64 = u32::MAX as i64;
const DROP: i64 = 0;

const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
const HDR_START_NET: u32 = 1;
const TCP_HEADER_MIN: u32 = 20;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

#[socket_filter]
fn hold_syn(ctx: SkBuffContext) -> i64 {
    let skb = ctx.skb.skb;
    // SAFETY: the context is valid for the program's run.
    let (mark, protocol, len) = unsafe { ((*skb).mark, (*skb).protocol, (*skb).len) };
    let mut tcp = [0u8; TCP_HEADER_MIN as usize];
    if !load(skb, 0, &mut tcp) || tcp[13] & (TCP_SYN | TCP_ACK) != TCP_SYN {
        return PASS;
    }
    if CONFIG.get(0).is_some_and(|config| config.mark == mark) {
        return PASS;
    }
    // SAFETY: the helper reads the listener the filter runs for.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: entries are replaced whole, never modified in place.
    let Some(listener) = (unsafe { LISTENERS.get(cookie) }) else {
        return DROP;
    };

    let v4 = protocol == ETH_P_IP;
    let Some((src, dst)) = addresses(skb, v4, &tcp) else {
        return DROP;
    };
    let flow = FlowKey {
        netns: listener.netns,
        src,
        dst,
    };
    // SAFETY: the entry is removed only after this connection's handshake.
    let record = unsafe { FLOWS.get(&flow) };
    if let Some(record) = record {
        let destination = LetInKey {
            netns: listener.netns,
            dialled: record.peer,
            reserved: 0,
        };
        // SAFETY: only whether there is a value counts.
        if unsafe { LET_IN.get(&destination) }.is_some() {
            return PASS;
        }
    } else {
        let port = PortKey {
            netns: listener.netns,
            port: dst.port,
            family: if v4 { 4 } else { 6 },
            reserved: 0,
        };
        // SAFETY: a value is one word, which is never half written.
        if unsafe { OPEN_PORTS.get(&port) }.is_some_and(|state| *state == PORT_LET_THROUGH) {
            return PASS;
        }
        // Full or not, the request is held; without the entry a repetition may meet another worker.
        let _ = HELD.insert(FlowKey { netns: 0, src, dst }, listener.worker, 0);
    }

    let Some(ring) = SYN_RINGS.get(listener.worker) else {
        return DROP;
    };
    let Some(mut entry) = ring.reserve_untyped::<SynEvent>(0) else {
        // The client tries again by itself.
        return DROP;
    };
    let event = entry.as_mut_ptr();
    let tcp_len = (u32::from(tcp[12] >> 4) * 4)
        .min(len)
        .clamp(TCP_HEADER_MIN, TCP_HEADER_MAX as u32);
    // SAFETY: the reservation is of this type's size; every field is written before it is submitted. The length is
    // bounded twice: `clamp` for the packet, `check_bounds_signed` for the verifier. It is read back so that the compiler
    // cannot know that the check changes nothing: older verifiers (6.1) do not follow the clamp.
    unsafe {
        (*event).listener = cookie;
        (*event).pod = listener.pod;
        (*event).src = src;
        (*event).dst = dst;
        (*event).record = match record {
            Some(record) => *record,
            None => SocketRecord::EMPTY,
        };
        (*event).tcp = [0; TCP_HEADER_MAX];
        (*event).reserved = 0;
        (*event).tcp_len = tcp_len;
        let copied = core::ptr::read_volatile(&raw const (*event).tcp_len);
        if !check_bounds_signed(copied.into(), 1, TCP_HEADER_MAX as i64)
            || bpf_skb_load_bytes(skb.cast(), 0, (*event).tcp.as_mut_ptr().cast(), copied) != 0
        {
            entry.discard(0);
            return DROP;
        }
    }
    entry.submit(0);
    DROP
}

#[inline(always)]
fn addresses(
    skb: *mut __sk_buff,
    v4: bool,
    tcp: &[u8; TCP_HEADER_MIN as usize],
) -> Option<(SockAddr, SockAddr)> {
    let src_port = u16::from_be_bytes([tcp[0], tcp[1]]);
    let dst_port = u16::from_be_bytes([tcp[2], tcp[3]]);
    let (src, dst) = if v4 {
        let mut words = [0u32; 2];
        // SAFETY: source and destination stand at offset 12 of the IPv4 header; the buffer holds both.
        let status = unsafe {
            bpf_skb_load_bytes_relative(skb.cast(), 12, words.as_mut_ptr().cast(), 8, HDR_START_NET)
        };
        if status != 0 {
            return None;
        }
        (Ip::v4(words[0]), Ip::v4(words[1]))
    } else {
        let mut words = [0u32; 8];
        // SAFETY: source and destination stand at offset 8 of the IPv6 header; the buffer holds both.
        let status = unsafe {
            bpf_skb_load_bytes_relative(skb.cast(), 8, words.as_mut_ptr().cast(), 32, HDR_START_NET)
        };
        if status != 0 {
            return None;
        }
        (
            Ip([words[0], words[1], words[2], words[3]]),
            Ip([words[4], words[5], words[6], words[7]]),
        )
    };
    Some((SockAddr::new(src, src_port), SockAddr::new(dst, dst_port)))
}

#[inline(always)]
fn load(skb: *mut __sk_buff, offset: u32, buffer: &mut [u8; TCP_HEADER_MIN as usize]) -> bool {
    // SAFETY: the buffer is as long as the length given.
    unsafe { bpf_skb_load_bytes(skb.cast(), offset, buffer.as_mut_ptr().cast(), TCP_HEADER_MIN) == 0 }
}
