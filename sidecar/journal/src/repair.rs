//! What can be mended in a journal's directory without losing a record.
//!
//! A start mends what it must by itself: it cuts a torn tail, puts damaged blocks aside and says so in the chains. What is left for people is what a start works around.
use std::fmt;

use crate::{
    Disk, Error, Result,
    disk::read_readable,
    format::{SEGMENT_HEADER, SegmentHeader},
    segment::named_generation,
};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write the first copy of a segment's header again, from the second one.
    FirstHeader(String),
    /// Write the second copy again, from the first one.
    SecondHeader(String),
    /// Remove a file that waits to be used again.
    RemoveSpare(String, u64),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstHeader(name) => write!(f, "write the header of {name} again, from its second copy"),
            Self::SecondHeader(name) => write!(f, "write the second copy of the header of {name} again"),
            Self::RemoveSpare(name, bytes) => write!(f, "remove {name}, {bytes} bytes that wait to be used again"),
        }
    }
}

/// What can be mended. Changes nothing.
pub fn plan(disk: &dyn Disk) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut files = disk.list().map_err(Error::io("list", "the directory"))?;
    files.sort();
    for (name, size) in files {
        if name.starts_with("spare-") {
            steps.push(Step::RemoveSpare(name, size));
        } else if name.starts_with("seg-") {
            match headers(disk, &name)? {
                (None, Some(_)) => steps.push(Step::FirstHeader(name)),
                (Some(_), None) => steps.push(Step::SecondHeader(name)),
                _ => {}
            }
        }
    }
    Ok(steps)
}

/// Both copies of a segment's header, as far as they are valid and its own.
fn headers(disk: &dyn Disk, name: &str) -> Result<(Option<SegmentHeader>, Option<SegmentHeader>)> {
    let file = disk.open(name, false).map_err(Error::io("open", name))?;
    let mut bytes = [0; SEGMENT_HEADER as usize];
    read_readable(&*file, &mut bytes, 0).map_err(Error::io("read", name))?;
    let (first, second) = SegmentHeader::copies(name, &bytes)?;
    let own = |header: &SegmentHeader| named_generation(name) == Some(header.generation);
    Ok((first.filter(own), second.filter(own)))
}

// === impl Step ===

impl Step {
    /// Does it, durably.
    pub fn apply(&self, disk: &dyn Disk) -> Result<()> {
        match self {
            Self::FirstHeader(name) | Self::SecondHeader(name) => {
                let (header, at) = match headers(disk, name)? {
                    (None, Some(header)) => (header, 0),
                    (Some(header), None) => {
                        let at = header.second_at() as u64;
                        (header, at)
                    }
                    // Mended meanwhile.
                    _ => return Ok(()),
                };
                let file = disk.open(name, false).map_err(Error::io("open", name))?;
                file.write_at(&header.encode(), at).map_err(Error::io("write", name))?;
                file.sync().map_err(Error::io("sync", name))
            }
            Self::RemoveSpare(name, _) => {
                disk.remove(name).map_err(Error::io("remove", name))?;
                disk.sync_dir().map_err(Error::io("sync", "the directory"))
            }
        }
    }
}
