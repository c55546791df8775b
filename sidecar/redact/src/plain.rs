//! Member names that the rules have nothing to say about.
//!
//! An application sends the same few dozen names in every event. What was found of a name is kept, so that most names cost one
//! comparison. Only names that need nothing are kept: a name that collides or was pushed out is looked at anew, never passed over.

/// Places; a power of two.
const PLACES: usize = 256;
/// Longest name that is kept, in bytes.
const LONGEST: usize = 47;
/// Bits of the last byte that have the length; what else is kept of a name is above them.
const LENGTH: u8 = 63;

/// A fixed table: each name has one place, and the last one that came has it.
#[derive(Default)]
pub(crate) struct PlainNames {
    /// The name's bytes and, last, its length and bits; made with the first name.
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
    /// The bits of a name that is known to need nothing; `None`: it is not known.
    pub(crate) fn get(&self, name: &str) -> Option<u8> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() > LONGEST {
            return None;
        }
        let kept = self.places.get(place(bytes))?;
        let is_it = usize::from(kept[LONGEST] & LENGTH) == bytes.len() && kept[..bytes.len()] == *bytes;
        is_it.then_some(kept[LONGEST] >> 6)
    }

    /// Keeps a name that needs nothing, with two bits.
    pub(crate) fn keep(&mut self, name: &str, bits: u8) {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() > LONGEST {
            return;
        }
        if self.places.is_empty() {
            self.places = vec![[0; LONGEST + 1]; PLACES];
        }
        let mut kept = [0; LONGEST + 1];
        kept[..bytes.len()].copy_from_slice(bytes);
        kept[LONGEST] = bytes.len() as u8 | bits << 6;
        self.places[place(bytes)] = kept;
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
        names.keep(&"n".repeat(48), 2);
        assert_eq!(names.get("region"), Some(2));
        for other in ["", "regio", "regions", "Region", "region\0", "\0region"] {
            assert!(names.get(other).is_none(), "{other:?}");
        }
        assert!(names.get(&"n".repeat(48)).is_none());
        for index in 0..10_000 {
            let name = format!("member{index}");
            names.keep(&name, 2);
            assert!(names.get(&name).is_some());
            assert!(names.get(&format!("member{index}x")).is_none());
        }
    }
}
