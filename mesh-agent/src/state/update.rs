//! From one snapshot to the next.
//!
//! An update first puts the changed objects in place, then finds the services whose endpoints they can affect:
//! those that are changed themselves, and those that select a changed workload by its labels before or after.
//! Only these services' endpoint lists are looked at, and only lists that really differ are replaced.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_common::model::{ObjectKey, Service, ServicePort, TargetPort, Workload};

use super::policies::Answer;
use super::{Endpoint, Family, ServiceBackend, ServiceEntry, Snapshot, WorkloadEntry, snapshot::Holder};
use crate::config::Change;

impl Snapshot {
    /// Applies the changes in order. Returns whether anything differs, and raises the version if so.
    pub(super) fn update(&mut self, changes: &[Change]) -> bool {
        let mut touched = Touched::default();
        for change in changes {
            match change {
                Change::PutWorkload(workload) => self.put_workload(workload, &mut touched),
                Change::RemoveWorkload(key) => self.remove_workload(key, &mut touched),
                Change::PutService(service) => self.put_service(service, &mut touched),
                Change::RemoveService(key) => self.remove_service(key, &mut touched),
                Change::PutAuthorizationPolicy(policy) => {
                    if self.put_authorization(policy) {
                        touched.policies.insert(Arc::clone(&policy.key.namespace));
                    }
                }
                Change::RemoveAuthorizationPolicy(key) => {
                    if self.authorization.remove(key).is_some() {
                        touched.policies.insert(Arc::clone(&key.namespace));
                    }
                }
                Change::PutPeerAuthentication(policy) => {
                    if self.put_peer_authentication(policy) {
                        touched.policies.insert(Arc::clone(&policy.key.namespace));
                    }
                }
                Change::RemovePeerAuthentication(key) => {
                    if self.peer_authentications.remove(key).is_some() {
                        touched.policies.insert(Arc::clone(&key.namespace));
                    }
                }
                Change::PutRequestAuthentication(policy) => {
                    if self.put_request_authentication(policy) {
                        touched.policies.insert(Arc::clone(&policy.key.namespace));
                    }
                }
                Change::RemoveRequestAuthentication(key) => {
                    if self.request_authentications.remove(key).is_some() {
                        touched.policies.insert(Arc::clone(&key.namespace));
                    }
                }
                Change::PutRoute(route) => touched.parents.extend(self.put_route(route)),
                Change::RemoveRoute(kind, key) => touched.parents.extend(self.remove_route(*kind, key)),
            }
        }
        if touched.is_empty() {
            return false;
        }
        let targets: Vec<_> = touched
            .services
            .keys()
            .filter(|key| self.is_target(key))
            .collect();
        touched
            .policies
            .extend(targets.into_iter().map(|key| Arc::clone(&key.namespace)));
        for (entry, candidates) in self.affected(&touched) {
            self.refresh(&entry, candidates, touched.services.get(&entry.service.key));
        }
        let parents = touched.parents.iter().flatten();
        for service in parents.chain(touched.services.keys()).collect::<BTreeSet<_>>() {
            self.attach(service);
        }
        self.version += 1;
        for namespace in touched.policies {
            self.policies_changed.insert(namespace, self.version);
        }
        true
    }

    fn put_workload(&mut self, workload: &Arc<Workload>, touched: &mut Touched) {
        let current = self.workloads.get(&workload.key).cloned();
        if current.as_ref().is_some_and(|entry| entry.workload == *workload) {
            return;
        }
        if let Some(entry) = &current {
            self.release(&entry.workload.addresses, &Owner::Workload(&workload.key));
            self.leave_node(&entry.workload);
        }
        let before = touched.workloads.entry(workload.key.clone()).or_insert(current);
        let load = before
            .as_ref()
            .map(|entry| Arc::clone(&entry.load))
            .unwrap_or_default();
        let entry = Arc::new(WorkloadEntry {
            workload: Arc::clone(workload),
            load,
            answer: Answer::default(),
        });
        for ip in &workload.addresses {
            self.addresses.insert(*ip, Holder::Workload(Arc::clone(&entry)));
        }
        self.nodes
            .entry(workload.node.as_str().into())
            .or_default()
            .insert(workload.key.clone(), Arc::clone(&entry));
        self.workloads.insert(workload.key.clone(), entry);
    }

    fn remove_workload(&mut self, key: &ObjectKey, touched: &mut Touched) {
        if let Some(entry) = self.workloads.remove(key) {
            self.release(&entry.workload.addresses, &Owner::Workload(key));
            self.leave_node(&entry.workload);
            touched.workloads.entry(key.clone()).or_insert(Some(entry));
        }
    }

    fn leave_node(&mut self, workload: &Workload) {
        if let Some(workloads) = self.nodes.get_mut(workload.node.as_str()) {
            workloads.remove(&workload.key);
            if workloads.is_empty() {
                self.nodes.remove(workload.node.as_str());
            }
        }
    }

