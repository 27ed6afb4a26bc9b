//! What a mesh is to consist of, and its making.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Result, ensure};

use super::{LiveService, Mesh, check_name, pod::Membership};
use crate::{Pod, Service, footprint};

/// Says what a mesh consists of.
#[derive(Debug)]
pub struct MeshBuilder {
    name: String,
    nodes: Vec<String>,
    pods: Vec<(String, Pod, Membership)>,
    services: Vec<Service>,
    agent: Option<PathBuf>,
}

impl MeshBuilder {
    /// Nothing yet.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            nodes: Vec::new(),
            pods: Vec::new(),
            services: Vec::new(),
            agent: None,
        }
    }

    /// Adds a node.
    #[must_use]
    pub fn node(mut self, name: &str) -> Self {
        self.nodes.push(name.to_owned());
        self
    }

    /// Adds a pod that belongs to the mesh to a node.
    #[must_use]
    pub fn pod(mut self, node: &str, pod: Pod) -> Self {
        self.pods.push((node.to_owned(), pod, Membership::InMesh));
        self
    }

    /// Adds a pod that no agent is told of to a node.
    #[must_use]
    pub fn outside(mut self, node: &str, name: &str) -> Self {
        self.pods
            .push((node.to_owned(), Pod::new(name), Membership::Outside));
        self
    }

    /// Adds a service.
    #[must_use]
    pub fn service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// Names the agent's binary; see [`agent_binary`](crate::agent_binary) for what is taken otherwise.
    #[must_use]
    pub fn agent(mut self, binary: &Path) -> Self {
        self.agent = Some(binary.to_owned());
        self
    }

    /// Makes it all. Needs root; first removes what killed processes left behind.
    pub fn build(self) -> Result<Mesh> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "meshes are made of namespaces and cgroups: run this as root"
        );
        for node in &self.nodes {
            check_name(node)?;
        }
        Mesh::sweep()?;
        let layout = footprint::claim(&self.name)?;
        // From here on dropping the mesh removes what was made, also when a later step fails.
        let mut mesh = Mesh {
            name: self.name,
            layout,
            keep: Arc::default(),
            nodes: Vec::new(),
            pods: Vec::new(),
            services: Vec::new(),
            agent: self.agent,
        };
        for (name, number) in self.nodes.iter().zip(1..) {
            let node = mesh.plan_node(name, number);
            mesh.nodes.push(node);
        }
        for (node, spec, membership) in self.pods {
            let pod = mesh.plan_pod(&node, spec, membership)?;
            mesh.pods.push(pod);
        }
        for (spec, number) in self.services.into_iter().zip(1..) {
            mesh.services.push(LiveService {
                addresses: mesh.layout.service(number),
                spec,
            });
        }
        mesh.make(self.nodes)?;
        Ok(mesh)
    }
}
