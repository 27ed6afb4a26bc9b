//! Brings the kernel half into the kernel, attaches it once, and keeps it pinned.
//!
//! A first start creates links and maps and pins them. Every later start finds them: it reuses the shared maps,
//! and replaces each link's program in place, so that no moment is without one and none is attached twice.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError, RingBuf, SkStorage},
    pin::PinError,
    programs::{
        CgroupAttachMode, CgroupSockAddr, Program, ProgramError, SkLookup, SockOps, SocketFilter,
        links::{FdLink, LinkError},
    },
};
use mesh_common::kernel::{ABI_VERSION, Config, MAX_WORKERS, SYN_RING_BYTES, SockAddr, SocketRecord};
use thiserror::Error;

use super::{
    bpffs::{self, BpffsError},
    direct::DirectMaps,
    object,
    pins::{Pins, SHARED_MAPS},
    probe::one_line,
    raw::{self, Loads},
    tables::{LetIn, OpenPorts, Tables},
};
use crate::node::{Netns, cgroup::Cgroup};

/// The programs on the pods' cgroup, by function and pin name.
const SOCK_ADDR_PROGRAMS: [(&str, &str); 6] = [
    ("on_connect4", "connect4"),
    ("on_connect6", "connect6"),
    ("on_getpeername4", "getpeername4"),
    ("on_getpeername6", "getpeername6"),
    ("on_getsockname4", "getsockname4"),
    ("on_getsockname6", "getsockname6"),
];
const SOCK_OPS_PROGRAM: &str = "on_sock_ops";
const SK_LOOKUP_PROGRAM: &str = "on_sk_lookup";
const HOLD_PROGRAM: &str = "hold_syn";

/// Why the kernel half is not in the kernel.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The agent was built without it.
    #[error(
        "this agent was built without its kernel half; run `cargo xtask build-ebpf`, then build the agent again, \
         or name an object with --ebpf-object"
    )]
    NoObject,
    /// The object file could not be read.
    #[error("eBPF object {path}: {source}; name another with --ebpf-object")]
    ObjectFile {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// There is no place for pins.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// The kernel rejected the object or a map.
    #[error("loading the eBPF object: {}; `mesh-agent check` says what this kernel lacks", one_line(&**.0))]
    Load(Box<EbpfError>),
    /// The kernel rejected a program.
    #[error("loading program {name}: {}; `mesh-agent check` says what this kernel lacks", one_line(&**.cause))]
    Program {
        /// The program.
        name: &'static str,
        /// What went wrong; not a `source`, since the verifier's log fills pages.
        cause: Box<ProgramError>,
    },
    /// The object lacks a program or map, so it is not this agent's.
    #[error("the eBPF object has no {name}; build agent and object from the same sources")]
    Missing {
        /// What is missing.
        name: &'static str,
    },
    /// A map operation failed.
    #[error("map {name}: {source}")]
    Map {
        /// The map.
        name: &'static str,
        /// What went wrong.
        source: Box<MapError>,
    },
    /// Pinning failed.
    #[error("pinning {path}: {source}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What went wrong.
        source: PinError,
    },
    /// A pinned link could not be opened.
    #[error("opening pinned link {path}: {source}")]
    Link {
        /// The pin.
        path: PathBuf,
        /// What went wrong.
        source: LinkError,
    },
    /// The pins belong to an agent with another layout.
    #[error(
        "the pins in {root} are of kernel ABI {found}, this agent speaks {ABI_VERSION}; stop the other agent, \
         then run `mesh-agent uninstall --bpffs {root}`"
    )]
    Abi {
        /// The pins' directory.
        root: PathBuf,
        /// The version found.
        found: u32,
    },
    /// A file operation failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// The loaded kernel half; owned by enrolment, the only writer of the shared maps.
pub struct Kernel {
    pins: Pins,
    ebpf: Ebpf,
    /// The shared maps.
    pub tables: Tables,
    mark: u32,
    agent: u64,
    stamp: u32,
}

/// What one data worker needs of the kernel half.
pub struct WorkerMaps {
    /// Records on the sockets the worker accepts and opens.
    pub records: SkStorage<MapData, SocketRecord>,
    /// Under which address the network knows a captured connection.
    pub sources: HashMap<MapData, u64, SockAddr>,
    /// Ports on which requests need not be held.
    pub open_ports: Arc<OpenPorts>,
    /// Destinations to which captured connections need not be held.
    pub let_in: Arc<LetIn>,
    /// Connection requests held for this worker.
    pub syns: RingBuf<MapData>,
    /// Where the worker tells the kernel how busy it is.
    pub(crate) loads: Arc<Loads>,
}

/// The size of the ring of flow events, whose pages are always there, mapped twice: room for 5,000 from one look to the next.
const EVENT_BYTES: u32 = 1 << 19;

