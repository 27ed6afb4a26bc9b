//! Sockets of every form, from programs of several kinds, reach the right server; both ends see the truth.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    LivePod, Mesh,
    programs::{self, Linkage},
    traffic,
};
use serde_json::Value;

use super::destinations;

const PORT: u16 = 7001;
const LINKAGES: [Linkage; 2] = [Linkage::Glibc, Linkage::StaticMusl];

/// Every form of socket, from glibc and from static musl programs, to every kind of destination.
pub(crate) fn every_socket_form(mesh: &Mesh) -> Result<()> {
    let client = mesh.pod("client");
    let _servers: Vec<_> = super::SERVERS
        .iter()
        .map(|name| traffic::serve(mesh.pod(name), "identity", PORT))
        .collect::<Result<_>>()?;
    let mut own_port = 40_000;
    for linkage in LINKAGES {
        for (name, address) in destinations(mesh) {
            let [own4, own6] = client.addresses();
            let own = if address.is_ipv4() { own4 } else { own6 }.to_string();
            own_port += 1;
            let bound_port = own_port.to_string();
            let mut forms = vec![
                vec!["blocking"],
                vec!["nonblocking"],
                vec!["bound", &own],
                vec!["bound", &own, &bound_port],
                vec!["fastopen"],
                vec!["fastopen-connect"],
                vec!["device", "eth0"],
                vec!["mptcp"],
            ];
            if address.is_ipv4() {
                forms.push(vec!["mapped"]);
            }
            for form in forms {
                let seen = dial(client, linkage, &form, address)
                    .and_then(|seen| {
                        let bound = (form.len() == 3).then_some(own_port);
                        judge(
                            &seen,
                            &Meant {
                                client,
                                server: name,
                                address: SocketAddr::new(address, PORT),
                                form: form[0],
                                bound,
                            },
                        )?;
                        Ok(())
                    })
                    .with_context(|| format!("{linkage:?} {form:?} to {name} at {address}"));
                seen?;
            }
        }
    }
    Ok(())
}

/// A socket that dissolves its connection and connects again reaches its destination again.
pub(crate) fn a_socket_used_twice(mesh: &Mesh) -> Result<()> {
    let client = mesh.pod("client");
    for name in super::SERVERS {
        let pod = mesh.pod(name);
        let _server = traffic::serve(pod, "identity", PORT)?;
        for address in pod.addresses() {
            let seen = dial(client, Linkage::Glibc, &["reused"], address)?;
            judge(
                &seen,
                &Meant {
                    client,
                    server: name,
                    address: SocketAddr::new(address, PORT),
                    form: "reused",
                    bound: None,
                },
            )
            .with_context(|| format!("{name} at {address}"))?;
        }
    }
    Ok(())
}

/// Servers of several kinds see the real client in accept() and getpeername().
pub(crate) fn every_kind_of_server(mesh: &Mesh) -> Result<()> {
    let client = mesh.pod("client");
    for name in super::SERVERS {
        let pod = mesh.pod(name);
        let _servers = [
            traffic::serve(pod, "identity", 7101)?,
            traffic::serve_peer(pod, Linkage::Glibc, 7102)?,
            traffic::serve_peer(pod, Linkage::StaticMusl, 7103)?,
            traffic::serve_python(pod, "blocking", 7104)?,
            traffic::serve_python(pod, "asyncio", 7105)?,
        ];
        for port in 7101..=7105 {
            for address in pod.addresses() {
                let said = client
                    .command(programs::peer(Linkage::StaticMusl)?)
                    .args(["connect", "blocking", &address.to_string(), &port.to_string()])
                    .run()?
                    .ok()?
                    .report()?;
                judge(
                    &said,
                    &Meant {
                        client,
                        server: name,
                        address: SocketAddr::new(address, port),
                        form: "blocking",
                        bound: None,
                    },
                )
                .with_context(|| format!("{name} at {address} port {port}"))?;
            }
        }
    }
    Ok(())
}

/// Python's blocking and asyncio clients.
pub(crate) fn python_clients(mesh: &Mesh) -> Result<()> {
    let client = mesh.pod("client");
    for name in super::SERVERS {
        let pod = mesh.pod(name);
        let _server = traffic::serve(pod, "identity", PORT)?;
        for address in pod.addresses() {
            for how in ["blocking", "asyncio"] {
                let said = client
                    .command("python3")
                    .arg(programs::python("client.py"))
                    .args([how, &address.to_string(), &PORT.to_string()])
                    .run()?
                    .ok()?
                    .report()?;
                judge(
                    &said,
                    &Meant {
                        client,
                        server: name,
                        address: SocketAddr::new(address, PORT),
                        form: how,
                        bound: None,
                    },
                )
                .with_context(|| format!("{how} to {name} at {address}"))?;
            }
        }
    }
    Ok(())
}

/// Runs `peer connect` in a pod and returns its report.
pub(crate) fn dial(pod: &LivePod, linkage: Linkage, form: &[&str], to: IpAddr) -> Result<Value> {
    let (to, port) = (to.to_string(), PORT.to_string());
    let command = pod.command(programs::peer(linkage)?);
    command
        .args(["connect", form[0], &to, &port])
        .args(&form[1..])
        .run()?
        .ok()?
        .report()
}

/// What was dialled, and what the server may be asked to see.
struct Meant<'a> {
    client: &'a LivePod,
    server: &'a str,
    address: SocketAddr,
    form: &'a str,
    /// The port the client bound its socket to.
    bound: Option<u16>,
}

/// Compares what both ends saw with what was meant.
fn judge(seen: &Value, meant: &Meant<'_>) -> Result<()> {
    let &Meant {
        client,
        server,
        address,
        form,
        bound,
    } = meant;
    ensure!(seen["connected"] == true, "no connection: {seen}");
    let answer = &seen["answer"];
    ensure!(answer["server"] == server, "reached another server: {seen}");
    // The kernel does not run the address hooks for the connections below an MPTCP socket.
    if form == "mptcp" {
        return Ok(());
    }
    ensure!(
        seen["getpeername"] == address.to_string(),
        "the client's getpeername: {seen}"
    );
    let own = socket_address(&seen["getsockname"])?;
    let [own4, own6] = client.addresses();
    ensure!(
        own.ip() == if address.is_ipv4() { own4 } else { own6 },
        "the client's getsockname: {seen}"
    );
    for call in ["accept", "getpeername"] {
        let client = socket_address(&answer[call])?;
        ensure!(client.ip() == own.ip(), "the server's {call}: {seen}");
        ensure!(client.port() == own.port(), "the server's {call}: {seen}");
    }
    ensure!(
        answer["getsockname"] == seen["getpeername"],
        "the server's getsockname: {seen}"
    );
    if let Some(bound) = bound {
        ensure!(own.port() == bound, "bound to port {bound}: {seen}");
    }
    if let Some(family) = seen.get("family") {
        ensure!(
            *family
                == if address.is_ipv4() && form != "mapped" {
                    4
                } else {
                    6
                },
            "the family: {seen}"
        );
    }
    Ok(())
}

fn socket_address(shown: &Value) -> Result<SocketAddr> {
    shown
        .as_str()
        .and_then(|shown| shown.parse().ok())
        .with_context(|| format!("{shown} is no address"))
}
