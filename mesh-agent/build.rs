//! Generates the admin API from its protobuf definition, without `protoc`, and embeds the kernel half if it is built.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    kernel_object()?;
    admin_api()
}

/// Copies the kernel half's object to where `kernel::object` includes it from, and sets the `ebpf_object` condition.
///
/// It is `$MESH_EBPF_OBJECT`, which must then exist, or what `cargo xtask build-ebpf` left. Without one the agent
/// still compiles and says at start what it lacks.
fn kernel_object() -> Result<(), Box<dyn Error>> {
    const CHOICE: &str = "MESH_EBPF_OBJECT";
    println!("cargo::rerun-if-env-changed={CHOICE}");
    println!("cargo::rustc-check-cfg=cfg(ebpf_object)");
    let object = match env::var_os(CHOICE) {
        Some(object) => {
            let object = PathBuf::from(object);
            println!("cargo::rerun-if-changed={}", object.display());
            object
        }
        None => {
            let directory =
                Path::new(&env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo set no CARGO_MANIFEST_DIR")?)
                    .join("../target/ebpf");
            // The directory is watched, because a file that is not there yet would count as changed in every build.
            fs::create_dir_all(&directory)
                .map_err(|source| format!("cannot create {}: {source}", directory.display()))?;
            println!("cargo::rerun-if-changed={}", directory.display());
            let object = directory.join("mesh-ebpf.o");
            if !object.exists() {
                return Ok(());
            }
            object
        }
    };
    let copy = Path::new(&env::var_os("OUT_DIR").ok_or("cargo set no OUT_DIR")?).join("mesh-ebpf.o");
    fs::copy(&object, &copy)
        .map_err(|source| format!("cannot copy the kernel half from {}: {source}", object.display()))?;
    println!("cargo::rustc-cfg=ebpf_object");
    Ok(())
}

/// Enumerations of the API and the fields that hold them. In JSON they are words, not numbers.
const ENUM_FIELDS: &[(&str, &str)] = &[
    ("AgentState", "StatusReply.state"),
    ("Enrolment", "Workload.enrolment"),
    ("Direction", "Path.direction"),
    ("Channel", "Path.channel"),
    ("DestinationKind", "Destination.kind"),
    ("ConnectionState", "Connection.state"),
    ("FlowKind", "Flow.kind"),
    ("CertificateStanding", "Certificate.standing"),
    ("ProblemSeverity", "CertificateProblem.severity"),
    ("PolicyKind", "Policy.kind"),
    ("Carriage", "ExplainedWay.carriage"),
];

/// Fields that hold a time. In JSON they are RFC 3339 text.
const TIME_FIELDS: &[&str] = &[
    "StatusReply.started_at",
    "Connection.opened_at",
    "Flow.time",
    "CertificateHealth.first_expiry",
    "CertificateHealth.authority_expiry",
    "Certificate.not_before",
    "Certificate.not_after",
    "Certificate.renewal_due",
    "Route.created_at",
    "TokenIssuer.fetched_at",
    "Limited.last",
];

/// What is printed with `-o json`; these messages and what they contain.
const SERIALIZED: &[&str] = &[
    "VersionReply",
    "StatusReply",
    "WorkerStatus",
    "Counts",
    "Totals",
    "RejectedObject",
    "CertificateHealth",
    "CertificateProblem",
    "ListWorkloadsReply",
    "Workload",
    "Limited",
    "Port",
    "ListServicesReply",
    "Service",
    "Endpoint",
    "ListRoutesReply",
    "Route",
    "RouteParent",
    "RouteCondition",
    "RouteRule",
    "RouteBackend",
    "Path",
    "Destination",
    "Process",
    "ListCertificatesReply",
    "Certificate",
    "ListPoliciesReply",
    "Policy",
    "TokenIssuer",
    "ExplainReply",
    "ExplainedSource",
    "ExplainedWay",
    "ExplainedRoute",
    "ExplainedBackend",
    "RequestHead",
    "ExplainedPolicy",
    "ExplainedRule",
    "ListConnectionsReply",
    "Connection",
    "Flow",
    "Request",
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
