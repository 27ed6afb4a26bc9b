//! Detection: decided in time, and never otherwise later.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_fuzz::detect::{ENOUGH, Protocol, detect};

fuzz_target!(|bytes: &[u8]| {
    let mut decided = Protocol::Undecided;
    for length in 0..=bytes.len().min(2 * ENOUGH) {
        let answer = detect(&bytes[..length]);
        if decided != Protocol::Undecided || length >= ENOUGH {
            assert_ne!(answer, Protocol::Undecided);
        }
        if decided != Protocol::Undecided {
            assert_eq!(answer, decided);
        }
        decided = answer;
    }
});
