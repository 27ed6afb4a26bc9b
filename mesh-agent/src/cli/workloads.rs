//! `mesh-agent workloads`: who is in the mesh, and whose traffic is captured here.

use clap::Args;

use super::{
    agent::AgentArgs,
    failure::Failure,
    output::{OutputArgs, View, listing},
    table::{Cell, Colour, Column, Detail, Tone},
    units,
};
use crate::admin::{
    Words as _,
    proto::{Enrolment, Limited, ListWorkloadsReply, ListWorkloadsRequest, Port, Workload},
};

/// What `workloads` takes.
#[derive(Args, Debug)]
pub(super) struct WorkloadsArgs {
    /// Only workloads whose namespace/name contains this text
    #[arg(value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
    /// Only workloads of this node
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl WorkloadsArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let request = ListWorkloadsRequest {
            name: self.name,
            local: self.local,
        };
        let reply = self
            .agent
            .call(async |mut agent| agent.list_workloads(request).await)?;
        self.output.show(&reply)
    }
}

impl View for ListWorkloadsReply {
    fn text(&self, detail: Detail, colour: Colour) -> String {
        let columns = (
            vec![
                Column::text("WORKLOAD"),
                Column::text("NODE"),
                Column::text("ENROLMENT"),
                Column::text("READY"),
                Column::text("ADDRESSES"),
                Column::number("OUT"),
                Column::number("IN"),
                Column::text("REASON").optional(),
                Column::text("LIMITED").optional(),
            ],
            vec![
                Column::number("REQUESTS"),
                Column::number("HELD"),
                Column::number("TIME"),
                Column::text("SERVICE-ACCOUNT"),
                Column::text("PORTS"),
                Column::text("NETNS"),
                Column::text("COOKIE"),
                Column::text("LABELS"),
            ],
        );
        let rows = self
            .workloads
            .iter()
            .map(|workload| (workload.usual_cells(), workload.wide_cells()));
        listing(detail, colour, columns, rows)
    }

    fn nothing(&self) -> Option<&'static str> {
        self.workloads.is_empty().then_some("No workloads.")
    }
}

impl Workload {
    fn usual_cells(&self) -> Vec<Cell> {
        let tone = match self.enrolment() {
            Enrolment::Enrolled => Tone::Good,
            Enrolment::Waiting => Tone::Doubtful,
            Enrolment::Failed => Tone::Bad,
            Enrolment::Unspecified | Enrolment::Remote => Tone::Plain,
        };
        vec![
            Cell::from(&self.key),
            Cell::from(&self.node),
            Cell::from(Enrolment::word_of(self.enrolment)).tone(tone),
            Cell::from(if self.ready { "yes" } else { "no" }).tone(if self.ready {
                Tone::Plain
            } else {
                Tone::Doubtful
            }),
            Cell::from(self.addresses.join(",")),
            Cell::from(self.connections_out.to_string()),
            Cell::from(self.connections_in.to_string()),
            Cell::from(&self.reason),
            Cell::from(limited(&self.limited)).tone(Tone::Bad),
        ]
    }

    fn wide_cells(&self) -> Vec<Cell> {
        let labels: Vec<String> = self
            .labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let cookie = if self.netns_cookie == 0 {
            String::new()
        } else {
            self.netns_cookie.to_string()
        };
        vec![
            Cell::from(self.requests.to_string()),
            Cell::from(units::bytes(self.held_bytes)),
            Cell::from(units::duration(self.worker_time_us)),
            Cell::from(&self.service_account),
            Cell::from(ports(&self.ports)),
            Cell::from(&self.netns_path),
            Cell::from(cookie),
            Cell::from(labels.join(",")),
        ]
    }
}

/// What it was denied lately, and how often: `connections*1204`, …
fn limited(limited: &[Limited]) -> String {
    let one = |limited: &Limited| format!("{}*{}", limited.resource, limited.times);
    limited.iter().map(one).collect::<Vec<_>>().join(",")
}

/// `80->8080/http`, `5432`, …
pub(super) fn ports(ports: &[Port]) -> String {
    let one = |port: &Port| {
        let target = if port.target_port.is_empty() {
            String::new()
        } else {
            format!("->{}", port.target_port)
        };
        let protocol = if port.app_protocol.is_empty() {
            String::new()
        } else {
            format!("/{}", port.app_protocol)
        };
        format!("{}{target}{protocol}", port.port)
    };
    ports.iter().map(one).collect::<Vec<_>>().join(",")
}
