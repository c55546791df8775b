//! Numbers with a check of their own: payment cards, social security numbers, bank accounts, addresses.
use super::{before, pattern};

/// Networks: first digits (from, to, how many digits these are), lengths of their numbers (ISO/IEC 7812, the networks' published ranges). The more
/// specific ones come first.
const NETWORKS: &[(u32, u32, usize, std::ops::RangeInclusive<usize>)] = &[
    // Verve, Elo, RuPay, Troy.
    (506_099, 506_198, 6, 16..=19),
    (507_865, 507_964, 6, 16..=19),
    (650_002, 650_027, 6, 16..=19),
    (504_175, 504_175, 6, 16..=16),
    (506_699, 506_778, 6, 16..=16),
    (509_000, 509_999, 6, 16..=16),
    (627_780, 627_780, 6, 16..=16),
    (636_297, 636_297, 6, 16..=16),
    (636_368, 636_368, 6, 16..=16),
    (606_282, 606_282, 6, 16..=19),
    (9792, 9792, 4, 16..=16),
    // Mir, Borica, Mastercard.
    (2200, 2205, 4, 16..=19),
    (2221, 2720, 4, 16..=16),
    (51, 55, 2, 16..=16),
    // American Express, JCB, Diners Club.
    (34, 34, 2, 15..=15),
    (37, 37, 2, 15..=15),
    (3528, 3589, 4, 16..=19),
    (300, 305, 3, 14..=19),
    (3095, 3095, 4, 14..=19),
    (36, 36, 2, 14..=19),
    (38, 39, 2, 14..=19),
    // Dankort, Maestro.
    (5019, 5019, 4, 16..=16),
    (5018, 5020, 4, 12..=19),
    (5038, 5038, 4, 12..=19),
    (5893, 5893, 4, 12..=19),
    (5612, 5612, 4, 12..=19),
    (6304, 6304, 4, 12..=19),
    (6390, 6390, 4, 12..=19),
    (56, 58, 2, 16..=19),
    (67, 67, 2, 12..=19),
    (508, 508, 3, 16..=16),
    (50, 50, 2, 16..=19),
    // Discover, UnionPay, InstaPayment, InterPayment, RuPay.
    (6011, 6011, 4, 16..=19),
    (644, 649, 3, 16..=19),
    (65, 65, 2, 16..=19),
    (606_985, 608_500, 6, 16..=16),
    (62, 62, 2, 16..=19),
    (636, 639, 3, 16..=19),
    (8100, 8171, 4, 16..=19),
    (817_200, 820_199, 6, 16..=16),
    // Uzcard, Humo.
    (8600, 8600, 4, 16..=16),
    (9860, 9860, 4, 16..=16),
    // Visa.
    (40, 49, 2, 13..=19),
];

/// Lengths of an issuer's numbers.
fn issuer_length(digits: &[u8]) -> Option<std::ops::RangeInclusive<usize>> {
    let prefix = |count: usize| digits.iter().take(count).fold(0u32, |sum, digit| sum * 10 + u32::from(*digit));
    NETWORKS.iter().find(|(from, to, count, _)| (*from..=*to).contains(&prefix(*count))).map(|(.., lengths)| lengths.clone())
}

pub(super) fn luhn(digits: impl DoubleEndedIterator<Item = u32>) -> bool {
    let sum: u32 = digits
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let value = digit * if place % 2 == 1 { 2 } else { 1 };
            if value > 9 { value - 9 } else { value }
        })
        .sum();
    sum.is_multiple_of(10)
}

fn is_card(digits: &[u8]) -> bool {
    let length = digits.len();
    let visa = digits.first() == Some(&4);
    issuer_length(digits).is_some_and(|lengths| lengths.contains(&length))
        && (!visa || matches!(length, 13 | 16 | 19))
        && luhn(digits.iter().map(|digit| u32::from(*digit)))
}

