//! Durations, amounts and times as people read them. Tables use them; JSON and YAML carry the raw numbers.

use std::time::{Duration, UNIX_EPOCH};

const MICROS_PER_SECOND: u64 = 1_000_000;

/// At most two units, the larger first: `431us`, `12ms`, `4.2s`, `3m12s`, `5h7m`, `9d4h`.
pub(super) fn duration(micros: u64) -> String {
    let seconds = micros / MICROS_PER_SECOND;
    let pair = |large: u64, large_name: &str, small: u64, small_name: &str| match small {
        0 => format!("{large}{large_name}"),
        _ => format!("{large}{large_name}{small}{small_name}"),
    };
    match seconds {
        0 if micros < 1_000 => format!("{micros}us"),
        0 => format!("{}ms", micros / 1_000),
        1..60 => {
            let tenths = micros % MICROS_PER_SECOND / 100_000;
            if tenths == 0 {
                format!("{seconds}s")
            } else {
                format!("{seconds}.{tenths}s")
            }
        }
        60..3_600 => pair(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => pair(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// With a binary unit and three digits at most: `0B`, `999B`, `1.5KiB`, `12MiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    // Tenths of the unit; u128 has room for the factor.
    let mut tenths = u128::from(count) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    match tenths {
        0..100 => format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit]),
        _ => format!("{}{}", tenths / 10, UNITS[unit]),
    }
}

/// Time of day in UTC, to the millisecond.
pub(super) fn time_of_day(micros: u64) -> String {
    let millis = micros / 1_000;
    let (seconds, minutes, hours) = (millis / 1_000, millis / 60_000, millis / 3_600_000);
    format!(
        "{:02}:{:02}:{:02}.{:03}Z",
        hours % 24,
        minutes % 60,
        seconds % 60,
        millis % 1_000
    )
}

/// Date and time in UTC, to the second; empty when unknown.
pub(super) fn date_and_time(micros: u64) -> String {
    /// The last second of the year 9999, the end of RFC 3339.
    const END: u64 = 253_402_300_799;
    match micros / MICROS_PER_SECOND {
        0 => String::new(),
        seconds => {
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.min(END))).to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            (0, "0us"),
            (431, "431us"),
            (12_900, "12ms"),
            (1_000_000, "1s"),
            (4_250_000, "4.2s"),
            (192_000_000, "3m12s"),
            (180_000_000, "3m"),
            (18_420_000_000, "5h7m"),
            (792_000_000_000, "9d4h"),
        ];
        for (micros, text) in cases {
            assert_eq!(duration(micros), text);
        }
    }

    #[test]
    fn amounts() {
        let cases = [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0KiB"),
            (1536, "1.5KiB"),
            (10 * 1024, "10KiB"),
            (1024 * 1024 - 1, "1023KiB"),
            (1 << 30, "1.0GiB"),
            (u64::MAX, "15EiB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn times() {
        assert_eq!(time_of_day(1_763_712_180_123_456), "08:03:00.123Z");
        assert_eq!(date_and_time(1_763_712_180_123_456), "2025-11-21T08:03:00Z");
        assert_eq!(date_and_time(0), "");
        assert_eq!(date_and_time(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
