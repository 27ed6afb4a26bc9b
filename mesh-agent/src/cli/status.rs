//! `mesh-agent status`: how the agent is, on one screen.

use clap::Args;

use super::{
    agent::AgentArgs,
    failure::Failure,
    output::{OutputArgs, View},
    table::{Cell, Colour, Column, Detail, Table, Tone, plain},
    units,
};
use crate::admin::{
    Words as _,
    proto::{
        AgentState, CertificateHealth, CertificateProblem, ProblemSeverity, RejectedObject, StatusReply,
        StatusRequest,
    },
};

/// What `status` takes.
#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl StatusArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let status = self
            .agent
            .call(async |mut agent| agent.status(StatusRequest {}).await)?;
        self.output.show(&status)?;
        let failing = |health: &CertificateHealth| {
            let mut problems = health.problems.iter();
            problems.any(|problem| problem.severity() == ProblemSeverity::Failure)
        };
        // As `check` does: a warning is no failure.
        if status.certificates.as_ref().is_some_and(failing) {
            return Err(Failure::Told);
        }
        Ok(())
    }
}

impl View for StatusReply {
    fn text(&self, detail: Detail, colour: Colour) -> String {
        let mut text = self.facts(detail).body(colour);
        text.push('\n');
        text.push_str(&self.worker_table().render(colour));
        let problems = self.certificates.iter().flat_map(|health| &health.problems);
        for (number, problem) in problems.enumerate() {
            if number == 0 {
                text.push_str("\nCertificates\n");
            }
            text.push_str(&problem.text());
        }
        if !self.rejected.is_empty() {
            text.push_str("\nRejected configuration\n");
            self.rejected
                .iter()
                .for_each(|object| text.push_str(&object.text()));
        }
        text
    }
}

impl StatusReply {
    /// Names on the left, values on the right.
    fn facts(&self, detail: Detail) -> Table {
        let mut table = Table::new([Column::text(""), Column::text("")]);
        let mut fact = |name: &str, value: Cell| table.row([Cell::from(name), value]);
        let state = Cell::from(AgentState::word_of(self.state)).tone(match self.state() {
            AgentState::Ready => Tone::Good,
            AgentState::Unspecified | AgentState::Starting | AgentState::Draining => Tone::Doubtful,
        });
        fact("State", state);
        fact("Node", Cell::from(&self.node));
        fact("Version", Cell::from(&self.version));
        fact(
            "Process",
            Cell::from(format!(
                "pid {}, up {}, generation {}",
                self.pid,
                units::duration(self.uptime_us),
                self.generation
            )),
        );
        let counts = self.counts.unwrap_or_default();
        fact(
            "Workloads",
            Cell::from(format!(
                "{} ({} local: {} enrolled, {} waiting, {} failed)",
                counts.workloads,
                counts.workloads_local,
                counts.workloads_enrolled,
                counts.workloads_waiting,
                counts.workloads_failed
            ))
            .tone(if counts.workloads_failed == 0 {
                Tone::Plain
            } else {
                Tone::Bad
            }),
        );
        fact(
            "Services",
            Cell::from(format!("{} ({} endpoints)", counts.services, counts.endpoints)),
        );
        let totals = self.totals.unwrap_or_default();
        fact(
            "Connections",
            Cell::from(format!(
                "{} open; since start {} accepted, {} refused, {} failed",
                counts.connections, totals.accepted, totals.refused, totals.failed
            )),
        );
        fact(
            "Bytes",
            Cell::from(format!(
                "{} to upstream, {} to downstream",
                units::bytes(totals.bytes_to_upstream),
                units::bytes(totals.bytes_to_downstream)
            )),
        );
        if let Some(health) = &self.certificates {
            fact("Certificates", health.cell());
        }
        if detail == Detail::Wide {
            fact("Started", Cell::from(units::date_and_time(self.started_at)));
            fact(
                "Kernel",
                Cell::from(format!("{} (ABI {})", self.kernel_release, self.abi)),
            );
            fact("Pins", Cell::from(&self.pins_dir));
        }
        table
    }

    fn worker_table(&self) -> Table {
        let mut table = Table::new([
            Column::number("WORKER"),
            Column::number("CONNECTIONS"),
            Column::number("HELD"),
        ]);
        for worker in &self.workers {
            table.row(
                [worker.id.into(), worker.connections, worker.held]
                    .map(|count| Cell::from(count.to_string())),
            );
        }
        table
    }
}

impl CertificateHealth {
    /// How many there are, and until when.
    fn cell(&self) -> Cell {
        let mut text = format!("{} of {} valid", self.valid, self.accounts);
        if self.first_expiry != 0 {
            let end = units::date_and_time(self.first_expiry);
            text.push_str(&format!(", the first until {end}"));
        }
        let worst = self.problems.first().map(CertificateProblem::severity);
        Cell::from(text).tone(match worst {
            None => Tone::Plain,
            Some(ProblemSeverity::Failure) => Tone::Bad,
            Some(_) => Tone::Doubtful,
        })
    }
}

impl CertificateProblem {
    /// What and how to mend it.
    fn text(&self) -> String {
        let severity = ProblemSeverity::word_of(self.severity);
        let (text, remedy) = (plain(&self.text), plain(&self.remedy));
        format!("  {severity}: {text}\n    hint: {remedy}\n")
    }
}

impl RejectedObject {
    /// Where, what and how to mend it, as a compiler would say it.
    fn text(&self) -> String {
        let place = match (self.line, self.column) {
            (0, _) => String::new(),
            (line, 0) => format!(":{line}"),
            (line, column) => format!(":{line}:{column}"),
        };
        let named = |text: &str, before: &str| {
            if text.is_empty() {
                String::new()
            } else {
                format!("{before}{text}")
            }
        };
        let mut text = format!(
            "  {}{place}{}{}: {}\n",
            plain(&self.file),
            named(&plain(&self.object), ": "),
            named(&plain(&self.field), ": "),
            plain(&self.reason)
        );
        if !self.remedy.is_empty() {
            text.push_str(&format!("    hint: {}\n", plain(&self.remedy)));
        }
        if self.last_good_in_force {
            text.push_str("    the last good version of it stays in force\n");
        }
        text
    }
}
