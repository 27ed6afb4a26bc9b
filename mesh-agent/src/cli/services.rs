//! `mesh-agent services`: what can be dialled by name, and who answers.

use clap::Args;

use super::{
    agent::AgentArgs,
    failure::Failure,
    output::{OutputArgs, View, listing},
    table::{Cell, Colour, Column, Detail, Tone},
    workloads::ports,
};
use crate::admin::proto::{Endpoint, ListServicesReply, ListServicesRequest, Service};

/// What `services` takes.
#[derive(Args, Debug)]
pub(super) struct ServicesArgs {
    /// Only services whose namespace/name contains this text
    #[arg(value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl ServicesArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let request = ListServicesRequest { name: self.name };
        let reply = self
            .agent
            .call(async |mut agent| agent.list_services(request).await)?;
        self.output.show(&reply)
    }
}

impl View for ListServicesReply {
    fn text(&self, detail: Detail, colour: Colour) -> String {
        let columns = (
            vec![
                Column::text("SERVICE"),
                Column::text("CLUSTER-IPS"),
                Column::text("PORTS"),
                Column::text("READY"),
                Column::number("CONNECTIONS"),
            ],
            vec![Column::text("ENDPOINTS")],
        );
        let rows = self
            .services
            .iter()
            .map(|service| (service.usual_cells(), vec![Cell::from(service.endpoint_list())]));
        listing(detail, colour, columns, rows)
    }

    fn nothing(&self) -> Option<&'static str> {
        self.services.is_empty().then_some("No services.")
    }
}

impl Service {
    fn usual_cells(&self) -> Vec<Cell> {
        let ready = self.endpoints.iter().filter(|endpoint| endpoint.ready).count();
        let tone = match ready {
            0 => Tone::Bad,
            _ if ready < self.endpoints.len() => Tone::Doubtful,
            _ => Tone::Plain,
        };
        let connections: u64 = self.endpoints.iter().map(|endpoint| endpoint.connections).sum();
        vec![
            Cell::from(&self.key),
            Cell::from(self.cluster_ips.join(",")),
            Cell::from(ports(&self.ports)),
            Cell::from(format!("{ready}/{}", self.endpoints.len())).tone(tone),
            Cell::from(connections.to_string()),
        ]
    }

    /// Address, connections and, where it is not, readiness of each.
    fn endpoint_list(&self) -> String {
        let one = |endpoint: &Endpoint| {
            let ready = if endpoint.ready { "" } else { ",not-ready" };
            format!("{}({}{ready})", endpoint.address, endpoint.connections)
        };
        self.endpoints.iter().map(one).collect::<Vec<_>>().join(" ")
    }
}
