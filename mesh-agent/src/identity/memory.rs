//! Keeping what is in memory out of files.
//!
//! The agent calls [`forbid_core_dumps`] before it makes the first key. Invariant: from then on neither a crash nor
//! another process of the same user can copy the agent's memory; a process with CAP_SYS_PTRACE still can.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// No core file of any size, and no ptrace by others. Children inherit the limit.
pub fn forbid_core_dumps() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // A handler that the kernel pipes cores to does not heed the limit.
    prctl::set_dumpable(false)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::sys::resource::getrlimit;

    use super::*;

    #[test]
    fn there_are_no_core_dumps() {
        forbid_core_dumps().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        assert!(!prctl::get_dumpable().unwrap());
    }
}
