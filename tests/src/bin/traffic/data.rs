//! Bytes that no two places of a stream share, and a checksum over them.

/// Length of the blocks a pattern is made of.
pub(crate) const BLOCK: usize = 64 * 1024;

/// A stream of bytes that depends on a seed; each block begins with its number, so lost, doubled or exchanged
/// blocks change the checksum.
pub(crate) struct Pattern {
    block: Vec<u8>,
    number: u64,
}

/// A checksum in which the order matters and the boundaries of reads do not.
pub(crate) struct Checksum {
    state: u64,
    pending: [u8; 8],
    filled: usize,
    bytes: u64,
}

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        let mut word = seed | 1;
        let mut block = Vec::with_capacity(BLOCK);
        while block.len() < BLOCK {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            block.extend_from_slice(&word.to_le_bytes());
        }
        Self { block, number: 0 }
    }

    /// The next block, cut to at most this length. A cut block must be the last.
    pub(crate) fn next(&mut self, most: u64) -> &[u8] {
        self.block[..8].copy_from_slice(&self.number.to_le_bytes());
        self.number += 1;
        &self.block[..usize::try_from(most).map_or(BLOCK, |most| most.min(BLOCK))]
    }

    /// The checksum of the first `bytes` bytes of a pattern.
    pub(crate) fn checksum(seed: u64, bytes: u64) -> u64 {
        let mut pattern = Self::new(seed);
        let mut checksum = Checksum::new();
        while checksum.bytes() < bytes {
            checksum.add(pattern.next(bytes - checksum.bytes()));
        }
        checksum.value()
    }
}

impl Checksum {
    pub(crate) fn new() -> Self {
        Self {
            state: 0x9e37_79b9_7f4a_7c15,
            pending: [0; 8],
            filled: 0,
            bytes: 0,
        }
    }

    pub(crate) fn add(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if self.filled > 0 {
            let taken = bytes.len().min(8 - self.filled);
            self.pending[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled < 8 {
                return;
            }
            self.word(self.pending);
            self.filled = 0;
        }
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(*word);
        }
        self.pending[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
    }

    pub(crate) fn value(&self) -> u64 {
        let mut last = [0; 8];
        last[..self.filled].copy_from_slice(&self.pending[..self.filled]);
        mix(mix(self.state, u64::from_le_bytes(last)), self.bytes)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn word(&mut self, word: [u8; 8]) {
        self.state = mix(self.state, u64::from_le_bytes(word));
    }
}

fn mix(state: u64, word: u64) -> u64 {
    (state.rotate_left(23) ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_ignores_boundaries_and_sees_order() {
        let bytes: Vec<u8> = (0..100).collect();
        let mut whole = Checksum::new();
        whole.add(&bytes);
        for cut in 0..bytes.len() {
            let mut parts = Checksum::new();
            parts.add(&bytes[..cut]);
            parts.add(&bytes[cut..]);
            assert_eq!(parts.value(), whole.value(), "cut at {cut}");
        }
        let mut turned = Checksum::new();
        turned.add(&bytes[50..]);
        turned.add(&bytes[..50]);
        assert_ne!(turned.value(), whole.value());
        let mut longer = Checksum::new();
        longer.add(&bytes);
        longer.add(&[0]);
        assert_ne!(longer.value(), whole.value());
    }

    #[test]
    fn no_two_blocks_of_a_pattern_are_alike() {
        let mut pattern = Pattern::new(7);
        let first = pattern.next(u64::MAX).to_vec();
        assert_ne!(first, pattern.next(u64::MAX));
        assert_eq!(pattern.next(5).len(), 5);
    }
}
