//! A sorted file of entries with a filter.
//!
//! # Format (little-endian)
//! ```text
//!   0  8  magic "STENOIDX"     48  8  number of entries
//!   8  2  version (1)          56  8  newest journal time in milliseconds
//!  16 16  journal UUID         64  8  length of the filter in bytes
//!  32  8  first sequence      508  4  CRC32C of bytes 0..508
//!  40  8  end of sequences    512  …  filter, 4 bytes CRC32C, zeros up to a multiple of 4096; then pages
//! ```
//! A page is 4096 bytes: 73 entries of 56 bytes (identity, print, seq, rules and four zeros, `at_ms`) sorted by identity, unused ones
//! zero, the number of entries (u32) and CRC32C. The filter is a blocked Bloom filter: the first eight bytes of an identity choose a 64-byte
//! block, the others seven bits in it; about 10 bits an entry.
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use steno_journal::{Disk, DiskFile, Error, Result, read_readable};

use super::Entry;

const MAGIC: &[u8; 8] = b"STENOIDX";
const VERSION: u16 = 1;
const PAGE: usize = 4096;
const ENTRY: usize = 56;
const PER_PAGE: usize = 73 - 1;
const BITS: u64 = 10;

/// A file of entries, its filter in memory.
pub struct Sealed {
    /// First sequence number covered.
    pub first_seq: u64,
    /// First one behind.
    pub end_seq: u64,
    /// Number of entries.
    pub count: u64,
    /// Newest journal time of an entry.
    pub newest_ms: u64,
    /// Size of the file.
    pub bytes: u64,
    name: String,
    filter: Vec<u8>,
    pages_at: u64,
    /// Its file is opened for each page: there may be more files than a process may have open.
    disk: Arc<dyn Disk>,
    /// A page could not be read.
    damaged: AtomicBool,
}

fn io(action: &'static str, file: &str) -> impl FnOnce(std::io::Error) -> Error {
    let file = file.to_owned();
    move |source| Error::Io { action, file, source }
}

fn file_name(first_seq: u64, end_seq: u64) -> String {
    format!("idx-{first_seq:016x}-{end_seq:016x}")
}

fn halves(identity: &[u8; 16]) -> (u64, u64) {
    let half = |from: usize| identity[from..from + 8].try_into().map_or(0, u64::from_be_bytes);
    (half(0), half(8))
}

/// Block and bits of an identity in a filter of so many bytes.
fn places(identity: &[u8; 16], bytes: usize) -> impl Iterator<Item = (usize, u8)> {
    let (first, second) = halves(identity);
    let blocks = (bytes / 64).max(1) as u64;
    let block = ((u128::from(first.rotate_left(32)) * u128::from(blocks)) >> 64) as usize * 64;
    (0..7).map(move |step| {
        let bit = (second >> (9 * step) & 511) as usize;
        (block + bit / 8, 1u8 << (bit % 8))
    })
}

// === writing ===

/// Writes a file of sorted entries and makes it durable.
pub fn write(disk: &Arc<dyn Disk>, uuid: [u8; 16], first_seq: u64, end_seq: u64, entries: &[Entry]) -> Result<Sealed> {
    let mut writer = Writer::begin(&**disk, uuid, first_seq, end_seq, entries.len() as u64)?;
    for entry in entries {
        writer.push(entry)?;
    }
    writer.end(disk)
}

