//! What the agent does not accept: each time it says what is wrong and what to do about it.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    Agent, Mesh, Output, agent_binary,
    traffic::{self, at},
    wait_until,
};
use serde_json::Value;

use crate::checks::{SOON, churn, standard};

#[test]
fn an_agent_without_root_says_so() {
    Mesh::scenario(standard("no-root"), |mesh| {
        let output = mesh
            .node("a")
            .command("setpriv")
            .args([
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "--no-new-privs",
            ])
            .arg(readable_agent(mesh)?)
            .args(run_args(mesh))
            .run()?;
        refused(&output, &["root"])
    });
}

#[test]
fn an_agent_on_a_kernel_that_is_too_old_says_so_and_changes_nothing() {
    Mesh::scenario(standard("old-kernel"), |mesh| {
        // A process of this personality is told that the kernel is 2.6.
        let output = mesh
            .node("a")
            .command("setarch")
            .arg("--uname-2.6")
            .arg(agent_binary()?)
            .args(run_args(mesh))
            .run()?;
        refused(&output, &["2.6", "too old", "5.18"])?;
        let links = mesh.node("a").bpffs().join("links");
        ensure!(!links.exists(), "{} was made", links.display());
        Ok(())
    });
}

#[test]
fn an_agent_without_cgroup2_says_what_to_mount() {
    Mesh::scenario(standard("no-cgroup2"), |mesh| {
        let unmount = "for point in $(grep ' - cgroup2 ' /proc/self/mountinfo | cut -d' ' -f5 | sort -r); do \
                       umount -l $point; done; exec \"$0\" \"$@\"";
        let output = mesh
            .node("a")
            .command("unshare")
            .args(["--mount", "sh", "-c", unmount])
            .arg(agent_binary()?)
            .args(run_args(mesh))
            .run()?;
        refused(&output, &["cgroup", "mount"])
    });
}

#[test]
fn an_agent_that_cannot_mount_a_bpf_file_system_says_so() {
    Mesh::scenario(standard("no-bpffs"), |mesh| {
        let mut args = run_args(mesh);
        // Nothing can be made below /proc.
        replace(&mut args, "--bpffs", "/proc/nodemesh")?;
        let output = mesh.node("a").command(agent_binary()?).args(args).run()?;
        refused(&output, &["/proc/nodemesh", "--bpffs"])
    });
}

#[test]
fn an_agent_without_its_ebpf_object_says_how_to_get_it() {
    Mesh::scenario(standard("no-object"), |mesh| {
        let missing = mesh.dir().join("absent.o");
        let output = mesh
            .node("a")
            .command(agent_binary()?)
            .args(run_args(mesh))
            .arg("--ebpf-object")
            .arg(&missing)
            .run()?;
        refused(&output, &["absent.o", "--ebpf-object"])?;
        let broken = mesh.dir().join("broken.o");
        fs::write(&broken, "this is no object")?;
        let output = mesh
            .node("a")
            .command(agent_binary()?)
            .args(run_args(mesh))
            .arg("--ebpf-object")
            .arg(&broken)
            .run()?;
        refused(&output, &["eBPF object"])
    });
}

#[test]
fn an_agent_that_may_not_load_programs_says_what_it_lacks() {
    // As on a kernel that is too old: the programs cannot be loaded.
    Mesh::scenario(standard("no-capability"), |mesh| {
        let output = mesh
            .node("a")
            .command("setpriv")
            .args([
                "--bounding-set",
                "-bpf,-sys_admin",
                "--inh-caps",
                "-bpf,-sys_admin",
            ])
            .arg(agent_binary()?)
            .args(run_args(mesh))
            .run()?;
        refused(&output, &["CAP_"])
    });
}

#[test]
fn an_agent_whose_run_directory_is_no_directory_says_so() {
    Mesh::scenario(standard("no-run-dir"), |mesh| {
        let file = mesh.dir().join("a-file");
        fs::write(&file, "")?;
        let mut args = run_args(mesh);
        replace(&mut args, "--run-dir", &file.display().to_string())?;
        let output = mesh.node("a").command(agent_binary()?).args(args).run()?;
        refused(&output, &["a-file", "--run-dir"])
    });
}

