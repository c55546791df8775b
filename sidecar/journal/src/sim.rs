//! A disk in memory that loses power and fails, for tests.
//!
//! The fault model: an aligned 512-byte sector is old or new; a write of several sectors lands as any subset; what is not synced may
//! vanish or land in any order; a failed sync leaves its pages clean, so that a later sync does not write them; any call may fail.
//! A process may die and leave the page cache as it is (open the disk again without [`SimDisk::reboot`]), and die once more with the
//! power. Files may be removed, replaced, cut, zeroed and swapped, and pages may become unreadable.
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{Disk, DiskFile};

const SECTOR: usize = 512;
const PAGE: usize = 4096;
/// `EIO`: what a disk answers that no longer has a page.
const EIO: i32 = 5;

/// What happens at the call that a [`Fault`] points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The call fails and does nothing.
    Error,
    /// The call fails with "no space"; so do all writes until [`SimDisk::free_space`].
    NoSpace,
    /// A write does a part and fails; other calls just fail.
    Short,
    /// Power goes; every later call fails until [`SimDisk::reboot`].
    PowerCut,
}

/// A fault at the n-th call from now that changes anything.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Calls until then.
    pub after: u32,
    /// What happens.
    pub effect: Effect,
}

/// What happens to a file while no process has it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tamper {
    /// It is gone.
    Remove,
    /// It is empty.
    Empty,
    /// Its second half is gone.
    Halve,
    /// It is all zeros.
    Zero,
    /// A bit of it is another.
    Flip,
    /// A page of it can no longer be read.
    Spoil,
    /// Its contents and those of another file change places.
    Swap,
    /// Another file's contents take its place.
    Overwrite,
}

impl Tamper {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Remove, Self::Empty, Self::Halve, Self::Zero, Self::Flip, Self::Spoil, Self::Swap, Self::Overwrite];
}

#[derive(Default)]
struct Contents {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// Sectors that were written since the last sync, each with its contents after a write, in order.
    pending: Vec<(usize, Vec<u8>)>,
    /// Pages that cannot be read until they are written.
    unreadable: BTreeSet<usize>,
}

#[derive(Default)]
struct World {
    files: BTreeMap<u64, Contents>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    next_id: u64,
    faults: Vec<Fault>,
    off: bool,
    full: bool,
    calls: u64,
    random: u64,
}

/// The disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<World>>);

struct SimFile {
    id: u64,
    disk: SimDisk,
}

enum Verdict {
    Go,
    Half,
}

// === impl World ===

impl World {
    fn dice(&mut self, sides: u64) -> u64 {
        // xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled".
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }

    fn check(&mut self, is_write: bool) -> io::Result<Verdict> {
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        self.calls += 1;
        for fault in &mut self.faults {
            fault.after = fault.after.saturating_sub(1);
        }
        let due = self.faults.iter().position(|fault| fault.after == 0);
        match due.map(|index| self.faults.swap_remove(index).effect) {
            None if self.full && is_write => Err(ErrorKind::StorageFull.into()),
            None => Ok(Verdict::Go),
            Some(Effect::Error) => Err(io::Error::from_raw_os_error(EIO)),
            Some(Effect::NoSpace) => {
                self.full = true;
                Err(ErrorKind::StorageFull.into())
            }
            Some(Effect::Short) if is_write => Ok(Verdict::Half),
            Some(Effect::Short) => Err(io::Error::from_raw_os_error(EIO)),
            Some(Effect::PowerCut) => {
                self.off = true;
                Err(io::Error::other("the power is off"))
            }
        }
    }
}

