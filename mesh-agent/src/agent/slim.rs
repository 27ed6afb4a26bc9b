//! Gives back the memory that only the start needed, once it is over.
//!
//! The start parses command line, kernel types and configuration, which most agents seldom do again. What it
//! allocated goes back to the kernel. The pages of the program that it ran stay in the page cache; those that are needed
//! again are mapped again when they are, which costs less than a microsecond each.

use procfs::process::Process;

use crate::kernel::raw::{self, Unwritten};

/// Gives back what can be. That it cannot be known what can is no fault.
pub(super) fn slim() {
    raw::trim_heap();
    let mappings = match Process::myself().and_then(|me| me.smaps()) {
        Ok(mappings) => mappings,
        Err(error) => {
            tracing::debug!(%error, "nothing of the program is unmapped");
            return;
        }
    };
    for mapping in mappings.iter().filter_map(Unwritten::of) {
        if let Err(error) = raw::let_go(&mapping) {
            tracing::debug!(%error, ?mapping, "a part of the program stays mapped");
        }
    }
}

#[cfg(test)]
mod tests {
    use procfs::process::{MMPermissions, MMapPath, MemoryMap};

    use super::*;

    #[test]
    fn what_was_written_to_stays_and_the_program_goes_on() {
        let numbers: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
        slim();
        let sum: usize = numbers
            .iter()
            .map(|number| number.parse::<usize>().unwrap())
            .sum();
        assert_eq!(sum, 49_995_000);

        let mappings = Process::myself().unwrap().smaps().unwrap();
        let is_let_go = |mapping: &MemoryMap| Unwritten::of(mapping).is_some();
        let program = std::env::current_exe().unwrap();
        let is_program =
            |mapping: &&MemoryMap| matches!(&mapping.pathname, MMapPath::Path(path) if *path == program);
        let runs = |mapping: &&MemoryMap| mapping.perms.contains(MMPermissions::EXECUTE);
        assert!(mappings.iter().filter(is_program).filter(runs).all(is_let_go));
        let changed = |mapping: &&MemoryMap| {
            let anonymous = mapping.extension.map.get("Anonymous");
            mapping.perms.contains(MMPermissions::WRITE) || anonymous.is_some_and(|bytes| *bytes > 0)
        };
        assert!(mappings.iter().filter(changed).count() > 2);
        assert!(!mappings.iter().filter(changed).any(is_let_go));
    }
}