#[test]
fn an_agent_without_its_configuration_directory_says_so() {
    Mesh::scenario(standard("no-config"), |mesh| {
        let mut args = run_args(mesh);
        replace(&mut args, "--config", "/nonexistent/configuration")?;
        let output = mesh.node("a").command(agent_binary()?).args(args).run()?;
        refused(&output, &["/nonexistent/configuration", "--config"])
    });
}

#[test]
fn a_bad_document_is_rejected_alone_with_its_place_and_a_remedy() {
    Mesh::scenario(standard("bad-yaml"), |mesh| {
        let agent = mesh.node("a").start_agent()?;
        let good = mesh.pod("web").yaml();
        let cases = [
            ("not-yaml.yaml", "kind: [unclosed\n".to_owned(), ""),
            (
                "unknown-field.yaml",
                renamed(&good, "one").replace("  ready:", "  raedy:"),
                "raedy",
            ),
            (
                "bad-port.yaml",
                renamed(&good, "two") + "  ports:\n  - name: http\n    port: 70000\n",
                "70000",
            ),
            (
                "bad-address.yaml",
                renamed(&good, "three").replace(&mesh.pod("web").v4().to_string(), "10.0.0.300"),
                "10.0.0.300",
            ),
            (
                "unknown-kind.yaml",
                good.replace("kind: Workload", "kind: Wrokload"),
                "Wrokload",
            ),
            (
                "zz-duplicate-address.yaml",
                renamed(&good, "thief"),
                &mesh.pod("web").v4().to_string(),
            ),
            (
                "00-duplicate-address.yaml",
                renamed(&good, "thief"),
                &mesh.pod("web").v4().to_string(),
            ),
        ];
        for (file, text, named) in &cases {
            mesh.node("a").write_config(file, text)?;
            let rejection = wait_rejected(&agent, file)?;
            let said = rejection.to_string();
            ensure!(said.contains(named), "{named} is not named: {said}");
            ensure!(
                rejection["reason"]
                    .as_str()
                    .is_some_and(|reason| !reason.is_empty()),
                "no reason: {said}"
            );
            if *file != "not-yaml.yaml" {
                ensure!(
                    rejection["line"].as_u64().is_some_and(|line| line > 0),
                    "no line: {said}"
                );
                ensure!(
                    rejection["remedy"]
                        .as_str()
                        .is_some_and(|remedy| !remedy.is_empty()),
                    "no remedy: {said}"
                );
            }
            mesh.node("a").remove_config(file)?;
            wait_until(SOON, "the rejection to go with its file", || {
                rejections(&agent).is_ok_and(|all| all.is_empty())
            })?;
        }
        // Everything else stayed.
        ensure!(
            mesh.node("a")
                .expected()
                .iter()
                .all(|name| agent.enrolled().is_ok_and(|names| names.contains(name)))
        );
        Ok(())
    });
}

#[test]
fn a_bad_edit_keeps_the_last_good_version_in_force() {
    Mesh::scenario(standard("bad-edit"), |mesh| {
        let agents = mesh.start_agents()?;
        let _server = traffic::serve(mesh.pod("web"), "identity", 7001)?;
        let file = "service-web.yaml";
        let good = fs::read_to_string(mesh.node("a").config_dir().join(file))?;
        mesh.write_config(file, &good.replace("port: 80\n", "port: eighty\n"))?;
        let rejection = wait_rejected(&agents[0], file)?;
        ensure!(rejection["lastGoodInForce"] == true, "{rejection}");
        churn::good(mesh, "client", &at(mesh.service("web").v4(), 80), "web", 20)?;
        mesh.write_config(file, &good)?;
        wait_until(SOON, "the rejection to go", || {
            rejections(&agents[0]).is_ok_and(|all| all.is_empty())
        })
    });
}