/// What there is room for about direct connections.
#[derive(Clone, Copy, Debug)]
pub struct DirectRoom {
    /// How many there may be, at most `DIRECT_MAX`.
    pub connections: u32,
    /// The size of the ring that tells of them: a power of two, of whole pages. Its pages are always there.
    pub event_bytes: u32,
}

/// Loads, attaches and pins the kernel half for `workers` data workers. Returns the control half, one
/// [`WorkerMaps`] a worker, the ring of flow events, and what concerns direct connections.
pub fn load(
    object: &[u8],
    pins_dir: &Path,
    pods: &Cgroup,
    agent: &Cgroup,
    workers: usize,
    room: &DirectRoom,
) -> Result<(Kernel, Vec<WorkerMaps>, RingBuf<MapData>, DirectMaps), KernelError> {
    bpffs::ensure(pins_dir)?;
    let pins = Pins::below(pins_dir);
    for dir in [pins.maps(), pins.links()] {
        fs::create_dir_all(&dir).map_err(|source| KernelError::Io { path: dir, source })?;
    }

    let mut loader = EbpfLoader::new();
    for name in SHARED_MAPS {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.map_max_entries("EVENTS", EVENT_BYTES);
    loader.map_max_entries("ROOM", room.connections);
    loader.map_max_entries("PASSAGE_EVENTS", room.event_bytes);
    let mut ebpf = loader
        .load(object)
        .map_err(|error| KernelError::Load(Box::new(error)))?;
    // Before any map is taken out: programs refer to maps by descriptor, and a taken map may close its own.
    load_programs(&mut ebpf)?;
    let mark = settle_config(&mut ebpf, &pins)?;

    let mut syn_rings: ArrayOfMaps<MapData, MapData> = take(&mut ebpf, "SYN_RINGS")?;
    let loads = match ebpf.take_map("LOADS") {
        Some(Map::Array(data)) => Loads::map(data.fd()).map_err(|source| KernelError::Io {
            path: PathBuf::from("LOADS"),
            source,
        })?,
        _ => return Err(KernelError::Missing { name: "LOADS" }),
    };
    let loads = Arc::new(loads);
    let open_ports = Arc::new(OpenPorts::new(take(&mut ebpf, "OPEN_PORTS")?));
    let let_in = Arc::new(LetIn::new(take(&mut ebpf, "LET_IN")?));
    let mut worker_maps = Vec::with_capacity(workers);
    for index in 0..workers.min(MAX_WORKERS) {
        let ring = new_ring()?;
        syn_rings
            .set(u32::try_from(index).unwrap_or(u32::MAX), &ring, 0)
            .map_err(|source| KernelError::Map {
                name: "SYN_RINGS",
                source: Box::new(source),
            })?;
        worker_maps.push(WorkerMaps {
            records: pinned(&pins, "SOCKETS")?,
            sources: pinned(&pins, "SOURCES")?,
            open_ports: Arc::clone(&open_ports),
            let_in: Arc::clone(&let_in),
            syns: RingBuf::try_from(Map::RingBuf(ring)).map_err(map_error("SYN_RINGS"))?,
            loads: Arc::clone(&loads),
        });
    }
    let events = take(&mut ebpf, "EVENTS")?;
    let direct = DirectMaps::open(&mut ebpf)?;
    let mut tables = Tables::open(&mut ebpf)?;
    let stamp = rand::random();
    tables.admit_agent(agent.id(), stamp)?;

    let place = Place {
        pins: &pins,
        pods,
        agent,
    };
    for (function, hook) in SOCK_ADDR_PROGRAMS {
        let program: &mut CgroupSockAddr = program(&mut ebpf, function)?;
        place.keep_sock_addr(program, function, hook)?;
    }
    let sock_ops: &mut SockOps = program(&mut ebpf, SOCK_OPS_PROGRAM)?;
    place.keep_sock_ops(sock_ops)?;

    let kernel = Kernel {
        pins,
        ebpf,
        tables,
        mark,
        agent: agent.id(),
        stamp,
    };
    Ok((kernel, worker_maps, events, direct))
}

impl Kernel {
    /// Steers the namespace's inbound connections to the agent's listeners from now on, pinned.
    pub fn capture_inbound(&mut self, netns: &Netns) -> Result<(), KernelError> {
        let path = self.pins.lookup_link(netns.cookie());
        let lookup: &mut SkLookup = program(&mut self.ebpf, SK_LOOKUP_PROGRAM)?;
        if path.exists() {
            return replace_program(
                &path,
                &lookup.fd().map_err(program_error(SK_LOOKUP_PROGRAM))?.as_fd(),
            );
        }
        let id = lookup.attach(netns).map_err(program_error(SK_LOOKUP_PROGRAM))?;
        let link = lookup.take_link(id).map_err(program_error(SK_LOOKUP_PROGRAM))?;
        pin(link.into(), path)
    }

    /// Gives the namespace its plain inbound networking back.
    pub fn release_inbound(&mut self, netns_cookie: u64) -> Result<(), KernelError> {
        remove_pin(&self.pins.lookup_link(netns_cookie))
    }

    /// Holds connection requests at this listener from now on.
    pub fn hold(&mut self, listener: &impl AsFd) -> Result<(), KernelError> {
        let hold: &mut SocketFilter = program(&mut self.ebpf, HOLD_PROGRAM)?;
        hold.attach(listener).map_err(program_error(HOLD_PROGRAM))
    }

    /// Forgets agents that are gone: their cgroups and their links. Only for an agent that runs alone.
    pub fn forget_other_agents(&mut self) -> Result<(), KernelError> {
        self.tables.admit_only(self.agent)?;
        let own = self.pins.agent_link(self.agent);
        for path in self.pins.agent_links() {
            if path != own {
                remove_pin(&path)?;
            }
        }
        Ok(())
    }

    /// Forgets this agent, unless another one has come to live in its cgroup.
    pub fn bow_out(&mut self) -> Result<(), KernelError> {
        if self.tables.dismiss_agent(self.agent, self.stamp)? {
            remove_pin(&self.pins.agent_link(self.agent))?;
        }
        Ok(())
    }

    /// The mark of connection requests that the agent sends on.
    pub fn mark(&self) -> u32 {
        self.mark
    }

    /// Where everything is pinned.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }
}

/// Reads the object named, or takes the embedded one.
pub fn object_bytes(named: Option<&Path>) -> Result<std::borrow::Cow<'static, [u8]>, KernelError> {
    match (named, object::OBJECT) {
        (Some(path), _) => fs::read(path)
            .map(Into::into)
            .map_err(|source| KernelError::ObjectFile {
                path: path.to_owned(),
                source,
            }),
        (None, Some(object)) => Ok(object.into()),
        (None, None) => Err(KernelError::NoObject),
    }
}

