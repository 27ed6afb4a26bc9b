//! Bytes arrive whole, and the ends of connections arrive as they were meant.

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Held, Mesh,
    traffic::{self, at},
};

use super::{SOON, destinations};

/// So many bytes in both directions at once, with equal checksums.
pub(crate) fn bulk_both_ways(mesh: &Mesh, server: &str, bytes: u64) -> Result<()> {
    let pod = mesh.pod(server);
    let _server = traffic::serve(pod, "bulk", 7300)?;
    let size = bytes.to_string();
    for address in pod.addresses() {
        let to = at(address, 7300);
        let report = traffic::report(
            mesh.pod("client"),
            &["bulk", "--to", &to, "--send", &size, "--receive", &size],
        )?;
        ensure!(
            report["sent_intact"] == true && report["received_intact"] == true,
            "{server} at {to}: {report}"
        );
        println!(
            "{bytes} bytes each way to {server} at {to}: {} s",
            report["seconds"]
        );
    }
    Ok(())
}

/// The client shuts its half down and still gets everything back, whether the server answers at once or at the end.
pub(crate) fn half_close(mesh: &Mesh) -> Result<()> {
    let _servers: Vec<_> = super::SERVERS
        .iter()
        .flat_map(|name| [(name, "echo", 7310), (name, "collect", 7311)])
        .map(|(name, behaviour, port)| traffic::serve(mesh.pod(name), behaviour, port))
        .collect::<Result<_>>()?;
    for (name, address) in destinations(mesh) {
        for port in [7310, 7311] {
            for bytes in ["0", "1", "70000", "5000000"] {
                let to = at(address, port);
                let report =
                    traffic::report(mesh.pod("client"), &["half-close", "--to", &to, "--bytes", bytes])?;
                ensure!(
                    report["intact"] == true && report["end"] == "eof",
                    "{name} at {to}: {report}"
                );
            }
        }
    }
    Ok(())
}

/// A reset by the server in mid-stream comes after the bytes that the client had acknowledged.
pub(crate) fn reset_by_the_server(mesh: &Mesh) -> Result<()> {
    for (name, address) in destinations(mesh) {
        let _server = traffic::serve_with(mesh.pod(name), "reset", 7320, &["--bytes", "50000"])?;
        let to = at(address, 7320);
        let report = traffic::report(
            mesh.pod("client"),
            &["read", "--to", &to, "--answer-after", "50000"],
        )?;
        ensure!(
            report["end"] == "ECONNRESET" && report["bytes"] == 50_000,
            "{name} at {to}: {report}"
        );
    }
    Ok(())
}

/// A reset by the client reaches the server as one, and an orderly close as one.
pub(crate) fn reset_by_the_client(mesh: &Mesh) -> Result<()> {
    for (name, address) in destinations(mesh) {
        let mut server = traffic::serve(mesh.pod(name), "sink", 7330)?;
        let to = at(address, 7330);
        traffic::report(
            mesh.pod("client"),
            &["send", "--to", &to, "--bytes", "100000", "--then", "close"],
        )?;
        let closed = server.wait_line(SOON, |line| line.contains("\"end\":\"eof\""))?;
        ensure!(closed.contains("\"bytes\":100000"), "{name} at {to}: {closed}");
        traffic::report(
            mesh.pod("client"),
            &["send", "--to", &to, "--bytes", "100000", "--then", "reset"],
        )?;
        server
            .wait_line(SOON, |line| line.contains("\"end\":\"ECONNRESET\""))
            .with_context(|| format!("{name} at {to}"))?;
    }
    Ok(())
}

/// A reader that takes little stops the writer: what lies in between is bounded. Returns the most that a writer
/// could send before it was stopped.
pub(crate) fn slow_reader_stops_the_writer(mesh: &Mesh, writers: usize) -> Result<u64> {
    let pod = mesh.pod("web");
    let _server = traffic::serve_with(pod, "slow", 7340, &["--bytes", "1000"])?;
    let to = at(pod.v4(), 7340);
    let clients: Vec<_> = (0..writers)
        .map(|_| traffic::start(mesh.pod("client"), &["flood", "--to", &to, "--hold-ms", "3000"]))
        .collect::<Result<_>>()?;
    let mut most = 0;
    for client in clients {
        let report = client.wait(SOON * 3)?.ok()?.report()?;
        ensure!(report["end"] == "stalled", "the writer was not stopped: {report}");
        most = most.max(report["sent"].as_u64().context("sent")?);
    }
    Ok(most)
}

/// Clients that send to an echo and read nothing, until each is stopped: both ways of each connection are full. Calls
/// `look` while they stand.
pub(crate) fn stopped_both_ways(
    mesh: &Mesh,
    count: usize,
    look: impl FnOnce(&str) -> Result<()>,
) -> Result<()> {
    let pod = mesh.pod("web");
    let _server = traffic::serve(pod, "echo", 7345)?;
    let to = at(pod.v4(), 7345);
    let mut clients: Vec<_> = (0..count)
        .map(|_| traffic::start(mesh.pod("client"), &["flood", "--to", &to, "--hold-ms", "120000"]))
        .collect::<Result<_>>()?;
    for client in &mut clients {
        let report = client.wait_line(SOON * 3, |line| line.contains("sent"))?;
        ensure!(report.contains("stalled"), "a writer was not stopped: {report}");
    }
    look(&to)
}

/// Holds idle connections and calls `look` while they stand; then each still has to work.
pub(crate) fn idle(mesh: &Mesh, server: &str, count: usize, look: impl FnOnce() -> Result<()>) -> Result<()> {
    let pod = mesh.pod(server);
    let _server = traffic::serve(pod, "echo", 7350)?;
    let to = pod.addresses().map(|address| at(address, 7350));
    let held = Held::open(mesh, "client", &to, count)?;
    look()?;
    held.release()
}
