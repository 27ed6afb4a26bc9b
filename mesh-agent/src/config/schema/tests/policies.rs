//! Tests of the `security.istio.io` kinds: what they become, and the exact words for what is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::model::{
    Action, AuthorizationPolicy, ClaimHeader, Condition, Enforcement, JwtKeys, JwtRule, ObjectKey, Operation,
    OriginalToken, PathPattern, Pattern, PeerAuthentication, PeerMode, RequestAuthentication, RequestField,
    Rule, Source, Target, TokenPlace, Values,
};

use super::{load, rejected, with_spec, workload};
use crate::config::{Change, Directory, File};

mod authorization;
mod peer_authentication;
mod request_authentication;

/// An object of this kind with these fields in its `spec`, which stands in line 4.
fn object(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    owned.collect()
}

#[test]
fn versions_and_names() {
    rejected(
        &object("AuthorizationPolicy", "").replace("/v1\n", "/v2\n"),
        &[
            "shop.yaml:1:13: AuthorizationPolicy shop/p: apiVersion: security.istio.io/v2 is not a known version of \
           AuthorizationPolicy; use security.istio.io/v1",
        ],
    );
    let both = object("AuthorizationPolicy", "")
        + "---\n"
        + &object("AuthorizationPolicy", "action: DENY").replace("/v1\n", "/v1beta1\n")
        + "---\n"
        + &object("PeerAuthentication", "");
    let file = File {
        name: "shop.yaml".into(),
        content: Ok(both),
    };
    let update = Directory::new().load(&[file]);
    assert_eq!(update.changes.len(), 2, "another kind may have the same name");
    assert_eq!(
        update
            .rejections
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        [
            "shop.yaml:6:1: AuthorizationPolicy shop/p: already defined at shop.yaml:1:1; rename or remove one of the two"
        ]
    );
}

#[test]
fn policies_named_by_a_workload() {
    let spec = |list: &str| with_spec(&format!("node: n, addresses: [10.1.0.1], policies: [{list}]"));
    assert_eq!(
        workload(&spec("guard, bank/other")).policies,
        [ObjectKey::new("shop", "guard"), ObjectKey::new("bank", "other")]
    );
    rejected(
        &spec("a/b/c, guard, shop/guard"),
        &[
            "shop.yaml:4:51: Workload shop/web-1: spec.policies[0]: \"a/b/c\" does not name a policy; \
             use the name of an AuthorizationPolicy, or its namespace, a slash and its name",
            "shop.yaml:4:65: Workload shop/web-1: spec.policies[2]: shop/guard is the name of spec.policies[1] already; \
             use each name once",
        ],
    );
}
