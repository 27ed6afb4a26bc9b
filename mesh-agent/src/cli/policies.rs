//! `mesh-agent policies`: what decides who may connect, and whom it concerns here.

use clap::Args;

use super::{
    agent::AgentArgs,
    failure::Failure,
    output::{OutputArgs, View, by_detail},
    table::{Cell, Colour, Column, Detail, Table, Tone},
};
use crate::admin::{
    Words as _,
    proto::{ListPoliciesReply, ListPoliciesRequest, Policy, PolicyKind},
};

/// What `policies` takes.
#[derive(Args, Debug)]
pub(super) struct PoliciesArgs {
    /// Only policies whose namespace/name contains this text
    #[arg(value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
    /// Only those that concern a workload of this node whose namespace/name contains this text
    #[arg(
        long,
        short,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    workload: String,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl PoliciesArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let request = ListPoliciesRequest {
            name: self.name,
            workload: self.workload,
        };
        let reply = self.agent.ask(|mut agent| async move {
            Ok::<_, Failure>(agent.list_policies(request).await?.into_inner())
        })?;
        self.output.show(&reply)
    }
}

impl View for ListPoliciesReply {
    fn text(&self, detail: Detail, colour: Colour) -> String {
        let mut table = Table::new(by_detail(
            detail,
            vec![
                Column::text("KIND"),
                Column::text("NAME"),
                Column::text("ACTION"),
                Column::text("SCOPE"),
                Column::number("RULES"),
                Column::number("WORKLOADS HERE"),
                Column::text("REMARK").optional(),
            ],
            vec![Column::text("CONCERNS HERE").optional()],
        ));
        for policy in &self.policies {
            table.row(by_detail(
                detail,
                policy.usual_cells(),
                vec![Cell::from(policy.workloads.join(" "))],
            ));
        }
        table.render(colour)
    }

    fn nothing(&self) -> Option<&'static str> {
        self.policies.is_empty().then_some("No policies.")
    }
}

impl Policy {
    fn usual_cells(&self) -> Vec<Cell> {
        let action = match (self.dry_run, self.action.is_empty()) {
            (true, _) => Cell::from(format!("{} (dry run)", self.action)).tone(Tone::Doubtful),
            (false, true) => Cell::from("inherited"),
            (false, false) => Cell::from(&self.action),
        };
        vec![
            Cell::from(PolicyKind::word_of(self.kind)),
            Cell::from(&self.key),
            action,
            Cell::from(&self.scope),
            Cell::from(self.rules.to_string()),
            Cell::from(self.workloads.len().to_string()),
            Cell::from(&self.remark).tone(Tone::Doubtful),
        ]
    }
}
