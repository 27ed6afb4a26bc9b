//! What a document is: which object it defines, and that object or what is wrong with it.
//!
//! `directory` hands text in and keeps the [`Entry`]s. A document is identified before it is decoded, so that a
//! mistake in it concerns that one object; the items of a `List` are entries of their own.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_common::model::{
    AuthorizationPolicy, ObjectKey, PeerAuthentication, RequestAuthentication, Route, Service, Workload,
};

use super::fault::{Fault, Place};
use super::names::{closest, dns_label, dns_name};
use super::schema;
use super::tree::{self, Node, Value};

/// A kind of object that the mesh takes from files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Workload,
    Service,
    AuthorizationPolicy,
    PeerAuthentication,
    RequestAuthentication,
    HttpRoute,
    GrpcRoute,
}

/// Names one object among all kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id {
    pub(super) kind: Kind,
    pub(super) key: ObjectKey,
}

/// A checked object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Workload(Arc<Workload>),
    Service(Arc<Service>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    PeerAuthentication(Arc<PeerAuthentication>),
    RequestAuthentication(Arc<RequestAuthentication>),
    Route(Arc<Route>),
}

/// A checked object, and what only its file can tell.
#[derive(Clone, Debug)]
pub(super) struct Parsed {
    pub(super) object: Object,
    /// Every address of the object, with its place.
    pub(super) claims: Vec<Claim>,
    /// Parts that were accepted and have no effect.
    pub(super) ignored: Vec<Fault>,
}

/// An address that an object wants for itself alone.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) ip: IpAddr,
    pub(super) place: Place,
}

/// One document, or one item of a list. Its lines count from the beginning of its document.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) identity: Identity,
    /// Kind and key as they were written, for messages; only where `identity` does not say the same.
    written: Option<Box<(String, ObjectKey)>>,
    pub(super) result: Result<Parsed, Vec<Fault>>,
}

/// How well an entry names its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// It defines this object, rightly or wrongly.
    Known(Id),
    /// Its kind or version is not known, but was probably meant to be this object's.
    Near(Id),
    /// It defines something else that is no business of the mesh.
    Foreign,
    /// It could be anything.
    Unknown,
}

/// The entries of a document in order.
pub(super) fn entries(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    match tree::parse(text) {
        Ok(node) => collect(&node, Nesting::Document, &mut entries),
        Err(fault) => entries.push(Entry {
            place: fault.place.clone(),
            identity: Identity::Unknown,
            written: None,
            result: Err(vec![fault]),
        }),
    }
    entries
}

impl Entry {
    /// Kind and key as they were written, as far as they could be read.
    pub(super) fn title(&self) -> Option<(String, ObjectKey)> {
        match &self.identity {
            Identity::Known(id) => Some((id.kind.name().to_owned(), id.key.clone())),
            Identity::Near(_) | Identity::Foreign | Identity::Unknown => self.written.as_deref().cloned(),
        }
    }
}

impl Object {
    /// The addresses that it has for itself alone.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::Workload(workload) => &workload.addresses,
            Self::Service(service) => &service.cluster_ips,
            _ => &[],
        }
    }
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Service,
        Self::Workload,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
        Self::RequestAuthentication,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Workload => "Workload",
            Self::Service => "Service",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
        }
    }

    /// The versions that the kind has, the one to use first. All of them name the same object.
    fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::Workload => &["nodemesh.io/v1alpha1"],
            Self::Service => &["v1"],
            Self::AuthorizationPolicy | Self::PeerAuthentication | Self::RequestAuthentication => {
                &["security.istio.io/v1", "security.istio.io/v1beta1"]
            }
            Self::HttpRoute => &[
                "gateway.networking.k8s.io/v1",
                "gateway.networking.k8s.io/v1beta1",
            ],
            Self::GrpcRoute => &["gateway.networking.k8s.io/v1"],
        }
    }

    fn api_version(self) -> &'static str {
        self.api_versions()[0]
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    fn known() -> String {
        let known = Self::ALL.map(|kind| format!("{} {}", kind.api_version(), kind.name()));
        format!("known are {}", known.join(", "))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.key)
    }
}

/// The namespace of an object that names none.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Nesting {
    Document,
    Item,
}

fn collect(node: &Node, nesting: Nesting, entries: &mut Vec<Entry>) {
    match &node.value {
        Value::Null if nesting == Nesting::Document => {}
        Value::Map(_) if nesting == Nesting::Document && is_list(node) => collect_items(node, entries),
        Value::Map(_) => entries.push(entry(node)),
        other => {
            let fault = node.place("").fault(
                format!("expected an object, found {other}"),
                format!("begin with apiVersion and kind; {}", Kind::known()),
            );
            entries.push(unidentified(node, fault));
        }
    }
}

