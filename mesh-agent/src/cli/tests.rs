//! What the commands print, from fixed answers, and what they take.

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

use super::{
    Cli,
    connections::Seen,
    flows::Printer,
    output::{Format, View, render},
    table::Colour,
};
use crate::admin::{
    proto::{
        DrainReply, ExplainReply, ListCertificatesReply, ListConnectionsReply, ListPoliciesReply,
        ListRoutesReply, ListServicesReply, ListWorkloadsReply, SetLogLevelReply,
    },
    samples,
};

const FORMATS: [(&str, Format); 4] = [
    ("table", Format::Table),
    ("wide", Format::Wide),
    ("json", Format::Json),
    ("yaml", Format::Yaml),
];

fn assert_formats(name: &str, view: &impl View) {
    for (format_name, format) in FORMATS {
        insta::assert_snapshot!(
            format!("{name}.{format_name}"),
            render(view, format, Colour::Off).unwrap()
        );
    }
}

#[test]
fn status() {
    assert_formats("status", &samples::status());
}

#[test]
fn workloads() {
    assert_formats(
        "workloads",
        &ListWorkloadsReply {
            workloads: samples::workloads(),
        },
    );
}

#[test]
fn services() {
    assert_formats(
        "services",
        &ListServicesReply {
            services: samples::services(),
        },
    );
}

#[test]
fn routes() {
    let routes = samples::routes();
    assert_formats("routes", &ListRoutesReply { routes });
}

#[test]
fn certs() {
    let certificates = samples::certificates();
    assert_formats("certs", &ListCertificatesReply { certificates });
}

#[test]
fn policies() {
    let policies = samples::policies();
    assert_formats("policies", &ListPoliciesReply { policies });
}

#[test]
fn explain() {
    assert_formats("explain", &samples::explained());
    assert_formats("explain-request", &samples::explained_request());
    let [by_route, at_the_endpoint] = samples::explained_dependence();
    assert_formats("explain-route", &by_route);
    assert_formats("explain-policy", &at_the_endpoint);
}

#[test]
fn an_explained_request_is_taken_apart_at_the_edge() {
    let parse = |line: &[&str]| Cli::try_parse_from(["mesh-agent", "explain"].iter().chain(line));
    let long = [
        "a/b", "c/d:1", "--method", "PUT", "--path", "/x?y", "--header", "a: b", "--header", "c: d",
    ];
    assert!(parse(&long).is_ok());
    assert!(parse(&["a/b", "c/d:1", "-X", "PUT", "-p", "/x", "-H", "a: b"]).is_ok());
    assert!(parse(&["a/b", "c/d:1", "--method"]).is_err());
    assert!(parse(&["a/b"]).is_err());
}

#[test]
fn what_is_explained_ends_well_unless_every_way_is_shut() {
    let open = |reply: &ExplainReply| super::explain::is_open(reply);
    let mut reply = samples::explained_request();
    assert!(open(&reply), "one of the backends is open");
    reply.ways.remove(0);
    assert!(!open(&reply), "what is left is denied");
    reply.ways.clear();
    for (status, expected) in [(0, false), (302, true), (204, true), (404, false), (503, false)] {
        reply.status = status;
        assert_eq!(open(&reply), expected, "{status}");
    }
    for reply in &samples::explained_dependence() {
        assert!(open(reply), "it depends: {}", reply.route);
    }
}

#[test]
fn connections() {
    let connections = samples::connections();
    let total = connections.len() as u64;
    assert_formats(
        "connections",
        &Seen::at(samples::NOW, ListConnectionsReply { connections, total }),
    );
}

#[test]
fn flows() {
    for (name, format) in FORMATS {
        let printer = Printer::new(format, Colour::Off);
        let texts = samples::flows()
            .into_iter()
            .map(|flow| printer.text(&flow).unwrap());
        let text: String = std::iter::once(printer.head()).chain(texts).collect();
        insta::assert_snapshot!(format!("flows.{name}"), text);
    }
}

#[test]
fn small_answers() {
    assert_formats(
        "drain",
        &DrainReply {
            connections: 23,
            deadline_ms: 30_000,
        },
    );
    assert_formats(
        "log",
        &SetLogLevelReply {
            previous: "info".into(),
        },
    );
}

#[test]
fn an_empty_table_is_a_sentence() {
    assert_eq!(ListWorkloadsReply::default().nothing(), Some("No workloads."));
    assert_eq!(
        ListServicesReply {
            services: samples::services()
        }
        .nothing(),
        None
    );
}

#[test]
fn colours_only_when_asked_for() {
    let plain = render(&samples::status(), Format::Table, Colour::Off).unwrap();
    let coloured = render(&samples::status(), Format::Table, Colour::On).unwrap();
    assert!(!plain.contains('\x1b'));
    assert!(coloured.contains("\x1b[32mready\x1b[0m"));
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_says_what_it_does_and_shows_an_example() {
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        assert!(command.get_about().is_some(), "{name} has no summary");
        let example = command
            .get_after_help()
            .is_some_and(|text| text.to_string().contains("mesh-agent "));
        assert!(example, "{name} has no example");
    }
}

#[test]
fn mistyped_commands_get_a_suggestion_and_code_2() {
    let error = Cli::try_parse_from(["mesh-agent", "statsu"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSubcommand);
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("'status'"));
}

#[test]
fn arguments_are_checked_at_the_edge() {
    let parse = |line: &str| Cli::try_parse_from(line.split(' '));
    assert!(parse("mesh-agent run --config /c --node n --workers 2 --drain-timeout 5s --takeover").is_ok());
    assert!(parse("mesh-agent run --config /c --node n --workers 0").is_err());
    assert!(parse("mesh-agent run --config /c --node n --workers 17").is_err());
    assert!(parse("mesh-agent run --node n").is_err());
    assert!(parse("mesh-agent run --config /c --node ").is_err());
    assert!(parse("mesh-agent flows -f --last 5 --kind timed-out --direction inbound -o json").is_ok());
    assert!(parse("mesh-agent flows --kind timedout").is_err());
    assert!(parse("mesh-agent connections --port 70000").is_err());
    assert!(parse("mesh-agent bpf maps -o wide --bpffs /x").is_ok());
    assert!(parse("mesh-agent drain --deadline soon").is_err());
}
