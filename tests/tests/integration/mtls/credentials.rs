//! Certificates come and go under load; keys stay in memory.

use std::{
    fs,
    os::unix::{fs::MetadataExt as _, process::ExitStatusExt as _},
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Agent, Held, Mesh,
    traffic::{self, at},
    wait_until,
};
use nix::sys::signal::Signal;

use super::{refusals, start};
use crate::{
    checks::{SOON, churn, failing, standard},
    refusals::run_args,
    restart::Load,
};

const PORT: u16 = 7001;
/// How a P-256 key begins in PKCS #8: the algorithm, and the octets around the secret.
const KEY_DER: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x04";

/// Waits until an agent has been issued so many certificates for a service account.
pub(super) fn wait_issued(agent: &Agent, account: &str, count: usize) -> Result<()> {
    wait_until(SOON * 3, "certificates", || issued(agent, account) >= count)
        .with_context(|| format!("{count} certificates of {account}"))
}

/// How many certificates an agent has been issued for a service account, as its log says.
fn issued(agent: &Agent, account: &str) -> usize {
    let id = format!("/sa/{account}");
    agent
        .log()
        .lines()
        .filter(|line| line.contains("certificate issued") && plain(line).contains(&id))
        .count()
}

/// A line without the escape sequences of colours.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        text += before;
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    text + rest
}

#[test]
fn certificates_of_ten_seconds_rotate_under_load_and_no_connection_fails() {
    Mesh::scenario(standard("mtls-rotate"), |mesh| {
        mesh.secure(&["--certificate-lifetime", "10s"])?;
        let agents = start(mesh)?;
        let _servers =
            ["web", "client"].map(|name| traffic::serve(mesh.pod(name), "identity", PORT).unwrap());
        let _echo = traffic::serve(mesh.pod("web"), "echo", 7350)?;
        let to = mesh.pod("web").addresses().map(|address| at(address, 7350));
        let held = Held::open(mesh, "client", &to, 20)?;
        let outward = Load::start(mesh, "client", &["web"], &["--rate", "200"])?;
        let inward = Load::start(mesh, "web", &["client"], &["--rate", "200"])?;
        // Each is good for ten seconds and replaced after five: all of the first have expired by then.
        for (agent, account) in [(&agents[0], "client"), (&agents[1], "web")] {
            wait_issued(agent, account, 6)?;
        }
        for report in [outward.end()?, inward.end()?] {
            ensure!(report["failed"] == 0, "connections failed: {report}");
            ensure!(report["good"].as_u64() > Some(1000), "hardly a load: {report}");
            println!("rotation: {} connections, none failed", report["good"]);
        }
        held.release().context("long-lived connections")
    });
}

#[test]
fn the_root_rotates_under_load_and_no_connection_fails() {
    Mesh::scenario(standard("mtls-root"), |mesh| {
        let authority = mesh.secure(&["--certificate-lifetime", "10s"])?;
        let agents = start(mesh)?;
        let _servers =
            ["web", "client"].map(|name| traffic::serve(mesh.pod(name), "identity", PORT).unwrap());
        let outward = Load::start(mesh, "client", &["web"], &["--rate", "200"])?;
        let inward = Load::start(mesh, "web", &["client"], &["--rate", "200"])?;
        authority.rotate_root()?;
        await_roots(&agents, 2)?;
        // Until every certificate of before is replaced.
        for (agent, account) in [(&agents[0], "client"), (&agents[1], "web")] {
            wait_issued(agent, account, issued(agent, account) + 2)?;
        }
        authority.drop_old_roots()?;
        await_roots(&agents, 3)?;
        for (agent, account) in [(&agents[0], "client"), (&agents[1], "web")] {
            wait_issued(agent, account, issued(agent, account) + 2)?;
        }
        for report in [outward.end()?, inward.end()?] {
            ensure!(report["failed"] == 0, "connections failed: {report}");
            ensure!(report["good"].as_u64() > Some(1000), "hardly a load: {report}");
            println!("a new root: {} connections, none failed", report["good"]);
        }
        Ok(())
    });
}

/// Waits until every agent has heard of so many sets of roots.
pub(super) fn await_roots(agents: &[Agent], count: usize) -> Result<()> {
    for agent in agents {
        wait_until(SOON * 2, "new roots", || {
            agent.log().matches("roots changed").count() >= count
        })?;
    }
    Ok(())
}

