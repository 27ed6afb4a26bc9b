//! `mesh-agent bpf progs`: the programs behind the pins.
//!
//! Programs are not pinned themselves: a pinned link holds its program, and the one on the agent's listeners is held
//! by them. So they are found from the links, and by the pinned maps they use.

use std::{collections::BTreeSet, io, time::SystemTime};

use aya::programs::{ProgramError, ProgramInfo, loaded_programs};
use serde::Serialize;

use super::{links::Links, maps::Maps, word};
use crate::{
    cli::{
        failure::Failure,
        output::{View, by_detail},
        table::{Cell, Colour, Column, Detail, Table},
        units,
    },
    kernel::pins::Pins,
};

/// All programs behind the pins, by number.
#[derive(Debug, Serialize)]
pub(super) struct Programs {
    pub(super) programs: Vec<ProgramEntry>,
}

/// One program.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProgramEntry {
    pub(super) id: u32,
    /// As the kernel shortens it.
    pub(super) name: String,
    pub(super) program_type: String,
    /// Names of the pinned links that run it.
    pub(super) links: Vec<String>,
    /// When it was loaded, RFC 3339.
    pub(super) loaded_at: Option<String>,
    /// Instructions the verifier walked through; none before Linux 5.16.
    pub(super) verified_instructions: Option<u32>,
    pub(super) jited_bytes: u32,
    pub(super) map_ids: Vec<u32>,
}

impl Programs {
    /// Looks at every program in the kernel for those that belong to the pins.
    pub(super) fn of(pins: &Pins) -> Result<Self, Failure> {
        let links = Links::of(pins)?.links;
        let maps: BTreeSet<u32> = Maps::of(pins)?.ids().into_iter().collect();
        if links.is_empty() && maps.is_empty() {
            return Ok(Self { programs: Vec::new() });
        }
        let mut programs = Vec::new();
        for info in loaded_programs() {
            let info = match info {
                Ok(info) => info,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(Failure::because("cannot list the kernel's programs", error)),
            };
            let of_links: Vec<String> = links
                .iter()
                .filter(|link| link.program_id == Some(info.id()))
                .map(|link| link.name.clone())
                .collect();
            let map_ids = info.map_ids().ok().flatten().unwrap_or_default();
            if !of_links.is_empty() || map_ids.iter().any(|id| maps.contains(id)) {
                programs.push(ProgramEntry::new(&info, of_links, map_ids));
            }
        }
        Ok(Self { programs })
    }

    /// The kernel's numbers of the programs.
    pub(super) fn ids(&self) -> Vec<u32> {
        self.programs.iter().map(|program| program.id).collect()
    }
}

impl ProgramEntry {
    fn new(info: &ProgramInfo, links: Vec<String>, map_ids: Vec<u32>) -> Self {
        let micros = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH)
                .ok()
                .map(|since| since.as_micros())
        };
        let loaded_at = info
            .loaded_at()
            .and_then(micros)
            .and_then(|micros| u64::try_from(micros).ok());
        Self {
            id: info.id(),
            name: info.name_as_str().unwrap_or_default().to_owned(),
            program_type: word(&format!("{:?}", info.program_type())),
            links,
            loaded_at: loaded_at.map(units::date_and_time),
            verified_instructions: info.verified_instruction_count(),
            jited_bytes: info.size_jitted(),
            map_ids,
        }
    }
}

/// Programs come and go while they are listed.
fn is_gone(error: &ProgramError) -> bool {
    match error {
        ProgramError::SyscallError(error) => error.io_error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

impl View for Programs {
    fn text(&self, detail: Detail, colour: Colour) -> String {
        let mut table = Table::new(by_detail(
            detail,
            vec![
                Column::number("ID"),
                Column::text("NAME"),
                Column::text("TYPE"),
                Column::text("LOADED"),
                Column::text("LINKS"),
            ],
            vec![
                Column::number("VERIFIED"),
                Column::number("JITED"),
                Column::text("MAP-IDS"),
            ],
        ));
        for program in &self.programs {
            let links = match program.links.as_slice() {
                [first, _, ..] if detail == Detail::Usual => {
                    format!("{first} and {} more", program.links.len() - 1)
                }
                links => links.join(","),
            };
            let usual = vec![
                Cell::from(program.id.to_string()),
                Cell::from(&program.name),
                Cell::from(&program.program_type),
                Cell::from(program.loaded_at.as_deref().unwrap_or_default()),
                Cell::from(links),
            ];
            let verified = program.verified_instructions.map(|count| count.to_string());
            let ids: Vec<String> = program.map_ids.iter().map(u32::to_string).collect();
            let wide = vec![
                Cell::from(verified.unwrap_or_default()),
                Cell::from(units::bytes(program.jited_bytes.into())),
                Cell::from(ids.join(",")),
            ];
            table.row(by_detail(detail, usual, wide));
        }
        table.render(colour)
    }

    fn nothing(&self) -> Option<&'static str> {
        self.programs
            .is_empty()
            .then_some("No programs are loaded for these pins.")
    }
}
