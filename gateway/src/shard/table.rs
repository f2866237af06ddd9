//! A shard's connections, by the driver's slot. What belongs to an earlier connection in the same slot finds nobody.

use super::connection::Connection;
use crate::turn::ConnectionId;

/// G13: what a connection takes here, beside itself.
const _: () = assert!(size_of::<Option<Box<Connection>>>() == 8);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Option<Box<Connection>>>,
    count: usize,
}

impl Table {
    pub(super) fn insert(&mut self, connection: Connection) {
        let slot = connection.line.id.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        if let Some(place) = self.slots.get_mut(slot)
            && place.replace(Box::new(connection)).is_none()
        {
            self.count += 1;
        }
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.slots.get(id.slot as usize)?.as_deref().filter(|connection| connection.line.id == id)
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.slots.get_mut(id.slot as usize)?.as_deref_mut().filter(|connection| connection.line.id == id)
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Box<Connection>> {
        let place = self.slots.get_mut(id.slot as usize)?;
        let removed = place.take_if(|connection| connection.line.id == id)?;
        self.count -= 1;
        Some(removed)
    }

    /// Whoever is in a slot now.
    pub(super) fn in_slot(&self, slot: u32) -> Option<ConnectionId> {
        self.slots.get(slot as usize)?.as_ref().map(|connection| connection.line.id)
    }

    pub(super) fn ids(&self) -> Vec<ConnectionId> {
        self.slots.iter().flatten().map(|connection| connection.line.id).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }
}
