//! Namespaces, bridges, veth pairs and routes of a mesh, made by a few `ip -batch` runs.
//!
//! Every interface is created inside a namespace, so none ever appears on the machine itself.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::layout::{Layout, Pair};

/// What has to be laid: nodes in their order, pods by the number of their node.
pub(crate) struct Plan {
    pub(crate) nodes: Vec<String>,
    pub(crate) pods: Vec<PlannedPod>,
}

#[derive(Clone, Debug)]
pub(crate) struct PlannedPod {
    pub(crate) netns: String,
    pub(crate) node: u8,
    /// Counts the pods of the node, from 1.
    pub(crate) number: u8,
}

/// Makes all namespaces and everything inside them.
pub(crate) fn lay(layout: &Layout, plan: &Plan) -> Result<()> {
    let backbone = layout.backbone_netns();
    let mut script = format!("netns add {backbone}\n");
    for node in &plan.nodes {
        script += &format!("netns add {}\n", layout.node_netns(node));
    }
    for pod in &plan.pods {
        script += &format!("netns add {}\n", pod.netns);
    }
    batch(None, &script)?;
    for node in &plan.nodes {
        set_up_router(&layout.node_netns(node))?;
    }

    let mut script =
        "link set lo up\nlink add br0 type bridge mcast_snooping 0\nlink set br0 up\n".to_owned();
    for (index, node) in plan.nodes.iter().enumerate() {
        script += &format!(
            "link add node{index} type veth peer name up0 netns {}\n",
            layout.node_netns(node)
        );
        script += &format!("link set node{index} master br0 up\n");
    }
    batch(Some(&backbone), &script)?;

    for (node, number) in plan.nodes.iter().zip(1u8..) {
        lay_node(layout, plan, node, number)?;
    }
    for pod in &plan.pods {
        lay_pod(layout, pod)?;
    }
    batch(Some(&backbone), &noticed("br0"))?;
    for node in &plan.nodes {
        batch(
            Some(&layout.node_netns(node)),
            &(noticed("up0") + &noticed("br0")),
        )?;
    }
    Ok(())
}

/// Adds one more pod to a mesh that stands.
pub(crate) fn add_pod(layout: &Layout, node: &str, pod: &PlannedPod) -> Result<()> {
    batch(None, &format!("netns add {}\n", pod.netns))?;
    batch(Some(&layout.node_netns(node)), &pod_link(pod))?;
    lay_pod(layout, pod)
}

/// Removes namespaces by name; those already gone are no error.
pub(crate) fn remove(names: &[String]) -> Result<()> {
    let script: String = names
        .iter()
        .filter(|name| std::path::Path::new("/run/netns").join(name).exists())
        .map(|name| format!("netns del {name}\n"))
        .collect();
    if script.is_empty() {
        Ok(())
    } else {
        batch(None, &script)
    }
}

/// Runs `ip` commands, one a line, inside a namespace.
pub(crate) fn batch(netns: Option<&str>, script: &str) -> Result<()> {
    let mut ip = Command::new("ip");
    if let Some(netns) = netns {
        ip.args(["-n", netns]);
    }
    let mut child = ip
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting ip (Debian package iproute2)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).context("writing to ip")?;
    }
    let output = child.wait_with_output().context("waiting for ip")?;
    if !output.status.success() {
        bail!(
            "ip -batch in {netns:?} failed: {}\n{script}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

fn lay_node(layout: &Layout, plan: &Plan, node: &str, number: u8) -> Result<()> {
    let netns = layout.node_netns(node);
    let mut script = "link set lo up\nlink add br0 type bridge mcast_snooping 0\n".to_owned();
    script += &addresses("br0", layout.gateway(number));
    script += &addresses("up0", layout.on_backbone(number));
    for other in (1..).take(plan.nodes.len()).filter(|other| *other != number) {
        let [v4, v6] = Layout::networks(layout.gateway(other));
        let via = layout.on_backbone(other);
        script += &format!("route add {v4} via {}\nroute add {v6} via {}\n", via.v4, via.v6);
    }
    for (kind, address) in [
        ("blackhole", layout.black_hole()),
        ("unreachable", layout.unreachable()),
    ] {
        for network in Layout::networks(address) {
            script += &format!("route add {kind} {network}\n");
        }
    }
    for pod in plan.pods.iter().filter(|pod| pod.node == number) {
        script += &pod_link(pod);
    }
    batch(Some(&netns), &script)
}

fn pod_link(pod: &PlannedPod) -> String {
    let number = pod.number;
    format!(
        "link add pod{number} type veth peer name eth0 netns {}\nlink set pod{number} master br0 up\n",
        pod.netns
    )
}

fn lay_pod(layout: &Layout, pod: &PlannedPod) -> Result<()> {
    let gateway = layout.gateway(pod.node);
    let mut script = "link set lo up\n".to_owned();
    script += &addresses("eth0", layout.pod(pod.node, pod.number));
    script += &format!(
        "route add default via {}\nroute add default via {}\n",
        gateway.v4, gateway.v6
    );
    script += &noticed("eth0");
    batch(Some(&pod.netns), &script)
}

/// Makes the kernel notice at once that a link is up. It looks at links at most once a second by itself, and IPv6
/// does not work over a link that it has not noticed; asking for the state of one brings it up to date.
fn noticed(interface: &str) -> String {
    format!("link show dev {interface}\n")
}

fn addresses(interface: &str, pair: Pair) -> String {
    format!(
        "addr add {}/24 dev {interface}\naddr add {}/64 dev {interface} nodad\nlink set {interface} up\n",
        pair.v4, pair.v6
    )
}

/// Makes a node forward, and take its link-local addresses into use without first looking for duplicates for a
/// second. The settings are per namespace, and `/proc/sys/net` shows those of the namespace of who opens it.
fn set_up_router(netns: &str) -> Result<()> {
    let settings = "cd /proc/sys/net && echo 1 >ipv4/ip_forward && echo 1 >ipv6/conf/all/forwarding && \
                    echo 0 >ipv6/conf/all/accept_dad && echo 0 >ipv6/conf/default/accept_dad";
    let status = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{netns}"))
        .args(["sh", "-c", settings])
        .status()
        .context("starting nsenter (Debian package util-linux)")?;
    if !status.success() {
        bail!("{netns} could not be made a router: {status}");
    }
    Ok(())
}
