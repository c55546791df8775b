//! Numbers and addresses of people: social security numbers, bank accounts, e-mail and IP addresses.
use std::net::{Ipv4Addr, Ipv6Addr};

use memchr::memchr_iter;
use steno_crds::Detector;

use super::{Hit, follows_word, is_word, push, run};

/// The shortest IBAN (Norway).
pub(super) const SHORTEST_IBAN: usize = 15;

/// Length of a country's IBANs (SWIFT's IBAN Registry).
fn iban_length(country: [u8; 2]) -> Option<usize> {
    Some(match &country {
        b"NO" => 15,
        b"BE" => 16,
        b"DK" | b"FI" | b"FK" | b"FO" | b"GL" | b"NL" | b"SD" => 18,
        b"MK" | b"SI" => 19,
        b"AT" | b"BA" | b"EE" | b"KZ" | b"LT" | b"LU" | b"MN" | b"XK" => 20,
        b"CH" | b"HR" | b"LI" | b"LV" => 21,
        b"BG" | b"BH" | b"CR" | b"DE" | b"GB" | b"GE" | b"IE" | b"ME" | b"RS" | b"VA" => 22,
        b"AE" | b"GI" | b"IL" | b"IQ" | b"OM" | b"SO" | b"TL" => 23,
        b"AD" | b"CZ" | b"ES" | b"MD" | b"PK" | b"RO" | b"SA" | b"SE" | b"SK" | b"TN" | b"VG" => 24,
        b"LY" | b"PT" | b"ST" => 25,
        b"IS" | b"TR" => 26,
        b"BI" | b"DJ" | b"FR" | b"GR" | b"IT" | b"MC" | b"MR" | b"SM" => 27,
        b"AL" | b"AZ" | b"BY" | b"CY" | b"DO" | b"GT" | b"HN" | b"HU" | b"LB" | b"NI" | b"PL" | b"SV" => 28,
        b"BR" | b"EG" | b"PS" | b"QA" | b"UA" => 29,
        b"JO" | b"KW" | b"MU" | b"YE" => 30,
        b"MT" | b"SC" => 31,
        b"LC" => 32,
        b"RU" => 33,
        _ => return None,
    })
}

/// Appends US social security numbers: `ddd-dd-dddd`, with an area, group and serial that are issued.
pub(super) fn ssn(bytes: &[u8], out: &mut Vec<Hit>) {
    for dash in memchr_iter(b'-', bytes) {
        let Some(start) = dash.checked_sub(3) else { continue };
        let Some(piece) = bytes.get(start..start + 11) else { continue };
        let end = start + 11;
        let touched = |at: usize| is_word(bytes, at) || bytes.get(at) == Some(&b'-');
        let free = !touched(end) && (start == 0 || !touched(start - 1));
        if free && is_ssn(piece) {
            push(out, Detector::Ssn, start, end);
        }
    }
}

fn is_ssn(piece: &[u8]) -> bool {
    let number = |piece: &[u8]| {
        piece.iter().try_fold(0u16, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u16::from(byte - b'0')))
    };
    let dashed = piece[3] == b'-' && piece[6] == b'-';
    // Never issued: area 000, 666 and 900 upwards, group 00, serial 0000.
    dashed
        && number(&piece[..3]).is_some_and(|area| matches!(area, 1..=665 | 667..=899))
        && number(&piece[4..6]).is_some_and(|group| group > 0)
        && number(&piece[7..]).is_some_and(|serial| serial > 0)
}

/// Appends IBANs: country, length and check digits, undivided or in groups of four.
pub(super) fn iban(bytes: &[u8], out: &mut Vec<Hit>) {
    let mut at = 0;
    while at + SHORTEST_IBAN <= bytes.len() {
        if !bytes[at].is_ascii_alphanumeric() {
            at += 1;
            continue;
        }
        match iban_at(bytes, at) {
            Some(end) => {
                push(out, Detector::Iban, at, end);
                at = end;
            }
            // The next one can only begin with the next word.
            None => at = run(bytes, at, |byte| byte.is_ascii_alphanumeric()),
        }
    }
}

/// Where the IBAN ends that begins at `start`.
fn iban_at(bytes: &[u8], start: usize) -> Option<usize> {
    let head = bytes.get(start..start + 4)?;
    if !head[2].is_ascii_digit() || !head[3].is_ascii_digit() {
        return None;
    }
    let country = [head[0].to_ascii_uppercase(), head[1].to_ascii_uppercase()];
    let length = iban_length(country)?;
    let grouped = bytes.get(start + 4) == Some(&b' ');
    let mut account = [0u8; 34];
    let account = &mut account[..length];
    let mut at = start;
    for (place, symbol) in account.iter_mut().enumerate() {
        if grouped && place > 0 && place % 4 == 0 {
            if bytes.get(at) != Some(&b' ') {
                return None;
            }
            at += 1;
        }
        *symbol = bytes.get(at)?.to_ascii_uppercase();
        at += 1;
    }
    account.rotate_left(4);
    (!is_word(bytes, at) && remainder(account) == Some(1)).then_some(at)
}

