//! Whether an agent runs already, and whether the configuration can be used.

use std::path::Path;

use super::Check;
use crate::{
    admin::RunDir,
    config::{DirectorySource, Rejection},
};

/// Everything about this node's agent.
pub(super) fn checks(run_dir: &Path, config: Option<&Path>) -> Vec<Check> {
    let mut checks = vec![running(&RunDir::new(run_dir))];
    checks.extend(config.into_iter().flat_map(configuration));
    checks
}

fn running(run_dir: &RunDir) -> Check {
    const NAME: &str = "running agent";
    match run_dir.holder() {
        Ok(None) => Check::ok(NAME, "none"),
        Ok(Some(pid)) => Check::warning(
            NAME,
            format!("pid {pid} holds {}", run_dir.lock().display()),
            "start the next one with --takeover, or end this one with `mesh-agent drain`",
        ),
        Err(error) => Check::failed(
            NAME,
            error.to_string(),
            "choose another --run-dir, or run as root",
        ),
    }
}

/// Reads it as the agent would, and lists what it would reject.
fn configuration(dir: &Path) -> Vec<Check> {
    const NAME: &str = "configuration";
    let update = match DirectorySource::open(dir) {
        Ok((_, update)) => update,
        Err(error) => {
            let remedy = "name a directory of YAML files that this user may read";
            return vec![Check::failed(NAME, error.to_string(), remedy)];
        }
    };
    let taken = update.changes.len();
    let found = format!(
        "{}: {taken} objects, {} of other kinds",
        dir.display(),
        update.ignored.len()
    );
    let mut checks = vec![Check::ok(NAME, found)];
    checks.extend(update.rejections.into_iter().map(|rejection| {
        let remedy = rejection.remedy.clone();
        let found = Rejection {
            remedy: String::new(),
            ..rejection
        };
        Check::failed(NAME, found.to_string(), remedy)
    }));
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admin::AgentLock, cli::check::Outcome};

    #[test]
    fn a_running_agent_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(dir.path());
        assert_eq!(running(&run_dir).outcome, Outcome::Ok);
        let _lock = AgentLock::acquire(&run_dir).unwrap();
        assert_eq!(running(&run_dir).outcome, Outcome::Warning);
    }

    #[test]
    fn an_absent_directory_fails() {
        assert_eq!(
            configuration(Path::new("/nonexistent"))[0].outcome,
            Outcome::Failed
        );
    }

    #[test]
    fn every_rejected_object_is_a_line_with_its_remedy() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("bad.yaml"),
            "apiVersion: v1\nkind: Service\nmetadata: {name: 7, nmae: x}\n",
        )
        .unwrap();
        let checks = configuration(dir.path());
        assert_eq!(checks[0].outcome, Outcome::Ok);
        assert_eq!(checks[1].outcome, Outcome::Failed);
        assert!(checks[1].found.contains("bad.yaml:3"), "{:?}", checks[1]);
        assert!(!checks[1].remedy.as_deref().unwrap().is_empty());
    }
}
