//! What the programs print: errors by their names, distributions in microseconds.

use std::{io, net::SocketAddr, time::Duration};

use nix::errno::Errno;
use serde_json::{Value, json};

/// Prints a JSON line at once, even into a file.
pub(crate) fn print(value: &Value) {
    println!("{value}");
}

/// The name of an error: `ECONNREFUSED` and so on, or what the library calls it.
pub(crate) fn error_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        None if error.kind() == io::ErrorKind::TimedOut => "timed out".to_owned(),
        None => error.to_string(),
    }
}

/// The address as a client dials it: IPv4 that a dual-stack socket shows as IPv6 becomes IPv4 again.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Count, median, 99th and 99.9th percentile and maximum.
pub(crate) fn distribution(mut times: Vec<Duration>) -> Value {
    times.sort_unstable();
    let micros = |time: Option<&Duration>| time.map(|time| time.as_nanos() as f64 / 1000.0);
    json!({
        "count": times.len(),
        "p50_us": micros(times.get(times.len() / 2)),
        "p99_us": micros(times.get(times.len() * 99 / 100)),
        "p999_us": micros(times.get(times.len() * 999 / 1000)),
        "max_us": micros(times.last()),
    })
}
