//! A pair of proxies that a file describes: the files it needs, its start commands, and where a client reaches it.
//!
//! docs/benchmarks.md describes the format. What a file says is checked before anything is started: unknown names are
//! errors, in its keys and in its texts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{Mesh, Process};
use serde::Deserialize;

use super::{Ground, spiffe, write};
use crate::bench::http::Version;

/// What the file says.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::bench) struct Described {
    pub(in crate::bench) name: String,
    #[serde(default)]
    pub(in crate::bench) policy: Policy,
    entrances: BTreeMap<Entrance, u16>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    /// The command of the proxy beside the client.
    source: Vec<String>,
    /// The command of the proxy beside the server, if there is one.
    #[serde(default)]
    destination: Vec<String>,
    /// Where the file lies.
    #[serde(skip)]
    here: PathBuf,
}

/// Whether it denies requests that the policy of the benches does not allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::bench) enum Policy {
    #[default]
    None,
    /// It does, and a DELETE is tried.
    Enforced,
}

/// What a client reaches at a port of its loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
enum Entrance {
    #[serde(rename = "web-http1")]
    WebHttp1,
    #[serde(rename = "web-http2")]
    WebHttp2,
    #[serde(rename = "near-http1")]
    NearHttp1,
    #[serde(rename = "near-http2")]
    NearHttp2,
}

/// Names that other setups have.
const TAKEN: [&str; 8] = [
    "direct",
    "clear",
    "mtls",
    "policy",
    "envoy",
    "nginx",
    "mtls-against",
    "alone",
];

impl Described {
    /// Reads a file and tries whether everything in it can be filled in.
    pub(in crate::bench) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let here = path.canonicalize()?.parent().map(Path::to_owned);
        Self::parse(&text, here.unwrap_or_default()).with_context(|| format!("{}", path.display()))
    }

    fn parse(text: &str, here: PathBuf) -> Result<Self> {
        let mut described: Self = serde_saphyr::from_str(text)?;
        described.here = here;
        let name = &described.name;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            !name.is_empty() && name.chars().all(plain) && !TAKEN.contains(&name.as_str()),
            "{name:?} cannot be its name: use a-z, 0-9 and -, and none of {}",
            TAKEN.join(", ")
        );
        ensure!(!described.source.is_empty(), "`source` has to be a command");
        ensure!(!described.entrances.is_empty(), "`entrances` has to name a port");
        for file in described.files.keys() {
            ensure!(
                !file.is_empty() && !file.contains('/') && !file.starts_with('.'),
                "{file:?} is no name for a file of its own"
            );
        }
        let example: Vec<_> = NAMES.iter().map(|name| (*name, String::new())).collect();
        for text in described.texts() {
            fill(text, &example)?;
        }
        Ok(described)
    }

    /// Where on its loopback a client reaches the web server in a pod; none if it leads nowhere.
    pub(in crate::bench) fn entrance(&self, pod: &str, version: Version) -> Option<u16> {
        let entrance = match (pod, version) {
            ("near", Version::Http1) => Entrance::NearHttp1,
            ("near", Version::Http2) => Entrance::NearHttp2,
            (_, Version::Http1) => Entrance::WebHttp1,
            (_, Version::Http2) => Entrance::WebHttp2,
        };
        self.entrances.get(&entrance).copied()
    }

    pub(super) fn start(&self, mesh: &Mesh, ground: &Ground<'_>) -> Result<Vec<Process>> {
        let values = self.values(ground);
        for (file, text) in &self.files {
            write(&ground.dir, file, &fill(text, &values)?)?;
        }
        let mut started = Vec::new();
        for (node, pod, command) in [("b", "web", &self.destination), ("a", "client", &self.source)] {
            let words: Vec<String> = command
                .iter()
                .map(|word| fill(word, &values))
                .collect::<Result<_>>()?;
            if let [program, args @ ..] = &words[..] {
                let proxy = mesh.node(node).sidecar(mesh.pod(pod), program);
                started.push(proxy.args(args).spawn()?);
            }
        }
        Ok(started)
    }

    /// Everything in which names are replaced.
    fn texts(&self) -> impl Iterator<Item = &String> {
        self.files.values().chain(&self.source).chain(&self.destination)
    }

    fn values(&self, ground: &Ground<'_>) -> Vec<(&'static str, String)> {
        let file = |path: &Path| path.display().to_string();
        let values = [
            file(&ground.dir),
            file(&self.here),
            ground.web.to_string(),
            ground.near.to_string(),
            ground.workers.to_string(),
            file(&ground.client.chain),
            file(&ground.client.key),
            file(&ground.server.chain),
            file(&ground.server.key),
            file(&ground.server.roots),
            spiffe("client"),
            spiffe("web"),
            Version::Http1.app_port().to_string(),
            Version::Http2.app_port().to_string(),
        ];
        NAMES.into_iter().zip(values).collect()
    }
}

