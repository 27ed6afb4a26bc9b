//! The log: where it goes, what it looks like, and how to change what is in it while the agent runs.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

use super::AgentError;

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line an event, for people.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// Changes the filter of a started log.
pub(super) struct Handle(reload::Handle<EnvFilter, Registry>);

/// Starts the log on standard error.
pub(super) fn start(filter: &str, format: LogFormat) -> Result<Handle, AgentError> {
    let bad = |error: String| AgentError::Log(filter.to_owned(), error);
    let parsed = EnvFilter::try_new(filter).map_err(|error| bad(error.to_string()))?;
    let (layer, handle) = reload::Layer::new(parsed);
    let registry = tracing_subscriber::registry().with(layer);
    match format {
        LogFormat::Text => {
            let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let lines = tracing_subscriber::fmt::layer()
                .with_writer(io::stderr)
                .with_ansi(colours);
            registry.with(lines).try_init()
        }
        LogFormat::Json => registry
            .with(tracing_subscriber::fmt::layer().json().with_writer(io::stderr))
            .try_init(),
    }
    .map_err(|error| bad(error.to_string()))?;
    Ok(Handle(handle))
}

impl Handle {
    /// Replaces the filter and returns the one until now.
    pub(super) fn set(&self, filter: &str) -> Result<String, String> {
        let parsed = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
        let before = self
            .0
            .with_current(ToString::to_string)
            .map_err(|error| error.to_string())?;
        self.0.reload(parsed).map_err(|error| error.to_string())?;
        Ok(before)
    }
}
