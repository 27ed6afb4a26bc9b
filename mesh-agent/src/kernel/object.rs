//! The kernel half's object file, embedded when it was built before the agent.
//!
//! The agent's build script copies the object and sets `ebpf_object`; [`super::load`] and [`mod@super::probe`] hand it to
//! the kernel. Invariant: the bytes are aligned as an ELF reader needs them.

/// The eBPF object; `None` when the agent was built without `cargo xtask build-ebpf`.
#[cfg(ebpf_object)]
pub static OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(
    env!("OUT_DIR"),
    "/mesh-ebpf.o"
)));

/// The eBPF object; `None` when the agent was built without `cargo xtask build-ebpf`.
#[cfg(not(ebpf_object))]
pub static OBJECT: Option<&[u8]> = None;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embedded_object_is_an_aligned_elf_file_for_the_kernel() {
        // Absent in a build without the kernel half; the integration tests fail without it.
        let Some(object) = OBJECT else { return };
        assert_eq!(object.as_ptr() as usize % 8, 0);
        assert_eq!(&object[..4], b"\x7fELF");
        const EM_BPF: [u8; 2] = [247, 0];
        assert_eq!(object[18..20], EM_BPF);
    }
}
