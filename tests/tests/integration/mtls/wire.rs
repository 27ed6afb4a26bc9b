//! What is seen on the wire between the nodes.

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Mesh, Wire,
    traffic::{self, at},
};

use super::{TRIAL_PORT, start};
use crate::{captured::all_let_go, checks::standard};

/// What applications say to each other; nobody else says it.
pub(super) const MARKER: &[u8] = b"marker-4f1b87c2-between-applications";
const PORT: u16 = 7360;

/// Sends the marker to an echo server and expects it back.
pub(super) fn speak(mesh: &Mesh, from: &str, to: &str) -> Result<()> {
    const SPEAK: &str = "import socket, sys\n\
        host, port = sys.argv[1].rsplit(':', 1)\n\
        s = socket.create_connection((host.strip('[]'), int(port)), 20)\n\
        text = sys.argv[2].encode()\n\
        s.sendall(text)\n\
        got = b''\n\
        while len(got) < len(text):\n\
        \tpart = s.recv(4096)\n\
        \tassert part, 'the end'\n\
        \tgot += part\n\
        assert got == text, got\n";
    let marker = String::from_utf8_lossy(MARKER).into_owned();
    mesh.pod(from)
        .command("python3")
        .args(["-c", SPEAK, to, &marker])
        .run()?
        .ok()?;
    Ok(())
}

/// Whether a direction of a connection begins as TLS does: a handshake, or an alert.
pub(super) fn begins_tls(stream: &[u8]) -> bool {
    matches!(stream, [20..=23, 3, 0..=4, ..])
}

/// Between `client` and `web` something was said, and all of it under TLS.
pub(super) fn only_tls(wire: &Wire, mesh: &Mesh) -> Result<()> {
    let ends = [mesh.pod("client").addresses(), mesh.pod("web").addresses()].concat();
    let streams = wire.streams();
    let between: Vec<_> = streams
        .iter()
        .filter(|(src, dst, _)| ends.contains(&src.ip()) && ends.contains(&dst.ip()))
        .collect();
    ensure!(!between.is_empty(), "nothing was said");
    for (src, dst, bytes) in between {
        ensure!(
            begins_tls(bytes),
            "{src} to {dst} is not TLS: {:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(80)])
        );
    }
    Ok(())
}

/// The marker goes between `client` and `web`, from either side, and back; what of it was seen on the wire.
fn spoken(mesh: &Mesh) -> Result<Wire> {
    let capture = mesh.capture()?;
    for (from, to) in [("client", "web"), ("web", "client")] {
        let _server = traffic::serve(mesh.pod(to), "echo", PORT)?;
        for address in mesh.pod(to).addresses() {
            speak(mesh, from, &at(address, PORT)).with_context(|| format!("{from} to {to}"))?;
        }
    }
    capture.finish()
}

/// Every packet is between the two pods and to or from a server's port.
fn own_addresses(wire: &Wire, mesh: &Mesh) -> Result<()> {
    let (client, web) = (mesh.pod("client"), mesh.pod("web"));
    for (here, there) in client.addresses().into_iter().zip(web.addresses()) {
        for (src, dst) in [(here, there), (there, here)] {
            let opened = wire
                .between(src, dst)
                .iter()
                .any(|packet| packet.flags & 18 == 2 && packet.dst.port() == PORT);
            ensure!(opened, "no connection from {src} to port {PORT} of {dst}");
        }
    }
    let ends = [client.addresses(), web.addresses()].concat();
    for packet in &wire.packets {
        let ports = [packet.src.port(), packet.dst.port()];
        if ports.contains(&TRIAL_PORT) {
            // A tunnel of the trial, in which other pods took part; theirs are the addresses of pods too.
            continue;
        }
        ensure!(
            ends.contains(&packet.src.ip()) && ends.contains(&packet.dst.ip()),
            "a packet from {} to {}",
            packet.src,
            packet.dst
        );
        ensure!(
            ports.contains(&PORT),
            "ports of a packet from {} to {}",
            packet.src,
            packet.dst
        );
    }
    Ok(())
}

#[test]
fn a_marker_is_never_seen_and_addresses_and_ports_are_the_pods_own() {
    Mesh::scenario(standard("mtls-wire"), |mesh| {
        mesh.secure(&[])?;
        let agents = start(mesh)?;
        let wire = spoken(mesh)?;
        ensure!(!wire.carries(MARKER), "the marker is on the wire");
        only_tls(&wire, mesh)?;
        own_addresses(&wire, mesh)?;
        agents.iter().try_for_each(all_let_go)
    });
}

#[test]
fn without_an_authority_the_marker_is_seen() {
    Mesh::scenario(standard("mtls-none"), |mesh| {
        let _agents = start(mesh)?;
        let wire = spoken(mesh)?;
        ensure!(wire.carries(MARKER), "the recording would not show it");
        ensure!(only_tls(&wire, mesh).is_err(), "plain text passes for TLS");
        own_addresses(&wire, mesh)
    });
}