/// Merges files that cover neighbouring ranges into one, newest entry of an identity first, and makes it durable. The files
/// themselves stay.
pub fn merge(disk: &Arc<dyn Disk>, uuid: [u8; 16], files: &[Arc<Sealed>]) -> Result<Sealed> {
    let first = files.iter().map(|file| file.first_seq).min().unwrap_or_default();
    let end = files.iter().map(|file| file.end_seq).max().unwrap_or_default();
    let count: u64 = files.iter().map(|file| file.count).sum();
    let mut writer = Writer::begin(&**disk, uuid, first, end, count)?;
    let mut cursors: Vec<PageCursor<'_>> = files.iter().map(|file| PageCursor::new(file)).collect();
    let mut last: Option<[u8; 16]> = None;
    loop {
        for cursor in &mut cursors {
            cursor.fill();
        }
        let heads = cursors.iter().enumerate().filter_map(|(index, cursor)| cursor.head().map(|entry| (index, entry)));
        let next = heads.min_by(|(_, a), (_, b)| a.identity.cmp(&b.identity).then(b.seq.cmp(&a.seq)));
        let Some((index, entry)) = next else { break };
        if last != Some(entry.identity) {
            writer.push(&entry)?;
        }
        last = Some(entry.identity);
        cursors[index].at += 1;
    }
    writer.end(disk)
}

struct PageCursor<'a> {
    file: &'a Sealed,
    page: u64,
    entries: Vec<Entry>,
    at: usize,
}

impl<'a> PageCursor<'a> {
    fn new(file: &'a Sealed) -> Self {
        Self { file, page: 0, entries: Vec::new(), at: 0 }
    }

    fn fill(&mut self) {
        while self.at >= self.entries.len() && self.page < self.file.pages() {
            // A damaged page loses its entries, not the file.
            self.entries = self.file.page(self.page).unwrap_or_default();
            self.page += 1;
            self.at = 0;
        }
    }

    fn head(&self) -> Option<Entry> {
        self.entries.get(self.at).copied()
    }
}

struct Writer {
    file: Arc<dyn DiskFile>,
    temporary: String,
    uuid: [u8; 16],
    first_seq: u64,
    end_seq: u64,
    count: u64,
    newest_ms: u64,
    filter: Vec<u8>,
    pages_at: u64,
    offset: u64,
    page: Vec<u8>,
    in_page: u32,
}

impl Writer {
    fn begin(disk: &dyn Disk, uuid: [u8; 16], first_seq: u64, end_seq: u64, count: u64) -> Result<Self> {
        let temporary = format!("tmp-{}", file_name(first_seq, end_seq));
        let file = disk.open(&temporary, true).map_err(io("open", &temporary))?;
        let bytes = ((count * BITS / 8) as usize).next_multiple_of(64).max(64);
        let pages_at = (512 + bytes as u64 + 4).next_multiple_of(PAGE as u64);
        let page = Vec::with_capacity(PAGE);
        let filter = vec![0; bytes];
        Ok(Self {
            file,
            temporary,
            uuid,
            first_seq,
            end_seq,
            count: 0,
            newest_ms: 0,
            filter,
            pages_at,
            offset: pages_at,
            page,
            in_page: 0,
        })
    }

    fn push(&mut self, entry: &Entry) -> Result<()> {
        for (byte, bit) in places(&entry.identity, self.filter.len()) {
            self.filter[byte] |= bit;
        }
        self.page.extend_from_slice(&entry.identity);
        self.page.extend_from_slice(&entry.print);
        self.page.extend_from_slice(&entry.seq.to_le_bytes());
        self.page.extend_from_slice(&u64::from(entry.rules).to_le_bytes());
        self.page.extend_from_slice(&entry.at_ms.to_le_bytes());
        self.in_page += 1;
        self.count += 1;
        self.newest_ms = self.newest_ms.max(entry.at_ms);
        if self.in_page as usize == PER_PAGE { self.end_page() } else { Ok(()) }
    }

    fn end_page(&mut self) -> Result<()> {
        if self.in_page == 0 {
            return Ok(());
        }
        self.page.resize(PAGE - 8, 0);
        self.page.extend_from_slice(&self.in_page.to_le_bytes());
        let crc = crc32c::crc32c(&self.page);
        self.page.extend_from_slice(&crc.to_le_bytes());
        self.file.write_at(&self.page, self.offset).map_err(io("write", &self.temporary))?;
        self.offset += PAGE as u64;
        self.page.clear();
        self.in_page = 0;
        Ok(())
    }

