//! `mesh-agent bpf links`: the pinned links.

use serde::Serialize;

use super::{attach, denied, fdinfo::FdInfo, pins_in};
use crate::{
    cli::{
        failure::Failure,
        output::{View, by_detail},
        table::{Cell, Colour, Column, Detail, Table, Tone},
    },
    kernel::{pins::Pins, raw},
};

/// All pinned links, by name.
#[derive(Debug, Serialize)]
pub(super) struct Links {
    pub(super) links: Vec<Link>,
}

/// One link.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Link {
    /// Name of the pin.
    pub(super) name: String,
    pub(super) id: Option<u32>,
    /// "cgroup" or "netns".
    pub(super) link_type: Option<String>,
    pub(super) hook: Option<String>,
    pub(super) program_id: Option<u32>,
    /// The kernel's number for the cgroup or the namespace; 0 when it is gone.
    pub(super) target_id: Option<u64>,
    /// Its path, when one is found.
    pub(super) target: Option<String>,
    pub(super) pin: String,
}

impl Links {
    /// Opens every pin and lets it go.
    pub(super) fn of(pins: &Pins) -> Result<Self, Failure> {
        let mut links = Vec::new();
        for (name, path) in pins_in(&pins.links())? {
            let info = raw::open_pin(&path).and_then(|link| FdInfo::of(&link));
            let info = info.map_err(|error| denied(&path, error))?;
            links.push(Link::new(name, path.display().to_string(), &info));
        }
        Ok(Self { links })
    }
}

impl Link {
    fn new(name: String, pin: String, info: &FdInfo) -> Self {
        let cgroup: Option<u64> = info.number("cgroup_id");
        let netns: Option<u64> = info.number("netns_ino");
        let target = cgroup
            .and_then(attach::cgroup_path)
            .or_else(|| netns.and_then(attach::netns_path));
        Self {
            name,
            id: info.number("link_id"),
            link_type: info.text("link_type").map(str::to_owned),
            hook: info.number("attach_type").map(attach::hook),
            program_id: info.number("prog_id"),
            target_id: cgroup.or(netns),
            target: target.map(|path| path.display().to_string()),
            pin,
        }
    }

    fn target_cell(&self) -> Cell {
        match (&self.target, self.target_id) {
            (Some(path), _) => Cell::from(path),
            // The kernel clears the number when the target goes while the link is pinned.
            (None, Some(0) | None) => Cell::from("gone").tone(Tone::Doubtful),
            (None, Some(id)) => Cell::from(format!(
                "{}:[{id}]",
                self.link_type.as_deref().unwrap_or("target")
            )),
        }
    }
}

impl View for Links {
    fn text(&self, detail: Detail, colour: Colour) -> String {
        let mut table = Table::new(by_detail(
            detail,
            vec![
                Column::number("ID"),
                Column::text("NAME"),
                Column::text("TYPE"),
                Column::text("HOOK"),
                Column::number("PROGRAM"),
                Column::text("ATTACHED-TO"),
            ],
            vec![Column::number("TARGET-ID"), Column::text("PIN")],
        ));
        let number =
            |number: Option<u64>| Cell::from(number.map(|number| number.to_string()).unwrap_or_default());
        for link in &self.links {
            let usual = vec![
                number(link.id.map(u64::from)),
                Cell::from(&link.name),
                Cell::from(link.link_type.as_deref().unwrap_or_default()),
                Cell::from(link.hook.as_deref().unwrap_or_default()),
                number(link.program_id.map(u64::from)),
                link.target_cell(),
            ];
            table.row(by_detail(
                detail,
                usual,
                vec![number(link.target_id), Cell::from(&link.pin)],
            ));
        }
        table.render(colour)
    }

    fn nothing(&self) -> Option<&'static str> {
        self.links
            .is_empty()
            .then_some("No links are pinned: nothing is captured.")
    }
}
