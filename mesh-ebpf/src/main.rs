//! The kernel half of Nodemesh.
//!
//! One file a hook family. A connection out of an enrolled pod meets them in this order:
//! 1. [`connect`]: `connect()` is rewritten to the agent's listener in the pod's own namespace;
//! 2. [`sockops`]: the original destination travels from the client's socket to the agent's accepted one;
//! 3. [`hold`]: the connection request waits at the listener until the agent knows whether the real
//!    destination answers, so that the client sees success, refusal and silence as they are;
//! 4. [`address`]: `getpeername()`, `getsockname()` and `accept()` show the application the truth.
//!
//! What the agent said needs no agent on its way goes [`direct`] from one pod of the node to another.
//!
//! A connection to an enrolled pod is steered to the listener by [`lookup`], then goes the same way.
//! [`maps`] holds everything the programs and the agent share; [`exempt`] says whom the programs leave alone.
//!
//! Invariant: for an enrolled pod every path that cannot reach the agent refuses; none lets the packet through.
#![no_std]
#![no_main]

mod address;
mod connect;
mod ctx;
mod direct;
mod exempt;
mod hold;
mod lookup;
mod maps;
mod sockops;

/// Never runs: the verifier accepts only programs that cannot panic.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// SAFETY: the name is the section the kernel reads the licence from, and nothing else is placed in it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";
