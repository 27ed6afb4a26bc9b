//! `mesh-agent connections`: what is open now, from whom to whom.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::{
    agent::AgentArgs,
    failure::Failure,
    output::{self, OutputArgs, View, listing},
    path::FilterArgs,
    table::{Cell, Colour, Column, Detail, Tone},
    units,
};
use crate::admin::{
    Words as _,
    proto::{Connection, ConnectionState, ListConnectionsReply, ListConnectionsRequest},
};

/// What `connections` takes.
#[derive(Args, Debug)]
pub(super) struct ConnectionsArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// At most so many, the oldest; 0 for all
    #[arg(long, short, default_value_t = 1000, value_name = "N")]
    limit: u32,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl ConnectionsArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let request = ListConnectionsRequest {
            filter: Some(self.filter.into_filter()),
            limit: self.limit,
        };
        let reply = self
            .agent
            .call(async |mut agent| agent.list_connections(request).await)?;
        let shown = reply.connections.len() as u64;
        let total = reply.total;
        self.output.show(&Seen::at(now_micros(), reply))?;
        if shown < total {
            output::note(&format!("The {shown} oldest of {total}; see more with --limit."));
        }
        Ok(())
    }
}

/// Connections and the moment they were asked for.
#[derive(Debug, serde::Serialize)]
pub(super) struct Seen {
    #[serde(flatten)]
    reply: ListConnectionsReply,
    #[serde(skip)]
    now: u64,
}

impl Seen {
    /// As they were at that time.
    pub(super) fn at(now: u64, reply: ListConnectionsReply) -> Self {
        Self { reply, now }
    }
}

impl View for Seen {
    fn text(&self, detail: Detail, colour: Colour) -> String {
        let columns = (
            vec![
                Column::number("ID"),
                Column::text("STATE"),
                Column::text("DIRECTION"),
                Column::text("FROM"),
                Column::text("TO"),
                Column::text("UPSTREAM"),
                Column::number("AGE"),
                Column::number("SENT"),
                Column::number("RECEIVED"),
                Column::number("REQUESTS").optional(),
                Column::text("PROCESS").optional(),
            ],
            vec![
                Column::text("CLIENT"),
                Column::text("DIALLED"),
                Column::number("WORKER"),
                Column::text("CHANNEL").optional(),
                Column::text("PEER").optional(),
                Column::text("VERDICT").optional(),
            ],
        );
        let rows = self
            .reply
            .connections
            .iter()
            .map(|connection| (connection.usual_cells(self.now), connection.wide_cells()));
        listing(detail, colour, columns, rows)
    }

    fn nothing(&self) -> Option<&'static str> {
        self.reply.connections.is_empty().then_some("No connections.")
    }
}

impl Connection {
    fn usual_cells(&self, now: u64) -> Vec<Cell> {
        let path = self.path.clone().unwrap_or_default();
        let tone = match self.state() {
            ConnectionState::Open => Tone::Good,
            ConnectionState::Held | ConnectionState::Connecting => Tone::Doubtful,
            ConnectionState::Unspecified | ConnectionState::HalfClosed => Tone::Plain,
        };
        vec![
            Cell::from(self.id.to_string()),
            Cell::from(ConnectionState::word_of(self.state)).tone(tone),
            path.direction_cell(),
            path.client_cell(),
            path.destination_cell(),
            Cell::from(&path.upstream),
            Cell::from(units::duration(now.saturating_sub(self.opened_at))),
            Cell::from(units::bytes(self.bytes_to_upstream)),
            Cell::from(units::bytes(self.bytes_to_downstream)),
            Cell::from(match self.requests {
                0 => String::new(),
                requests => requests.to_string(),
            }),
            path.process_cell(),
        ]
    }

    fn wide_cells(&self) -> Vec<Cell> {
        let path = self.path.clone().unwrap_or_default();
        vec![
            Cell::from(&path.client),
            Cell::from(&path.original_destination),
            path.worker_cell(),
            path.channel_cell(),
            Cell::from(&path.peer),
            path.verdict_cell(),
        ]
    }
}

fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
