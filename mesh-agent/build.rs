//! Generates the admin API from its protobuf definition, without `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    admin_api()
}

/// Enumerations of the API and the fields that hold them. In JSON they are words, not numbers.
const ENUM_FIELDS: &[(&str, &str)] = &[
    ("AgentState", "StatusReply.state"),
    ("Enrolment", "Workload.enrolment"),
    ("Direction", "Path.direction"),
    ("DestinationKind", "Destination.kind"),
    ("ConnectionState", "Connection.state"),
    ("FlowKind", "Flow.kind"),
];

/// Fields that hold a time. In JSON they are RFC 3339 text.
const TIME_FIELDS: &[&str] = &["StatusReply.started_at", "Connection.opened_at", "Flow.time"];

/// What is printed with `-o json`; these messages and what they contain.
const SERIALIZED: &[&str] = &[
    "VersionReply",
    "StatusReply",
    "WorkerStatus",
    "Counts",
    "Totals",
    "RejectedObject",
    "ListWorkloadsReply",
    "Workload",
    "Port",
    "ListServicesReply",
    "Service",
    "Endpoint",
    "Path",
    "Destination",
    "Process",
    "ListConnectionsReply",
    "Connection",
    "Flow",
    "DrainReply",
    "SetLogLevelReply",
];

/// Client, server and messages of `nodemesh.admin.v1`. The serialized form is described in the definition.
fn admin_api() -> Result<(), Box<dyn Error>> {
    const PACKAGE: &str = "nodemesh.admin.v1";
    const FILE: &str = "nodemesh/admin/v1/admin.proto";
    println!("cargo::rerun-if-changed=proto");
    let mut build = tonic_prost_build::configure().build_transport(false);
    for message in SERIALIZED {
        build = build
            .message_attribute(format!("{PACKAGE}.{message}"), "#[derive(serde::Serialize)]")
            .message_attribute(
                format!("{PACKAGE}.{message}"),
                "#[serde(rename_all = \"camelCase\")]",
            );
    }
    for (name, field) in ENUM_FIELDS {
        build = build.field_attribute(
            format!("{PACKAGE}.{field}"),
            format!("#[serde(serialize_with = \"super::words::enumeration::<{name}, _>\")]"),
        );
    }
    for field in TIME_FIELDS {
        build = build.field_attribute(
            format!("{PACKAGE}.{field}"),
            "#[serde(serialize_with = \"super::words::time\")]",
        );
    }
    // What a connection and a flow have in common stands beside their own fields.
    for message in ["Connection", "Flow"] {
        build = build.field_attribute(format!("{PACKAGE}.{message}.path"), "#[serde(flatten)]");
    }
    // Equal labels print equally.
    build = build.btree_map(format!("{PACKAGE}.Workload.labels"));
    build.compile_fds(protox::compile([FILE], ["proto"])?)?;
    Ok(())
}
