//! A finished piece of the index: a file of columns. The layout stands in the crate's documentation.
use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use steno_journal::Spot;

use crate::columns::{COLUMNS, Columns};

const MAGIC: &[u8; 8] = b"STENOCOL";
const VERSION: u16 = 1;
const HEADER: usize = 512;
const BLOCK: usize = 24;

/// A piece; its columns stay on disk.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Sequence numbers that it covers: the first, and the one behind the last.
    pub(crate) first_seq: u64,
    pub(crate) end_seq: u64,
    /// Earliest and latest `occurredAt`.
    pub(crate) times: (i64, i64),
    rows: usize,
    blocks: usize,
    /// Opened for each reading: there may be more pieces than a process may have open files.
    path: PathBuf,
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a column is damaged")
}

fn column(out: &mut Vec<u8>, bytes: impl IntoIterator<Item = u8>) {
    let start = out.len();
    out.extend(bytes);
    let check = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(&check.to_le_bytes());
}

// === impl Piece ===

impl Piece {
    /// Writes a piece. It is not made durable: after a power cut its checksums tell, and it is made again from the journal.
    pub(crate) fn write(
        dir: &Path,
        uuid: &[u8; 16],
        (first_seq, end_seq): (u64, u64),
        columns: &Columns,
        blocks: &[Spot],
    ) -> io::Result<Self> {
        let times = (columns.times.iter().copied().min().unwrap_or(0), columns.times.iter().copied().max().unwrap_or(0));
        let mut out = vec![0; HEADER];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[16..32].copy_from_slice(uuid);
        out[32..40].copy_from_slice(&first_seq.to_le_bytes());
        out[40..44].copy_from_slice(&(columns.len() as u32).to_le_bytes());
        out[44..48].copy_from_slice(&(blocks.len() as u32).to_le_bytes());
        out[48..56].copy_from_slice(&times.0.to_le_bytes());
        out[56..64].copy_from_slice(&times.1.to_le_bytes());
        out[64..72].copy_from_slice(&end_seq.to_le_bytes());
        let check = crc32c::crc32c(&out[..508]);
        out[508..512].copy_from_slice(&check.to_le_bytes());
        for hashes in &columns.hashes {
            column(&mut out, hashes.iter().flat_map(|hash| hash.to_le_bytes()));
        }
        column(&mut out, columns.seqs.iter().flat_map(|seq| seq.to_le_bytes()));
        column(&mut out, columns.times.iter().flat_map(|time| time.to_le_bytes()));
        let numbers = blocks.iter().flat_map(|spot| [spot.generation, spot.offset, spot.first_seq]);
        column(&mut out, numbers.flat_map(u64::to_le_bytes));
        let path = dir.join(format!("{first_seq:016x}.col"));
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(&out)?;
        Self::open(&path, uuid)?.ok_or_else(damaged)
    }

    /// Opens a piece; `None`: the file is none of this journal, or damaged.
    pub(crate) fn open(path: &Path, uuid: &[u8; 16]) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let mut header = [0; HEADER];
        if file.read_exact_at(&mut header, 0).is_err() {
            return Ok(None);
        }
        let bytes_8 = |at: usize| header[at..at + 8].try_into().unwrap_or_default();
        let count = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap_or_default()) as usize;
        let valid = &header[..8] == MAGIC
            && header[8..10] == VERSION.to_le_bytes()
            && &header[16..32] == uuid
            && count(508) == crc32c::crc32c(&header[..508]) as usize;
        let piece = Self {
            first_seq: u64::from_le_bytes(bytes_8(32)),
            end_seq: u64::from_le_bytes(bytes_8(64)),
            times: (i64::from_le_bytes(bytes_8(48)), i64::from_le_bytes(bytes_8(56))),
            rows: count(40),
            blocks: count(44),
            path: path.to_owned(),
        };
        let whole = piece.blocks_at() + (piece.blocks * BLOCK) as u64 + 4;
        Ok((valid && file.metadata()?.len() == whole).then_some(piece))
    }

    fn seqs_at(&self) -> u64 {
        (HEADER + COLUMNS * (self.rows * 4 + 4)) as u64
    }

    fn times_at(&self) -> u64 {
        self.seqs_at() + self.rows as u64 * 4 + 4
    }

    fn blocks_at(&self) -> u64 {
        self.times_at() + self.rows as u64 * 8 + 4
    }

    fn read(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length + 4];
        File::open(&self.path)?.read_exact_at(&mut bytes, at)?;
        let check = bytes.split_off(length);
        if crc32c::crc32c(&bytes).to_le_bytes() == check[..] { Ok(bytes) } else { Err(damaged()) }
    }

    fn numbers(&self, at: u64) -> io::Result<Vec<u32>> {
        let bytes = self.read(at, self.rows * 4)?;
        Ok(bytes.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap_or_default())).collect())
    }

    /// A column of hashes.
    pub(crate) fn hashes(&self, column: usize) -> io::Result<Vec<u32>> {
        self.numbers((HEADER + column * (self.rows * 4 + 4)) as u64)
    }

    /// Sequence numbers of the rows, less the first.
    pub(crate) fn seqs(&self) -> io::Result<Vec<u32>> {
        self.numbers(self.seqs_at())
    }

    /// `occurredAt` of the rows.
    pub(crate) fn times(&self) -> io::Result<Vec<i64>> {
        let bytes = self.read(self.times_at(), self.rows * 8)?;
        Ok(bytes.chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap_or_default())).collect())
    }

    /// Where its blocks lie, in order.
    pub(crate) fn spots(&self) -> io::Result<Vec<Spot>> {
        let bytes = self.read(self.blocks_at(), self.blocks * BLOCK)?;
        let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        let spot = |bytes: &[u8]| Spot { generation: number(bytes, 0), offset: number(bytes, 8), first_seq: number(bytes, 16) };
        Ok(bytes.chunks_exact(BLOCK).map(spot).collect())
    }

    pub(crate) const fn rows(&self) -> usize {
        self.rows
    }

    /// Removes its file.
    pub(crate) fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, "a piece of the index of queries could not be removed");
        }
    }
}
