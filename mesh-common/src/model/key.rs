//! The name of an object: shared text, so that maps, snapshots and flow records copy it for the price of a counter.
//!
//! Invariant: keys order by namespace first, so the objects of one namespace lie side by side in an ordered map.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Namespace and name of an object; shown as `namespace/name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace, a DNS label.
    pub namespace: Arc<str>,
    /// The name, unique in its namespace for its kind.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The key of `name` in `namespace`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a key travels: two plain strings.
#[derive(Serialize, Deserialize)]
struct Parts<T> {
    namespace: T,
    name: T,
}

impl Serialize for ObjectKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Parts {
            namespace: &*self.namespace,
            name: &*self.name,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ObjectKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parts = Parts::<String>::deserialize(deserializer)?;
        Ok(Self::new(parts.namespace, parts.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_shown_as_namespace_slash_name() {
        assert_eq!(ObjectKey::new("shop", "web").to_string(), "shop/web");
        assert_eq!(format!("{:?}", ObjectKey::new("shop", "web")), "shop/web");
    }

    #[test]
    fn orders_by_namespace_first() {
        let mut keys = [
            ObjectKey::new("b", "a"),
            ObjectKey::new("a", "z"),
            ObjectKey::new("a-b", "a"),
        ];
        keys.sort();
        assert_eq!(keys.map(|key| key.to_string()), ["a/z", "a-b/a", "b/a"]);
    }
}
