//! Marks the ABI as plain old data for the loader.

use super::{
    Config, DirectEntry, DirectKey, FlowEvent, FlowKey, InboundEntry, Ip, LetInKey, ListenerEntry,
    ListenerKey, Passage, PassageEvent, PodEntry, PortKey, SockAddr, SocketRecord, SynEvent,
};

macro_rules! plain_old_data {
    ($($ty:ty),* $(,)?) => {$(
        // SAFETY: `repr(C)`, made of integers only, no padding (asserted beside the definitions), so every bit
        // pattern is a valid value and every byte of a value is initialised.
        unsafe impl aya::Pod for $ty {}
    )*};
}

plain_old_data!(
    Config,
    DirectEntry,
    DirectKey,
    FlowEvent,
    FlowKey,
    InboundEntry,
    Ip,
    LetInKey,
    ListenerEntry,
    ListenerKey,
    Passage,
    PassageEvent,
    PodEntry,
    PortKey,
    SockAddr,
    SocketRecord,
    SynEvent,
);
