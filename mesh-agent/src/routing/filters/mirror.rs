//! Copies of requests for a further backend.

use mesh_common::model::{BackendTarget, Mirror};

use crate::routing::backends::{BackendPort, scale};

/// Where copies go, and of how many requests.
#[derive(Debug)]
pub(super) struct Copies {
    pub(super) to: BackendPort,
    numerator: u32,
    denominator: u32,
}

impl Copies {
    /// Nothing is copied to what is no service; the route's conditions say so.
    pub(super) fn new(mirror: &Mirror) -> Option<Self> {
        let BackendTarget::Service { service, port } = &mirror.target else {
            return None;
        };
        Some(Self {
            to: BackendPort {
                service: service.clone(),
                port: *port,
            },
            numerator: mirror.numerator,
            denominator: mirror.denominator,
        })
    }

    /// Whether the request with this number, drawn evenly from all, is copied.
    pub(super) fn wants(&self, drawn: u64) -> bool {
        scale(drawn, u64::from(self.denominator)) < u64::from(self.numerator)
    }
}

/// The nth of many numbers that are made of one random number and tell nothing about each other (SplitMix64).
pub(super) fn nth(random: u64, n: u64) -> u64 {
    let mut mixed = random.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
