//! `mesh-agent bpf maps`: the pinned maps, and how full they are.
//!
//! Invariant: counting walks a map's keys, at most as many as fit, so it ends even while the map changes.

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError, MapInfo, SockHash},
};
use mesh_common::kernel::{
    FlowKey, InboundEntry, Ip, ListenerEntry, ListenerKey, Passage, PodEntry, PortKey, SockAddr, SocketRecord,
};
use serde::Serialize;

use super::{pins_in, word};
use crate::{
    cli::{
        failure::Failure,
        output::{View, by_detail},
        table::{Cell, Colour, Column, Detail, Table, Tone},
    },
    kernel::pins::Pins,
};

/// All pinned maps, by name.
#[derive(Debug, Serialize)]
pub(super) struct Maps {
    pub(super) maps: Vec<MapEntry>,
}

/// One map.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MapEntry {
    pub(super) id: u32,
    /// Name of the pin.
    pub(super) name: String,
    pub(super) map_type: String,
    pub(super) key_bytes: u32,
    pub(super) value_bytes: u32,
    /// Entries in use; none for a kind that cannot be counted.
    pub(super) entries: Option<u64>,
    /// Entries that fit; 0 where the kind has no limit.
    pub(super) max_entries: u32,
    pub(super) pin: String,
}

impl Maps {
    /// Opens every pin, counts, and lets it go.
    pub(super) fn of(pins: &Pins) -> Result<Self, Failure> {
        let mut maps = Vec::new();
        for (name, path) in pins_in(&pins.maps())? {
            let failed =
                |error: MapError| Failure::because(format!("cannot look at {}", path.display()), error);
            let data = MapData::from_pin(&path).map_err(failed)?;
            let info = data.info().map_err(failed)?;
            maps.push(MapEntry::new(name, path.display().to_string(), &info, data));
        }
        Ok(Self { maps })
    }

    /// The kernel's numbers of the maps.
    pub(super) fn ids(&self) -> Vec<u32> {
        self.maps.iter().map(|map| map.id).collect()
    }
}

impl MapEntry {
    fn new(name: String, pin: String, info: &MapInfo, data: MapData) -> Self {
        let map_type = info
            .map_type()
            .map_or_else(|_| "unknown".to_owned(), |kind| word(&format!("{kind:?}")));
        let max_entries = info.max_entries();
        Self {
            id: info.id(),
            entries: entries(&name, data, max_entries),
            name,
            map_type,
            key_bytes: info.key_size(),
            value_bytes: info.value_size(),
            max_entries,
            pin,
        }
    }

    fn entries_cell(&self) -> Cell {
        let Some(used) = self.entries else {
            return Cell::from("");
        };
        // A full hash map turns pods away; the LRU ones are made to be full.
        let scarce = !self.map_type.starts_with("lru") && used * 10 >= u64::from(self.max_entries) * 9;
        let tone = if scarce && self.max_entries > 1 {
            Tone::Bad
        } else {
            Tone::Plain
        };
        Cell::from(used.to_string()).tone(tone)
    }
}

/// How many entries the map of that name has; `None` when it is not one that can be walked.
fn entries(name: &str, data: MapData, max: u32) -> Option<u64> {
    let map = Map::from_map_data(data).ok()?;
    let most = max as usize;
    match name {
        "CONFIG" => Some(u64::from(max)),
        "PODS" => keys::<u64, PodEntry>(map, most),
        "AGENTS" => keys::<u64, u32>(map, most),
        "INBOUND" => keys::<Ip, InboundEntry>(map, most),
        "LISTENERS" => keys::<u64, ListenerEntry>(map, most),
        "OPEN_PORTS" => keys::<PortKey, u32>(map, most),
        "FLOWS" => keys::<FlowKey, SocketRecord>(map, most),
        "HELD" => keys::<FlowKey, u32>(map, most),
        "SOURCES" => keys::<u64, SockAddr>(map, most),
        "PASSAGES" => keys::<FlowKey, Passage>(map, most),
        "LISTENER_SOCKETS" => {
            let sockets: SockHash<MapData, ListenerKey> = map.try_into().ok()?;
            count(sockets.keys(), most)
        }
        _ => None,
    }
}

fn keys<K: Pod, V: Pod>(map: Map, most: usize) -> Option<u64> {
    let map: HashMap<MapData, K, V> = map.try_into().ok()?;
    count(map.keys(), most)
}

fn count<K>(keys: impl Iterator<Item = Result<K, MapError>>, most: usize) -> Option<u64> {
    let mut counted = 0;
    for key in keys.take(most) {
        key.ok()?;
        counted += 1;
    }
    Some(counted)
}

impl View for Maps {
    fn text(&self, detail: Detail, colour: Colour) -> String {
        let mut table = Table::new(by_detail(
            detail,
            vec![
                Column::number("ID"),
                Column::text("NAME"),
                Column::text("TYPE"),
                Column::number("ENTRIES"),
                Column::number("MAX"),
                Column::number("KEY"),
                Column::number("VALUE"),
            ],
            vec![Column::text("PIN")],
        ));
        for map in &self.maps {
            let usual = vec![
                Cell::from(map.id.to_string()),
                Cell::from(&map.name),
                Cell::from(&map.map_type),
                map.entries_cell(),
                Cell::from(map.max_entries.to_string()),
                Cell::from(format!("{}B", map.key_bytes)),
                Cell::from(format!("{}B", map.value_bytes)),
            ];
            table.row(by_detail(detail, usual, vec![Cell::from(&map.pin)]));
        }
        table.render(colour)
    }

    fn nothing(&self) -> Option<&'static str> {
        self.maps.is_empty().then_some("No maps are pinned.")
    }
}
