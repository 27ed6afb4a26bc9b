//! Windows, frames and bounds of HTTP/2 between agents, the same for every tunnel.
//!
//! Large enough for a fast link, small enough that no peer can fill the agent's memory; what streams may fill together,
//! [`Windows`] sees to.
//! Invariant: every HTTP/2 connection with another agent is made with [`server`] or [`client`].

use std::time::Duration;

use super::Windows;
use crate::telemetry::{Budget, WINDOW_LEAST};

pub(crate) const FRAME: u32 = 256 << 10;
/// Bytes of one stream that wait to be sealed.
pub(crate) const SEND_BUFFER: usize = 256 << 10;
/// Bytes that TLS seals before they are written: what one write of HTTP/2 has, in one system call.
pub(crate) const SEALED: usize = 256 << 10;
/// Streams that a peer may have open at once in one connection.
pub(crate) const STREAMS: u32 = 200;
/// Bytes of the headers of a request for a stream, as RFC 9113 (6.5.2) counts them; a larger one is answered 431.
pub(crate) const HEADER_LIST: usize = 16 << 10;
/// Bytes of the headers of a request to an application, counted in the same way: what an HTTP/1 head may have. A larger one is
/// answered 431.
pub(crate) const HEADS: usize = 72 << 10;
/// Beyond this h2 does not keep headers: it answers 431 by itself and tells nobody, and ends the connection beyond four times as
/// much. That also bounds CONTINUATION frames, to five without an end.
pub(crate) const HEADER_LIST_KEPT: u32 = 2 * HEADS as u32;
/// Streams opened and reset by the peer that were not looked at yet. Our own client has no more than 100 in one tunnel of which
/// it has not heard that we know (`upstream/seats.rs`), and those that we have read and not looked at yet are few; so only
/// somebody who means it gets there.
pub(crate) const PENDING_RESETS: usize = 300;
/// Streams that we reset and still remember, for a second. What arrives for one that was forgotten counts as a fault, though it
/// was only on its way: so these are more than clients give up in a moment.
const REMEMBERED_RESETS: usize = 2000;
/// Streams that we had to reset because the peer broke the rules, before the connection ends. Counted over the life of a
/// connection, which may be long.
const FAULTS: usize = 10_000;

/// A tunnel without streams goes after this long.
pub(crate) const IDLE: Duration = Duration::from_secs(300);
/// TLS and HTTP/2 together must be done by then.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);
/// How often, and how many times, it is looked whether the peer's settings have come: h2 tells nobody.
pub(crate) const SETTINGS_LOOK: Duration = Duration::from_millis(5);
pub(crate) const SETTINGS_LOOKS: u32 = 200;
/// The application that a stream asks for must have accepted by then. Connections within a pod take microseconds unless
/// its queue is full.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);
/// Another node must have answered by then when a tunnel is dialled. Then it counts as silent.
pub(crate) const DIAL: Duration = Duration::from_secs(10);
/// A client that speaks TLS begins at once. One that has sent nothing by then waits for the server to speak, so it
/// speaks in the clear. Long enough for a busy peer and a lost packet or two.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);

/// The accepting side.
pub(crate) fn server(budget: &Budget, windows: &Windows) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(windows.first())
        .initial_connection_window_size(windows.first_together())
        .data_frame_budget(small_frames(budget))
        .max_frame_size(FRAME)
        .max_header_list_size(HEADER_LIST_KEPT)
        .max_concurrent_streams(STREAMS)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .max_local_error_reset_streams(Some(FAULTS))
        // Switched protocols travel as extended CONNECT (RFC 8441).
        .enable_connect_protocol();
    builder
}

/// The dialling side.
pub(crate) fn client(budget: &Budget, windows: &Windows) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(windows.first())
        .initial_connection_window_size(windows.first_together())
        .data_frame_budget(small_frames(budget))
        .max_frame_size(FRAME)
        .max_header_list_size(HEADER_LIST_KEPT)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        // Whom we asked gains nothing by breaking the rules of a stream, and others have theirs beside it.
        .max_local_error_reset_streams(None)
        .enable_push(false);
    builder
}

/// Bytes of all streams of a tunnel together while they are read: what their windows make, once those are as they should be, so
/// that no stream waits for another one's reader. Streams that begin all at once, faster than smaller windows can be
/// announced, have no more.
pub(super) fn together_least(budget: &Budget) -> usize {
    budget.windows_together().max(STREAMS as usize * WINDOW_LEAST)
}

/// Bytes of all streams of a tunnel together, whatever is not read: more than they have where the peer heeds what their windows
/// are.
pub(super) fn together_most(budget: &Budget) -> usize {
    budget.limit() + STREAMS as usize * WINDOW_LEAST
}

/// What h2 may take to keep small frames, in bytes beyond their own.
fn small_frames(budget: &Budget) -> usize {
    together_most(budget) / 2
}
