//! Where agents, pods and configuration change at awkward moments, and bytes travel in unusual ways.

use std::{ffi::OsStr, fs, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Mesh, Process, agent_binary,
    traffic::{self, at},
    wait_until,
};

use crate::checks::{SOON, failing::connect, standard};

const PORT: u16 = 7060;

#[test]
fn a_deleted_namespace_goes_though_its_workload_stays() {
    Mesh::scenario(standard("deleted"), |mesh| {
        let agent = mesh.node("a").start_agent()?;
        let netns = mesh.pod("near").netns();
        let inode = fs::metadata(Path::new("/run/netns").join(netns))?.ino();
        let output = std::process::Command::new("ip")
            .args(["netns", "del", netns])
            .output()?;
        ensure!(output.status.success(), "{output:?}");
        wait_until(SOON, "the agent to let the namespace go", || {
            !is_held(agent.pid(), inode)
        })
    });
}

#[test]
fn a_successor_un_enrols_what_is_no_longer_configured() {
    Mesh::scenario(standard("shrunk"), |mesh| {
        let _server = traffic::serve(mesh.pod("stranger"), "identity", PORT)?;
        let old = mesh.node("a").start_agent()?;
        // Of its own, since the old agent must not see the change.
        let config = mesh.dir().join("shrunk");
        fs::create_dir(&config)?;
        for entry in fs::read_dir(mesh.node("a").config_dir())? {
            let path = entry?.path();
            let text = fs::read_to_string(&path)?;
            if !text.contains(mesh.pod("near").netns()) {
                fs::write(config.join(path.file_name().context("a name")?), text)?;
            }
        }
        let pods = mesh.node("a").pods_cgroup();
        let mut new = run(mesh, &config, pods, &["--takeover"])?;
        let output = old.wait(SOON)?;
        ensure!(output.status.success(), "{output}");
        ensure!(new.is_running(), "the successor ended");
        for name in ["client", "near"] {
            let report = connect(mesh.pod(name), &at(mesh.pod("stranger").v4(), PORT))?;
            ensure!(report["connected"] == true, "{name}: {report}");
        }
        Ok(())
    });
}

#[test]
fn a_restart_does_not_let_loose_a_pod_that_cannot_be_enrolled_yet() {
    Mesh::scenario(standard("incomplete"), |mesh| {
        let _server = traffic::serve(mesh.pod("stranger"), "identity", PORT)?;
        let agent = mesh.node("a").start_agent()?;
        agent.kill();
        let client = mesh.pod("client");
        client.ip(&format!("addr del {}/64 dev eth0", client.v6()))?;
        let agent = mesh.node("a").agent().spawn()?;
        wait_until(SOON, "the other pod to be enrolled", || {
            agent
                .enrolled()
                .is_ok_and(|pods| pods.iter().any(|pod| pod.ends_with("near")))
        })?;
        let dial = || connect(client, &at(mesh.pod("stranger").v4(), PORT));
        let report = dial()?;
        ensure!(report["error"] == "ECONNREFUSED", "without an agent: {report}");
        client.ip(&format!("addr add {}/64 dev eth0 nodad", client.v6()))?;
        wait_until(SOON, "the pod to be enrolled", || {
            dial().is_ok_and(|report| report["connected"] == true)
        })?;
        ensure!(agent.accepted()? > 0, "the connection went past the agent");
        Ok(())
    });
}

#[test]
fn capture_moves_with_the_cgroup_of_the_pods() {
    Mesh::scenario(standard("moved"), |mesh| {
        let _server = traffic::serve(mesh.pod("stranger"), "identity", PORT)?;
        let config = mesh.node("a").config_dir();
        let pods = mesh.node("a").pods_cgroup();
        let other = mesh.cgroup().join("other");
        fs::create_dir(&other)?;
        run(mesh, &config, &other, &[])?.kill();
        run(mesh, &config, pods, &[])?.kill();
        let report = connect(mesh.pod("client"), &at(mesh.pod("stranger").v4(), PORT))?;
        ensure!(report["error"] == "ECONNREFUSED", "not captured: {report}");
        // A cgroup that was made anew is another one, whatever its name.
        run(mesh, &config, &other, &[])?.kill();
        fs::remove_dir(&other)?;
        fs::create_dir(&other)?;
        run(mesh, &config, &other, &[])?.kill();
        fs::remove_dir(&other)?;
        Ok(())
    });
}

