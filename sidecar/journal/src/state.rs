//! The two state slots: positions of the sinks and the oldest segment in use.
use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Disk, DiskFile, Error, Result,
    format::{Cursor, SECTOR, VERSION, checked_sector},
};

const MAGIC: &[u8; 8] = b"STENOSTA";
const FILE: &str = "state";
const SLOTS: [u64; 2] = [0, 4096];
/// Most sinks of a journal: what fits into a slot.
const MAX_POSITIONS: usize = 24;
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
}

/// The state file.
pub(crate) struct StateFile {
    file: Arc<dyn DiskFile>,
    pub(crate) current: State,
}

impl State {
    fn encode(&self) -> [u8; SECTOR] {
        let mut out = [0; SECTOR];
        out[0..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.generation.to_le_bytes());
        out[24..40].copy_from_slice(&self.uuid);
        out[40..48].copy_from_slice(&self.oldest.to_le_bytes());
        out[48..50].copy_from_slice(&(self.positions.len().min(MAX_POSITIONS) as u16).to_le_bytes());
        for (index, (sink, position)) in self.positions.iter().take(MAX_POSITIONS).enumerate() {
            let at = 56 + index * 16;
            out[at..at + 8].copy_from_slice(&sink.to_le_bytes());
            out[at + 8..at + 16].copy_from_slice(&position.to_le_bytes());
        }
        out[ID_KEY..ID_KEY + 32].copy_from_slice(&self.id_key);
        out[KEY_ID..KEY_ID + 16].copy_from_slice(&self.key_id);
        let crc = crc32c::crc32c(&out[..508]);
        out[508..].copy_from_slice(&crc.to_le_bytes());
        out
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
            let id_key = sector[ID_KEY..ID_KEY + 32].try_into().ok()?;
            let key_id = sector[KEY_ID..KEY_ID + 16].try_into().ok()?;
            Some(Self { generation, uuid, id_key, key_id, oldest, positions })
        };
        Ok(read())
    }
}

impl StateFile {
    /// Reads the newer valid slot; `None` where there is no valid one. Writes nothing.
    pub(crate) fn read(disk: &dyn Disk) -> Result<Option<State>> {
        let Ok(file) = disk.open(FILE, false) else { return Ok(None) };
        let mut newest: Option<State> = None;
        for slot in SLOTS {
            let mut bytes = [0; SECTOR];
            file.read_at(&mut bytes, slot).map_err(Error::io("read", FILE))?;
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
        let file = disk.open(FILE, true).map_err(Error::io("open", FILE))?;
        Ok(Self { file, current })
    }

    /// Makes a state durable. On failure the other slot still holds the last one.
    pub(crate) fn save(&mut self, mut next: State) -> Result<()> {
        next.generation = self.current.generation + 1;
        let slot = SLOTS[(next.generation % 2) as usize];
        self.file.write_at(&next.encode(), slot).map_err(Error::io("write", FILE))?;
        self.file.sync().map_err(Error::io("sync", FILE))?;
        self.current = next;
        Ok(())
    }
}
