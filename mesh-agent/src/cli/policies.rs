//! `mesh-agent policies`: what decides who may connect and ask, and whom it concerns here.

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
    proto::{ListPoliciesReply, ListPoliciesRequest, Policy, PolicyKind, TokenIssuer},
};

/// What `policies` takes.
#[derive(Args, Debug)]
pub(super) struct PoliciesArgs {
    /// Only policies whose namespace/name contains this text
    #[arg(value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
    /// Only those that concern a workload of this node whose namespace/name contains this text; fails if there is none
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
        let reply = self
            .agent
            .call(async |mut agent| agent.list_policies(request).await)?;
        self.output.show(&reply)
    }
}

impl View for ListPoliciesReply {
    fn text(&self, detail: Detail, colour: Colour) -> String {
        let columns = (
            vec![
                Column::text("KIND"),
                Column::text("NAME"),
                Column::text("ACTION"),
                Column::text("SCOPE"),
                Column::number("RULES"),
                Column::number("WORKLOADS HERE"),
                Column::text("REMARK").optional(),
            ],
            vec![
                Column::text("CONCERNS HERE").optional(),
                Column::text("KEYS OF ISSUERS").optional(),
            ],
        );
        let rows = self.policies.iter().map(|policy| {
            (
                policy.usual_cells(),
                vec![Cell::from(policy.workloads.join(" ")), Cell::from(policy.keys())],
            )
        });
        listing(detail, colour, columns, rows)
    }

    fn nothing(&self) -> Option<&'static str> {
        self.policies.is_empty().then_some("No policies.")
    }
}

impl Policy {
    fn usual_cells(&self) -> Vec<Cell> {
        let action = match (self.dry_run, self.action.as_str()) {
            (true, action) => Cell::from(format!("{action} (dry run)")).tone(Tone::Doubtful),
            (false, "") if self.kind() == PolicyKind::PeerAuthentication => Cell::from("inherited"),
            (false, action) => Cell::from(action),
        };
        let troubles = self.issuers.iter().filter_map(TokenIssuer::trouble);
        let remarks = Some(self.remark.clone()).filter(|remark| !remark.is_empty());
        let remarks: Vec<_> = remarks.into_iter().chain(troubles).collect();
        vec![
            Cell::from(PolicyKind::word_of(self.kind)),
            Cell::from(&self.key),
            action,
            Cell::from(&self.scope),
            Cell::from(self.rules.to_string()),
            Cell::from(self.workloads.len().to_string()),
            Cell::from(remarks.join("; ")).tone(Tone::Doubtful),
        ]
    }

    /// The keys of each issuer and since when they are known.
    fn keys(&self) -> String {
        let issuers = self.issuers.iter().map(TokenIssuer::standing);
        issuers.collect::<Vec<_>>().join("; ")
    }
}

impl TokenIssuer {
    /// `https://issuer: 2 from https://issuer/keys, fetched 2025-11-21T08:03:00Z`
    fn standing(&self) -> String {
        let source = match (self.url.as_str(), self.fetched_at) {
            ("", _) => "in the policy".to_owned(),
            (url, 0) => format!("from {url}"),
            (url, at) => format!("from {url}, fetched {}", units::date_and_time(at)),
        };
        format!("{}: {} {source}", self.issuer, self.keys)
    }

    fn trouble(&self) -> Option<String> {
        (!self.error.is_empty()).then(|| format!("keys of {}: {}", self.issuer, self.error))
    }
}
