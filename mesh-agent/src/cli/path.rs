//! The way of a connection, as `connections` and `flows` show and choose it.

use clap::{Args, builder::PossibleValuesParser, builder::TypedValueParser as _};

use super::table::{Cell, Tone};
use crate::admin::{
    Words,
    proto::{Channel, DestinationKind, Direction, Path, PathFilter},
};

/// Which connections are wanted.
#[derive(Args, Clone, Debug)]
pub(super) struct FilterArgs {
    /// Only what a workload whose namespace/name contains this text made or got
    #[arg(long, short, value_name = "NAME")]
    workload: Option<String>,
    /// Only what went to a service whose namespace/name contains this text
    #[arg(long, short, value_name = "NAME")]
    service: Option<String>,
    /// Only this direction
    #[arg(long, short, value_name = "DIRECTION", value_parser = words::<Direction>())]
    direction: Option<Direction>,
    /// Only what dialled this port
    #[arg(long, short, value_name = "PORT")]
    port: Option<u16>,
}

impl FilterArgs {
    /// For the agent.
    pub(super) fn into_filter(self) -> PathFilter {
        PathFilter {
            workload: self.workload.unwrap_or_default(),
            service: self.service.unwrap_or_default(),
            direction: self.direction.unwrap_or_default().into(),
            port: self.port.unwrap_or_default().into(),
        }
    }
}

/// Takes the words of an enumeration as arguments, and offers them in help and completions.
pub(super) fn words<E: Words + Send + Sync>() -> impl clap::builder::TypedValueParser<Value = E> {
    PossibleValuesParser::new(E::ALL.iter().map(|value| value.word()))
        .try_map(|word| E::from_word(&word).ok_or_else(|| format!("`{word}` is not one of them")))
}

impl Path {
    /// Who dialled: the workload if it is known, else the address.
    pub(super) fn client_cell(&self) -> Cell {
        Cell::from(if self.client_workload.is_empty() {
            &self.client
        } else {
            &self.client_workload
        })
    }

    /// What was dialled: the service or workload with the port, else the address.
    pub(super) fn destination_cell(&self) -> Cell {
        let dialled = &self.original_destination;
        let port = dialled.rsplit_once(':').map(|(_, port)| port).unwrap_or_default();
        let destination = self.destination.clone().unwrap_or_default();
        match destination.kind() {
            DestinationKind::Service => Cell::from(format!("{}:{port}", destination.service)),
            DestinationKind::Workload => Cell::from(format!("{}:{port}", destination.workload)),
            DestinationKind::Passthrough | DestinationKind::Unspecified => Cell::from(dialled),
        }
    }

    /// Name and number of the process that dialled.
    pub(super) fn process_cell(&self) -> Cell {
        let text = self.process.as_ref().map(|process| match process.comm.as_str() {
            "" => process.pid.to_string(),
            comm => format!("{comm}/{}", process.pid),
        });
        Cell::from(text.unwrap_or_default())
    }

    /// What protects it; nothing while that is not known.
    pub(super) fn channel_cell(&self) -> Cell {
        match self.channel() {
            Channel::Unspecified => Cell::from(""),
            channel => Cell::from(channel.word()),
        }
    }

    /// The data worker that carries it; nothing for one that no agent carries.
    pub(super) fn worker_cell(&self) -> Cell {
        match self.channel() {
            Channel::Direct => Cell::from(""),
            _ => Cell::from(self.worker.to_string()),
        }
    }

    /// What the policies say; nothing where this agent does not decide.
    pub(super) fn verdict_cell(&self) -> Cell {
        let denied = self.verdict.starts_with("denied");
        Cell::from(&self.verdict).tone(if denied { Tone::Bad } else { Tone::Plain })
    }

    /// Which way.
    pub(super) fn direction_cell(&self) -> Cell {
        Cell::from(Direction::word_of(self.direction))
    }
}
