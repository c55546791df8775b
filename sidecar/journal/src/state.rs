//! The two state slots: positions of the sinks, the segments in use, and how far the log certainly reached.
use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Disk, DiskFile, Error, Result,
    disk::read_readable,
    format::{Cursor, SECTOR, checked_sector},
};

const MAGIC: &[u8; 8] = b"STENOSTA";
pub(crate) const FILE: &str = "state";
/// Version that this program writes.
const VERSION: u16 = 2;
const SLOTS: [u64; 2] = [0, 4096];
/// Limit of sinks of a journal: what fits into a slot. A policy has at most nine.
const MAX_POSITIONS: usize = 20;
/// Where positions begin in a slot.
const POSITIONS: usize = 56;
/// Where what version 2 added begins.
const EVIDENCE: usize = 376;
/// Where the key for ids stands in a slot.
const ID_KEY: usize = 472;
/// Where the id of the key that masks it stands.
const KEY_ID: usize = 456;

/// The id of a sink in the state: the first eight bytes of the CRC32C of its name, twice with different seeds.
pub fn sink_id(name: &str) -> u64 {
    let low = crc32c::crc32c(name.as_bytes());
    let high = crc32c::crc32c_append(0x5354_454E, name.as_bytes());
    u64::from(high) << 32 | u64::from(low)
}

/// What a slot says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) generation: u64,
    pub(crate) uuid: [u8; 16],
    /// As it is stored: masked with the key of `key_id`.
    pub(crate) id_key: [u8; 32],
    pub(crate) key_id: [u8; 16],
    pub(crate) oldest: u64,
    pub(crate) positions: BTreeMap<u64, u64>,
    pub(crate) evidence: Evidence,
}

/// What the state knows of the log without looking at it: a loss at the end of the log shows by this.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// The newest segment that was used. `None`: there was none, or it is not known, as in a state of version 1.
    pub(crate) newest: Option<Newest>,
    /// The log reached this sequence number, or further.
    pub(crate) tail: u64,
    /// A chain that begins from now on begins with this number: those below may have been used by a chain of the same id
    /// that nobody knows any more.
    pub(crate) chain_floor: u64,
    /// Segments from this generation on are encrypted: one in clear is not ours. `None`: no such rule.
    pub(crate) encrypted_from: Option<u64>,
    /// The key for ids was on this disk in clear.
    pub(crate) id_key_exposed: bool,
}

/// The newest segment that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Newest {
    pub(crate) generation: u64,
    pub(crate) bytes: u64,
    pub(crate) first_seq: u64,
}

/// The state file.
pub(crate) struct StateFile {
    /// `None`: the directory is only read.
    file: Option<Arc<dyn DiskFile>>,
    pub(crate) current: State,
}

fn non_zero(number: u64) -> Option<u64> {
    Some(number).filter(|number| *number > 0)
}