    fn put_service(&mut self, service: &Arc<Service>, touched: &mut Touched) {
        let current = self.services.get(&service.key).cloned();
        if current.as_ref().is_some_and(|entry| entry.service == *service) {
            return;
        }
        if let Some(entry) = &current {
            self.release(&entry.service.cluster_ips, &Owner::Service(&service.key));
            self.selectors.remove(&entry.service);
        }
        self.selectors.add(service);
        touched.services.entry(service.key.clone()).or_insert(current);
        // Without backends for now: `refresh` works them out once all changes are in place.
        let entry = Arc::new(ServiceEntry {
            service: Arc::clone(service),
            backends: Vec::new(),
        });
        for ip in &service.cluster_ips {
            self.addresses.insert(*ip, Holder::Service(Arc::clone(&entry)));
        }
        self.services.insert(service.key.clone(), entry);
    }

    fn remove_service(&mut self, key: &ObjectKey, touched: &mut Touched) {
        if let Some(entry) = self.services.remove(key) {
            self.release(&entry.service.cluster_ips, &Owner::Service(key));
            self.selectors.remove(&entry.service);
            touched.services.entry(key.clone()).or_insert(Some(entry));
        }
    }

    /// Gives up addresses, but for those that another object took over earlier in this update.
    fn release(&mut self, addresses: &[IpAddr], owner: &Owner<'_>) {
        for ip in addresses {
            if self.addresses.get(ip).is_some_and(|holder| owner.holds(holder)) {
                self.addresses.remove(ip);
            }
        }
    }

    /// Replaces the entry of a service, also where its addresses lead to.
    fn republish(&mut self, entry: Arc<ServiceEntry>) {
        let owner = Owner::Service(&entry.service.key);
        for ip in &entry.service.cluster_ips {
            if let Some(holder) = self.addresses.get_mut(ip)
                && owner.holds(holder)
            {
                *holder = Holder::Service(Arc::clone(&entry));
            }
        }
        self.services.insert(entry.service.key.clone(), entry);
    }

    /// The services that may need other endpoints, each with the workloads to look at.
    fn affected(&self, touched: &Touched) -> Vec<(Arc<ServiceEntry>, Candidates)> {
        let mut affected: BTreeMap<&ObjectKey, (Arc<ServiceEntry>, Candidates)> = BTreeMap::new();
        let mut changed: BTreeMap<&Arc<str>, SelectorIndex<'_>> = BTreeMap::new();
        for key in touched.services.keys() {
            if let Some(entry) = self.services.get(key) {
                changed.entry(&key.namespace).or_default().add(entry);
                affected.insert(&entry.service.key, (Arc::clone(entry), Candidates::new()));
            }
        }
        for (namespace, services) in changed.iter().filter(|(_, services)| !services.is_empty()) {
            for workload in self.workloads_in(namespace) {
                for service in services.selecting(&workload.workload) {
                    if let Some((_, candidates)) = affected.get_mut(&service.service.key) {
                        candidates.insert(workload.workload.key.clone(), Some(Arc::clone(workload)));
                    }
                }
            }
        }
        for (key, before) in &touched.workloads {
            let after = self.workloads.get(key);
            for (entry, found) in [(before.as_ref(), None), (after, after)] {
                for service in entry
                    .into_iter()
                    .flat_map(|entry| self.selecting(&entry.workload))
                {
                    if touched.services.contains_key(&service.service.key) {
                        continue;
                    }
                    let (_, candidates) = affected
                        .entry(&service.service.key)
                        .or_insert_with(|| (Arc::clone(service), Candidates::new()));
                    candidates.insert(key.clone(), found.cloned());
                }
            }
        }
        affected.into_values().collect()
    }

    /// The services that select a workload.
    pub(super) fn selecting(&self, workload: &Workload) -> impl Iterator<Item = &Arc<ServiceEntry>> {
        let candidates = self.selectors.candidates(workload).into_iter();
        candidates
            .filter_map(|key| self.services.get(key))
            .filter(|entry| entry.service.selects(&workload.labels))
    }

    /// Works out the backends of one service again. `before` is given when the service itself changed, and then
    /// `candidates` are all of its workloads.
    fn refresh(
        &mut self,
        entry: &Arc<ServiceEntry>,
        candidates: Candidates,
        before: Option<&Option<Arc<ServiceEntry>>>,
    ) {
        let (old, keep) = match before {
            Some(before) => (before.as_ref(), Keep::None),
            None => (Some(entry), Keep::Untouched),
        };
        let mut differs = before.is_some();
        let mut backends = Vec::new();
        for port in &entry.service.ports {
            for family in families(&entry.service) {
                let old = old.and_then(|old| old.backend(port.port, family));
                let endpoints = endpoints(port, family, old.map(|old| &old.endpoints), &candidates, keep);
                match old {
                    Some(old) if before.is_none() && same(&old.endpoints, &endpoints) => {
                        backends.push(Arc::clone(old));
                    }
                    _ => {
                        differs = true;
                        let service = Arc::clone(&entry.service);
                        let port = port.clone();
                        backends.push(Arc::new(ServiceBackend {
                            service,
                            port,
                            family,
                            endpoints,
                        }));
                    }
                }
            }
        }
        if differs {
            self.republish(Arc::new(ServiceEntry {
                service: Arc::clone(&entry.service),
                backends,
            }));
        }
    }
}

