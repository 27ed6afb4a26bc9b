//! `mesh-agent routes`: which routes lead requests to services, and why the others do not.

use clap::Args;

use super::{
    agent::AgentArgs,
    failure::Failure,
    output::{OutputArgs, View, listing},
    table::{Cell, Colour, Column, Detail, Tone},
};
use crate::admin::proto::{ListRoutesReply, ListRoutesRequest, Route, RouteParent};

/// What `routes` takes.
#[derive(Args, Debug)]
pub(super) struct RoutesArgs {
    /// Only routes whose namespace/name contains this text
    #[arg(value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl RoutesArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let request = ListRoutesRequest { name: self.name };
        let reply = self
            .agent
            .call(async |mut agent| agent.list_routes(request).await)?;
        self.output.show(&reply)
    }
}

/// One row for each parent of a route, and one for a route that has none.
impl View for ListRoutesReply {
    fn text(&self, detail: Detail, colour: Colour) -> String {
        let columns = (
            vec![
                Column::text("ROUTE"),
                Column::text("KIND"),
                Column::text("PARENT"),
                Column::text("PORT"),
                Column::number("RULES"),
                Column::text("ACCEPTED"),
                Column::text("REASON"),
            ],
            vec![Column::text("BACKENDS"), Column::text("MESSAGE")],
        );
        let rows = self.routes.iter().flat_map(|route| {
            let none = route.parents.is_empty().then_some(None);
            let parents = route.parents.iter().map(Some).chain(none);
            parents.map(|parent| (route.usual_cells(parent), route.wide_cells(parent)))
        });
        listing(detail, colour, columns, rows)
    }

    fn nothing(&self) -> Option<&'static str> {
        self.routes.is_empty().then_some("No routes.")
    }
}

impl Route {
    fn usual_cells(&self, parent: Option<&RouteParent>) -> Vec<Cell> {
        let service = parent.map(|parent| parent.service.clone()).unwrap_or_default();
        let (accepted, reason, tone) = match parent {
            Some(parent) => parent.verdict(),
            None => ("no", "NoServiceParent", Tone::Doubtful),
        };
        vec![
            Cell::from(&self.key),
            Cell::from(&self.kind),
            Cell::from(service),
            Cell::from(parent.map(RouteParent::port_list).unwrap_or_default()),
            Cell::from(self.rules.len().to_string()),
            Cell::from(accepted).tone(tone),
            Cell::from(reason).tone(tone),
        ]
    }

    fn wide_cells(&self, parent: Option<&RouteParent>) -> Vec<Cell> {
        vec![Cell::from(self.backend_list()), Cell::from(messages(parent))]
    }

    /// The backends of each rule with their weights; rules are separated by `|`.
    fn backend_list(&self) -> String {
        let rules = self.rules.iter().map(|rule| {
            let backends = rule.backends.iter();
            let backends = backends.map(|backend| format!("{}({})", backend.target, backend.weight));
            match backends.collect::<Vec<_>>() {
                none if none.is_empty() => "-".to_owned(),
                some => some.join(","),
            }
        });
        rules.collect::<Vec<_>>().join(" | ")
    }
}

impl RouteParent {
    /// The ports on which the route is in force, or the one it was meant for.
    fn port_list(&self) -> String {
        let ports = self.ports.iter().map(u32::to_string);
        match ports.collect::<Vec<_>>() {
            none if none.is_empty() && self.port > 0 => self.port.to_string(),
            none if none.is_empty() => self.section_name.clone(),
            some => some.join(","),
        }
    }

    /// Whether the route is accepted here, and the gravest of its troubles.
    fn verdict(&self) -> (&'static str, &str, Tone) {
        let condition = |kind: &str| self.conditions.iter().find(|condition| condition.r#type == kind);
        match (
            condition("Accepted"),
            condition("ResolvedRefs"),
            condition("PartiallyInvalid"),
        ) {
            (Some(accepted), _, _) if !accepted.status => ("no", &accepted.reason, Tone::Bad),
            (Some(_), Some(resolved), _) if !resolved.status => ("yes", &resolved.reason, Tone::Doubtful),
            (Some(_), _, Some(partial)) if partial.status => ("yes", &partial.r#type, Tone::Doubtful),
            (Some(accepted), _, _) => ("yes", &accepted.reason, Tone::Good),
            (None, _, _) => ("", "", Tone::Plain),
        }
    }
}

/// What the conditions say in sentences.
fn messages(parent: Option<&RouteParent>) -> String {
    let Some(parent) = parent else {
        return "no parent of it is a Service".to_owned();
    };
    let conditions = parent.conditions.iter();
    let said = conditions
        .map(|condition| condition.message.as_str())
        .filter(|message| !message.is_empty());
    said.collect::<Vec<_>>().join("; ")
}
