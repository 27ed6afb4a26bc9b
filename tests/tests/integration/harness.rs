//! The harness itself: the network it lays is whole, and nothing of it stays behind.

use std::{
    env, fs,
    net::IpAddr,
    panic,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use mesh_tests::{Mesh, MeshBuilder, Pod, Service, wait_until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const SOON: Duration = Duration::from_secs(10);

/// Set in the child process that builds a mesh and waits to be ended.
const CHILD: &str = "NODEMESH_HARNESS_CHILD";

fn two_nodes(name: &str) -> MeshBuilder {
    Mesh::builder(name)
        .node("a")
        .node("b")
        .pod("a", Pod::new("client"))
        .pod("a", Pod::new("neighbour"))
        .pod("b", Pod::new("web").label("app", "web").port("http", 8080))
        .outside("b", "stranger")
        .service(Service::new("web").selector("app", "web").port(80, 8080))
}

#[test]
fn pods_reach_each_other_over_v4_and_v6_on_one_node_and_across() {
    Mesh::scenario(two_nodes("reach"), |mesh| {
        let names = ["client", "neighbour", "web", "stranger"];
        let mut servers = Vec::new();
        for name in names {
            let server = mesh.pod(name).spawn("python3", &["-u", "-c", ACCEPT_FOREVER])?;
            servers.push(server);
        }
        for server in &mut servers {
            server.wait_line(SOON, |line| line == "listening")?;
        }
        for from in names {
            for to in names {
                for address in mesh.pod(to).addresses() {
                    let seen = peer_seen_by(mesh, from, address)?;
                    ensure!(
                        mesh.pod(from).addresses().contains(&seen),
                        "{from} came to {to} as {seen}"
                    );
                }
            }
        }
        Ok(())
    });
}

#[test]
fn nothing_answers_in_the_black_hole_and_the_unreachable_is_said_to_be() {
    Mesh::scenario(two_nodes("routes"), |mesh| {
        let client = mesh.pod("client");
        // An unreachable route is answered with "host unreachable" over IPv4, with "no route" over IPv6.
        for (address, errno) in mesh
            .unreachable()
            .into_iter()
            .zip(["EHOSTUNREACH", "ENETUNREACH"])
        {
            let said = client.run("python3", &["-c", CONNECT, &address.to_string()])?;
            ensure!(said.stdout.trim() == errno, "{address}: {said}");
        }
        for address in mesh.black_hole() {
            let said = client.run("python3", &["-c", CONNECT, &address.to_string()])?;
            ensure!(said.stdout.trim() == "timed out", "{said}");
        }
        let said = client.run("python3", &["-c", CONNECT, &mesh.pod("web").v4().to_string()])?;
        ensure!(said.stdout.trim() == "ECONNREFUSED", "{said}");
        Ok(())
    });
}

#[test]
fn the_wire_shows_what_passes_between_nodes_and_nothing_else() {
    Mesh::scenario(two_nodes("wire"), |mesh| {
        let mut server = mesh.pod("web").spawn("python3", &["-u", "-c", ACCEPT_FOREVER])?;
        let mut near = mesh
            .pod("neighbour")
            .spawn("python3", &["-u", "-c", ACCEPT_FOREVER])?;
        server.wait_line(SOON, |line| line == "listening")?;
        near.wait_line(SOON, |line| line == "listening")?;
        let wire = mesh.capture()?;
        for address in mesh.pod("web").addresses() {
            peer_seen_by(mesh, "client", address)?;
        }
        peer_seen_by(mesh, "client", mesh.pod("neighbour").v4().into())?;
        let wire = wire.finish()?;
        let (client, web) = (mesh.pod("client"), mesh.pod("web"));
        ensure!(
            wire.carries(client.v4().to_string().as_bytes()),
            "the answer over IPv4 is on the wire"
        );
        ensure!(
            wire.carries(client.v6().to_string().as_bytes()),
            "the answer over IPv6 is on the wire"
        );
        ensure!(!wire.carries(b"never sent"), "what nobody sent is not");
        ensure!(
            !wire.between(client.v4(), web.v4()).is_empty(),
            "the connection's packets are there"
        );
        ensure!(
            wire.between(client.v4(), mesh.pod("neighbour").v4()).is_empty(),
            "the neighbour's are not"
        );
        Ok(())
    });
}

#[test]
fn a_pod_can_be_added_and_withdrawn_later() {
    Mesh::scenario(two_nodes("later"), |mesh| {
        mesh.add_pod("b", Pod::new("late"))?;
        let mut server = mesh.pod("late").spawn("python3", &["-u", "-c", ACCEPT_FOREVER])?;
        server.wait_line(SOON, |line| line == "listening")?;
        peer_seen_by(mesh, "client", mesh.pod("late").v6().into())?;
        let file = mesh.node("a").config_dir().join("workload-late.yaml");
        ensure!(fs::read_to_string(&file)?.contains(mesh.pod("late").netns()));
        mesh.withdraw("late")?;
        ensure!(!file.exists());
        Ok(())
    });
}

#[test]
fn a_program_over_its_deadline_is_killed() {
    Mesh::scenario(two_nodes("deadline"), |mesh| {
        let begin = Instant::now();
        let client = mesh.pod("client");
        let error = client
            .command("sleep")
            .arg("300")
            .deadline(Duration::from_millis(100))
            .run()
            .unwrap_err();
        ensure!(error.to_string().contains("was not over"), "{error:#}");
        ensure!(begin.elapsed() < Duration::from_secs(60));
        ensure!(fs::read_to_string(client.cgroup().join("cgroup.procs"))?.is_empty());
        Ok(())
    });
}

#[test]
fn nothing_stays_behind_after_success_and_after_a_panic() {
    let mesh = two_nodes("success").build().unwrap();
    let (id, cgroup) = (mesh.id().to_owned(), mesh.cgroup().to_owned());
    let mut forgotten = mesh.pod("web").spawn("sleep", &["300"]).unwrap();
    assert!(!traces(&id, &cgroup).is_empty(), "traces are recognised");
    drop(mesh);
    assert_eq!(traces(&id, &cgroup), Vec::<String>::new());
    assert!(!forgotten.is_running());

    let mut place = None;
    let panicked = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        Mesh::scenario(two_nodes("panic"), |mesh| {
            place = Some((mesh.id().to_owned(), mesh.cgroup().to_owned()));
            std::mem::forget(mesh.pod("web").spawn("sleep", &["300"])?);
            anyhow::bail!("on purpose")
        });
    }));
    assert!(panicked.is_err());
    let (id, cgroup) = place.unwrap();
    assert_eq!(traces(&id, &cgroup), Vec::<String>::new());
}

