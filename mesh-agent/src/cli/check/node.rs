//! Whether an agent runs already, and whether the configuration can be used.

use std::path::Path;

use super::Check;
use crate::{
    admin::{
        RunDir,
        proto::{CertificateHealth, CertificateProblem, ProblemSeverity, StatusRequest},
    },
    cli::{agent::AgentArgs, failure::Failure},
    config::{DirectorySource, Rejection},
};

/// Everything about this node's agent.
pub(super) fn checks(run_dir: &Path, config: Option<&Path>) -> Vec<Check> {
    let run_dir = RunDir::new(run_dir);
    let mut checks = vec![running(&run_dir)];
    if let Ok(Some(_)) = run_dir.holder() {
        checks.extend(certificates(&AgentArgs::at(run_dir.path())));
    }
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

/// What the running agent says of its certificates; nothing when it has no authority.
fn certificates(agent: &AgentArgs) -> Vec<Check> {
    const NAME: &str = "certificates";
    let asked = agent.ask(|mut agent| async move {
        Ok::<_, Failure>(agent.status(StatusRequest {}).await?.into_inner().certificates)
    });
    match asked {
        Ok(Some(health)) => judged(NAME, health),
        Ok(None) => Vec::new(),
        Err(failure) => vec![Check::warning(
            NAME,
            format!("the running agent does not say: {failure}"),
            "see whether it is starting, or hangs: `mesh-agent status`",
        )],
    }
}

fn judged(name: &str, health: CertificateHealth) -> Vec<Check> {
    if health.problems.is_empty() {
        let found = format!("{} of {} valid", health.valid, health.accounts);
        return vec![Check::ok(name, found)];
    }
    let check = |problem: CertificateProblem| match problem.severity() {
        ProblemSeverity::Failure => Check::failed(name, problem.text, problem.remedy),
        _ => Check::warning(name, problem.text, problem.remedy),
    };
    health.problems.into_iter().map(check).collect()
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
    fn certificates_that_end_warn_and_those_that_have_ended_fail() {
        let health = crate::admin::samples::status().certificates.unwrap();
        let outcomes: Vec<_> = judged("certificates", health)
            .iter()
            .map(|check| check.outcome)
            .collect();
        assert_eq!(outcomes, [Outcome::Failed, Outcome::Warning]);
        let well = CertificateHealth {
            accounts: 2,
            valid: 2,
            ..CertificateHealth::default()
        };
        let checks = judged("certificates", well);
        assert_eq!((checks.len(), checks[0].outcome), (1, Outcome::Ok));
        assert_eq!(checks[0].found, "2 of 2 valid");
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
