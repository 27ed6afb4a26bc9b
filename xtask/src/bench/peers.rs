//! Other proxies between the same pods, set up to do what agents do.
//!
//! One beside the client and one beside the server, in their pods' namespaces, so that the way has no more hops than with
//! agents; mutual TLS between the nodes with certificates of the same authority. On one node a peer has one proxy and
//! no TLS. Their CPU is counted in the cgroups of their nodes, where that of agents is counted. Each has as many
//! workers as an agent.

mod described;
mod envoy;
mod nginx;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, ensure};
use mesh_tests::{Credentials, Mesh, Process};

pub(super) use self::described::{Described, Policy};
use super::http::Version;
use super::stage::Setup;

/// What a pair of proxies has to know.
struct Ground<'a> {
    web: Ipv4Addr,
    near: Ipv4Addr,
    /// Of the client and of the server.
    client: &'a Credentials,
    server: &'a Credentials,
    workers: usize,
    /// Where files may be kept.
    dir: PathBuf,
}

/// Reads what files describe. They last as long as the program.
pub(super) fn describe(files: &[PathBuf]) -> Result<Vec<Setup>> {
    let mut setups: Vec<Setup> = Vec::new();
    for file in files {
        let setup = Setup::Described(Box::leak(Box::new(Described::read(file)?)));
        let taken = setups.iter().any(|other| other.name() == setup.name());
        ensure!(!taken, "two files describe {setup}");
        setups.push(setup);
    }
    Ok(setups)
}

/// Starts the pair of a setup; nothing when it has none. Whether it works, the first request says.
pub(super) fn start(mesh: &Mesh, setup: Setup) -> Result<Vec<Process>> {
    if !setup.is_peer() {
        return Ok(Vec::new());
    }
    let authority = mesh.authority("peers")?;
    let dir = mesh.dir().join(setup.name());
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let ground = Ground {
        web: mesh.pod("web").v4(),
        near: mesh.pod("near").v4(),
        client: &authority.issue("client")?,
        server: &authority.issue("web")?,
        workers: workers()?,
        dir,
    };
    match setup {
        Setup::Nginx => nginx::start(mesh, &ground),
        Setup::Described(described) => described.start(mesh, &ground),
        _ => envoy::start(mesh, &ground),
    }
}

/// Where a client finds the proxy of a built-in pair beside it that leads to a pod.
pub(super) fn entrance(pod: &str, version: Version) -> u16 {
    match (pod, version) {
        ("near", Version::Http1) => 15003,
        ("near", Version::Http2) => 15004,
        (_, Version::Http1) => 15001,
        (_, Version::Http2) => 15002,
    }
}

/// Where the proxy beside the server listens.
const fn inbound(version: Version) -> u16 {
    match version {
        Version::Http1 => 15006,
        Version::Http2 => 15007,
    }
}

/// As an agent counts them.
fn workers() -> Result<usize> {
    Ok(thread::available_parallelism()?.get().min(4))
}

/// Paths of the gRPC calls that are measured begin with this.
pub(super) const CALLS: &str = "/nodemesh.tests.Calls/";

/// An identity of the authority, as agents write them.
fn spiffe(account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
}

fn write(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}
