//! The system calls no library offers: the only unsafe code of the agent.
//!
//! Everything here is a thin, safe function over one call; policy and order are its callers' business.
#![expect(
    unsafe_code,
    reason = "the one module that talks to the kernel without a library"
)]

use std::{
    ffi::CString,
    io, mem,
    net::SocketAddr,
    num::NonZeroUsize,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{MapData, RingBuf};
use mesh_common::kernel::MAX_WORKERS;
use socket2::Socket;
use tokio::io::{Interest, unix::AsyncFd};

/// Opens a pinned BPF object (`BPF_OBJ_GET`, Linux 4.4).
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    const BPF_OBJ_GET: libc::c_long = 7;
    #[repr(C)]
    struct ObjGet {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjGet {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: `attr` has the layout of the kernel's `OBJ_GET` arm of `bpf_attr`; it and the NUL-terminated path it
    // points to outlive the call; the size given is its own.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET,
            &raw const attr,
            mem::size_of::<ObjGet>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program of a BPF link in place (`BPF_LINK_UPDATE`, Linux 5.7), so that no moment is without one.
pub(crate) fn update_link(link: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    const BPF_LINK_UPDATE: libc::c_long = 29;
    #[repr(C)]
    struct LinkUpdate {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let attr = LinkUpdate {
        link_fd: link.as_fd().as_raw_fd().cast_unsigned(),
        new_prog_fd: program.as_fd().as_raw_fd().cast_unsigned(),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: `attr` has the layout of the kernel's `link_update` arm of `bpf_attr`, is fully initialised and
    // outlives the call; the size given is its own.
    let status = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_UPDATE,
            &raw const attr,
            mem::size_of::<LinkUpdate>(),
        )
    };
    if status < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The id of the cgroup a BPF link is attached to (`BPF_OBJ_GET_INFO_BY_FD`, Linux 5.7 for links); 0 once that cgroup
/// is gone.
pub(crate) fn cgroup_of_link(link: &impl AsFd) -> io::Result<u64> {
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    #[repr(C)]
    struct InfoByFd {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    #[derive(Default)]
    #[repr(C)]
    struct LinkInfo {
        kind: u32,
        id: u32,
        prog_id: u32,
        padding: u32,
        cgroup_id: u64,
        attach_type: u32,
        reserved: u32,
    }
    let mut info = LinkInfo::default();
    let attr = InfoByFd {
        bpf_fd: link.as_fd().as_raw_fd().cast_unsigned(),
        info_len: u32::try_from(mem::size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `attr` has the layout of the kernel's `info` arm of `bpf_attr`; it and the buffer it points to, whose
    // length it tells, outlive the call. The kernel writes at most that length of `bpf_link_info`, whose beginning
    // and cgroup arm `LinkInfo` mirrors.
    let status = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw const attr,
            mem::size_of::<InfoByFd>(),
        )
    };
    if status < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(info.cgroup_id)
    }
}

/// The cookie of the network namespace a socket lives in (`SO_NETNS_COOKIE`, Linux 5.14).
pub(crate) fn netns_cookie(socket: &impl AsFd) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0u64;
    let mut len = mem::size_of::<u64>() as libc::socklen_t;
    // SAFETY: the buffer is a u64 and `len` says so; both outlive the call.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if status < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(cookie)
    }
}

/// Lets `bind()` choose an address but leave the port to `connect()` (`IP_BIND_ADDRESS_NO_PORT`, Linux 4.2),
/// so that ports are shared between destinations.
pub(crate) fn bind_address_no_port(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Lets `connect()` take the next free port of the namespace's whole range (`IP_LOCAL_PORT_RANGE`, Linux 6.3; with this
/// effect since 6.8). Without it the kernel wants an even one: once those are taken between two addresses, each further
/// connection looks at all of them first, which takes it milliseconds.
pub(crate) fn take_any_port(socket: &impl AsFd) -> io::Result<()> {
    const IP_LOCAL_PORT_RANGE: libc::c_int = 51;
    // The first port in the lower half, the last in the upper one. What is outside of the namespace's range stays there.
    const ALL: u32 = 1 | (u16::MAX as u32) << 16;
    set_option(socket, libc::SOL_IP, IP_LOCAL_PORT_RANGE, ALL.cast_signed())
}

/// Binds to an address and port that another socket may be bound to as well. The kernel allows that to a socket
/// under repair (`TCP_REPAIR`, Linux 3.5); the two connections differ in their destination.
pub(crate) fn bind_beside(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    set_option(socket, libc::SOL_TCP, libc::TCP_REPAIR, 1)?;
    let bound = socket.bind(&addr.into());
    set_option(socket, libc::SOL_TCP, libc::TCP_REPAIR, 0)?;
    bound
}

/// True when the next byte to be read is urgent data (`SIOCATMARK`, tcp(7)).
pub(crate) fn at_urgent_mark(socket: &impl AsFd) -> io::Result<bool> {
    const SIOCATMARK: libc::Ioctl = 0x8905;
    let mut at_mark: libc::c_int = 0;
    // SAFETY: the request writes one c_int, which outlives the call.
    let status = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCATMARK, &raw mut at_mark) };
    if status < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(at_mark != 0)
    }
}

fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value is a c_int and the length says so; it outlives the call.
    let status = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            mem::size_of_val(&value) as libc::socklen_t,
        )
    };
    if status < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Waits for entries of a ring buffer on the current runtime.
pub(crate) fn await_ring(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its descriptor, always returns the same one, and closes it only when it is dropped.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(io::Error::from)
}

/// Hands memory that the allocator holds and nobody uses back to the kernel.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks, and lets go of pages that no allocation uses.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A plain-old-data value out of the bytes of a ring buffer entry; `None` when there are too few.
pub(crate) fn read_value<T: aya::Pod>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < mem::size_of::<T>() {
        return None;
    }
    // SAFETY: the bytes are readable and enough, unaligned reads are allowed for, and `Pod` types are valid for
    // every bit pattern.
    Some(unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// The kernel's table of connections per data worker (`LOADS`), mapped into this process: a store, not a call.
#[derive(Debug)]
pub(crate) struct Loads {
    slots: ptr::NonNull<AtomicU64>,
    length: NonZeroUsize,
}

// SAFETY: the mapping is shared memory made of atomics; it is unmapped only when the last owner drops it.
unsafe impl Send for Loads {}
// SAFETY: as above; access goes through atomics only.
unsafe impl Sync for Loads {}

impl Loads {
    /// Maps the array behind `map`, which must be mmapable and of `MAX_WORKERS` u64 values.
    pub(crate) fn map(map: &impl AsFd) -> io::Result<Self> {
        let length = NonZeroUsize::new(MAX_WORKERS * mem::size_of::<u64>())
            .ok_or_else(|| io::Error::other("no workers"))?;
        // SAFETY: a fresh shared mapping of a map of at least this size; the address is the kernel's choice.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length.get(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let slots = ptr::NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at zero"))?;
        Ok(Self { slots, length })
    }

    /// Publishes how many connections `worker` holds.
    pub(crate) fn set(&self, worker: usize, connections: u64) {
        if worker < MAX_WORKERS {
            // SAFETY: within the mapping, aligned (the mapping is page-aligned), and only ever accessed atomically.
            unsafe { self.slots.add(worker).as_ref() }.store(connections, Ordering::Relaxed);
        }
    }
}

impl Drop for Loads {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map` with this length, and nothing refers to it any more.
        unsafe { libc::munmap(self.slots.as_ptr().cast(), self.length.get()) };
    }
}
