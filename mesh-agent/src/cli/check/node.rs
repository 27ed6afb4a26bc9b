//! Whether an agent runs already, and whether the configuration can be used.

use std::{fs, path::Path};

use super::Check;
use crate::admin::RunDir;

/// Everything about this node's agent.
pub(super) fn checks(run_dir: &Path, config: Option<&Path>) -> Vec<Check> {
    let mut checks = vec![running(&RunDir::new(run_dir))];
    checks.extend(config.map(directory));
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

fn directory(dir: &Path) -> Check {
    const NAME: &str = "configuration";
    match fs::read_dir(dir) {
        Ok(_) => Check::ok(NAME, dir.display().to_string()),
        Err(error) => Check::failed(
            NAME,
            format!("{}: {error}", dir.display()),
            "name a directory of YAML files that this user may read",
        ),
    }
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
        assert_eq!(directory(Path::new("/nonexistent")).outcome, Outcome::Failed);
    }
}