/// Payment card numbers: issuer prefix, length, Luhn; digits in groups. Between groups stands a space, a dash, or, where all have four
/// digits, another sign or a line break. The tracks of a card (`%B…^`, `;…=` and `;…D`) are found, too.
pub(super) fn pan(text: &str, add: &mut dyn FnMut(usize, usize)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut groups: Vec<(usize, usize)> = Vec::new();
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        // A run: groups of digits with separators between them.
        groups.clear();
        let run_start = at;
        let mut separator = None;
        loop {
            let start = at;
            while at < bytes.len() && bytes[at].is_ascii_digit() {
                at += 1;
            }
            groups.push((start, at));
            let length =
                separator_length(&bytes[at..], at - start == 4 && (groups.len() < 2 || separator == bytes.get(at).copied()));
            if length == 0 {
                break;
            }
            separator = Some(bytes[at]);
            at += length;
        }
        let of_track_1 = run_start > 1 && bytes[run_start - 2] == b'%' && bytes[run_start - 1].eq_ignore_ascii_case(&b'b');
        if run_start > 0 && bytes[run_start - 1].is_ascii_alphanumeric() && !of_track_1 {
            groups.remove(0);
        }
        // `D` stands for the `=` of track 2 where that was read in hexadecimal.
        let of_track_2 = bytes.get(at).is_some_and(|byte| byte.eq_ignore_ascii_case(&b'd'))
            && bytes.get(at + 1..at + 8).is_some_and(|rest| rest.iter().all(u8::is_ascii_digit));
        if at < bytes.len() && bytes[at].is_ascii_alphanumeric() && !of_track_2 {
            groups.pop();
        }
        card_in(bytes, &groups, add);
    }
}

/// Bytes of what separates two groups; 0: the run ends.
fn separator_length(rest: &[u8], of_four: bool) -> usize {
    let digit = |at: usize| rest.get(at).is_some_and(u8::is_ascii_digit);
    match rest {
        [b' ' | b'-', ..] if digit(1) => 1,
        [b' ', b'-', b' ', ..] if digit(3) => 3,
        [b'+' | b'_' | b'.' | b'/' | b'\n' | b'\t', ..] if of_four && digit(1) => 1,
        _ => 0,
    }
}

/// Whether a place lies in a UUID: what is random there means nothing.
fn is_of_uuid(bytes: &[u8], at: usize) -> bool {
    let is_one = |from: usize| {
        let Some(text) = bytes.get(from..from + 36) else { return false };
        let is_joined = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let has_form = text.iter().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
        has_form && !is_joined(bytes.get(from + 36)) && !(from > 0 && is_joined(bytes.get(from - 1)))
    };
    (at.saturating_sub(35)..=at).any(is_one)
}

/// Cards made of neighbouring groups, longest first.
fn card_in(bytes: &[u8], groups: &[(usize, usize)], add: &mut dyn FnMut(usize, usize)) {
    let mut from = 0;
    'groups: while from < groups.len() {
        // No card has more than 19 digits: what is further away is not looked at, so that the cost stays linear.
        let furthest = groups[from..].iter().take(19).take_while(|group| group.1 - groups[from].0 <= 40).count();
        for to in (from..from + furthest).rev() {
            let (start, end) = (groups[from].0, groups[to].1);
            if end - start < 12 {
                continue;
            }
            let digits: Vec<u8> = bytes[start..end].iter().filter(|byte| byte.is_ascii_digit()).map(|byte| byte - b'0').collect();
            if is_card(&digits) && !is_of_uuid(bytes, start) {
                add(start, end);
                from = to + 1;
                continue 'groups;
            }
        }
        from += 1;
    }
}

