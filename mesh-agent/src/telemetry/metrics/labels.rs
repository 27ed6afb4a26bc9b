//! Who talked to whom, as other meshes' dashboards know it.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use mesh_common::model::{ObjectKey, SpiffeId, Workload};
use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, EncodeLabelValue, LabelSetEncoder};

use super::series::{Labels, OVERFLOW};

static UNKNOWN: LazyLock<Arc<str>> = LazyLock::new(|| "unknown".into());

/// Labels of a workload that name the application it is part of, the first that is there.
const APP_LABELS: [&str; 3] = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
/// The same for its version.
const VERSION_LABELS: [&str; 3] = [
    "service.istio.io/canonical-revision",
    "app.kubernetes.io/version",
    "version",
];
/// What a service's name ends with as a host.
const SERVICE_DOMAIN: &str = "svc.cluster.local";

/// Who tells: the agent on the client's side, or the one on the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's.
    Source,
    /// The server's.
    Destination,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Bytes.
    Tcp,
    /// Requests of HTTP, any version.
    Http,
    /// Calls of gRPC.
    Grpc,
}

/// How a connection is protected between its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Security {
    /// Not at all.
    None,
    /// Encrypted, both ends proved by certificates.
    MutualTls,
    /// It never leaves the node, both ends proved by the kernel.
    SameNode,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Party {
    workload: Arc<str>,
    namespace: Arc<str>,
    principal: Arc<str>,
    app: Arc<str>,
    version: Arc<str>,
}

/// Everything that a connection's series is named by, but how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Traffic {
    /// Who tells.
    pub reporter: Reporter,
    /// Who dialled.
    pub source: Party,
    /// Who was dialled.
    pub destination: Party,
    /// The service by whose address, where the teller knows.
    pub service: Option<ObjectKey>,
    /// What is spoken.
    pub protocol: Protocol,
    /// How it is protected.
    pub security: Security,
}

impl Party {
    /// A workload, if it is known, under the identity that it proved.
    pub fn new(workload: Option<&Workload>, principal: Option<&SpiffeId>) -> Self {
        let label = |names: [&str; 3]| {
            let labels = workload.map(|workload| &workload.labels);
            let found = labels.and_then(|labels| names.iter().find_map(|name| labels.get(*name)));
            found.map_or_else(|| Arc::clone(&UNKNOWN), |value| value.as_str().into())
        };
        let key = |part: fn(&ObjectKey) -> &Arc<str>| {
            Arc::clone(workload.map_or(&*UNKNOWN, |workload| part(&workload.key)))
        };
        Self {
            workload: key(|key| &key.name),
            namespace: key(|key| &key.namespace),
            principal: principal.map_or_else(|| Arc::clone(&UNKNOWN), |id| id.as_str().into()),
            app: label(APP_LABELS),
            version: label(VERSION_LABELS),
        }
    }

    fn overflow() -> Self {
        let overflow: Arc<str> = OVERFLOW.into();
        Self {
            workload: Arc::clone(&overflow),
            namespace: Arc::clone(&overflow),
            principal: Arc::clone(&overflow),
            app: Arc::clone(&overflow),
            version: overflow,
        }
    }
}

impl Labels for Traffic {
    fn overflow() -> Self {
        Self {
            reporter: Reporter::Source,
            source: Party::overflow(),
            destination: Party::overflow(),
            service: None,
            protocol: Protocol::Tcp,
            security: Security::None,
        }
    }
}

/// Labels are told one by one: two parties have the same ones, under different names.
pub(super) fn tell(
    encoder: &mut LabelSetEncoder<'_>,
    name: &str,
    value: impl EncodeLabelValue,
) -> fmt::Result {
    (name, value).encode(encoder.encode_label())
}

impl EncodeLabelSet for Traffic {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        tell(
            encoder,
            "reporter",
            match self.reporter {
                Reporter::Source => "source",
                Reporter::Destination => "destination",
            },
        )?;
        let Party {
            workload,
            namespace,
            principal,
            app,
            version,
        } = &self.source;
        tell(encoder, "source_workload", &**workload)?;
        tell(encoder, "source_workload_namespace", &**namespace)?;
        tell(encoder, "source_principal", &**principal)?;
        tell(encoder, "source_app", &**app)?;
        tell(encoder, "source_version", &**version)?;
        let Party {
            workload,
            namespace,
            principal,
            app,
            version,
        } = &self.destination;
        tell(encoder, "destination_workload", &**workload)?;
        tell(encoder, "destination_workload_namespace", &**namespace)?;
        tell(encoder, "destination_principal", &**principal)?;
        tell(encoder, "destination_app", &**app)?;
        tell(encoder, "destination_version", &**version)?;
        match &self.service {
            Some(ObjectKey { namespace, name }) => {
                let host = format!("{name}.{namespace}.{SERVICE_DOMAIN}");
                tell(encoder, "destination_service", host)?;
                tell(encoder, "destination_service_name", &**name)?;
                tell(encoder, "destination_service_namespace", &**namespace)?;
            }
            None => {
                tell(encoder, "destination_service", &**UNKNOWN)?;
                tell(encoder, "destination_service_name", &**UNKNOWN)?;
                tell(encoder, "destination_service_namespace", &**UNKNOWN)?;
            }
        }
        tell(
            encoder,
            "request_protocol",
            match self.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Http => "http",
                Protocol::Grpc => "grpc",
            },
        )?;
        tell(
            encoder,
            "connection_security_policy",
            match self.security {
                Security::None => "none",
                Security::MutualTls => "mutual_tls",
                Security::SameNode => "same_node",
            },
        )
    }
}
