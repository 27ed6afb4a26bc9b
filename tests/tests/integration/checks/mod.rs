//! What programs in pods must see, with and without the agent. Each check needs the pods of [`standard`].

pub(crate) mod churn;
pub(crate) mod failing;
pub(crate) mod forms;
pub(crate) mod nginx;
pub(crate) mod streams;

use std::{net::IpAddr, time::Duration};

use mesh_tests::{Mesh, MeshBuilder, Pod, Service};

/// A deadline for what takes milliseconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Two nodes; `client` and `near` on one, `web` and `stranger` (outside the mesh) on the other.
pub(crate) fn standard(name: &str) -> MeshBuilder {
    Mesh::builder(name)
        .node("a")
        .node("b")
        .pod("a", Pod::new("client"))
        .pod("a", Pod::new("near").label("app", "near"))
        .pod("b", Pod::new("web").label("app", "web"))
        .outside("b", "stranger")
        .service(Service::new("web").selector("app", "web").port(80, 7001))
        .service(Service::new("near").selector("app", "near").port(80, 7001))
}

/// Two nodes; `client` and `near` on one, `far` on the other. What serves in them and by which names is the test's to say.
pub(crate) fn near_and_far(name: &str) -> MeshBuilder {
    Mesh::builder(name)
        .node("a")
        .node("b")
        .pod("a", Pod::new("client"))
        .pod("a", Pod::new("near").label("app", "near"))
        .pod("b", Pod::new("far").label("app", "far"))
}

/// The pods that `client` dials: on its own node, on another node, outside the mesh.
pub(crate) const SERVERS: [&str; 3] = ["near", "web", "stranger"];

/// Every server's addresses of both families.
pub(crate) fn destinations(mesh: &Mesh) -> Vec<(&'static str, IpAddr)> {
    SERVERS
        .iter()
        .flat_map(|name| mesh.pod(name).addresses().map(|address| (*name, address)))
        .collect()
}