#[test]
fn without_the_authority_nothing_fails_before_certificates_expire() {
    Mesh::scenario(standard("mtls-ca-gone"), |mesh| {
        let authority = mesh.secure(&["--certificate-lifetime", "24s"])?;
        let agents = start(mesh)?;
        let _servers =
            ["web", "client"].map(|name| traffic::serve(mesh.pod(name), "identity", PORT).unwrap());
        authority.hide()?;
        let outward = Load::start(mesh, "client", &["web"], &["--rate", "200"])?;
        let inward = Load::start(mesh, "web", &["client"], &["--rate", "200"])?;
        // Renewal is due at half of the life; that it fails is said, and harms nobody.
        for agent in &agents {
            wait_until(SOON * 2, "a renewal to fail", || {
                agent.log().contains("no new certificate")
            })?;
        }
        let end = agents
            .iter()
            .map(first_expiry)
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .min()
            .context("no agents")?;
        let left = end
            .duration_since(SystemTime::now())
            .context("renewal failed only after the end")?;
        for (agent, node) in agents.iter().zip(mesh.nodes()) {
            warns_before_the_end(agent, node)?;
        }
        // The clients end in order while the certificates are still valid.
        std::thread::sleep(left.saturating_sub(Duration::from_secs(3)));
        for report in [outward.end()?, inward.end()?] {
            ensure!(
                report["failed"] == 0,
                "failed before certificates expired: {report}"
            );
            ensure!(report["good"].as_u64() > Some(500), "hardly a load: {report}");
        }
        let to = at(mesh.pod("web").v4(), PORT);
        let mut last = serde_json::Value::Null;
        wait_until(SOON * 2, "connections to be refused after that", || {
            last = failing::connect(mesh.pod("client"), &to).unwrap_or_default();
            last["error"] == "ECONNREFUSED"
        })
        .with_context(|| last.to_string())?;
        let said = refusals(&agents[0])?;
        ensure!(said.contains("certificate"), "the flows do not say why: {said}");
        for command in ["status", "check"] {
            let said = mesh.node("a").cli(&[command])?;
            ensure!(
                said.status.code() == Some(1) && said.stdout.contains("has expired"),
                "{said}"
            );
        }
        authority.reveal()?;
        wait_until(SOON * 3, "connections to stand again", || {
            failing::connect(mesh.pod("client"), &to).is_ok_and(|report| report["connected"] == true)
        })?;
        churn::good(mesh, "client", &to, "web", 50)
    });
}

/// `status`, `check` and the metrics say that renewal fails, while the certificates are still valid.
fn warns_before_the_end(agent: &Agent, node: &mesh_tests::Node) -> Result<()> {
    let status = agent.ask(&["status"])?;
    let health = &status["certificates"];
    let problems = health["problems"].as_array().context("no problems")?;
    let renewal = |problem: &serde_json::Value| {
        problem["severity"] == "warning"
            && problem["text"].as_str().is_some_and(|text| {
                text.contains("expires in") && text.contains("attempts to renew it failed")
            })
    };
    ensure!(problems.iter().any(renewal), "{status}");
    ensure!(health["valid"] == health["accounts"], "{status}");
    let said = node.cli(&["status"])?.ok()?.stdout;
    ensure!(said.contains("attempts to renew it failed"), "{said}");
    let check = node.cli(&["check", "-o", "json"])?;
    let report = check.json()?;
    let warned = report["checks"]
        .as_array()
        .context("no checks")?
        .iter()
        .any(|check| check["name"] == "certificates" && check["outcome"] == "warning");
    ensure!(warned, "{check}");
    let metrics = node.metrics()?;
    let failures = metrics.sum("nodemesh_certificate_renewal_failures_total", &[])?;
    ensure!(failures >= 1.0, "{failures} failures are counted");
    ensure!(metrics.sum("nodemesh_roots_refresh_failing", &[])? == 1.0);
    let account = if node.name() == "a" {
        "default/client"
    } else {
        "default/web"
    };
    let expiry = metrics.sum(
        "nodemesh_certificate_expiry_seconds",
        &[("service_account", account)],
    )?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs_f64();
    ensure!(
        (now..now + 24.0).contains(&expiry),
        "{account} ends at {expiry}, now is {now}"
    );
    Ok(())
}

