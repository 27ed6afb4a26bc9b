//! Path prefixes by segment: what a path begins with, the longest first.
//!
//! Invariant: a lookup takes one step for each segment that path and prefixes have in common, however many prefixes
//! there are, and as many again to go back.

use std::collections::HashMap;

use super::bucket::Bucket;

/// Buckets by path prefix.
#[derive(Debug)]
pub(super) struct PrefixTrie {
    /// The root, for all paths, is the first.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, usize>,
    parent: Option<usize>,
    bucket: Bucket,
}

impl PrefixTrie {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }

    /// The bucket of a prefix, which has no slash at its end.
    pub(super) fn bucket(&mut self, prefix: &str) -> &mut Bucket {
        let mut at = 0;
        for segment in segments(prefix) {
            let next = self.nodes.len();
            at = match self.nodes[at].children.get(segment) {
                Some(child) => *child,
                None => {
                    self.nodes[at].children.insert(segment.into(), next);
                    self.nodes.push(Node {
                        parent: Some(at),
                        ..Node::default()
                    });
                    next
                }
            };
        }
        &mut self.nodes[at].bucket
    }

    /// Every bucket that is not empty.
    pub(super) fn buckets_mut(&mut self) -> impl Iterator<Item = &mut Bucket> {
        self.nodes.iter_mut().map(|node| &mut node.bucket)
    }

    /// The buckets of all prefixes that the path begins with, the longest first.
    pub(super) fn of<'t>(&'t self, path: &str) -> impl Iterator<Item = &'t Bucket> + use<'t> {
        let mut at = 0;
        for segment in segments(path) {
            match self.nodes.get(at).and_then(|node| node.children.get(segment)) {
                Some(child) => at = *child,
                None => break,
            }
        }
        let up = move |at: &usize| self.nodes.get(*at)?.parent;
        std::iter::successors(Some(at), up)
            .filter_map(|at| self.nodes.get(at))
            .map(|node| &node.bucket)
            .filter(|bucket| !bucket.is_empty())
    }
}

/// What stands behind each slash. A target that is no path, such as `*`, has no segments.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    let path = path.strip_prefix('/');
    path.into_iter().flat_map(|path| path.split('/'))
}