/// US social security numbers (ddd-dd-dddd; SSA's rules for area, group and serial). With dots only where the text says what it is.
pub(super) fn ssn(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(shape, r"[0-9]{3}[-. ]?[0-9]{2}[-. ]?[0-9]{4}");
    pattern!(named, r"(?i)(?:ssn|social security)[^0-9]{0,24}$");
    let bytes = text.as_bytes();
    let joined = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    for found in shape().into_iter().flat_map(|shape| shape.find_iter(text)) {
        let (start, end) = (found.start(), found.end());
        let part = found.as_str();
        let digits: String = part.chars().filter(char::is_ascii_digit).collect();
        let signs: String = part.chars().filter(|c| !c.is_ascii_digit()).collect();
        let (area, group, serial) = (&digits[..3], &digits[3..5], &digits[5..]);
        let valid = area != "000" && area != "666" && !area.starts_with('9') && group != "00" && serial != "0000";
        let is_same = signs.is_empty() || matches!(&*signs, "--" | ".." | "  ");
        let is_named = named().is_some_and(|named| named.is_match(before(text, start, 48)));
        let alone = (start == 0 || !joined(bytes[start - 1]) || is_named)
            && bytes
                .get(end)
                .is_none_or(|byte| !joined(*byte) || *byte == b'.' && !bytes.get(end + 1).is_some_and(u8::is_ascii_digit));
        if valid && is_same && alone && (signs == "--" || is_named) {
            add(start, end);
        }
    }
}

/// Lengths by country (SWIFT's IBAN registry).
const IBAN_LENGTHS: &[(&str, usize)] = &[
    ("AD", 24),
    ("AE", 23),
    ("AL", 28),
    // Countries that use them without a place in the registry.
    ("AO", 25),
    ("BF", 28),
    ("BJ", 28),
    ("CF", 27),
    ("CG", 27),
    ("CI", 28),
    ("CM", 27),
    ("CV", 25),
    ("DZ", 26),
    ("GA", 27),
    ("GQ", 27),
    ("GW", 25),
    ("IR", 26),
    ("KM", 27),
    ("MA", 28),
    ("MG", 27),
    ("ML", 28),
    ("MZ", 25),
    ("NE", 28),
    ("SN", 28),
    ("TD", 27),
    ("TG", 28),
    ("AT", 20),
    ("AZ", 28),
    ("BA", 20),
    ("BE", 16),
    ("BG", 22),
    ("BH", 22),
    ("BI", 27),
    ("BR", 29),
    ("BY", 28),
    ("CH", 21),
    ("CR", 22),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DJ", 27),
    ("DK", 18),
    ("DO", 28),
    ("EE", 20),
    ("EG", 29),
    ("ES", 24),
    ("FI", 18),
    ("FK", 18),
    ("FO", 18),
    ("FR", 27),
    ("GB", 22),
    ("GE", 22),
    ("GI", 23),
    ("GL", 18),
    ("GR", 27),
    ("GT", 28),
    ("HN", 28),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IQ", 23),
    ("IS", 26),
    ("IT", 27),
    ("JO", 30),
    ("KW", 30),
    ("KZ", 20),
    ("LB", 28),
    ("LC", 32),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("LY", 25),
    ("MC", 27),
    ("MD", 24),
    ("ME", 22),
    ("MK", 19),
    ("MN", 20),
    ("MR", 27),
    ("MT", 31),
    ("MU", 30),
    ("NI", 28),
    ("NL", 18),
    ("NO", 15),
    ("OM", 23),
    ("PK", 24),
    ("PL", 28),
    ("PS", 29),
    ("PT", 25),
    ("QA", 29),
    ("RO", 24),
    ("RS", 22),
    ("RU", 33),
    ("SA", 24),
    ("SC", 31),
    ("SD", 18),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("SM", 27),
    ("SO", 23),
    ("ST", 25),
    ("SV", 28),
    ("TL", 23),
    ("TN", 24),
    ("TR", 26),
    ("UA", 29),
    ("VA", 22),
    ("VG", 24),
    ("XK", 20),
    ("YE", 30),
];

/// International bank account numbers: country, length, ISO 7064 mod 97-10.
pub(super) fn iban(text: &str, add: &mut dyn FnMut(usize, usize)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at + 15 <= bytes.len() {
        let begins = bytes[at].is_ascii_alphabetic()
            && bytes[at + 1].is_ascii_alphabetic()
            && bytes[at + 2].is_ascii_digit()
            && bytes[at + 3].is_ascii_digit()
            && (at == 0 || !bytes[at - 1].is_ascii_alphanumeric());
        if begins && let Some(end) = iban_end(bytes, at) {
            if is_of_uuid(bytes, at) {
                at = end;
                continue;
            }
            add(at, end);
            at = end;
        } else {
            at += 1;
        }
    }
}

