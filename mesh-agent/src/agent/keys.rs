//! Says whose keys are to be fetched: those that the RequestAuthentications of this node's workloads name.

use std::{collections::BTreeMap, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    identity::jwks::{Client, KeyFetcher},
    policy::jwt::KeyCell,
    state::{Snapshot, Store},
};

/// Follows the store until told to stop.
pub(super) async fn follow(store: Arc<Store>, node: String, stop: CancellationToken) {
    let client = match Client::new() {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "no keys of token issuers are fetched; requests with such tokens are refused");
            return;
        }
    };
    let fetcher = KeyFetcher::new(client, stop.clone());
    let mut versions = store.subscribe();
    let wanting = async {
        loop {
            fetcher.want(needed(&store.load(), &node));
            if versions.changed().await.is_err() {
                return;
            }
        }
    };
    stop.run_until_cancelled(wanting).await;
    fetcher.ended().await;
}

/// The cells that the workloads of a node need, each once.
fn needed(snapshot: &Snapshot, node: &str) -> Vec<Arc<KeyCell>> {
    if snapshot.request_authentications().next().is_none() {
        return Vec::new();
    }
    let mut cells = BTreeMap::new();
    for entry in snapshot.workloads_on(node) {
        let policy = snapshot.policy_of(entry);
        for cell in policy.authentications().iter().flat_map(|policy| policy.keys()) {
            cells
                .entry(Arc::as_ptr(cell).addr())
                .or_insert_with(|| Arc::clone(cell));
        }
    }
    cells.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Directory, File};

    #[test]
    fn only_for_the_workloads_of_this_node_and_once() {
        let text =
            "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata: {name: web, namespace: shop}\n\
                    spec: {serviceAccount: web, node: here, addresses: [10.1.0.10]}\n---\n\
                    apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata: {name: db, namespace: bank}\n\
                    spec: {serviceAccount: db, node: there, addresses: [10.1.0.11]}\n---\n"
                .to_owned()
                + &["shop/a", "shop/b", "bank/c"]
                    .map(|name| {
                        let (namespace, name) = name.split_once('/').unwrap();
                        let url = if namespace == "shop" {
                            "http://a/keys"
                        } else {
                            "http://b/keys"
                        };
                        format!(
                            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
                         metadata: {{name: {name}, namespace: {namespace}}}\n\
                         spec: {{jwtRules: [{{issuer: {name}, jwksUri: '{url}'}}]}}\n---\n"
                        )
                    })
                    .concat();
        let file = File {
            name: "a.yaml".into(),
            content: Ok(text),
        };
        let update = Directory::new().load(&[file]);
        assert_eq!(update.rejections, []);
        let store = Store::new();
        store.apply(&update.changes);
        let urls = |node| {
            let cells = needed(&store.load(), node);
            cells
                .iter()
                .map(|cell| cell.url().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(urls("here"), ["http://a/keys"]);
        assert_eq!(urls("there"), ["http://b/keys"]);
        assert_eq!(urls("elsewhere"), [""; 0]);
    }
}