    fn end(mut self, disk: &Arc<dyn Disk>) -> Result<Sealed> {
        self.end_page()?;
        let mut header = [0u8; 512];
        header[..8].copy_from_slice(MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        header[16..32].copy_from_slice(&self.uuid);
        let numbers = [self.first_seq, self.end_seq, self.count, self.newest_ms, self.filter.len() as u64];
        for (index, number) in numbers.into_iter().enumerate() {
            header[32 + index * 8..40 + index * 8].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&header[..508]);
        header[508..].copy_from_slice(&crc.to_le_bytes());
        let name = file_name(self.first_seq, self.end_seq);
        let filter_crc = crc32c::crc32c(&self.filter).to_le_bytes();
        let head = [&header[..], &self.filter, &filter_crc].concat();
        self.file.write_at(&head, 0).map_err(io("write", &self.temporary))?;
        self.file.sync().map_err(io("sync", &self.temporary))?;
        disk.rename(&self.temporary, &name).map_err(io("rename", &self.temporary))?;
        disk.sync_dir().map_err(io("sync", "the directory"))?;
        Ok(Sealed {
            first_seq: self.first_seq,
            end_seq: self.end_seq,
            count: self.count,
            newest_ms: self.newest_ms,
            bytes: self.offset,
            name,
            filter: self.filter,
            pages_at: self.pages_at,
            disk: disk.clone(),
            damaged: AtomicBool::new(false),
        })
    }
}

// === reading ===

/// The highest sequence number, exclusive, that a valid file of a journal covers: the journal held all below.
pub fn reached(disk: &Arc<dyn Disk>, uuid: &[u8; 16]) -> u64 {
    let names = disk.list().unwrap_or_default().into_iter().map(|(name, _)| name).filter(|name| name.starts_with("idx-"));
    let ends = names.filter_map(|name| open(disk, &name, *uuid).ok().flatten()).map(|file| file.end_seq);
    ends.max().unwrap_or(0)
}

/// Loads the files of a journal. Files of another journal, unfinished and damaged ones are removed; so are those that another covers.
pub fn load(disk: &Arc<dyn Disk>, uuid: [u8; 16]) -> Result<Vec<Arc<Sealed>>> {
    let mut files: Vec<Sealed> = Vec::new();
    for (name, _) in disk.list().map_err(io("list", "the directory"))? {
        if name.starts_with("tmp-idx-") {
            let _ = disk.remove(&name);
        } else if name.starts_with("idx-") {
            // Under another one's name it would be overwritten with that one.
            if let Some(file) = open(disk, &name, uuid)?.filter(|file| name == file_name(file.first_seq, file.end_seq)) {
                files.push(file);
            } else {
                tracing::error!(
                    file = name,
                    "a file of event ids is damaged or of another journal; it is made again from the journal"
                );
                let _ = disk.remove(&name);
            }
        }
    }
    files.sort_by_key(|file| (file.first_seq, std::cmp::Reverse(file.end_seq)));
    let mut kept: Vec<Arc<Sealed>> = Vec::new();
    for file in files {
        if kept.last().is_some_and(|last| file.end_seq <= last.end_seq) {
            let _ = disk.remove(&file.name);
        } else {
            kept.push(Arc::new(file));
        }
    }
    Ok(kept)
}

fn open(disk: &Arc<dyn Disk>, name: &str, uuid: [u8; 16]) -> Result<Option<Sealed>> {
    let file = disk.open(name, false).map_err(io("open", name))?;
    let mut header = [0; 512];
    read_readable(&*file, &mut header, 0).map_err(io("read", name))?;
    let number = |at: usize| header[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    let crc = header[508..].try_into().map_or(0, u32::from_le_bytes);
    if header[..8] != *MAGIC
        || crc != crc32c::crc32c(&header[..508])
        || header[16..32] != uuid
        || header[8..10] != VERSION.to_le_bytes()
    {
        return Ok(None);
    }
    let bytes = file.size().map_err(io("stat", name))?;
    let length = number(64) as usize;
    let pages_at = (512 + length as u64 + 4).next_multiple_of(PAGE as u64);
    // A file that was cut is damaged, even if its filter is whole.
    let pages = number(48).div_ceil(PER_PAGE as u64);
    let whole = if pages == 0 { 512 + length as u64 + 4 } else { pages_at + pages * PAGE as u64 };
    if bytes < whole {
        return Ok(None);
    }
    let mut filter = vec![0; length + 4];
    read_readable(&*file, &mut filter, 512).map_err(io("read", name))?;
    let stored = filter.split_off(filter.len() - 4);
    if stored != crc32c::crc32c(&filter).to_le_bytes() {
        return Ok(None);
    }
    let sealed = Sealed {
        first_seq: number(32),
        end_seq: number(40),
        count: number(48),
        newest_ms: number(56),
        bytes,
        name: name.to_owned(),
        filter,
        pages_at,
        disk: disk.clone(),
        damaged: AtomicBool::new(false),
    };
    Ok(Some(sealed))
}

// === impl Sealed ===

impl Sealed {
    /// Name of the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a page could not be read, so that ids may be missing.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// All entries that can be read, and how many pages cannot.
    pub(crate) fn entries(&self) -> (Vec<Entry>, u64) {
        let pages = (0..self.pages()).map(|index| self.page(index));
        let (mut entries, mut bad) = (Vec::new(), 0);
        for page in pages {
            match page {
                Some(page) => entries.extend(page),
                None => bad += 1,
            }
        }
        (entries, bad)
    }

    fn pages(&self) -> u64 {
        self.count.div_ceil(PER_PAGE as u64)
    }

    fn page(&self, index: u64) -> Option<Vec<Entry>> {
        let mut page = [0; PAGE];
        let file = self.disk.open(&self.name, false);
        let count = file.and_then(|file| file.read_at(&mut page, self.pages_at + index * PAGE as u64)).unwrap_or(0);
        let crc = u32::from_le_bytes(page[PAGE - 4..].try_into().ok()?);
        if count < PAGE || crc != crc32c::crc32c(&page[..PAGE - 4]) {
            if !self.damaged.swap(true, Ordering::Relaxed) {
                tracing::error!(file = self.name, page = index, "a page of event ids is damaged");
            }
            return None;
        }
        let used = u32::from_le_bytes(page[PAGE - 8..PAGE - 4].try_into().ok()?) as usize;
        Some(page[..used.min(PER_PAGE) * ENTRY].chunks_exact(ENTRY).filter_map(entry).collect())
    }

    /// The entry of an identity.
    pub fn find(&self, identity: &[u8; 16]) -> Option<Entry> {
        if !places(identity, self.filter.len()).all(|(byte, bit)| self.filter.get(byte).is_some_and(|there| there & bit != 0)) {
            return None;
        }
        // Identities are evenly spread: guess the page, then close in.
        let (mut low, mut high) = (0, self.pages());
        let (first, _) = halves(identity);
        let mut guess = ((u128::from(first) * u128::from(high)) >> 64) as u64;
        while low < high {
            guess = guess.clamp(low, high - 1);
            let page = self.page(guess)?;
            if page.first().is_none_or(|entry| *identity < entry.identity) {
                high = guess;
                guess = guess.saturating_sub(1);
            } else if page.last().is_some_and(|entry| *identity > entry.identity) {
                low = guess + 1;
                guess += 1;
            } else {
                return page.binary_search_by(|entry| entry.identity.cmp(identity)).ok().map(|index| page[index]);
            }
        }
        None
    }
}

fn entry(bytes: &[u8]) -> Option<Entry> {
    let number = |at: usize| bytes[at..at + 8].try_into().ok().map(u64::from_le_bytes);
    Some(Entry {
        identity: bytes[..16].try_into().ok()?,
        print: bytes[16..32].try_into().ok()?,
        seq: number(32)?,
        rules: number(40)? as u32,
        at_ms: number(48)?,
    })
}