fn iban_end(bytes: &[u8], start: usize) -> Option<usize> {
    let country = [bytes[start].to_ascii_uppercase(), bytes[start + 1].to_ascii_uppercase()];
    let (_, length) = IBAN_LENGTHS.iter().find(|(known, _)| known.as_bytes() == country)?;
    let (mut characters, mut at) = (Vec::with_capacity(*length), start);
    while characters.len() < *length {
        let byte = *bytes.get(at)?;
        match byte {
            b' ' | b'-' | b'.' if bytes.get(at + 1).is_some_and(u8::is_ascii_alphanumeric) => {}
            byte if byte.is_ascii_alphanumeric() => characters.push(byte.to_ascii_uppercase()),
            _ => return None,
        }
        at += 1;
    }
    // A currency may follow.
    let is_currency = bytes.get(at..at + 3).is_some_and(|code| code.iter().all(u8::is_ascii_uppercase))
        && !bytes.get(at + 3).is_some_and(u8::is_ascii_alphanumeric);
    if bytes.get(at).is_some_and(u8::is_ascii_alphanumeric) && !is_currency {
        return None;
    }
    let rearranged = characters[4..].iter().chain(&characters[..4]);
    let rest = rearranged.fold(0u64, |rest, character| match character {
        b'0'..=b'9' => (rest * 10 + u64::from(character - b'0')) % 97,
        letter => (rest * 100 + u64::from(letter - b'A') + 10) % 97,
    });
    (rest == 1).then_some(at)
}

/// IPv4 and IPv6 addresses.
pub(super) fn ip(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(shape, r"[0-9A-Fa-f:.]{3,45}");
    for found in shape().into_iter().flat_map(|shape| shape.find_iter(text)) {
        let trimmed = found.as_str().trim_end_matches(['.', ':']);
        let address = if trimmed.is_empty() { found.as_str() } else { trimmed };
        // `203.0.113.7:8080`
        let address = match address.split_once(':') {
            Some((host, port)) if host.contains('.') && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => address,
        };
        let bytes = text.as_bytes();
        let (start, end) = (found.start(), found.start() + address.len());
        let alone = (start == 0 || !bytes[start - 1].is_ascii_alphanumeric())
            && bytes.get(end).is_none_or(|byte| !byte.is_ascii_alphanumeric());
        if alone && address.parse::<std::net::IpAddr>().is_ok() {
            add(start, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::found, *};

    #[test]
    fn cards_are_found_and_what_only_looks_like_one_is_not() {
        assert_eq!(found(pan, "pay 4111 1111 1111 1111, 378282246310005"), ["4111 1111 1111 1111", "378282246310005"]);
        for text in
            ["4111111111111112", "x4111111111111111", "41111111111111110000000", "1234567890123456", "4111  1111 1111 1111"]
        {
            assert!(found(pan, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn parts_of_uuids_are_no_accounts_and_no_cards() {
        for text in ["4bbcf995-8c5f-404d-be21-44458d987924", "e768bb08-be1b-4bb1-be32-7ee15e58ca6e"] {
            assert!(found(iban, text).is_empty() && found(pan, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn accounts_and_numbers_are_checked() {
        assert_eq!(found(iban, "to GB82 WEST 1234 5698 7654 32."), ["GB82 WEST 1234 5698 7654 32"]);
        assert!(found(iban, "GB83WEST12345698765432").is_empty());
        assert_eq!(found(ssn, "ssn 123-45-6789"), ["123-45-6789"]);
        assert!(found(ssn, "000-45-6789 123-45-67890 A123-45-6789").is_empty());
        assert_eq!(found(ip, "from 10.0.0.1, ::1 and fe80::1%eth0"), ["10.0.0.1", "::1", "fe80::1"]);
    }
}
