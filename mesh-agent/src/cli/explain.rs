//! `mesh-agent explain`: what would become of a connection or a request, and why, without sending anything.

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
        Carriage, Destination, DestinationKind, ExplainReply, ExplainRequest, ExplainedBackend,
        ExplainedPolicy, ExplainedRoute, ExplainedWay, RequestHead,
    },
};

/// Examples, and what the exit code says.
pub(super) const HELP: &str = "\
Examples:
  May the cart connect to the web?
    mesh-agent explain shop/cart shop/web:80
  Which rule of which route leads this request, to which backends, and what do the policies there say?
    mesh-agent explain shop/cart shop/web:80 --method POST --path '/orders?id=7' --header 'x-user: alice'
  Is this token good?
    mesh-agent explain shop/cart shop/web:80 --header \"Authorization: Bearer $TOKEN\"
  In a script: what the mesh would answer in place of the application, 0 for nothing
    mesh-agent explain shop/cart shop/web:80 --path /admin -o json | jq '.status, .ways[].status'

Policies are those of the whole mesh, keys of token issuers only those of this node's workloads: ask about a
token where the destination runs.

Ends with 1 when the connection or the request would be refused, or answered by the mesh with an error.";

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
    request: HeadArgs,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The request that is asked about. Without any of these it is the connection.
#[derive(Args, Debug)]
#[command(next_help_heading = "The request")]
struct HeadArgs {
    /// Its method [GET, when only another part is given]
    #[arg(long, short = 'X', value_name = "METHOD")]
    method: Option<String>,
    /// Its path with the query [/]
    #[arg(long, short, value_name = "PATH")]
    path: Option<String>,
    /// A header, such as `x-user: alice`; can be given many times. Without a Host it is for the service's name
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    headers: Vec<String>,
}

impl HeadArgs {
    fn into_head(self) -> Option<RequestHead> {
        let asked = self.method.is_some() || self.path.is_some() || !self.headers.is_empty();
        asked.then(|| RequestHead {
            method: self.method.unwrap_or_default(),
            path: self.path.unwrap_or_default(),
            headers: self.headers,
        })
    }
}

impl ExplainArgs {
    /// Ends in failure when no way is open and the mesh answers with an error, so that a script can ask.
    pub(super) fn run(self) -> Result<(), Failure> {
        let request = ExplainRequest {
            source: self.source,
            destination: self.destination,
            request: self.request.into_head(),
        };
        let reply = self.agent.call(async |mut agent| agent.explain(request).await)?;
        self.output.show(&reply)?;
        match is_open(&reply) {
            true => Ok(()),
            false => Err(Failure::Told),
        }
    }
}

/// Whether it may come to something. What depends on more than was asked is not shut.
pub(super) fn is_open(reply: &ExplainReply) -> bool {
    let answered = (1..400).contains(&reply.status);
    let open = |way: &ExplainedWay| way.allowed || !way.depends_on.is_empty();
    answered || !reply.depends_on.is_empty() || reply.ways.iter().any(open)
}

impl View for ExplainReply {
    fn text(&self, detail: Detail, colour: Colour) -> String {
        let mut facts = Table::new([Column::text(""), Column::text("")]);
        let source = self.source.clone().unwrap_or_default();
        let known = match source.workload.as_str() {
            "" => format!("{}, not in the mesh", source.address),
            workload => format!("workload {workload} ({}), node {}", source.address, source.node),
        };
        fact(&mut facts, "Source", [known]);
        let identity = match source.identity.as_str() {
            "" => "none".to_owned(),
            identity => identity.to_owned(),
        };
        fact(&mut facts, "Identity", [identity]);
        let dialled = destination(&self.destination.clone().unwrap_or_default(), self.port);
        fact(&mut facts, "Destination", [dialled]);
        if let Some(request) = &self.request {
            fact(&mut facts, "Request", request.lines());
        }
        let tone = match self.status {
            0..400 => Tone::Plain,
            _ => Tone::Bad,
        };
        facts.row([Cell::from("Route"), Cell::from(&self.route).tone(tone)]);
        fact(&mut facts, "Depends on", self.depends_on.clone());
        if let Some(rule) = &self.rule {
            rule.write(&mut facts);
        }
        let mut text = facts.body(colour);
        let weights = self.rule.as_ref().map_or(0, ExplainedRoute::weights);
        for way in &self.ways {
            text.push('\n');
            way.write(&mut text, self.request.as_ref(), weights, detail, colour);
        }
        text
    }
}

