//! What passes over a wire of the mesh, recorded by tcpdump and read back.
//!
//! Reads the classic pcap format (see pcap-savefile(5)) with Ethernet frames; of the packets only TCP is kept.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::process::{Command, Place, Process, wait_until};

/// A recording that goes on.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

/// What was recorded.
#[derive(Debug)]
pub struct Wire {
    /// The TCP packets in their order.
    pub packets: Vec<Packet>,
}

/// One TCP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it.
    pub src: SocketAddr,
    /// To whom.
    pub dst: SocketAddr,
    /// The TCP flags, as in the header: FIN 1, SYN 2, RST 4, PSH 8, ACK 16.
    pub flags: u8,
    /// What it carried.
    pub payload: Vec<u8>,
}

impl Capture {
    pub(crate) fn start(place: &Place, interface: &str, dir: &Path) -> Result<Self> {
        let command = Command::new(place, "tcpdump").named("tcpdump");
        let file = dir.join(format!("wire-{}-{}.pcap", place.netns, unique()));
        // `-Z root`: the directory is root's; `-B`: room for bursts while the reader is not scheduled.
        let process = command
            .args([
                "-i", interface, "-n", "-U", "-Z", "root", "-s", "0", "-B", "65536", "-w",
            ])
            .arg(&file)
            .arg("tcp")
            .spawn()
            .context("tcpdump (Debian package tcpdump)")?;
        wait_until(Duration::from_secs(10), "tcpdump to listen", || {
            process.stderr().contains("listening on")
        })
        .with_context(|| process.stderr())?;
        Ok(Self { process, file })
    }

    /// Ends the recording and reads it.
    pub fn finish(self) -> Result<Wire> {
        wait_until(
            Duration::from_secs(20),
            "tcpdump to write what the kernel holds",
            || self.has_caught_up(),
        )
        .with_context(|| self.process.stderr())?;
        self.process.signal(Signal::SIGINT)?;
        let said = self.process.wait(Duration::from_secs(10))?.ok()?;
        ensure!(
            said.stderr.contains("\n0 packets dropped by kernel"),
            "packets are missing: {said}"
        );
        Wire::parse(&fs::read(&self.file).with_context(|| format!("reading {}", self.file.display()))?)
    }

    /// Asks tcpdump for its counters; it ends without writing what is still in the kernel's buffer.
    fn has_caught_up(&self) -> bool {
        let before = self.process.stderr().len();
        if self.process.signal(Signal::SIGUSR1).is_err() {
            return false;
        }
        let counters = || self.process.stderr().get(before..).unwrap_or_default().to_owned();
        let answered = wait_until(Duration::from_secs(1), "tcpdump's counters", || {
            counters().ends_with("kernel\n")
        });
        let counters = counters();
        let count = |what| -> Option<u64> {
            counters
                .split_once(what)?
                .0
                .rsplit([' ', '\n'])
                .next()?
                .parse()
                .ok()
        };
        answered.is_ok()
            && count(" packets captured")
                .is_some_and(|seen| Some(seen) == count(" packets received by filter"))
    }
}

impl Wire {
    /// Whether a stream of bytes in one direction of a connection contains this.
    pub fn carries(&self, needle: &[u8]) -> bool {
        self.streams()
            .iter()
            .any(|(_, _, bytes)| bytes.windows(needle.len()).any(|window| window == needle))
    }

    /// What was sent, by source and destination, in the order in which it passed.
    pub fn streams(&self) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        let mut flows: Vec<(SocketAddr, SocketAddr, Vec<u8>)> = Vec::new();
        for packet in self.packets.iter().filter(|packet| !packet.payload.is_empty()) {
            match flows
                .iter_mut()
                .find(|(src, dst, _)| (*src, *dst) == (packet.src, packet.dst))
            {
                Some((_, _, bytes)) => bytes.extend_from_slice(&packet.payload),
                None => flows.push((packet.src, packet.dst, packet.payload.clone())),
            }
        }
        flows
    }

    /// The packets from one address to another.
    pub fn between(&self, src: impl Into<IpAddr>, dst: impl Into<IpAddr>) -> Vec<&Packet> {
        let (src, dst) = (src.into(), dst.into());
        self.packets
            .iter()
            .filter(|packet| packet.src.ip() == src && packet.dst.ip() == dst)
            .collect()
    }

    fn parse(file: &[u8]) -> Result<Self> {
        let header = file.first_chunk::<24>().context("the recording has no header")?;
        let (magic, link) = (le32(header, 0), le32(header, 20));
        ensure!(
            magic == Some(0xa1b2_c3d4) && link == Some(1),
            "not a pcap file of Ethernet frames"
        );
        let mut packets = Vec::new();
        let mut rest = &file[24..];
        while let Some(length) = le32(rest, 8) {
            let end = 16 + usize::try_from(length)?;
            let frame = rest.get(16..end).context("the recording ends within a packet")?;
            packets.extend(Packet::parse(frame));
            rest = &rest[end..];
        }
        Ok(Self { packets })
    }
}

impl Packet {
    /// Reads an Ethernet frame; `None` if it holds no TCP over IPv4 or plain IPv6.
    fn parse(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(14..)?;
        let (src, dst, segment): (IpAddr, IpAddr, &[u8]) = match frame.get(12..14)? {
            [0x08, 0x00] if packet.get(9) == Some(&6) => {
                let header = usize::from(packet[0] & 15) * 4;
                let total = usize::from(be16(packet, 2)?);
                let addresses = packet.get(12..20)?;
                let src = Ipv4Addr::from(<[u8; 4]>::try_from(&addresses[..4]).ok()?);
                let dst = Ipv4Addr::from(<[u8; 4]>::try_from(&addresses[4..]).ok()?);
                // A total length of 0 is what segmentation offload leaves of packets beyond 64 KiB.
                let end = if total == 0 { packet.len() } else { total };
                (src.into(), dst.into(), packet.get(header..end)?)
            }
            [0x86, 0xdd] if packet.get(6) == Some(&6) => {
                let length = usize::from(be16(packet, 4)?);
                let addresses = packet.get(8..40)?;
                let src = Ipv6Addr::from(<[u8; 16]>::try_from(&addresses[..16]).ok()?);
                let dst = Ipv6Addr::from(<[u8; 16]>::try_from(&addresses[16..]).ok()?);
                let end = if length == 0 { packet.len() } else { 40 + length };
                (src.into(), dst.into(), packet.get(40..end)?)
            }
            _ => return None,
        };
        let payload = segment.get(usize::from(segment.get(12)? >> 4) * 4..)?;
        Some(Self {
            src: SocketAddr::new(src, be16(segment, 0)?),
            dst: SocketAddr::new(dst, be16(segment, 2)?),
            flags: *segment.get(13)?,
            payload: payload.to_vec(),
        })
    }
}

fn unique() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