// === impl SimDisk ===

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        let disk = Self::default();
        disk.0.lock().random = seed | 1;
        disk
    }

    /// Plans a fault.
    pub fn plan(&self, fault: Fault) {
        self.0.lock().faults.push(fault);
    }

    /// Calls that changed anything so far.
    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.0.lock().off
    }

    /// Ends a shortage of space, and forgets planned faults.
    pub fn free_space(&self) {
        let mut world = self.0.lock();
        world.full = false;
        world.faults.clear();
    }

    /// Cuts the power, whatever is planned.
    pub fn cut(&self) {
        self.0.lock().off = true;
    }

    /// Power comes back: unsynced sectors are old or new, each by chance; unsynced names likewise.
    pub fn reboot(&self) {
        let mut world = self.0.lock();
        let ids: Vec<u64> = world.files.keys().copied().collect();
        for id in ids {
            let Some(mut contents) = world.files.remove(&id) else { continue };
            let mut versions: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
            for (sector, bytes) in contents.pending.drain(..) {
                versions.entry(sector).or_default().push(bytes);
            }
            for (sector, bytes) in versions {
                let choice = world.dice(bytes.len() as u64 + 1) as usize;
                if let Some(new) = choice.checked_sub(1).and_then(|index| bytes.get(index)) {
                    put(&mut contents.durable, sector * SECTOR, new);
                }
            }
            contents.current.clone_from(&contents.durable);
            world.files.insert(id, contents);
        }
        if world.names != world.durable_names && world.dice(2) == 0 {
            world.durable_names = world.names.clone();
        }
        world.names = world.durable_names.clone();
        let live: Vec<u64> = world.names.values().copied().collect();
        world.files.retain(|id, _| live.contains(id));
        world.off = false;
        world.full = false;
        world.faults.clear();
    }

    /// Flips one bit of a file's durable contents.
    pub fn flip(&self, name: &str, byte: usize, bit: u8) -> bool {
        let mut world = self.0.lock();
        let Some(id) = world.names.get(name).copied() else { return false };
        let Some(contents) = world.files.get_mut(&id) else { return false };
        let Some(there) = contents.durable.get_mut(byte) else { return false };
        *there ^= 1 << (bit % 8);
        let flipped = *there;
        if let Some(current) = contents.current.get_mut(byte) {
            *current = flipped;
        }
        true
    }

    /// Contents of a file, as a process reads them; `None`: there is no such file.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let world = self.0.lock();
        world.files.get(world.names.get(name)?).map(|contents| contents.current.clone())
    }

    /// Puts a file in place, durably, whatever was there.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut world = self.0.lock();
        world.next_id += 1;
        let id = world.next_id;
        world.files.insert(id, Contents { durable: bytes.clone(), current: bytes, ..Contents::default() });
        world.names.insert(name.into(), id);
        world.durable_names.insert(name.into(), id);
    }

    /// Removes a file, durably.
    pub fn take(&self, name: &str) -> Option<Vec<u8>> {
        let bytes = self.contents(name);
        let mut world = self.0.lock();
        world.names.remove(name);
        world.durable_names.remove(name);
        bytes
    }

    /// Makes the page that holds a byte unreadable, until it is written.
    pub fn spoil(&self, name: &str, byte: usize) {
        let mut world = self.0.lock();
        let Some(id) = world.names.get(name).copied() else { return };
        if let Some(contents) = world.files.get_mut(&id) {
            contents.unreadable.insert(byte / PAGE);
        }
    }

    /// Damages a file of the directory. `file`, `other` and `place` choose the file, the other one and a byte, modulo how many there are.
    pub fn tamper(&self, how: Tamper, file: usize, other: usize, place: usize) {
        let files: Vec<String> = self.files().into_iter().map(|(name, _)| name).filter(|name| !name.contains('/')).collect();
        let (name, other) = (&files[file % files.len()], &files[other % files.len()]);
        let (Some(mut bytes), Some(others)) = (self.contents(name), self.contents(other)) else { return };
        match how {
            Tamper::Remove => drop(self.take(name)),
            Tamper::Empty => self.put(name, Vec::new()),
            Tamper::Halve => {
                bytes.truncate(bytes.len() / 2);
                self.put(name, bytes);
            }
            Tamper::Zero => self.put(name, vec![0; bytes.len()]),
            Tamper::Flip => {
                self.flip(name, place % self.end_of(name).max(1), 3);
            }
            Tamper::Spoil => self.spoil(name, place % bytes.len().max(1)),
            Tamper::Swap => {
                self.put(name, others);
                self.put(other, bytes);
            }
            // A copy of the state would be an old truth once the state itself is gone: nothing else knows better.
            Tamper::Overwrite if other == "state" => {}
            Tamper::Overwrite => self.put(name, others),
        }
    }

    /// Where the zeros at the end of a file's durable contents begin.
    pub fn end_of(&self, name: &str) -> usize {
        let world = self.0.lock();
        let contents = world.names.get(name).and_then(|id| world.files.get(id));
        contents.and_then(|contents| contents.durable.iter().rposition(|byte| *byte != 0)).map_or(0, |last| last + 1)
    }

    /// Names and durable sizes of the files.
    pub fn files(&self) -> Vec<(String, usize)> {
        let world = self.0.lock();
        world.names.iter().filter_map(|(name, id)| Some((name.clone(), world.files.get(id)?.durable.len()))).collect()
    }
}