/// Brings every program into the kernel, attached nowhere yet.
fn load_programs(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    for (function, _) in SOCK_ADDR_PROGRAMS {
        program::<CgroupSockAddr>(ebpf, function)?
            .load()
            .map_err(program_error(function))?;
    }
    program::<SockOps>(ebpf, SOCK_OPS_PROGRAM)?
        .load()
        .map_err(program_error(SOCK_OPS_PROGRAM))?;
    program::<SkLookup>(ebpf, SK_LOOKUP_PROGRAM)?
        .load()
        .map_err(program_error(SK_LOOKUP_PROGRAM))?;
    program::<SocketFilter>(ebpf, HOLD_PROGRAM)?
        .load()
        .map_err(program_error(HOLD_PROGRAM))
}

/// Checks the layout of pins that were found, or settles it for new ones. Returns the mark.
fn settle_config(ebpf: &mut Ebpf, pins: &Pins) -> Result<u32, KernelError> {
    let mut config: Array<MapData, Config> = take(ebpf, "CONFIG")?;
    let found = config.get(&0, 0).map_err(map_error("CONFIG"))?;
    match found.abi {
        ABI_VERSION => Ok(found.mark),
        0 => {
            let settled = Config {
                abi: ABI_VERSION,
                mark: rand::random_range(1..=u32::MAX),
            };
            config.set(0, settled, 0).map_err(map_error("CONFIG"))?;
            Ok(settled.mark)
        }
        other => Err(KernelError::Abi {
            root: pins.root().to_owned(),
            found: other,
        }),
    }
}

/// Where the cgroup programs go.
struct Place<'a> {
    pins: &'a Pins,
    pods: &'a Cgroup,
    agent: &'a Cgroup,
}