/// What can stand between `{{` and `}}`.
const NAMES: [&str; 14] = [
    "dir",
    "here",
    "web",
    "near",
    "workers",
    "client-chain",
    "client-key",
    "server-chain",
    "server-key",
    "roots",
    "client-id",
    "server-id",
    "app-http1",
    "app-http2",
];

/// Replaces every `{{name}}`.
fn fill(text: &str, values: &[(&str, String)]) -> Result<String> {
    let (mut filled, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, behind) = after
            .split_once("}}")
            .filter(|(name, _)| !name.contains("{{"))
            .with_context(|| format!("{{{{ without }}}} behind {before:?}"))?;
        match values.iter().find(|(known, _)| *known == name.trim()) {
            Some((_, value)) => {
                filled += before;
                filled += value;
            }
            None => bail!(
                "there is no {{{{{name}}}}}; there are {}",
                values
                    .iter()
                    .map(|(name, _)| *name)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        }
        rest = behind;
    }
    Ok(filled + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
name: pair
policy: enforced
entrances: { web-http1: 15001 }
files:
  source.conf: |
    listen 15001;
    to {{web}} by {{ client-key }};
source: [proxy, -c, '{{dir}}/source.conf']
";

    #[test]
    fn a_file_names_commands_files_and_entrances() {
        let described = Described::parse(FILE, "/here".into()).unwrap();
        assert_eq!(
            (described.name.as_str(), described.policy),
            ("pair", Policy::Enforced)
        );
        assert_eq!(described.entrance("web", Version::Http1), Some(15001));
        assert_eq!(described.entrance("web", Version::Http2), None);
        assert_eq!(described.entrance("near", Version::Http1), None);
        assert_eq!(described.source, ["proxy", "-c", "{{dir}}/source.conf"]);
        assert!(described.destination.is_empty());
        let values = [("web", "10.0.0.1".to_owned()), ("client-key", "/k".to_owned())];
        assert_eq!(
            fill(&described.files["source.conf"], &values).unwrap(),
            "listen 15001;\nto 10.0.0.1 by /k;\n"
        );
    }

    #[test]
    fn the_file_of_the_documentation_is_one() {
        let docs = include_str!("../../../../docs/benchmarks.md");
        let (_, rest) = docs.split_once("```yaml\n").unwrap();
        let (example, _) = rest.split_once("```").unwrap();
        let described = Described::parse(example, PathBuf::new()).unwrap();
        assert!(described.entrance("web", Version::Http1).is_some());
    }

    #[test]
    fn what_cannot_be_meant_is_an_error_that_says_why() {
        let wrong = |from: &str, to: &str| {
            let error = Described::parse(&FILE.replace(from, to), PathBuf::new()).unwrap_err();
            format!("{error:#}")
        };
        assert!(wrong("{{web}}", "{{webb}}").contains("there is no {{webb}}; there are dir"));
        assert!(wrong("{{web}}", "{{web").contains("{{ without }}"));
        assert!(wrong("name: pair", "name: nginx").contains("cannot be its name"));
        assert!(wrong("name: pair", "name: A pair").contains("cannot be its name"));
        assert!(wrong("source.conf: |", "../source.conf: |").contains("no name for a file"));
        assert!(wrong("web-http1", "web-http3").contains("web-http3"));
        assert!(wrong("policy:", "polizei:").contains("polizei"));
        assert!(wrong("source: [proxy, -c, '{{dir}}/source.conf']", "source: []").contains("`source`"));
    }
}