impl State {
    fn encode(&self) -> Result<[u8; SECTOR]> {
        if self.positions.len() > MAX_POSITIONS {
            return Err(Error::TooMany { what: "sinks", count: self.positions.len(), limit: MAX_POSITIONS });
        }
        let mut out = [0; SECTOR];
        out[0..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.generation.to_le_bytes());
        out[24..40].copy_from_slice(&self.uuid);
        out[40..48].copy_from_slice(&self.oldest.to_le_bytes());
        out[48..50].copy_from_slice(&(self.positions.len() as u16).to_le_bytes());
        for (index, (sink, position)) in self.positions.iter().enumerate() {
            let at = POSITIONS + index * 16;
            out[at..at + 8].copy_from_slice(&sink.to_le_bytes());
            out[at + 8..at + 16].copy_from_slice(&position.to_le_bytes());
        }
        let Evidence { newest, tail, chain_floor, encrypted_from, id_key_exposed } = self.evidence;
        let (generation, bytes, first_seq) =
            newest.map_or((0, 0, 0), |newest| (newest.generation, newest.bytes, newest.first_seq));
        let exposed = u64::from(id_key_exposed);
        let numbers = [generation, bytes, first_seq, tail, chain_floor, encrypted_from.unwrap_or(0), exposed];
        for (index, number) in numbers.iter().enumerate() {
            let at = EVIDENCE + index * 8;
            out[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        out[ID_KEY..ID_KEY + 32].copy_from_slice(&self.id_key);
        out[KEY_ID..KEY_ID + 16].copy_from_slice(&self.key_id);
        let crc = crc32c::crc32c(&out[..508]);
        out[508..].copy_from_slice(&crc.to_le_bytes());
        Ok(out)
    }

    fn decode(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(sector) = checked_sector(bytes, *MAGIC) else { return Ok(None) };
        let mut cursor = Cursor(&sector[8..]);
        let version = cursor.u16().unwrap_or_default();
        if version > VERSION {
            return Err(Error::Newer { file: FILE.into(), found: version, known: VERSION });
        }
        let mut read = || {
            cursor.take(6)?;
            let (generation, uuid, oldest, count) = (cursor.u64()?, cursor.array()?, cursor.u64()?, cursor.u16()?);
            cursor.take(6)?;
            let positions = (0..count).map(|_| Some((cursor.u64()?, cursor.u64()?))).collect::<Option<_>>()?;
            let evidence = if version < 2 { Evidence::default() } else { Evidence::decode(Cursor(&sector[EVIDENCE..]))? };
            let id_key = sector[ID_KEY..ID_KEY + 32].try_into().ok()?;
            let key_id = sector[KEY_ID..KEY_ID + 16].try_into().ok()?;
            Some(Self { generation, uuid, id_key, key_id, oldest, positions, evidence })
        };
        Ok(read())
    }
}

impl Evidence {
    fn decode(mut cursor: Cursor<'_>) -> Option<Self> {
        let (generation, bytes, first_seq) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
        Some(Self {
            newest: non_zero(generation).map(|generation| Newest { generation, bytes, first_seq }),
            tail: cursor.u64()?,
            chain_floor: cursor.u64()?,
            encrypted_from: non_zero(cursor.u64()?),
            id_key_exposed: cursor.u64()? != 0,
        })
    }
}

impl StateFile {
    /// Reads the newer valid slot; `None` if there is no valid one. A slot that the device cannot read is not valid. If the file of
    /// that name holds none, any other file may: then its name comes, too. Writes nothing.
    pub(crate) fn find(disk: &dyn Disk) -> Result<(Option<State>, Option<String>)> {
        if let Some(state) = Self::read(disk, FILE)? {
            return Ok((Some(state), None));
        }
        let mut newest: Option<(State, String)> = None;
        for (name, size) in disk.list().map_err(Error::io("list", "the directory"))? {
            if size < SECTOR as u64 || name.contains('/') {
                continue;
            }
            let found = Self::read(disk, &name)?;
            if let Some(state) = found
                && newest.as_ref().is_none_or(|(newest, _)| state.generation > newest.generation)
            {
                newest = Some((state, name));
            }
        }
        Ok(newest.map_or((None, None), |(state, name)| (Some(state), Some(name))))
    }

    fn read(disk: &dyn Disk, name: &str) -> Result<Option<State>> {
        let Ok(file) = disk.open(name, false) else { return Ok(None) };
        let mut newest: Option<State> = None;
        for slot in SLOTS {
            let mut bytes = [0; SECTOR];
            read_readable(&*file, &mut bytes, slot).map_err(Error::io("read", name))?;
            if let Some(state) = State::decode(&bytes)?
                && newest.as_ref().is_none_or(|newest| state.generation > newest.generation)
            {
                newest = Some(state);
            }
        }
        Ok(newest)
    }

    /// Opens the file for writing, with `current` as what was read.
    pub(crate) fn open(disk: &dyn Disk, current: State) -> Result<Self> {
        let file = disk.open(FILE, true).or_else(|_| {
            // A directory or a link to nowhere has the name.
            disk.set_aside(FILE)?;
            disk.open(FILE, true)
        });
        Ok(Self { file: Some(file.map_err(Error::io("open", FILE))?), current })
    }

    /// A state that is never written.
    pub(crate) const fn read_only(current: State) -> Self {
        Self { file: None, current }
    }

    /// Makes a state durable. On failure the other slot still holds the last one.
    pub(crate) fn save(&mut self, mut next: State) -> Result<()> {
        next.generation = self.current.generation + 1;
        let slot = SLOTS[(next.generation % 2) as usize];
        let Some(file) = &self.file else {
            return Err(Error::io("write", FILE)(std::io::ErrorKind::ReadOnlyFilesystem.into()));
        };
        file.write_at(&next.encode()?, slot).map_err(Error::io("write", FILE))?;
        file.sync().map_err(Error::io("sync", FILE))?;
        self.current = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_gives_back_what_it_was_given_and_refuses_more_sinks_than_fit() {
        let newest = Some(Newest { generation: 7, bytes: 1 << 20, first_seq: 8 });
        let evidence = Evidence { newest, tail: 9, chain_floor: 3, encrypted_from: Some(5), id_key_exposed: true };
        let positions = (0..MAX_POSITIONS as u64).map(|sink| (sink, sink * 10)).collect();
        let mut state = State { generation: 4, uuid: [1; 16], id_key: [2; 32], key_id: [3; 16], oldest: 6, positions, evidence };
        assert_eq!(State::decode(&state.encode().unwrap()).unwrap(), Some(state.clone()));
        state.positions.insert(999, 0);
        assert!(matches!(state.encode(), Err(Error::TooMany { count: 21, .. })));
    }
}