/// Workloads that a service may have gained (`Some`) or lost (`None`).
type Candidates = BTreeMap<ObjectKey, Option<Arc<WorkloadEntry>>>;

/// What an update changed, each with what stood there before it.
#[derive(Default)]
struct Touched {
    workloads: BTreeMap<ObjectKey, Option<Arc<WorkloadEntry>>>,
    services: BTreeMap<ObjectKey, Option<Arc<ServiceEntry>>>,
    /// The namespaces in which policies came, changed or went.
    policies: BTreeSet<Arc<str>>,
    /// The parents of each route that came, changed or went, before and after.
    parents: Vec<BTreeSet<ObjectKey>>,
}

impl Touched {
    fn is_empty(&self) -> bool {
        self.workloads.is_empty()
            && self.services.is_empty()
            && self.policies.is_empty()
            && self.parents.is_empty()
    }
}

/// Changed services findable by the labels of a workload, without asking each of them.
#[derive(Default)]
struct SelectorIndex<'a> {
    /// By the first label of the selector: whoever is selected has it.
    by_label: HashMap<(&'a str, &'a str), Vec<&'a Arc<ServiceEntry>>>,
}

impl<'a> SelectorIndex<'a> {
    fn add(&mut self, entry: &'a Arc<ServiceEntry>) {
        if let Some((key, value)) = entry.service.selector.first_key_value() {
            self.by_label.entry((key, value)).or_default().push(entry);
        }
    }

    fn is_empty(&self) -> bool {
        self.by_label.is_empty()
    }

    /// The services that select the workload.
    fn selecting(&self, workload: &Workload) -> Vec<&'a Arc<ServiceEntry>> {
        let mut selecting = Vec::new();
        for (key, value) in &workload.labels {
            let indexed = self
                .by_label
                .get(&(key.as_str(), value.as_str()))
                .map_or(&[][..], Vec::as_slice);
            selecting.extend(
                indexed
                    .iter()
                    .filter(|entry| entry.service.selects(&workload.labels)),
            );
        }
        selecting
    }
}

/// What happens to the old endpoints that are no candidates.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    None,
    Untouched,
}

/// Whose addresses are given up.
enum Owner<'a> {
    Workload(&'a ObjectKey),
    Service(&'a ObjectKey),
}

impl Owner<'_> {
    fn holds(&self, holder: &Holder) -> bool {
        match (self, holder) {
            (Self::Workload(key), Holder::Workload(entry)) => entry.workload.key == **key,
            (Self::Service(key), Holder::Service(entry)) => entry.service.key == **key,
            _ => false,
        }
    }
}

/// The families that a service's endpoints are wanted in: those of its addresses, both when it has none.
fn families(service: &Service) -> impl Iterator<Item = Family> {
    let has = |family| {
        service.cluster_ips.is_empty() || service.cluster_ips.iter().any(|ip| Family::of(*ip) == family)
    };
    [Family::V4, Family::V6]
        .into_iter()
        .filter(move |family| has(*family))
}

/// The endpoints of one backend, in the order of the workloads' keys.
fn endpoints(
    port: &ServicePort,
    family: Family,
    old: Option<&Vec<Arc<Endpoint>>>,
    candidates: &Candidates,
    keep: Keep,
) -> Vec<Arc<Endpoint>> {
    let old = old.map_or(&[][..], Vec::as_slice);
    let mut endpoints = Vec::with_capacity(old.len() + candidates.len());
    if keep == Keep::Untouched {
        endpoints.extend(
            old.iter()
                .filter(|old| !candidates.contains_key(&old.workload.key))
                .cloned(),
        );
    }
    for entry in candidates.values().flatten() {
        let Some(addr) = serving_address(&entry.workload, port, family) else {
            continue;
        };
        let previous = old
            .binary_search_by(|old| old.workload.key.cmp(&entry.workload.key))
            .ok()
            .map(|at| &old[at])
            .filter(|old| old.addr == addr);
        endpoints.push(match previous {
            Some(old) if Arc::ptr_eq(&old.workload, &entry.workload) => Arc::clone(old),
            previous => Arc::new(Endpoint {
                workload: Arc::clone(&entry.workload),
                addr,
                load: previous.map(|old| Arc::clone(&old.load)).unwrap_or_default(),
            }),
        });
    }
    // Two ordered runs one after the other: the sort recognises them and merges.
    endpoints.sort_by(|a, b| a.workload.key.cmp(&b.workload.key));
    endpoints.shrink_to_fit();
    endpoints
}

/// Where a workload serves the port of a service: its first address of the family; nowhere unless it is ready.
fn serving_address(workload: &Workload, port: &ServicePort, family: Family) -> Option<SocketAddr> {
    if !workload.ready {
        return None;
    }
    let number = match &port.target {
        TargetPort::Number(number) => *number,
        TargetPort::Name(name) => workload.port_named(name)?,
    };
    let ip = workload.addresses.iter().find(|ip| Family::of(**ip) == family)?;
    Some(SocketAddr::new(*ip, number))
}

fn same(a: &[Arc<Endpoint>], b: &[Arc<Endpoint>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}
