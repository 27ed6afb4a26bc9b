//! A flood of handshakes from one workload takes its own share, and the others are served meanwhile.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use mesh_tests::{
    Mesh, Pod, programs,
    traffic::{self, at},
    wait_until,
};

use super::{
    credentials::wait_issued,
    refused::{besieged, told},
};
use crate::checks::{SOON, churn, failing};

const PORT: u16 = 7001;
/// Each needs a tunnel of its own, and so a handshake.
const PORTS: std::ops::Range<u16> = 7101..7111;
/// More than one source may have under way on all of the agent's workers together.
const FLOOD: &str = "3000";

#[test]
fn a_flood_of_handshakes_is_bounded_and_others_are_served_meanwhile() {
    let besieged = besieged("flood").node("c").pod("c", Pod::new("friend"));
    Mesh::scenario(besieged, |mesh| {
        mesh.secure(&[])?;
        let agents =
            ["a", "c"].map(|node| mesh.node(node).agent().arg("--workers").arg("2").start().unwrap());
        for (agent, account) in agents.iter().zip(["web", "friend"]) {
            wait_issued(agent, account, 1)?;
        }
        let web = mesh.pod("web");
        let _servers = PORTS
            .chain([PORT])
            .map(|port| traffic::serve(web, "identity", port))
            .collect::<Result<Vec<_>>>()?;
        let until = mesh.dir().join("flooded");
        let program = programs::python("hostile.py").display().to_string();
        let to = at(web.v4(), PORT);
        let args = [&program, "flood", &to, FLOOD, &until.display().to_string()].map(str::to_owned);
        let mut flood = mesh.pod("rogue").spawn("python3".to_owned(), &args)?;
        flood.wait_line(SOON, |line| line == "full")?;
        told(
            mesh,
            &agents[0],
            "too-many-handshakes",
            &format!("handshakes of {} are under way already", mesh.pod("rogue").v4()),
        )?;
        for port in PORTS {
            for address in web.addresses() {
                churn::good(mesh, "friend", &at(address, port), "web", 5)?;
            }
            churn::good(mesh, "stranger", &at(web.v4(), port), "web", 5)?;
        }
        ensure!(flood.is_running(), "the flood ended early");
        fs::write(&until, "")?;
        let report = flood.wait(SOON)?.ok()?.report()?;
        ensure!(report["turned_away"].as_u64() > Some(1000), "{report}");
        println!("flood: {report}");
        ensure!(
            agents[0].log().contains("left_out"),
            "the log was flooded as well: {} lines",
            agents[0].log().lines().count()
        );
        // And the rogue's own share comes back.
        wait_until(Duration::from_secs(30), "the source to be heard again", || {
            failing::connect(mesh.pod("rogue"), &to).is_ok_and(|report| report["connected"] == true)
        })?;
        churn::good(mesh, "rogue", &to, "web", 5)
    });
}
