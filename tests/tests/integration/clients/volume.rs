//! Bodies of all sizes, both ways at once, every byte compared; and what the agents hold of them meanwhile.

use anyhow::{Result, ensure};
use mesh_tests::{Agent, Mesh, traffic};

use super::{at, each, echo, port};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What an agent may grow by while a few bodies of any size pass. Both directions of a stream hold at most their windows and
/// what waits to be written, about 2 MiB at each hop (upstream/tunnel/tuning.rs); four streams twice make 16 MiB. The rest is
/// room for the allocator, and for pages that a debug build touches once. A body that is kept as a whole is far beyond it.
const GROWTH: u64 = 64 * MIB;

#[test]
fn small_and_large_bodies_come_back_as_they_were_sent() {
    each("clients-bodies", |mesh, to, agents| {
        let _echo = echo(mesh, to)?;
        let before = resident(agents)?;
        let sizes = [0, 1, 65_535, 65_536, 65_537, 100 * MIB];
        for told in ["--told", ""] {
            for (version, port) in [("http1", port::ECHO_1), ("http2", port::ECHO_2)] {
                send(mesh, &at(mesh, to, port), version, told, &sizes, 2)?;
            }
        }
        bounded(agents, &before)
    });
}

#[test]
fn bodies_of_a_gibibyte_come_back_as_they_were_sent() {
    each("clients-gibibyte", |mesh, to, agents| {
        let _echo = echo(mesh, to)?;
        let before = resident(agents)?;
        for (version, port) in [("http1", port::ECHO_1), ("http2", port::ECHO_2)] {
            send(mesh, &at(mesh, to, port), version, "--told", &[GIB], 1)?;
        }
        bounded(agents, &before)
    });
}

fn send(mesh: &Mesh, to: &str, version: &str, told: &str, sizes: &[u64], at_once: u64) -> Result<()> {
    let (at_once_text, sizes_text) = (at_once.to_string(), sizes.iter().map(u64::to_string));
    let mut args = vec![
        "volume",
        "--to",
        to,
        "--version",
        version,
        "--at-once",
        &at_once_text,
    ];
    let sizes_text: Vec<String> = sizes_text.collect();
    args.extend(sizes_text.iter().flat_map(|size| ["--bytes", size]));
    args.extend(Some(told).filter(|told| !told.is_empty()));
    let report = traffic::web(mesh.pod("client"), &args)?;
    let bytes = sizes.iter().sum::<u64>() * at_once;
    ensure!(report["bytes"] == bytes, "{report}");
    println!("{version} {told}: {report}");
    Ok(())
}

pub(super) fn resident(agents: &[Agent]) -> Result<Vec<u64>> {
    agents.iter().map(Agent::resident_bytes).collect()
}

pub(super) fn bounded(agents: &[Agent], before: &[u64]) -> Result<()> {
    for (agent, before) in agents.iter().zip(before) {
        let after = agent.peak_bytes()?;
        println!(
            "an agent had {} KiB, and at most {} KiB since",
            before >> 10,
            after >> 10
        );
        ensure!(
            after < before + GROWTH,
            "an agent grew from {before} to {after} bytes"
        );
    }
    Ok(())
}
