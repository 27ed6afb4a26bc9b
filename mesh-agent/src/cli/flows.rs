//! `mesh-agent flows`: what became of connections, as it happens.
//!
//! Invariant: each flow is printed when it arrives, whole: one row, one line of JSON, or one YAML document.

use clap::Args;

use super::{
    agent::AgentArgs,
    failure::Failure,
    output::{self, Format, OutputArgs, by_detail},
    path::{FilterArgs, words},
    table::{Cell, Colour, Column, Detail, Table, Tone},
    units,
};
use crate::admin::{
    Words as _,
    proto::{Flow, FlowKind, Request, WatchFlowsReply, WatchFlowsRequest},
};

/// What `flows` takes.
#[derive(Args, Debug)]
pub(super) struct FlowsArgs {
    /// Go on with new flows as they happen
    #[arg(long, short)]
    follow: bool,
    /// How many of the recent flows to begin with
    #[arg(long, default_value_t = 20, value_name = "N")]
    last: u32,
    /// Only this kind
    #[arg(long, short, value_name = "KIND", value_parser = words::<FlowKind>())]
    kind: Option<FlowKind>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl FlowsArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let request = WatchFlowsRequest {
            filter: Some(self.filter.into_filter()),
            last: self.last,
            follow: self.follow,
            kind: self.kind.unwrap_or_default().into(),
        };
        let mut printer = Printer::new(self.output.format(), output::colour());
        self.agent.ask(|mut agent| async move {
            let mut flows = agent.watch_flows(request).await?.into_inner();
            output::print(&printer.head())?;
            while let Some(reply) = flows.message().await? {
                printer.take(&reply)?;
            }
            printer.end();
            Ok(())
        })
    }
}

/// Prints flows one by one.
pub(super) struct Printer {
    format: Format,
    colour: Colour,
    printed: u64,
}

impl Printer {
    pub(super) fn new(format: Format, colour: Colour) -> Self {
        Self {
            format,
            colour,
            printed: 0,
        }
    }

    /// What comes before the first flow.
    pub(super) fn head(&self) -> String {
        self.detail()
            .map(|detail| table(detail).head(self.colour))
            .unwrap_or_default()
    }

    fn take(&mut self, reply: &WatchFlowsReply) -> Result<(), Failure> {
        if reply.missed != 0 {
            output::note(&format!("{} flows came too fast and are not shown", reply.missed));
        }
        let Some(flow) = &reply.flow else {
            return Ok(());
        };
        self.printed += 1;
        output::print(&self.text(flow)?)
    }

    fn end(&self) {
        if self.printed == 0 {
            output::note("No flows.");
        }
    }

    /// One flow, with its newline.
    pub(super) fn text(&self, flow: &Flow) -> Result<String, Failure> {
        match (self.detail(), self.format) {
            (Some(detail), _) => {
                let mut table = table(detail);
                let cells = by_detail(detail, flow.usual_cells(detail), flow.wide_cells());
                table.row(cells.into_iter().chain([Cell::from(flow.said())]));
                Ok(table.body(self.colour))
            }
            (None, Format::Yaml) => Ok(format!("---\n{}", output::yaml(flow)?)),
            (None, _) => output::json_line(flow),
        }
    }

    fn detail(&self) -> Option<Detail> {
        match self.format {
            Format::Table => Some(Detail::Usual),
            Format::Wide => Some(Detail::Wide),
            Format::Json | Format::Yaml => None,
        }
    }
}

/// No row is known when the headings are printed, so the columns have fixed widths that mostly suffice.
fn table(detail: Detail) -> Table {
    let time = Column::text("TIME").at_least(match detail {
        Detail::Usual => 13,
        Detail::Wide => 20,
    });
    let columns = by_detail(
        detail,
        vec![
            time,
            Column::text("KIND").at_least(11),
            Column::text("DIRECTION").at_least(9),
            Column::text("FROM").at_least(24),
            Column::text("TO").at_least(24),
            Column::text("UPSTREAM").at_least(18),
            Column::number("DURATION").at_least(8),
            Column::number("SENT").at_least(7),
            Column::number("RECEIVED").at_least(8),
        ],
        vec![
            Column::text("CLIENT").at_least(21),
            Column::text("DIALLED").at_least(18),
            Column::text("PROCESS").at_least(16),
            Column::number("CONNECTION"),
            Column::number("WORKER"),
            Column::text("CHANNEL").at_least(9),
            Column::text("VERDICT").at_least(46),
        ],
    );
    // Of no known width, so it comes last.
    Table::new(columns.into_iter().chain([Column::text("REASON")]))
}

impl Flow {
    fn usual_cells(&self, detail: Detail) -> Vec<Cell> {
        let path = self.path.clone().unwrap_or_default();
        let time = match detail {
            Detail::Usual => units::time_of_day(self.time),
            Detail::Wide => units::date_and_time(self.time),
        };
        let duration = if self.duration_us == 0 {
            String::new()
        } else {
            units::duration(self.duration_us)
        };
        let tone = match self.kind() {
            FlowKind::Opened => Tone::Good,
            FlowKind::Closed | FlowKind::Unspecified => Tone::Plain,
            FlowKind::Reset | FlowKind::Abandoned => Tone::Doubtful,
            FlowKind::Refused
            | FlowKind::Unreachable
            | FlowKind::TimedOut
            | FlowKind::Dropped
            | FlowKind::Denied
            | FlowKind::Failed => Tone::Bad,
        };
        vec![
            Cell::from(time),
            Cell::from(FlowKind::word_of(self.kind)).tone(tone),
            path.direction_cell(),
            path.client_cell(),
            path.destination_cell(),
            Cell::from(&path.upstream),
            Cell::from(duration),
            Cell::from(units::bytes(self.bytes_to_upstream)),
            Cell::from(units::bytes(self.bytes_to_downstream)),
        ]
    }

    /// Why; for a request after what was asked and answered.
    fn said(&self) -> String {
        let Some(request) = &self.request else {
            return self.reason.clone();
        };
        let status = match request.status {
            0 => "no answer".to_owned(),
            status => status.to_string(),
        };
        let Request { method, path, .. } = request;
        let asked = format!("{method} {path}");
        format!("{} {status}: {}", asked.trim(), self.reason)
            .trim()
            .to_owned()
    }

    fn wide_cells(&self) -> Vec<Cell> {
        let path = self.path.clone().unwrap_or_default();
        let connection = if self.connection == 0 {
            String::new()
        } else {
            self.connection.to_string()
        };
        vec![
            Cell::from(&path.client),
            Cell::from(&path.original_destination),
            path.process_cell(),
            Cell::from(connection),
            path.worker_cell(),
            path.channel_cell(),
            path.verdict_cell(),
        ]
    }
}