#[test]
fn a_reset_reaches_a_server_whose_client_had_half_closed() {
    Mesh::scenario(standard("half-reset"), |mesh| {
        let _agents = mesh.start_agents()?;
        for name in ["near", "web", "stranger"] {
            let mut server = mesh
                .pod(name)
                .spawn("python3", &["-u", "-c", LISTEN_FOR_THE_END])?;
            server.wait_line(SOON, |line| line == "listening")?;
            let client = [HALF_CLOSE, &mesh.pod(name).v4().to_string()];
            mesh.pod("client")
                .run("python3", &["-c", client[0], client[1]])?
                .ok()?;
            server
                .wait_line(SOON, |line| line == "told")
                .with_context(|| format!("the server in {name}"))?;
        }
        Ok(())
    });
}

#[test]
fn bytes_behind_urgent_data_are_not_left_behind() {
    Mesh::scenario(standard("urgent"), |mesh| {
        let _agents = mesh.start_agents()?;
        let mut server = mesh.pod("near").spawn("python3", &["-u", "-c", COUNT_BYTES])?;
        server.wait_line(SOON, |line| line == "listening")?;
        let address = mesh.pod("near").v4().to_string();
        for from in ["client", "stranger"] {
            let said = mesh.pod(from).run("python3", &["-c", URGENT, &address])?.ok()?;
            ensure!(said.stdout.trim() == "all", "from {from}: {said}");
        }
        Ok(())
    });
}

/// Starts an agent on the first node, and waits until it is ready.
fn run(mesh: &Mesh, config: &Path, pods: &Path, more: &[&str]) -> Result<Process> {
    let node = mesh.node("a");
    let (bpffs, run_dir) = (node.bpffs(), node.run_dir());
    let args: [(&str, &OsStr); 4] = [
        ("--config", config.as_os_str()),
        ("--pods-cgroup", pods.as_os_str()),
        ("--bpffs", bpffs.as_os_str()),
        ("--run-dir", run_dir.as_os_str()),
    ];
    let process = node
        .command(agent_binary()?)
        .args(["run", "--node", node.name()])
        .args(args.iter().flat_map(|(flag, value)| [OsStr::new(*flag), value]))
        .args(more)
        .spawn()?;
    let pid = process.pid();
    wait_until(SOON, "the agent to be ready", || {
        node.cli(&["status", "-o", "json"])
            .and_then(|said| said.ok()?.json())
            .is_ok_and(|status| status["state"] == "ready" && status["pid"] == pid)
    })?;
    Ok(process)
}

/// Whether a process has the namespace open, or a thread in it.
fn is_held(pid: u32, inode: u64) -> bool {
    let below = |what: &str| {
        fs::read_dir(format!("/proc/{pid}/{what}"))
            .into_iter()
            .flatten()
            .flatten()
    };
    let is_it = |path: &Path| fs::metadata(path).is_ok_and(|found| found.ino() == inode);
    below("fd").any(|fd| is_it(&fd.path())) || below("task").any(|task| is_it(&task.path().join("ns/net")))
}

const LISTEN_FOR_THE_END: &str = "
import select, socket
s = socket.create_server(('0.0.0.0', 7061))
print('listening')
c, _ = s.accept()
while c.recv(10): pass
print('half closed')
select.select([], [], [], 0.5)
c.send(b'hello')
p = select.poll()
p.register(c, select.POLLERR | select.POLLHUP)
print('told' if p.poll(5000) else 'left alone')
";

const HALF_CLOSE: &str = "
import socket, sys, time
s = socket.create_connection((sys.argv[1], 7061))
s.send(b'q')
s.shutdown(socket.SHUT_WR)
time.sleep(0.2)
";

const COUNT_BYTES: &str = "
import socket
s = socket.create_server(('0.0.0.0', 7062))
print('listening')
while True:
    c, _ = s.accept()
    d = b''
    while len(d) < 6:
        x = c.recv(100)
        if not x: break
        d += x
    c.sendall(d)
    c.close()
";

const URGENT: &str = "
import socket, sys
for _ in range(30):
    s = socket.create_connection((sys.argv[1], 7062), timeout=5)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.send(b'abc')
    s.send(b'X', socket.MSG_OOB)
    s.send(b'def')
    assert s.recv(100) == b'abcdef'
    s.close()
print('all')
";
