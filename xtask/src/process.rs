//! Child processes: shown before they run, named when they fail.
//!
//! Every module that starts a program goes through here. Invariant: a child that fails is an error that
//! repeats the command line, so that a person can run it again by hand.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, bail};

/// Shows the command, runs it with this terminal, and fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("  $ {}", shown(command));
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{}`", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// As [`run`], and hands every line of standard output to `line` as it passes by.
pub(crate) fn run_watched(command: &mut Command, mut line: impl FnMut(&str)) -> Result<()> {
    println!("  $ {}", shown(command));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", command.get_program().to_string_lossy()))?;
    let mut output = child.stdout.take().context("the child has no output")?;
    let mut terminal = std::io::stdout().lock();
    let (mut bytes, mut pending) = ([0; 4096], Vec::new());
    loop {
        // Passed on as it comes, not by the line: a test runner names a test before it has a result.
        let read = output
            .read(&mut bytes)
            .context("cannot read the child's output")?;
        if read == 0 {
            break;
        }
        terminal.write_all(&bytes[..read])?;
        terminal.flush()?;
        for &byte in &bytes[..read] {
            if byte == b'\n' {
                line(&String::from_utf8_lossy(&pending));
                pending.clear();
            } else {
                pending.push(byte);
            }
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs the command unseen and returns what it wrote to standard output.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", shown(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Finds a program on the search path, in cargo's own directory of programs, or in the system's.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo = crate::repo::cargo_home().map(|home| home.join("bin"));
    // An ordinary user's path often lacks sbin, where nginx, bpftool and tcpdump live.
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"]
        .into_iter()
        .map(PathBuf::from);
    env::split_paths(&path)
        .chain(cargo)
        .chain(system)
        .map(|directory| directory.join(name))
        .find(|file| is_program(file))
}

/// Whether the file is there and may be executed.
pub(crate) fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The command as a person would type it, with the variables that were set for it.
pub(crate) fn shown(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| {
        let value = value?.to_string_lossy();
        // Encoded flags are separated by a control character that a terminal swallows.
        Some(format!(
            "{}={}",
            name.to_string_lossy(),
            quoted(&value.replace('\x1f', " "))
        ))
    });
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quoted(&file_name(word)));
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

/// `cargo` for `/long/path/to/cargo`; any other word as it is.
fn file_name(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    match text.strip_suffix("/cargo") {
        Some(_) => "cargo".to_owned(),
        None => text.into_owned(),
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let mut command = Command::new("/opt/toolchain/bin/cargo");
        command
            .args(["test", "it's here"])
            .env("RUSTDOCFLAGS", "-D warnings")
            .env_remove("LD_LIBRARY_PATH");
        assert_eq!(
            shown(&command),
            r"RUSTDOCFLAGS='-D warnings' cargo test 'it'\''s here'"
        );
    }

    #[test]
    fn a_failing_child_is_named_with_its_status() {
        let error = run(Command::new("sh").args(["-c", "exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("sh -c 'exit 3'") && error.contains('3'), "{error}");
    }

    #[test]
    fn every_line_passes_the_watcher() {
        let mut lines = Vec::new();
        run_watched(Command::new("printf").arg(r"one\ntwo\n"), |line| {
            lines.push(line.to_owned())
        })
        .unwrap();
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn programs_are_found_by_name_and_directories_are_none() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
        assert!(!is_program(Path::new("/usr")));
    }
}