impl Place<'_> {
    fn keep_sock_addr(
        &self,
        program: &mut CgroupSockAddr,
        function: &'static str,
        hook: &str,
    ) -> Result<(), KernelError> {
        let path = self.pins.cgroup_link(hook, "pods");
        let keep = Keep::of(&path, self.pods)?;
        if let Keep::Here(link) = &keep {
            let program = program.fd().map_err(program_error(function))?;
            return update(link, &program.as_fd(), &path);
        }
        let id = program
            .attach(open(self.pods)?, CgroupAttachMode::Single)
            .map_err(program_error(function))?;
        let link = program.take_link(id).map_err(program_error(function))?;
        keep.pin(link.try_into().map_err(link_error(&path))?, path)
    }

    fn keep_sock_ops(&self, program: &mut SockOps) -> Result<(), KernelError> {
        self.keep_sock_ops_at(program, self.pods, self.pins.cgroup_link("sock_ops", "pods"))?;
        // Attached to both, it would run twice for the agent's sockets when its cgroup lies within the pods'.
        if self.agent.is_within(self.pods) {
            return Ok(());
        }
        self.keep_sock_ops_at(program, self.agent, self.pins.agent_link(self.agent.id()))
    }

    fn keep_sock_ops_at(
        &self,
        program: &mut SockOps,
        cgroup: &Cgroup,
        path: PathBuf,
    ) -> Result<(), KernelError> {
        let keep = Keep::of(&path, cgroup)?;
        if let Keep::Here(link) = &keep {
            let program = program.fd().map_err(program_error(SOCK_OPS_PROGRAM))?;
            return update(link, &program.as_fd(), &path);
        }
        let id = program
            .attach(open(cgroup)?, CgroupAttachMode::Single)
            .map_err(program_error(SOCK_OPS_PROGRAM))?;
        let link = program.take_link(id).map_err(program_error(SOCK_OPS_PROGRAM))?;
        keep.pin(link.try_into().map_err(link_error(&path))?, path)
    }
}

/// What is pinned where a link to a cgroup belongs.
enum Keep {
    /// A link to that cgroup: its program is replaced in place.
    Here(OwnedFd),
    /// A link to another cgroup, or to one that is gone: it captures nothing of what it should.
    Elsewhere,
    /// Nothing.
    Nothing,
}

impl Keep {
    fn of(path: &Path, cgroup: &Cgroup) -> Result<Self, KernelError> {
        if !path.exists() {
            return Ok(Self::Nothing);
        }
        let link = raw::open_pin(path).map_err(io_error(path))?;
        if raw::cgroup_of_link(&link).map_err(io_error(path))? == cgroup.id() {
            return Ok(Self::Here(link));
        }
        tracing::warn!(pin = %path.display(), cgroup = %cgroup.path().display(), "moving to another cgroup");
        Ok(Self::Elsewhere)
    }

    /// Pins a new link, in one step with the old one's end.
    fn pin(&self, link: FdLink, path: PathBuf) -> Result<(), KernelError> {
        if !matches!(self, Self::Elsewhere) {
            return pin(link, path);
        }
        let beside = Pins::beside(&path);
        remove_pin(&beside)?;
        pin(link, beside.clone())?;
        fs::rename(&beside, &path).map_err(io_error(&path))
    }
}

fn open(cgroup: &Cgroup) -> Result<fs::File, KernelError> {
    cgroup.open_dir().map_err(|source| KernelError::Io {
        path: cgroup.path().to_owned(),
        source,
    })
}

fn replace_program(path: &Path, program: &impl AsFd) -> Result<(), KernelError> {
    update(&raw::open_pin(path).map_err(io_error(path))?, program, path)
}

fn update(link: &OwnedFd, program: &impl AsFd, path: &Path) -> Result<(), KernelError> {
    raw::update_link(link, program).map_err(io_error(path))
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> KernelError {
    move |source| KernelError::Io {
        path: path.to_owned(),
        source,
    }
}

fn link_error(path: &Path) -> impl Fn(LinkError) -> KernelError {
    move |source| KernelError::Link {
        path: path.to_owned(),
        source,
    }
}

fn pin(link: FdLink, path: PathBuf) -> Result<(), KernelError> {
    match link.pin(&path) {
        Ok(_) => Ok(()),
        Err(source) => Err(KernelError::Pin { path, source }),
    }
}

fn remove_pin(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(KernelError::Io {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn new_ring() -> Result<MapData, KernelError> {
    const BPF_MAP_TYPE_RINGBUF: u32 = 27;
    let bytes = u32::try_from(SYN_RING_BYTES).unwrap_or(u32::MAX);
    let shape = aya_obj::Map::new_from_params(BPF_MAP_TYPE_RINGBUF, 0, 0, bytes, 0);
    MapData::create(shape, "syn_ring", None).map_err(map_error("SYN_RINGS"))
}

fn pinned<M>(pins: &Pins, name: &'static str) -> Result<M, KernelError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let data = MapData::from_pin(pins.map(name)).map_err(map_error(name))?;
    Map::from_map_data(data)
        .and_then(M::try_from)
        .map_err(map_error(name))
}

/// Takes a map out of the object.
pub(super) fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, KernelError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(KernelError::Missing { name })?;
    M::try_from(map).map_err(map_error(name))
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, KernelError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(KernelError::Missing { name })?
        .try_into()
        .map_err(program_error(name))
}

pub(super) fn map_error(name: &'static str) -> impl Fn(MapError) -> KernelError {
    move |source| KernelError::Map {
        name,
        source: Box::new(source),
    }
}

pub(super) fn program_error(name: &'static str) -> impl Fn(ProgramError) -> KernelError {
    move |source| KernelError::Program {
        name,
        cause: Box::new(source),
    }
}
