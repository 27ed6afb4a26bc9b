//! What a mesh is made of, and the YAML documents that tell the agents about it.

use std::{collections::BTreeMap, net::IpAddr};

/// Namespace of the objects that name no other.
pub(crate) const NAMESPACE: &str = "default";

/// A pod to be built, and how the mesh is told about it.
#[derive(Clone, Debug)]
pub struct Pod {
    pub(crate) name: String,
    namespace: String,
    labels: BTreeMap<String, String>,
    ports: Vec<Port>,
    service_account: String,
    ready: bool,
}

#[derive(Clone, Debug)]
struct Port {
    name: String,
    number: u16,
    app_protocol: Option<String>,
}

/// A service to be announced to the agents.
#[derive(Clone, Debug)]
pub struct Service {
    pub(crate) name: String,
    namespace: String,
    selector: BTreeMap<String, String>,
    ports: Vec<ServicePort>,
}

#[derive(Clone, Debug)]
struct ServicePort {
    port: u16,
    target: u16,
    app_protocol: Option<String>,
}

impl Pod {
    /// A pod of this name, with its name as service account.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            labels: BTreeMap::new(),
            ports: Vec::new(),
            service_account: name.to_owned(),
            ready: true,
        }
    }

    /// Puts it into another namespace than `default`.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = namespace.to_owned();
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Declares a port.
    #[must_use]
    pub fn port(mut self, name: &str, number: u16) -> Self {
        self.ports.push(Port {
            name: name.to_owned(),
            number,
            app_protocol: None,
        });
        self
    }

    /// Names the protocol of the port declared last.
    #[must_use]
    pub fn app_protocol(mut self, protocol: &str) -> Self {
        if let Some(port) = self.ports.last_mut() {
            port.app_protocol = Some(protocol.to_owned());
        }
        self
    }

    /// Sets the service account.
    #[must_use]
    pub fn service_account(mut self, account: &str) -> Self {
        self.service_account = account.to_owned();
        self
    }

    /// Whether services may send traffic to it; they may unless told otherwise.
    #[must_use]
    pub fn ready(mut self, ready: bool) -> Self {
        self.ready = ready;
        self
    }

    /// The `Workload` document of this pod.
    pub(crate) fn to_yaml(&self, node: &str, netns: &str, addresses: &[IpAddr]) -> String {
        let mut yaml = format!(
            "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata:\n  name: {}\n  namespace: {}\n",
            self.name, self.namespace
        );
        yaml += &mapping("  ", "labels", &self.labels);
        yaml += &format!(
            "spec:\n  serviceAccount: {}\n  node: {node}\n  addresses:\n",
            self.service_account
        );
        for address in addresses {
            yaml += &format!("  - \"{address}\"\n");
        }
        if !self.ports.is_empty() {
            yaml += "  ports:\n";
        }
        for Port {
            name,
            number,
            app_protocol,
        } in &self.ports
        {
            yaml += &format!("  - name: {name}\n    port: {number}\n");
            if let Some(protocol) = app_protocol {
                yaml += &format!("    appProtocol: {protocol}\n");
            }
        }
        yaml += &format!("  ready: {}\n  locate:\n    netns: {netns}\n", self.ready);
        yaml
    }
}

impl Service {
    /// A service of this name that selects nothing yet.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            selector: BTreeMap::new(),
            ports: Vec::new(),
        }
    }

    /// Puts it into another namespace than `default`.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = namespace.to_owned();
        self
    }

    /// Selects pods with this label.
    #[must_use]
    pub fn selector(mut self, key: &str, value: &str) -> Self {
        self.selector.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sends `port` of the service to `target` of its pods.
    #[must_use]
    pub fn port(mut self, port: u16, target: u16) -> Self {
        self.ports.push(ServicePort {
            port,
            target,
            app_protocol: None,
        });
        self
    }

    /// Names the protocol of the port added last.
    #[must_use]
    pub fn app_protocol(mut self, protocol: &str) -> Self {
        if let Some(port) = self.ports.last_mut() {
            port.app_protocol = Some(protocol.to_owned());
        }
        self
    }

    /// The `Service` document.
    pub(crate) fn to_yaml(&self, addresses: &[IpAddr]) -> String {
        let mut yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {}\n  namespace: {}\nspec:\n",
            self.name, self.namespace
        );
        if let Some(first) = addresses.first() {
            yaml += &format!("  clusterIP: \"{first}\"\n  clusterIPs:\n");
        }
        for address in addresses {
            yaml += &format!("  - \"{address}\"\n");
        }
        yaml += &mapping("  ", "selector", &self.selector);
        yaml += "  ports:\n";
        for ServicePort {
            port,
            target,
            app_protocol,
        } in &self.ports
        {
            yaml += &format!(
                "  - name: port-{port}\n    protocol: TCP\n    port: {port}\n    targetPort: {target}\n"
            );
            if let Some(protocol) = app_protocol {
                yaml += &format!("    appProtocol: {protocol}\n");
            }
        }
        yaml
    }
}

fn mapping(indent: &str, name: &str, entries: &BTreeMap<String, String>) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let lines: String = entries
        .iter()
        .map(|(key, value)| format!("{indent}  {key}: \"{value}\"\n"))
        .collect();
    format!("{indent}{name}:\n{lines}")
}
