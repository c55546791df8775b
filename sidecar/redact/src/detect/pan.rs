//! Payment card numbers: issuer prefix, length and Luhn, undivided or in groups.
use steno_crds::Detector;

use super::{Hit, follows_word, is_word, push};

/// Digits of the shortest card number (Maestro).
pub(super) const LEAST_DIGITS: usize = 12;
/// Digits of the longest (ISO/IEC 7812).
const MOST_DIGITS: usize = 19;
/// Digits of a group at least, the last aside. Shorter groups are dates, phone numbers and lists.
const LEAST_IN_GROUP: usize = 3;

/// A run of digits. `clean`: no letter touches it, and it is no fraction.
struct Group {
    start: usize,
    end: usize,
    clean: bool,
}

#[derive(Default)]
struct Digits {
    digits: [u8; MOST_DIGITS],
    count: usize,
}

/// Appends the card numbers of a text.
pub(super) fn find(bytes: &[u8], out: &mut Vec<Hit>) {
    let mut from = 0;
    while let Some(first) = group(bytes, from) {
        from = first.end;
        let start = first.start;
        if let Some(end) = card(bytes, first) {
            push(out, Detector::Pan, start, end);
            from = end;
        }
    }
}

/// Whether a number is a card number.
pub(crate) fn is_card_number(number: f64) -> bool {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() != 0.0 || !(1e11..=EXACT).contains(&number) {
        return false;
    }
    #[allow(clippy::cast_sign_loss)] // checked to be positive
    let mut rest = number as u64;
    let mut digits = [0u8; MOST_DIGITS];
    let mut at = MOST_DIGITS;
    while rest > 0 {
        at -= 1;
        digits[at] = (rest % 10) as u8;
        rest /= 10;
    }
    is_card(&digits[at..])
}

/// The next run of digits.
fn group(bytes: &[u8], from: usize) -> Option<Group> {
    let start = from + bytes[from..].iter().position(u8::is_ascii_digit)?;
    let end = super::run(bytes, start, |byte| byte.is_ascii_digit());
    let fraction = start >= 2 && bytes[start - 1] == b'.' && bytes[start - 2].is_ascii_digit();
    let clean = !follows_word(bytes, start) && !is_word(bytes, end) && !fraction && end - start <= MOST_DIGITS;
    Some(Group { start, end, clean })
}

/// Where the longest card number ends that begins with this group.
fn card(bytes: &[u8], mut group: Group) -> Option<usize> {
    let mut digits = Digits::default();
    let mut found = None;
    while group.clean && digits.extend(&bytes[group.start..group.end]) {
        if is_card(&digits.digits[..digits.count]) {
            found = Some(group.end);
        }
        if group.end - group.start < LEAST_IN_GROUP {
            break;
        }
        match joined(bytes, group.end) {
            Some(next) => group = next,
            None => break,
        }
    }
    found
}

/// The group that one space or dash joins to what ends at `end`.
fn joined(bytes: &[u8], end: usize) -> Option<Group> {
    let divided = matches!(bytes.get(end), Some(b' ' | b'-')) && bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
    if divided { group(bytes, end + 1) } else { None }
}

fn is_card(digits: &[u8]) -> bool {
    if digits.len() < LEAST_DIGITS {
        return false;
    }
    let head = digits[..4].iter().fold(0u16, |head, digit| head * 10 + u16::from(*digit));
    is_issued(head, digits.len()) && luhn(digits)
}

/// Issuers by their first four digits, and the lengths they issue.
fn is_issued(head: u16, length: usize) -> bool {
    match head {
        // Visa
        4000..=4999 => matches!(length, 13 | 16 | 19),
        // Mastercard
        5100..=5599 | 2221..=2720 => length == 16,
        // American Express
        3400..=3499 | 3700..=3799 => length == 15,
        // Discover
        6011 | 6440..=6599 => (16..=19).contains(&length),
        // JCB
        3528..=3589 => (16..=19).contains(&length),
        // Diners Club
        3000..=3059 | 3600..=3699 | 3800..=3899 => (14..=19).contains(&length),
        // UnionPay
        6200..=6299 => (16..=19).contains(&length),
        // Maestro
        5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763 => (12..=19).contains(&length),
        _ => false,
    }
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(index, digit)| {
            let digit = u32::from(*digit);
            match (index % 2, digit) {
                (0, digit) => digit,
                (_, 0..=4) => digit * 2,
                _ => digit * 2 - 9,
            }
        })
        .sum();
    sum % 10 == 0
}

// === impl Digits ===

impl Digits {
    /// Appends a group; false where that is too many digits for a card.
    fn extend(&mut self, group: &[u8]) -> bool {
        let Some(room) = self.digits.get_mut(self.count..self.count + group.len()) else { return false };
        for (digit, byte) in room.iter_mut().zip(group) {
            *digit = byte - b'0';
        }
        self.count += group.len();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    #[test]
    fn cards_are_found_undivided_and_in_groups() {
        for (text, card) in [
            ("card 4111111111111111.", "4111111111111111"),
            ("4111-1111 1111-1111", "4111-1111 1111-1111"),
            ("3782 822463 10005", "3782 822463 10005"),
            ("4256 3801 7268 4220 297 here", "4256 3801 7268 4220 297"),
            ("id 17 4111111111111111 12", "4111111111111111"),
            ("_4222222222222_", "4222222222222"),
            ("ä4111111111111111ä", "4111111111111111"),
        ] {
            assert_eq!(found(Detector::Pan, text), [card], "{text}");
        }
        assert_eq!(found(Detector::Pan, "4111111111111111,5555555555554444").len(), 2);
    }

    #[test]
    fn what_is_not_issued_or_fails_luhn_stays() {
        for text in [
            "4111111111111112",
            "1413349595640152",
            "ORD4827774553314082",
            "4046156546410240AT",
            "42204106470120746223",
            "0.4111111111111111",
            "4111  1111  1111  1111",
            "41 11 11 11 11 11 11 11",
        ] {
            assert!(found(Detector::Pan, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn numbers_are_cards_only_when_whole() {
        assert!(is_card_number(4_111_111_111_111_111.0) && is_card_number(30_569_309_025_904.0));
        for number in [4_111_111_111_111_112.0, 1_775_980_800_123.0, -4_111_111_111_111_111.0, 0.5, f64::NAN, f64::INFINITY, 1e300] {
            assert!(!is_card_number(number), "{number}");
        }
    }
}