#[test]
fn nothing_stays_behind_after_signals_and_the_next_mesh_sweeps_after_a_kill() {
    if env::var_os(CHILD).is_some() {
        let mesh = two_nodes("child").build().unwrap();
        let _sleeper = mesh.pod("web").spawn("sleep", &["300"]).unwrap();
        println!("\nmesh {} {}", mesh.id(), mesh.cgroup().display());
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let name = "harness::nothing_stays_behind_after_signals_and_the_next_mesh_sweeps_after_a_kill";
        let mut child = std::process::Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("mesh ") {
            line.clear();
            assert_ne!(
                std::io::BufRead::read_line(&mut said, &mut line).unwrap(),
                0,
                "the child ended early"
            );
        }
        let (id, cgroup) = line.trim().trim_start_matches("mesh ").split_once(' ').unwrap();
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        child.wait().unwrap();
        if signal == Signal::SIGKILL {
            // Another test's mesh may have swept it already; both are right.
            Mesh::sweep().unwrap();
            wait_until(SOON, "the sweep", || traces(id, Path::new(cgroup)).is_empty()).unwrap();
        }
        assert_eq!(
            traces(id, Path::new(cgroup)),
            Vec::<String>::new(),
            "after {signal}"
        );
    }
}

#[test]
fn a_kept_mesh_stays_until_it_is_taken_down() {
    let mesh = two_nodes("kept").build().unwrap();
    let (id, cgroup) = (mesh.id().to_owned(), mesh.cgroup().to_owned());
    let sleeper = mesh.pod("web").spawn("sleep", &["300"]).unwrap();
    mesh.keep().unwrap();
    let pid = sleeper.pid();
    drop(sleeper);
    drop(mesh);
    assert!(!Mesh::sweep().unwrap().contains(&id));
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    assert!(!traces(&id, &cgroup).is_empty());
    assert!(Mesh::take_down("kept").unwrap().contains(&id));
    assert_eq!(traces(&id, &cgroup), Vec::<String>::new());
}

/// Connects from a pod; the server at the other end tells whom it saw.
fn peer_seen_by(mesh: &Mesh, from: &str, to: IpAddr) -> Result<IpAddr> {
    let said = mesh
        .pod(from)
        .run("python3", &["-c", ASK, &to.to_string()])?
        .ok()?;
    Ok(said.stdout.trim().trim_start_matches("::ffff:").parse()?)
}

/// What is left of a mesh on this machine.
fn traces(id: &str, cgroup: &Path) -> Vec<String> {
    let mut traces = Vec::new();
    for directory in ["/run/netns", "/run/nodemesh-tests"] {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.contains(id) {
                traces.push(format!("{directory}/{name}"));
            }
        }
    }
    if cgroup.exists() {
        traces.push(cgroup.display().to_string());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    traces.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&format!("-{id}")))
            .map(str::to_owned),
    );
    traces
}

const ACCEPT_FOREVER: &str = r#"
import socket
server = socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening")
while True:
    connection, peer = server.accept()
    connection.sendall(peer[0].encode())
    connection.close()
"#;

const ASK: &str = r#"
import socket, sys
print(socket.create_connection((sys.argv[1], 7000), timeout=10).recv(100).decode())
"#;

const CONNECT: &str = r#"
import errno, socket, sys
try:
    socket.create_connection((sys.argv[1], 7999), timeout=1.5)
    print("connected")
except OSError as error:
    print(errno.errorcode[error.errno] if error.errno else error)
"#;
