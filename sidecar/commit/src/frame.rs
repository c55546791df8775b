//! How a record lies in a block; the layout stands in the crate's documentation.

use std::sync::Arc;

use steno_event::Halves;
use steno_journal::{Block, Next, Reader, Shared};

const FIXED: usize = 72;
/// What precedes the chain's id inside a record, from where `integrity` begins.
const BEFORE_CHAIN: &[u8] = b",\"integrity\":{\"alg\":\"sha256-jcs\",\"chainId\":\"";

/// A record and what the journal's users need to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Whether the sidecar wrote it about itself.
    pub is_note: bool,
    /// Whether it is delivered ahead of others.
    pub is_critical: bool,
    /// Who it is: a keyed hash of tenant and id. Zero for a note.
    pub identity: [u8; 16],
    /// What the client sent: a keyed hash.
    pub print: [u8; 16],
    /// Generation of redaction rules under which `print` was made.
    pub rules: u32,
    /// Members that the client left out.
    pub filled: u8,
    /// When it was received, milliseconds since 1970.
    pub received_ms: u64,
    /// Where the text of `action` stands: start and length.
    pub action: (u32, u32),
    /// Where the text of `eventId` stands.
    pub event_id: (u32, u32),
    /// Where `integrity` begins; 0: there is none.
    pub split: u32,
    /// The record, canonical JSON.
    pub json: &'a [u8],
}

// === impl Frame ===

impl<'a> Frame<'a> {
    /// Bytes of a frame besides its record.
    pub const OVERHEAD: usize = FIXED + 4;

    /// The frame of a record of the sidecar, that goes to a chain.
    pub(crate) fn of_note(halves: &Halves, received_ms: u64) -> Self {
        Self {
            is_note: true,
            is_critical: false,
            identity: [0; 16],
            print: [0; 16],
            rules: 0,
            filled: 0,
            received_ms,
            action: halves.action,
            event_id: halves.event_id,
            split: halves.split as u32,
            json: &[],
        }
    }

    /// Appends the frame; `write` appends the record.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&[u8::from(self.is_note), u8::from(self.is_critical), 0, 0]);
        out.extend_from_slice(&self.identity);
        out.extend_from_slice(&self.print);
        out.extend_from_slice(&self.rules.to_le_bytes());
        out.extend_from_slice(&[self.filled, 0, 0, 0]);
        out.extend_from_slice(&self.received_ms.to_le_bytes());
        for number in [self.action.0, self.action.1, self.event_id.0, self.event_id.1, self.split] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        write(out);
        let length = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn decode(body: &'a [u8]) -> Option<Self> {
        let (fixed, json) = body.split_at_checked(FIXED)?;
        let u32_at = |at: usize| fixed[at..at + 4].try_into().ok().map(u32::from_le_bytes);
        Some(Self {
            is_note: fixed[0] == 1,
            is_critical: fixed[1] & 1 == 1,
            identity: fixed[4..20].try_into().ok()?,
            print: fixed[20..36].try_into().ok()?,
            rules: u32_at(36)?,
            filled: fixed[40],
            received_ms: u64::from_le_bytes(fixed[44..52].try_into().ok()?),
            action: (u32_at(52)?, u32_at(56)?),
            event_id: (u32_at(60)?, u32_at(64)?),
            split: u32_at(68)?,
            json,
        })
    }

    fn piece(&self, (start, length): (u32, u32)) -> &'a [u8] {
        self.json.get(start as usize..start as usize + length as usize).unwrap_or_default()
    }

    /// The text of `action` as it stands in the record, escapes included.
    pub fn action_text(&self) -> &'a [u8] {
        self.piece(self.action)
    }

    /// The text of `eventId` as it stands in the record, escapes included.
    pub fn event_id_text(&self) -> &'a [u8] {
        self.piece(self.event_id)
    }

    /// The chain's id as it stands in the record, escapes included; `None` without a chain.
    pub fn chain_id_text(&self) -> Option<&'a [u8]> {
        let rest = self.json.get(self.split as usize..)?.strip_prefix(BEFORE_CHAIN)?;
        // An id with a quote has it escaped; a quote before a comma and `epoch` ends it.
        let end = rest.windows(10).position(|window| window == b"\",\"epoch\":")?;
        Some(&rest[..end])
    }
}

/// A record that the journal holds, by its sequence number.
pub struct Held {
    block: Block,
    index: usize,
}

impl Held {
    /// Reads it; `None`: it is not there any more, or cannot be read.
    pub fn read(shared: &Arc<Shared>, seq: u64) -> Option<Self> {
        if seq < shared.oldest() {
            return None;
        }
        let Ok(Next::Block(block)) = Reader::new(shared.clone(), seq).next() else { return None };
        let index = seq.checked_sub(block.header.first_seq)? as usize;
        Some(Self { block, index })
    }

    /// The record.
    pub fn frame(&self) -> Option<Frame<'_>> {
        frames(&self.block.payload).nth(self.index)
    }
}

/// The frames of a block's payload, in order.
pub fn frames(payload: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        let length = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let body = rest.get(4..4 + length)?;
        rest = &rest[4 + length..];
        Frame::decode(body)
    })
}
