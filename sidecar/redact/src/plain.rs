//! Member names that the rules have nothing to say about, or nothing but that a value which looks random goes.
//!
//! An application sends the same few dozen names in every event. What was found of a name is kept, so that most names cost a comparison or two. Only names
//! that hold no secret are kept: a name that was pushed out is looked at anew, never passed over.

/// Sets of two places each; a power of two.
const SETS: usize = 128;
/// Longest name that is kept, in bytes.
const LONGEST: usize = 46;
/// Where the length stands in a place.
const LENGTH: usize = LONGEST;
/// And what is known of the name.
const KNOWN: usize = LONGEST + 1;

/// A name's bytes, its length, and what is known of it.
type Kept = [u8; LONGEST + 2];

/// A fixed table: each name has one of two places, and the two that came last of a set have them.
#[derive(Default)]
pub(crate) struct PlainNames {
    /// Made with the first name.
    sets: Vec<[Kept; 2]>,
}

fn set_of(name: &[u8]) -> usize {
    let word = |bytes: &[u8]| bytes.iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    let first = word(&name[..name.len().min(8)]);
    let last = word(&name[name.len().saturating_sub(8)..]);
    let mixed = (first ^ last.rotate_left(23) ^ name.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 56) as usize % SETS
}

// === impl PlainNames ===

impl PlainNames {
    /// What is known of a name that holds no secret; `None`: nothing is.
    pub(crate) fn get(&self, name: &str) -> Option<u8> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() > LONGEST {
            return None;
        }
        let set = self.sets.get(set_of(bytes))?;
        let is_it = |kept: &Kept| usize::from(kept[LENGTH]) == bytes.len() && kept[..bytes.len()] == *bytes;
        if is_it(&set[0]) {
            return Some(set[0][KNOWN]);
        }
        is_it(&set[1]).then(|| set[1][KNOWN])
    }

    /// Keeps a name that holds no secret, with what is known of it.
    pub(crate) fn keep(&mut self, name: &str, known: u8) {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() > LONGEST {
            return;
        }
        if self.sets.is_empty() {
            self.sets = vec![[[0; LONGEST + 2]; 2]; SETS];
        }
        let mut kept = [0; LONGEST + 2];
        kept[..bytes.len()].copy_from_slice(bytes);
        (kept[LENGTH], kept[KNOWN]) = (bytes.len() as u8, known);
        let set = &mut self.sets[set_of(bytes)];
        *set = [kept, set[0]];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_name_is_known() {
        let mut names = PlainNames::default();
        assert!(names.get("").is_none() && names.get("region").is_none());
        names.keep("region", 2);
        names.keep("", 2);
        names.keep(&"n".repeat(47), 2);
        assert_eq!(names.get("region"), Some(2));
        for other in ["", "regio", "regions", "Region", "region\0", "\0region"] {
            assert!(names.get(other).is_none(), "{other:?}");
        }
        assert!(names.get(&"n".repeat(47)).is_none());
        for index in 0..10_000 {
            let name = format!("member{index}");
            names.keep(&name, 255);
            assert_eq!(names.get(&name), Some(255));
            assert!(names.get(&format!("member{index}x")).is_none());
        }
    }
}