/// ISO 7064, MOD 97-10: letters count from 10.
fn remainder(symbols: &[u8]) -> Option<u32> {
    symbols.iter().try_fold(0u32, |rest, symbol| match symbol {
        b'0'..=b'9' => Some((rest * 10 + u32::from(symbol - b'0')) % 97),
        b'A'..=b'Z' => Some((rest * 100 + u32::from(symbol - b'A') + 10) % 97),
        _ => None,
    })
}

/// Appends e-mail addresses.
pub(super) fn email(bytes: &[u8], out: &mut Vec<Hit>) {
    let in_local = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-') || byte >= 0x80;
    let in_domain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-') || byte >= 0x80;
    for at in memchr_iter(b'@', bytes) {
        let start = at - bytes[..at].iter().rev().take_while(|byte| in_local(**byte)).count();
        let mut end = run(bytes, at + 1, in_domain);
        while end > at + 1 && matches!(bytes[end - 1], b'.' | b'-') {
            end -= 1;
        }
        let domain = &bytes[at + 1..end];
        // `@scope/name@1.2` is a package's affair.
        let top = domain.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
        let dotted = top.len() + 1 < domain.len() && top.len() >= 2 && !top[0].is_ascii_digit();
        if start < at && dotted {
            push(out, Detector::Email, start, end);
        }
    }
}

/// Appends IPv4 and IPv6 addresses.
pub(super) fn ip(text: &str, out: &mut Vec<Hit>) {
    let bytes = text.as_bytes();
    let in_address = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':');
    let mut at = 0;
    while at < bytes.len() {
        if !in_address(bytes[at]) {
            at += 1;
            continue;
        }
        let end = run(bytes, at, in_address);
        if !follows_word(bytes, at) && !is_word(bytes, end) {
            address(text, at, end, out);
        }
        at = end;
    }
}

/// Appends the addresses of one run of their characters.
fn address(text: &str, start: usize, end: usize, out: &mut Vec<Hit>) {
    let whole = text[start..end].trim_end_matches('.');
    // `dead::beef` is rather a name.
    let is_v6 = |text: &str| text.contains(|c: char| c.is_ascii_digit()) && text.parse::<Ipv6Addr>().is_ok();
    for candidate in [whole, whole.trim_end_matches(':')] {
        if is_v6(candidate) {
            push(out, Detector::Ip, start, start + candidate.len());
            return;
        }
    }
    // Otherwise at most one with a port.
    let mut from = start;
    for piece in whole.split(':') {
        if piece.trim_end_matches('.').parse::<Ipv4Addr>().is_ok() {
            push(out, Detector::Ip, from, from + piece.trim_end_matches('.').len());
        }
        from += piece.len() + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;

    #[test]
    fn social_security_numbers_are_found_where_they_can_be_issued() {
        for text in ["219-09-9999", "(001-01-0001)", "taxid=899-99-9999 x", "— 665-12-3456 —"] {
            assert_eq!(found(Detector::Ssn, text).len(), 1, "{text}");
        }
        for text in ["000-12-3456", "666-12-3456", "900-12-3456", "219-00-9999", "219-09-0000", "1219-09-9999", "219-09-9999-1", "A219-09-9999"] {
            assert!(found(Detector::Ssn, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn ibans_are_found_by_country_length_and_check_digits() {
        for (text, iban) in [
            ("to DE89370400440532013000.", "DE89370400440532013000"),
            ("GB29 NWBK 6016 1331 9268 19 held", "GB29 NWBK 6016 1331 9268 19"),
            ("typed ie29aibk93115212345678", "ie29aibk93115212345678"),
            ("NO9386011117947", "NO9386011117947"),
        ] {
            assert_eq!(found(Detector::Iban, text), [iban]);
        }
        for text in ["DE88370400440532013000", "XX82WEST12345698765432", "DE8937040044053201300 k", "xDE89370400440532013000", "GB29-WIDGET-60-000"] {
            assert!(found(Detector::Iban, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn addresses_are_found_where_they_are_asked_for() {
        assert_eq!(found(Detector::Email, "Eve <eve+x@example.test>, jürgen@exämple.test."), ["eve+x@example.test", "jürgen@exämple.test"]);
        assert!(found(Detector::Email, "build @ host, pkg@v2, @scope.x").is_empty());
        for (text, ip) in [
            ("blocked 198.51.100.23 after", "198.51.100.23"),
            ("192.0.2.55:44321", "192.0.2.55"),
            ("from 192.0.2.7.", "192.0.2.7"),
            ("peer 2001:db8::1 reset", "2001:db8::1"),
            ("[2001:db8::5]:5432", "2001:db8::5"),
            ("::ffff:192.0.2.128", "::ffff:192.0.2.128"),
        ] {
            assert_eq!(found(Detector::Ip, text), [ip]);
        }
        for text in ["00:1b:44:11:3a:b7", "12:30:45", "v1.2.3.4", "1.2.3", "std::vec", "300.1.1.1"] {
            assert!(found(Detector::Ip, text).is_empty(), "{text}");
        }
    }
}
