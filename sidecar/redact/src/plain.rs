//! Member names that the rules have nothing to say about.
//!
//! An application sends the same few dozen names in every event. What was found of a name is kept, so that most names cost one
//! comparison. Only names that need nothing are kept: a name that collides or was pushed out is looked at anew, never passed over.

/// Places; a power of two.
const PLACES: usize = 256;
/// Longest name that is kept, in bytes.
const LONGEST: usize = 47;

/// A fixed table: each name has one place, and the last one that came has it.
#[derive(Default)]
pub(crate) struct PlainNames {
    /// The name's bytes and, last, its length; made with the first name.
    places: Vec<[u8; LONGEST + 1]>,
}

fn place(name: &[u8]) -> usize {
    let word = |bytes: &[u8]| bytes.iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    let first = word(&name[..name.len().min(8)]);
    let last = word(&name[name.len().saturating_sub(8)..]);
    let mixed = (first ^ last.rotate_left(23) ^ name.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 56) as usize % PLACES
}

// === impl PlainNames ===

impl PlainNames {
    /// Whether this name is known to need nothing.
    pub(crate) fn contains(&self, name: &str) -> bool {
        let bytes = name.as_bytes();
        !bytes.is_empty()
            && bytes.len() <= LONGEST
            && self
                .places
                .get(place(bytes))
                .is_some_and(|kept| usize::from(kept[LONGEST]) == bytes.len() && kept[..bytes.len()] == *bytes)
    }

    /// Keeps a name that needs nothing.
    pub(crate) fn keep(&mut self, name: &str) {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() > LONGEST {
            return;
        }
        if self.places.is_empty() {
            self.places = vec![[0; LONGEST + 1]; PLACES];
        }
        let mut kept = [0; LONGEST + 1];
        kept[..bytes.len()].copy_from_slice(bytes);
        kept[LONGEST] = bytes.len() as u8;
        self.places[place(bytes)] = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_name_is_known() {
        let mut names = PlainNames::default();
        assert!(!names.contains("") && !names.contains("region"));
        names.keep("region");
        names.keep("");
        names.keep(&"n".repeat(48));
        assert!(names.contains("region"));
        for other in ["", "regio", "regions", "Region", "region\0", "\0region"] {
            assert!(!names.contains(other), "{other:?}");
        }
        assert!(!names.contains(&"n".repeat(48)));
        for index in 0..10_000 {
            let name = format!("member{index}");
            names.keep(&name);
            assert!(names.contains(&name));
            assert!(!names.contains(&format!("member{index}x")));
        }
    }
}
