//! `mesh-agent explain`: what would become of a connection, and why, without sending anything.

use std::fmt::Write as _;

use clap::Args;

use super::{
    agent::AgentArgs,
    failure::Failure,
    output::{OutputArgs, View},
    table::{Cell, Colour, Column, Detail, Table, Tone, plain},
};
use crate::admin::{
    Words as _,
    proto::{
        Carriage, Destination, DestinationKind, ExplainReply, ExplainRequest, ExplainedPolicy, ExplainedWay,
    },
};

/// What `explain` takes.
#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// Who dials: a workload (namespace/name) or an IP address
    #[arg(value_name = "SRC")]
    source: String,
    /// What is dialled: a service or a workload (namespace/name:port), a name in DNS (web.shop:80) or an address
    #[arg(value_name = "DST:PORT")]
    destination: String,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl ExplainArgs {
    /// Ends in failure when no way is open, so that a script can ask.
    pub(super) fn run(self) -> Result<(), Failure> {
        let request = ExplainRequest {
            source: self.source,
            destination: self.destination,
        };
        let reply = self
            .agent
            .ask(|mut agent| async move { Ok::<_, Failure>(agent.explain(request).await?.into_inner()) })?;
        self.output.show(&reply)?;
        if reply.ways.iter().any(|way| way.allowed) {
            Ok(())
        } else {
            Err(Failure::Told)
        }
    }
}

impl View for ExplainReply {
    fn text(&self, detail: Detail, colour: Colour) -> String {
        let mut facts = Table::new([Column::text(""), Column::text("")]);
        let mut fact = |name: &str, value: String| facts.row([Cell::from(name), Cell::from(value)]);
        let source = self.source.clone().unwrap_or_default();
        fact(
            "Source",
            match source.workload.as_str() {
                "" => format!("{}, not in the mesh", source.address),
                workload => format!("workload {workload} ({}), node {}", source.address, source.node),
            },
        );
        fact(
            "Identity",
            match source.identity.as_str() {
                "" => "none".to_owned(),
                identity => identity.to_owned(),
            },
        );
        fact(
            "Destination",
            destination(&self.destination.clone().unwrap_or_default(), self.port),
        );
        fact("Route", self.route.clone());
        let mut text = facts.body(colour);
        for way in &self.ways {
            text.push('\n');
            way.write(&mut text, detail, colour);
        }
        text
    }
}

fn destination(destination: &Destination, port: u32) -> String {
    match destination.kind() {
        DestinationKind::Service => format!("service {}, port {port}", destination.service),
        DestinationKind::Workload => format!("workload {}, port {port}", destination.workload),
        DestinationKind::Passthrough | DestinationKind::Unspecified => {
            format!("nothing the mesh knows, port {port}")
        }
    }
}

/// So many endpoints of a way are named; the wide form names all.
const NAMED: usize = 4;

impl ExplainedWay {
    fn write(&self, text: &mut String, detail: Detail, colour: Colour) {
        let shown = match detail {
            Detail::Usual => NAMED,
            Detail::Wide => usize::MAX,
        };
        for endpoint in self.endpoints.iter().take(shown) {
            let line = match endpoint.workload.as_str() {
                "" => format!("To {}\n", endpoint.address),
                workload => format!("To {} ({workload}), node {}\n", endpoint.address, endpoint.node),
            };
            text.push_str(&plain(line.trim_end()));
            text.push('\n');
        }
        if let Some(more) = self.endpoints.len().checked_sub(shown).filter(|more| *more > 0) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "and to {more} more; see -o wide");
        }
        let mut steps = Table::new([Column::text(""), Column::text("")]);
        let mut step = |name: &str, value: Cell| steps.row([Cell::from(format!("  {name}")), value]);
        step("Carried", Cell::from(carried(self.carriage())));
        if !self.mode.is_empty() {
            let from = match self.mode_policy.as_str() {
                "" => "by default".to_owned(),
                policy => format!("PeerAuthentication {policy}"),
            };
            step("Mode", Cell::from(format!("{}, {from}", self.mode)));
        }
        for policy in self.policies.iter().chain(&self.reporting) {
            step("Policy", Cell::from(policy.heading()));
            for (number, rule) in policy.rules.iter().enumerate() {
                let outcome = if rule.matched { "matches" } else { "does not match" };
                step("", Cell::from(format!("rule {number} {outcome}")));
                for miss in rule.misses.iter().filter(|_| !rule.matched) {
                    step("", Cell::from(format!("  {miss}")));
                }
            }
        }
        let tone = if self.allowed { Tone::Good } else { Tone::Bad };
        step("Verdict", Cell::from(&self.verdict).tone(tone));
        if !self.rehearsal.is_empty() {
            step("With dry run", Cell::from(&self.rehearsal).tone(Tone::Doubtful));
        }
        text.push_str(&steps.body(colour));
    }
}

impl ExplainedPolicy {
    fn heading(&self) -> String {
        let note = if self.dry_run { ", dry run" } else { "" };
        format!("{} {}{note}", self.action, self.key)
    }
}

fn carried(carriage: Carriage) -> String {
    match carriage {
        Carriage::Local => "on one node, in one hop; the kernel proves who dials".to_owned(),
        Carriage::MutualTls => "mutual TLS between the two nodes, on the port of the destination".to_owned(),
        Carriage::Hbone => "HBONE: mutual TLS on port 15008 of the destination".to_owned(),
        Carriage::Plaintext => "in the clear; nothing proves who dials".to_owned(),
        Carriage::Passthrough => "as it is".to_owned(),
        Carriage::Unspecified => Carriage::word_of(0).to_owned(),
    }
}