/// When the first of the certificates expires that an agent has now, as its log says.
fn first_expiry(agent: &Agent) -> Result<SystemTime> {
    let mut latest = std::collections::BTreeMap::new();
    for line in agent
        .log()
        .lines()
        .filter(|line| line.contains("certificate issued"))
    {
        let line = plain(line);
        let field = |name: &str| -> Option<String> {
            let text = line.split_once(&format!(" {name}="))?.1;
            Some(text.split(' ').next()?.trim_matches('"').to_owned())
        };
        let (id, until) = field("id").zip(field("until")).with_context(|| line.clone())?;
        latest.insert(id, until);
    }
    let first = latest.into_values().min().context("no certificates")?;
    let said = Command::new("date").args(["-d", &first, "+%s"]).output()?;
    let seconds: u64 = String::from_utf8(said.stdout)?.trim().parse().context(first)?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[test]
fn no_private_key_is_in_any_file_of_the_agents() {
    Mesh::scenario(standard("mtls-keys"), |mesh| {
        let authority = mesh.secure(&[])?;
        let agents = start(mesh)?;
        // The search finds the key of the authority.
        let mut found = Vec::new();
        search(authority.dir(), &mut found)?;
        ensure!(found.len() == 1, "the search finds {found:?}");
        found.clear();
        for node in mesh.nodes() {
            for directory in [node.run_dir(), node.config_dir(), node.bpffs()] {
                search(&directory, &mut found)?;
            }
        }
        // Also what the agents have written and read through files that they still hold open.
        for agent in &agents {
            for entry in fs::read_dir(format!("/proc/{}/fd", agent.pid()))? {
                let path = entry?.path();
                if fs::metadata(&path).is_ok_and(|file| file.is_file()) {
                    search_file(&path, &mut found)?;
                }
            }
            let log = agent.log();
            ensure!(!log.contains("PRIVATE KEY"), "a key in the log");
        }
        ensure!(found.is_empty(), "keys in {found:?}");
        Ok(())
    });
}

#[test]
fn an_agent_that_crashes_leaves_no_core() {
    Mesh::scenario(standard("mtls-core"), |mesh| {
        mesh.secure(&[])?;
        let agents = start(mesh)?;
        // Cores are written here, of those that may be dumped.
        let directory = mesh.dir().display().to_string();
        let control = mesh.node("a").command("sh").args([
            "-c",
            "cd \"$0\" && ulimit -c unlimited && kill -ABRT $$",
            &directory,
        ]);
        let output = control.run()?;
        ensure!(output.status.core_dumped(), "no program leaves a core: {output}");
        for agent in agents {
            let limits = fs::read_to_string(format!("/proc/{}/limits", agent.pid()))?;
            let core = limits.lines().find(|line| line.starts_with("Max core file size"));
            let core: Vec<_> = core.context("no limit on cores")?.split_whitespace().collect();
            ensure!(core[4..6] == ["0", "0"], "cores are allowed: {core:?}");
            agent.signal(Signal::SIGABRT)?;
            let output = agent.wait(SOON)?;
            ensure!(output.status.signal() == Some(6), "{output}");
            ensure!(!output.status.core_dumped(), "the agent left a core: {output}");
        }
        Ok(())
    });
}

#[test]
fn an_agent_with_keys_is_not_dumpable() {
    Mesh::scenario(standard("mtls-dumpable"), |mesh| {
        // The files of a process in /proc belong to its own group only as long as it is dumpable.
        const GROUP: &str = "65534";
        let run = |program: &str, args: &[String]| {
            mesh.node("a")
                .command("setpriv")
                .args(["--regid", GROUP, "--clear-groups", program])
                .args(args)
                .spawn()
        };
        let group = |process: &mesh_tests::Process| -> Result<String> {
            let file = format!("/proc/{}/environ", process.pid());
            Ok(fs::metadata(file)?.gid().to_string())
        };
        let sleep = run("sleep", &["60".to_owned()])?;
        wait_until(SOON, "a dumpable program", || {
            fs::read_to_string(format!("/proc/{}/comm", sleep.pid())).is_ok_and(|name| name == "sleep\n")
        })?;
        ensure!(group(&sleep)? == GROUP, "a dumpable program cannot be told");

        let authority = mesh.authority("dumpable")?;
        let mut args = run_args(mesh);
        args.extend(["--ca".to_owned(), authority.dir().display().to_string()]);
        let binary = mesh_tests::agent_binary()?.display().to_string();
        let agent = run(&binary, &args)?;
        wait_until(SOON, "a certificate", || {
            (agent.stderr() + &agent.stdout()).contains("certificate issued")
        })
        .with_context(|| agent.stderr())?;
        ensure!(group(&agent)? == "0", "the agent is dumpable");
        Ok(())
    });
}

/// Files below a directory that hold a private key.
fn search(directory: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            search(&entry.path(), found)?;
        } else if kind.is_file() {
            search_file(&entry.path(), found)?;
        }
    }
    Ok(())
}

fn search_file(path: &Path, found: &mut Vec<String>) -> Result<()> {
    // What is pinned in a bpffs cannot be read as a file.
    let Ok(bytes) = fs::read(path) else {
        return Ok(());
    };
    let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    if holds(b"PRIVATE KEY") || holds(KEY_DER) {
        found.push(path.display().to_string());
    }
    Ok(())
}
