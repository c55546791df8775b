//! Numbers with a check of their own: payment cards, social security numbers, bank accounts, addresses.
use super::pattern;

/// Lengths of an issuer's numbers, by prefix (ISO/IEC 7812; the issuers' published ranges).
fn issuer_length(digits: &[u8]) -> Option<std::ops::RangeInclusive<usize>> {
    let prefix = |count: usize| digits.iter().take(count).fold(0u32, |sum, digit| sum * 10 + u32::from(*digit));
    let (two, three, four) = (prefix(2), prefix(3), prefix(4));
    Some(match (two, three, four) {
        (_, _, 2221..=2720) | (51..=55, _, _) => 16..=16,
        (34 | 37, _, _) => 15..=15,
        (_, _, 3528..=3589) => 16..=19,
        (36 | 38, _, _) | (_, 300..=305, _) => 14..=19,
        (40..=49, _, _) => 13..=19,
        (_, _, 6011) | (_, 644..=649, _) | (62 | 65, _, _) => 16..=19,
        (_, _, 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763) => 12..=19,
        _ => return None,
    })
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let value = u32::from(*digit) * if place % 2 == 1 { 2 } else { 1 };
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
        && luhn(digits)
}

/// Payment card numbers: issuer prefix, length, Luhn; digits in groups by single spaces or dashes.
pub(super) fn pan(text: &str, add: &mut dyn FnMut(usize, usize)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        // A run: groups of digits with single separators between them.
        let mut groups: Vec<(usize, usize)> = Vec::new();
        let run_start = at;
        loop {
            let start = at;
            while at < bytes.len() && bytes[at].is_ascii_digit() {
                at += 1;
            }
            groups.push((start, at));
            let separated = at + 1 < bytes.len() && matches!(bytes[at], b' ' | b'-') && bytes[at + 1].is_ascii_digit();
            if !separated {
                break;
            }
            at += 1;
        }
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte >= 0x80;
        if run_start > 0 && word(bytes[run_start - 1]) {
            groups.remove(0);
        }
        if at < bytes.len() && word(bytes[at]) {
            groups.pop();
        }
        card_in(bytes, &groups, add);
    }
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
            if is_card(&digits) {
                add(start, end);
                from = to + 1;
                continue 'groups;
            }
        }
        from += 1;
    }
}

/// US social security numbers (ddd-dd-dddd; SSA's rules for area, group and serial).
pub(super) fn ssn(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(shape, r"[0-9]{3}-[0-9]{2}-[0-9]{4}");
    let bytes = text.as_bytes();
    let joined = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    for found in shape().into_iter().flat_map(|shape| shape.find_iter(text)) {
        let (start, end) = (found.start(), found.end());
        let part = found.as_str();
        let (area, group, serial) = (&part[..3], &part[4..6], &part[7..]);
        let valid = area != "000" && area != "666" && !area.starts_with('9') && group != "00" && serial != "0000";
        let alone = (start == 0 || !joined(bytes[start - 1])) && bytes.get(end).is_none_or(|byte| !joined(*byte));
        if valid && alone {
            add(start, end);
        }
    }
}

/// Lengths by country (SWIFT's IBAN registry).
const IBAN_LENGTHS: &[(&str, usize)] = &[
    ("AD", 24),
    ("AE", 23),
    ("AL", 28),
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
            && (at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] >= 0x80));
        if begins && let Some(end) = iban_end(bytes, at) {
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
            b' ' if bytes.get(at + 1).is_some_and(u8::is_ascii_alphanumeric) => {}
            byte if byte.is_ascii_alphanumeric() => characters.push(byte.to_ascii_uppercase()),
            _ => return None,
        }
        at += 1;
    }
    if bytes.get(at).is_some_and(u8::is_ascii_alphanumeric) {
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
    fn accounts_and_numbers_are_checked() {
        assert_eq!(found(iban, "to GB82 WEST 1234 5698 7654 32."), ["GB82 WEST 1234 5698 7654 32"]);
        assert!(found(iban, "GB83WEST12345698765432").is_empty());
        assert_eq!(found(ssn, "ssn 123-45-6789"), ["123-45-6789"]);
        assert!(found(ssn, "000-45-6789 123-45-67890 A123-45-6789").is_empty());
        assert_eq!(found(ip, "from 10.0.0.1, ::1 and fe80::1%eth0"), ["10.0.0.1", "::1", "fe80::1"]);
    }
}