/// Lines with the name before the first one.
fn fact(table: &mut Table, name: &str, lines: impl IntoIterator<Item = String>) {
    // A blank keeps the cell from being shown as one without a value.
    let names = std::iter::once(name).chain(std::iter::repeat(" "));
    for (name, line) in names.zip(lines) {
        table.row([Cell::from(name), Cell::from(line)]);
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

impl RequestHead {
    fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.line()];
        lines.extend(self.headers.iter().cloned());
        lines
    }
}

impl ExplainedRoute {
    /// The sum of the weights of its backends.
    fn weights(&self) -> u64 {
        self.backends
            .iter()
            .map(|backend| u64::from(backend.weight))
            .sum()
    }

    fn write(&self, facts: &mut Table) {
        let name = match self.name.as_str() {
            "" => String::new(),
            name => format!(" ({name})"),
        };
        let rule = format!("{} {}, rule {}{name}", self.kind, self.key, self.rule);
        fact(facts, "Rule", [rule]);
        match self.matches.as_slice() {
            [] => fact(facts, "Wants", ["every request".to_owned()]),
            matches => fact(facts, "Wants", matches.to_vec()),
        }
        fact(facts, "Filters", self.filters.clone());
        fact(facts, "Timeouts", self.timeouts.clone());
        let sum = self.weights();
        let backends = self.backends.iter().flat_map(|backend| backend.lines(sum));
        fact(facts, "Backends", backends);
    }
}

impl ExplainedBackend {
    fn lines(&self, sum: u64) -> Vec<String> {
        let mut lines = vec![format!("{}, weight {} of {sum}", self.target, self.weight)];
        let filters = self.filters.iter().map(|filter| format!("  {filter}"));
        lines.extend(filters);
        if !self.fault.is_empty() {
            lines.push(format!("  {}", self.fault));
        }
        lines
    }
}

impl ExplainedWay {
    /// `asked` is the request as the client sends it; `weights` the sum of those of all backends.
    fn write(
        &self,
        text: &mut String,
        asked: Option<&RequestHead>,
        weights: u64,
        detail: Detail,
        colour: Colour,
    ) {
        let shown = match detail {
            Detail::Usual => NAMED,
            Detail::Wide => usize::MAX,
        };
        for endpoint in self.endpoints.iter().take(shown) {
            let line = match endpoint.workload.as_str() {
                "" => format!("To {}", endpoint.address),
                workload => format!("To {} ({workload}), node {}", endpoint.address, endpoint.node),
            };
            text.push_str(&plain(&line));
            text.push('\n');
        }
        if let Some(more) = self.endpoints.len().checked_sub(shown).filter(|more| *more > 0) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "and to {more} more; see -o wide");
        }
        let mut steps = Table::new([Column::text(""), Column::text("")]);
        let mut step = |name: &str, value: Cell| steps.row([Cell::from(format!("  {name}")), value]);
        if !self.backend.is_empty() {
            let backend = format!("{}, weight {} of {weights}", self.backend, self.weight);
            step("Backend", Cell::from(backend));
        }
        step("Carried", Cell::from(carried(self.carriage())));
        if let Some(request) = self.request.as_ref().filter(|request| Some(*request) != asked) {
            let names = std::iter::once("Request").chain(std::iter::repeat(""));
            for (name, line) in names.zip(request.lines()) {
                step(name, Cell::from(line));
            }
        }
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
        let names = std::iter::once("Depends on").chain(std::iter::repeat(""));
        for (name, line) in names.zip(&self.depends_on) {
            step(name, Cell::from(line));
        }
        let tone = match (self.allowed, self.depends_on.as_slice()) {
            (true, _) => Tone::Good,
            (false, []) => Tone::Bad,
            (false, _) => Tone::Doubtful,
        };
        step("Verdict", Cell::from(&self.verdict).tone(tone));
        if self.status > 0 {
            step(
                "Answer",
                Cell::from(format!("{} by the mesh", self.status)).tone(tone),
            );
        }
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