fn is_list(node: &Node) -> bool {
    let text = |key| node.get(key).and_then(Node::text);
    text("apiVersion") == Some("v1") && text("kind") == Some("List")
}

fn collect_items(list: &Node, entries: &mut Vec<Entry>) {
    if let Err(faults) = schema::check_list(list) {
        entries.extend(faults.into_iter().map(|fault| unidentified(list, fault)));
    }
    if let Some(Node {
        value: Value::List(items),
        ..
    }) = list.get("items")
    {
        for item in items {
            collect(item, Nesting::Item, entries);
        }
    }
}

fn unidentified(node: &Node, fault: Fault) -> Entry {
    Entry {
        place: node.place(""),
        identity: Identity::Unknown,
        written: None,
        result: Err(vec![fault]),
    }
}

fn entry(node: &Node) -> Entry {
    let key = key(node);
    let kind = node.get("kind").and_then(Node::text);
    let written = kind.zip(key.clone());
    let (identity, result) = match classify(node) {
        Class::Known(kind) => {
            let result = match kind {
                Kind::Workload => schema::workload(node),
                Kind::Service => schema::service(node),
                Kind::AuthorizationPolicy => schema::authorization_policy(node),
                Kind::PeerAuthentication => schema::peer_authentication(node),
                Kind::RequestAuthentication => schema::request_authentication(node),
                Kind::HttpRoute => schema::http_route(node),
                Kind::GrpcRoute => schema::grpc_route(node),
            };
            (key.map(|key| Identity::Known(Id { kind, key })), result)
        }
        Class::Near(kind, fault) => (key.map(|key| Identity::Near(Id { kind, key })), Err(vec![fault])),
        Class::Foreign(fault) => (Some(Identity::Foreign), Err(vec![fault])),
        Class::Unknown(fault) => (None, Err(vec![fault])),
    };
    let identity = identity.unwrap_or(Identity::Unknown);
    let written = written.filter(|_| !matches!(identity, Identity::Known(_)));
    Entry {
        place: node.place(""),
        identity,
        written: written.map(|(kind, key)| Box::new((kind.to_owned(), key))),
        result,
    }
}

/// What kind of object a map says it is.
enum Class {
    Known(Kind),
    Near(Kind, Fault),
    Foreign(Fault),
    Unknown(Fault),
}

fn classify(node: &Node) -> Class {
    let (kind, version) = match (text_field(node, "kind"), text_field(node, "apiVersion")) {
        (Ok(kind), Ok(version)) => (kind, version),
        (Ok((kind, _)), Err(fault)) => {
            return match Kind::named(kind) {
                Some(kind) => Class::Near(kind, fault),
                None => Class::Unknown(fault),
            };
        }
        (Err(fault), _) => return Class::Unknown(fault),
    };
    let ((kind, kind_place), (version, version_place)) = (kind, version);
    let near_kind = closest(kind, Kind::ALL.map(Kind::name)).and_then(Kind::named);
    match Kind::named(kind) {
        Some(known) if known.api_versions().contains(&version) => Class::Known(known),
        Some(known) => {
            let fault = version_place.fault(
                format!("{version} is not a known version of {kind}"),
                format!("use {}", known.api_version()),
            );
            let meant = group(version) == group(known.api_version())
                || closest(version, known.api_versions().iter().copied()).is_some();
            if meant {
                Class::Near(known, fault)
            } else {
                Class::Foreign(fault)
            }
        }
        None => {
            let remedy = match near_kind {
                Some(near) => format!("did you mean {}? {}", near.name(), Kind::known()),
                None => Kind::known(),
            };
            let fault = kind_place.fault(format!("{version} {kind} is not a known kind"), remedy);
            match near_kind {
                Some(near) => Class::Near(near, fault),
                None => Class::Foreign(fault),
            }
        }
    }
}

fn group(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

fn text_field<'a>(node: &'a Node, name: &str) -> Result<(&'a str, Place), Fault> {
    match node.get(name) {
        None => Err(node.place(name).fault("missing", Kind::known())),
        Some(field) => match field.text() {
            Some(text) => Ok((text, field.place(name))),
            None => Err(field
                .place(name)
                .fault(format!("expected text, found {}", field.value), Kind::known())),
        },
    }
}

/// Namespace and name, if both are such that an object can have them.
fn key(node: &Node) -> Option<ObjectKey> {
    let metadata = node.get("metadata")?;
    let name = metadata.get("name")?.text()?;
    let namespace = match metadata.get("namespace") {
        Some(namespace) => namespace.text()?,
        None => DEFAULT_NAMESPACE,
    };
    (dns_name(name).is_ok() && dns_label(namespace).is_ok()).then(|| ObjectKey::new(namespace, name))
}