fn put(target: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if target.len() < offset + bytes.len() {
        target.resize(offset + bytes.len(), 0);
    }
    target[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let world = self.0.lock();
        Ok(world
            .names
            .iter()
            .map(|(name, id)| (name.clone(), world.files.get(id).map_or(0, |file| file.current.len() as u64)))
            .collect())
    }

    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.0.lock();
        if let Some(id) = world.names.get(name).copied() {
            return Ok(Arc::new(SimFile { id, disk: self.clone() }));
        }
        if !create {
            return Err(ErrorKind::NotFound.into());
        }
        world.check(true)?;
        world.next_id += 1;
        let id = world.next_id;
        world.files.insert(id, Contents::default());
        world.names.insert(name.into(), id);
        Ok(Arc::new(SimFile { id, disk: self.clone() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.0.lock();
        world.check(false)?;
        let id = world.names.remove(from).ok_or(ErrorKind::NotFound)?;
        world.names.insert(to.into(), id);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.0.lock();
        world.check(false)?;
        world.names.remove(name).map(|_| ()).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut world = self.0.lock();
        world.check(false)?;
        world.durable_names = world.names.clone();
        Ok(())
    }

    fn quarantine(&self, _: &str, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn set_aside(&self, name: &str) -> io::Result<()> {
        self.rename(name, &format!("quarantine/{name}"))?;
        self.sync_dir()
    }
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut Contents) -> T) -> io::Result<T> {
        let mut world = self.disk.0.lock();
        world.files.get_mut(&self.id).map(act).ok_or_else(|| ErrorKind::NotFound.into())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|file| {
            let from = file.current.get(offset as usize..).unwrap_or(&[]);
            let count = from.len().min(buffer.len());
            let pages = offset as usize / PAGE..(offset as usize + count).div_ceil(PAGE);
            if count > 0 && file.unreadable.range(pages).next().is_some() {
                return Err(io::Error::from_raw_os_error(EIO));
            }
            buffer[..count].copy_from_slice(&from[..count]);
            Ok(count)
        })?
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let verdict = self.disk.0.lock().check(true)?;
        let done = if matches!(verdict, Verdict::Half) { bytes.len() / 2 } else { bytes.len() };
        self.with(|file| {
            put(&mut file.current, offset as usize, &bytes[..done]);
            if done > 0 {
                for page in offset as usize / PAGE..=(offset as usize + done - 1) / PAGE {
                    file.unreadable.remove(&page);
                }
                let (first, last) = (offset as usize / SECTOR, (offset as usize + done - 1) / SECTOR);
                for sector in first..=last {
                    let end = ((sector + 1) * SECTOR).min(file.current.len());
                    file.pending.push((sector, file.current[sector * SECTOR..end].to_vec()));
                }
            }
        })?;
        if done == bytes.len() { Ok(()) } else { Err(io::Error::other("short write")) }
    }

    fn sync(&self) -> io::Result<()> {
        let verdict = self.disk.0.lock().check(false);
        let off = self.disk.is_off();
        self.with(|file| match &verdict {
            Ok(_) => {
                for (sector, bytes) in file.pending.drain(..) {
                    put(&mut file.durable, sector * SECTOR, &bytes);
                }
            }
            Err(_) if off => {}
            // The pages are clean now although they never reached the disk.
            Err(_) => file.pending.clear(),
        })?;
        verdict.map(|_| ())
    }

    fn size(&self) -> io::Result<u64> {
        self.with(|file| file.current.len() as u64)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.disk.0.lock().check(true)?;
        self.with(|file| {
            file.current.resize(size as usize, 0);
            file.durable.resize(size as usize, 0);
        })
    }
}