#[test]
fn a_workload_without_its_namespace_waits_and_says_for_what() {
    Mesh::scenario(standard("no-netns"), |mesh| {
        let agent = mesh.node("a").start_agent()?;
        let ghost = renamed(&mesh.pod("client").yaml(), "ghost")
            .replace(mesh.pod("client").netns(), "nm-no-such-namespace")
            .replace(&mesh.pod("client").v4().to_string(), "10.250.250.250")
            .replace(&mesh.pod("client").v6().to_string(), "fd00:ffff::1");
        mesh.node("a").write_config("ghost.yaml", &ghost)?;
        let mut found = Value::Null;
        wait_until(SOON, "the workload to be listed", || {
            let listed = agent.ask(&["workloads", "ghost"]).unwrap_or_default();
            found = listed["workloads"][0].clone();
            found["enrolment"] == "waiting"
        })
        .with_context(|| found.to_string())?;
        ensure!(
            found["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("nm-no-such-namespace")),
            "{found}"
        );
        Ok(())
    });
}

#[test]
fn a_command_without_an_agent_says_how_to_start_one() {
    Mesh::scenario(standard("no-agent"), |mesh| {
        for command in ["status", "workloads", "services", "connections", "flows"] {
            let output = mesh.node("a").cli(&[command])?;
            ensure!(output.status.code() == Some(3), "{output}");
            ensure!(output.stderr.contains("mesh-agent run"), "{output}");
        }
        Ok(())
    });
}

/// The arguments with which the harness starts the agent of node `a`.
pub(crate) fn run_args(mesh: &Mesh) -> Vec<String> {
    let node = mesh.node("a");
    let path = |path: &Path| path.display().to_string();
    vec![
        "run".to_owned(),
        "--node".to_owned(),
        "a".to_owned(),
        "--config".to_owned(),
        path(&node.config_dir()),
        "--pods-cgroup".to_owned(),
        path(node.pods_cgroup()),
        "--bpffs".to_owned(),
        path(&node.bpffs()),
        "--run-dir".to_owned(),
        path(&node.run_dir()),
    ]
}

fn replace(args: &mut [String], option: &str, value: &str) -> Result<()> {
    let at = args
        .iter()
        .position(|arg| arg == option)
        .context("no such option")?;
    value.clone_into(&mut args[at + 1]);
    Ok(())
}

/// A copy of the agent that a user other than root may run.
fn readable_agent(mesh: &Mesh) -> Result<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let copy = mesh.dir().join("mesh-agent");
    fs::copy(agent_binary()?, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    Ok(copy)
}

fn refused(output: &Output, words: &[&str]) -> Result<()> {
    ensure!(!output.status.success(), "it started: {output}");
    let said = format!("{}{}", output.stderr, output.stdout);
    for word in words {
        ensure!(said.contains(word), "{word:?} is not mentioned: {output}");
    }
    ensure!(!said.contains("panicked"), "{output}");
    Ok(())
}

/// A `Workload` document under another name.
fn renamed(yaml: &str, name: &str) -> String {
    let mut lines: Vec<String> = yaml.lines().map(str::to_owned).collect();
    for line in &mut lines {
        if line.starts_with("  name: ") {
            *line = format!("  name: {name}");
            break;
        }
    }
    lines.join("\n") + "\n"
}

fn rejections(agent: &Agent) -> Result<Vec<Value>> {
    Ok(agent.ask(&["status"])?["rejected"]
        .as_array()
        .cloned()
        .unwrap_or_default())
}

fn wait_rejected(agent: &Agent, file: &str) -> Result<Value> {
    let mut found = None;
    wait_until(Duration::from_secs(10), "the document to be rejected", || {
        found = rejections(agent)
            .unwrap_or_default()
            .into_iter()
            .find(|rejection| {
                rejection["file"]
                    .as_str()
                    .is_some_and(|path| path.ends_with(file))
            });
        found.is_some()
    })
    .with_context(|| file.to_owned())?;
    found.context("no rejection")
}
