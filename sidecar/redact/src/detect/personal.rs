//! Personal data that no policy gets unless it asks: telephone numbers, dates of birth, national identity numbers.
//!
//! What a name says counts ([`of_name`]: `mobilePhone`, `dateOfBirth`, `nationalId`), a word before it in a text (`tel. 030 901820`, `born 12 May
//! 1980`), and a form that nothing else has (`+49 30 901820`, numbers with check digits: [`super::national`]). A date alone is no date of birth.
use std::ops::Range;

use phonenumber::country;
use steno_crds::Detector;
use steno_event::json::Json;

pub(crate) use super::labels::of_name;
use super::labels::of_script;
use super::{Set, bit, national, pattern};

/// Whether any detector of this room is on.
pub(crate) const ALL: Set = bit(Detector::Phone) | bit(Detector::DateOfBirth) | bit(Detector::NationalId);

/// Whether a value may be what its name says: a telephone number has six digits or more, a date of birth is a date, a national number has five
/// letters and digits, one of them a digit.
pub(crate) fn may_be(detector: Detector, value: &str) -> bool {
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    let kept = value.bytes().filter(u8::is_ascii_alphanumeric).count();
    match detector {
        Detector::Phone => (6..=20).contains(&digits) && value.len() <= 40,
        Detector::DateOfBirth => digits >= 4 && value.len() <= 40,
        Detector::NationalId => kept >= 5 && digits >= 1 && value.len() <= 40,
        _ => false,
    }
}

/// Members of an object about such data that have it, or a part of it.
const PARTS: &[&str] = &[
    "number",
    "no",
    "nr",
    "num",
    "value",
    "raw",
    "text",
    "full",
    "display",
    "formatted",
    "digits",
    "e164",
    "national",
    "international",
    "nationalnumber",
    "subscriber",
    "local",
    "id",
    "date",
    "iso",
    "day",
    "month",
    "year",
    "current",
    "previous",
    "old",
    "new",
    "before",
    "after",
    "from",
    "to",
    "oldvalue",
    "newvalue",
    "primary",
    "secondary",
    "home",
    "work",
    "mobile",
    "private",
    "business",
];

/// Whether a member of an object whose name says that it is personal data has that, or a part of it.
pub(crate) fn is_part(detector: Detector, name: &str, value: &Json<'_>) -> bool {
    if name.len() > 16 || !PARTS.contains(&steno_crds::fold_name(name).as_str()) {
        return false;
    }
    let text = match value {
        Json::String(text) => text.to_string(),
        Json::Number(number) => number.to_string(),
        _ => return false,
    };
    // Day, month and year stand alone.
    may_be(detector, &text) && !(detector == Detector::Phone && is_date(&text))
        || detector == Detector::DateOfBirth && text.len() <= 10 && text.bytes().any(|byte| byte.is_ascii_digit())
}

/// Loads the numbering plans where they are needed (some 10 MiB and 0.1 s), so that no event waits for them.
pub(crate) fn prepare(on: Set) {
    if on & bit(Detector::Phone) != 0 {
        let _ = phonenumber::parse(None, "+10000000");
    }
}

/// Telephone numbers: international ones by the numbering plans (ITU-T E.164), national ones after a word that says so, and those of North America in
/// their usual form.
pub(super) fn phone(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(shape, r"(?:\+|\b00)?[ ]?\(?[0-9][0-9 ()./\u{2010}-\u{2015}\u{a0}-]{4,22}[0-9]");
    pattern!(american, r"^(?:\+?1[ .-]?)?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-.])[2-9][0-9]{2}[-.][0-9]{4}$");
    pattern!(says, r"(?i)(?:^|[^\p{L}])(?:(?:call|text) (?:me|us|him|her|them|back)|sms (?:sent )?to)[^0-9\p{L}+]{0,5}$");
    for found in shape().into_iter().flat_map(|shape| shape.find_iter(text)) {
        let trimmed = found.as_str().trim_start();
        let (start, end) = (found.end() - trimmed.len(), found.end());
        let is_joined = |c: char| c.is_alphanumeric() || c == '_';
        if text[..start].ends_with(is_joined) || text[end..].starts_with(is_joined) {
            continue;
        }
        if let Some(length) = international(trimmed) {
            add(start, start + length);
            continue;
        }
        let digits = trimmed.bytes().filter(u8::is_ascii_digit).count();
        if !(6..=17).contains(&digits) || trimmed.starts_with('+') || is_date(trimmed) {
            continue;
        }
        let is_phone = american().is_some_and(|american| american.is_match(trimmed)) && is_valid(Some(country::US), trimmed)
            || labelled(text, start, Detector::Phone)
            || says().is_some_and(|says| says.is_match(super::before(text, start, 40)));
        if is_phone {
            add(start, end);
        }
    }
}

fn is_valid(region: Option<country::Id>, number: &str) -> bool {
    phonenumber::parse(region, number).is_ok_and(|number| phonenumber::is_valid(&number))
}

/// Bytes of the international number that a run of digits and signs begins with: the longest that is valid, for other numbers may follow.
fn international(run: &str) -> Option<usize> {
    let (digits, begun) = match run.strip_prefix("00") {
        Some(digits) => (digits, 2),
        None => (run.strip_prefix('+')?, 1),
    };
    let ends = digits.char_indices().filter(|(_, c)| !c.is_ascii_digit()).map(|(at, _)| at);
    let mut ends: Vec<usize> = ends.chain([digits.len()]).collect();
    ends.reverse();
    let count = |text: &str| text.bytes().filter(u8::is_ascii_digit).count();
    let fits =
        |end: &&usize| (7..=15).contains(&count(&digits[..**end])) && digits[..**end].ends_with(|c: char| c.is_ascii_digit());
    ends.iter().filter(fits).find(|end| is_valid(None, &format!("+{}", &digits[..**end]))).map(|end| begun + end)
}

/// `2026-11-28` and the like, and what follows it.
fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let form = [4, 7].iter().all(|at| bytes.get(*at).is_some_and(|byte| matches!(byte, b'-' | b'/' | b'.' | b' ')));
    form && bytes[..4].iter().chain(&bytes[5..7]).all(u8::is_ascii_digit) && matches!(bytes[0], b'1' | b'2')
}

/// Dates after a word that says that somebody was born.
pub(super) fn birth(text: &str, add: &mut dyn FnMut(usize, usize)) {
    // What stands in square brackets is one character of several scripts.
    pattern!(
        said,
        concat!(
            r"(?i)(?:\bdob\b|\bborn\b|birth(?:day|date)?\b|\bgeb(?:oren|urtsdatum|urtstag|\.)|\bn\u{e9}e? (?:le|en)\b|naissance",
            r"|nacimiento|nascimento|nascita|\bnacid[oa]\b|\bnascid[oa]\b|\bnat[oa] il\b|\bgeboortedatum|\burodze(?:nia|ni)\b|\burodzon[ya]\b",
            r"|do\u{11f}um(?: tarihi)?\b|f\u{f8}dselsdato|f\u{f8}dt\b|f\u{f6}delsedatum|f\u{f6}dd\b|syntym\u{e4}aika|\bnarozen|sz\u{fc}let\u{e9}s",
            r"|ng\u{e0}y sinh|tanggal lahir|\u{440}\u{43e}\u{436}\u{434}\u{435}\u{43d}\u{438}\u{44f}|\u{43d}\u{430}\u{440}\u{43e}\u{434}\u{436}\u{435}\u{43d}\u{43d}\u{44f}",
            r"|\u{51fa}\u{751f}|\u{751f}\u{5e74}\u{6708}\u{65e5}|\u{751f}\u{65e5}|\u{c0dd}\u{b144}\u{c6d4}\u{c77c}|\u{627}\u{644}\u{645}\u{64a}\u{644}\u{627}\u{62f}",
            r"|\u{91c}\u{928}\u{94d}\u{92e})[^0-9\n]{0,24}?(",
            r"[0-9]{4}[-/. \u{5e74}\u{b144}] ?[0-9]{1,2}[-/. \u{6708}\u{c6d4}] ?[0-9]{1,2}",
            r"|[0-9]{4}[-/ .]\p{L}{3,10}[-/ .][0-9]{1,2}\b",
            r"|[0-9]{1,2}[-/.][ ]?[0-9]{1,2}[-/.][ ]?(?:[0-9]{4}|[0-9]{2})|[0-9]{1,2} [0-9]{1,2} [0-9]{4}",
            r"|[0-9]{1,2}(?:st|nd|rd|th|\.)?[- /.](?:of |de )?\p{L}{3,10}\.?,?[- /.](?:de )?(?:[0-9]{4}|[0-9]{2}\b)",
            r"|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?[- ][0-9]{1,2}(?:st|nd|rd|th)?,?[- ][0-9]{4}",
            r"|(?:19|20)[0-9]{6})"
        )
    );
    for found in said().into_iter().flat_map(|said| said.captures_iter(text)) {
        if let Some(Range { start, end }) = found.get(1).map(|date| date.range()) {
            add(start, end);
        }
    }
}

/// National identity numbers: those whose form and check digits say so, and others after a word that does.
pub(super) fn national(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(shape, r"[A-Za-z]{0,6}[ -]?[0-9][0-9A-Za-z]*(?:[-./ +][0-9A-Za-z]+){0,5}");
    pattern!(word, r"[A-Za-z0-9]+");
    for found in shape().into_iter().flat_map(|shape| shape.find_iter(text)) {
        // A run of words may have the number anywhere: each run of neighbours is tried, longest first.
        let bounds: Vec<Range<usize>> =
            word().into_iter().flat_map(|word| word.find_iter(found.as_str())).map(|word| word.range()).collect();
        let mut from = 0;
        'words: while from < bounds.len() {
            let start = found.start() + bounds[from].start;
            if text[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                from += 1;
                continue;
            }
            for to in (from..bounds.len().min(from + 6)).rev() {
                let end = found.start() + bounds[to].end;
                if text[end..].starts_with(|c: char| c.is_alphanumeric() || c == '_') {
                    continue;
                }
                let number = &text[start..end];
                // Addresses, and what stands behind a decimal point.
                let is_part = text[..start].ends_with('.') && text[..start - 1].ends_with(|c: char| c.is_ascii_digit());
                if is_part || number.parse::<std::net::Ipv4Addr>().is_ok() {
                    continue;
                }
                if national::is_number(number, || labelled(text, start, Detector::NationalId)) {
                    add(start, end);
                    from = to + 1;
                    continue 'words;
                }
            }
            from += 1;
        }
    }
}

/// What may stand between a label and its value.
const BETWEEN: &[&str] = &[" is", " was", " at", " to", " on", " updated to", " changed to", " ist", " lautet", " es", " est"];

/// Whether the last words before a place are a label of such data: `tel. `, `Phone number: `, `"nationalId":"`.
fn labelled(text: &str, start: usize, wanted: Detector) -> bool {
    let before = super::before(text, start, 48);
    let said = before.trim_end_matches(|c: char| !c.is_alphanumeric());
    if before.len() - said.len() > 8 {
        return false;
    }
    let is_one = |said: &str| {
        if of_script(said) == Some(wanted) {
            return true;
        }
        let tail: Vec<&str> = said.rsplit([' ', '"', '\'', ',', ';', '{', '(', '=', '\n']).take(4).collect();
        (1..=tail.len()).any(|count| {
            let name = tail[..count].iter().rev().copied().collect::<Vec<_>>().join(" ");
            of_name(&name) == Some(wanted)
        })
    };
    let ends = |said: &str, end: &&str| {
        said.len() > end.len()
            && said.is_char_boundary(said.len() - end.len())
            && said[said.len() - end.len()..].eq_ignore_ascii_case(end)
    };
    is_one(said) || BETWEEN.iter().filter(|end| ends(said, end)).any(|end| is_one(&said[..said.len() - end.len()]))
}

#[cfg(test)]
mod tests {
    use super::{super::found, *};

    #[test]
    fn names_of_personal_data_are_known() {
        for (name, wanted) in [
            ("phone", Detector::Phone),
            ("mobilePhone", Detector::Phone),
            ("phone_number", Detector::Phone),
            ("contact.tel", Detector::Phone),
            ("homePhones", Detector::Phone),
            ("teléfono", Detector::Phone),
            ("dob", Detector::DateOfBirth),
            ("dateOfBirth", Detector::DateOfBirth),
            ("birth_date", Detector::DateOfBirth),
            ("Geburtsdatum", Detector::DateOfBirth),
            ("nationalId", Detector::NationalId),
            ("passport-number", Detector::NationalId),
            ("codice_fiscale", Detector::NationalId),
            ("CPF", Detector::NationalId),
            ("DATEOFBIRTH", Detector::DateOfBirth),
            ("birthDay", Detector::DateOfBirth),
            ("phonenumber", Detector::Phone),
            ("phone1", Detector::Phone),
        ] {
            assert_eq!(of_name(name), Some(wanted), "{name}");
        }
        for name in [
            "microphone",
            "telemetry",
            "cellular",
            "phoneVerified",
            "birthplace",
            "nationality",
            "id",
            "number",
            "taxi",
            "phoneId",
            "numberOfPhones",
        ] {
            assert_eq!(of_name(name), None, "{name}");
        }
    }

    /// Numbers from the library's own example numbers and from ranges for drama (Ofcom, ARCEP, ACMA).
    #[test]
    fn telephone_numbers_are_found_and_other_numbers_are_not() {
        for (text, wanted) in [
            ("call +44 20 7946 0958 now", "+44 20 7946 0958"),
            ("from +12125550123.", "+12125550123"),
            ("0049 30 901820", "0049 30 901820"),
            ("(212) 555-0123", "(212) 555-0123"),
            ("reach me: 212-555-0123", "212-555-0123"),
            ("tel. 030 901820, room 3", "030 901820"),
            ("Phone number: 0177 5551234", "0177 5551234"),
            ("mobile=0401 570 006", "0401 570 006"),
            ("sent to +14155552671 3 times", "+14155552671"),
            ("+14155552671 2026-11-28", "+14155552671"),
            ("SMS +442079460958 160 chars", "+442079460958"),
            ("phone_number=4155552671", "4155552671"),
            ("tel:+33-1-99-00-12-34", "+33-1-99-00-12-34"),
            ("Telefoon: 020 123 4567", "020 123 4567"),
            ("T\u{e9}l\u{e9}phone : 01 99 00 12 34", "01 99 00 12 34"),
            ("m\u{f3}vil 612 34 56 78", "612 34 56 78"),
            ("\u{442}\u{435}\u{43b}\u{435}\u{444}\u{43e}\u{43d}: 8 495 123-45-67", "8 495 123-45-67"),
            ("\u{624b}\u{673a}\u{53f7}\u{ff1a}13800138000", "13800138000"),
            ("Telefonnummer ist 030 901820", "030 901820"),
            ("{\"mobilePhone\":\"0171 5551234\"", "0171 5551234"),
        ] {
            assert_eq!(found(phone, text), [wanted], "{text}");
        }
        for text in [
            "order 20261128-0001",
            "2026-11-28T07:13:49Z",
            "4111 1111 1111 1111",
            "10.0.0.1",
            "+1 111 111 1111",
            "took 1234567 ms",
            "telnet 10.20.30.40",
            "hotel 1234567",
            "syscall 4294967295",
            "function call 20231128 failed",
            "called 1234567 times",
            "microphone 1234567",
            "phone 2026-11-28",
            "550e8400-e29b-41d4-a716-446655440000",
            "version 1.2.3-20260101",
        ] {
            assert!(found(phone, text).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_date_is_a_birth_only_where_something_says_so() {
        for (text, wanted) in [
            ("born 12 May 1980 in Bonn", "12 May 1980"),
            ("DOB: 1980-05-12", "1980-05-12"),
            ("date of birth is 12/05/1980", "12/05/1980"),
            ("geboren am 12.05.1980", "12.05.1980"),
            ("née le 12/05/1980", "12/05/1980"),
            ("Birthday March 5th, 1980", "March 5th, 1980"),
            ("fecha de nacimiento: 5 de marzo de 1980", "5 de marzo de 1980"),
            ("DOB 14-May-1990", "14-May-1990"),
            ("born 14/May/90, London", "14/May/90"),
            ("date of birth: 1990-May-14", "1990-May-14"),
            ("born on the 4th of July 1976", "4th of July 1976"),
            ("data urodzenia: 12.05.1980", "12.05.1980"),
            ("Do\u{11f}um tarihi 12/05/1980", "12/05/1980"),
            ("f\u{f8}dt 12.05.1980", "12.05.1980"),
            ("\u{51fa}\u{751f}\u{65e5}\u{671f}\u{ff1a}1990\u{5e74}5\u{6708}14\u{65e5}", "1990\u{5e74}5\u{6708}14"),
            ("\u{c0dd}\u{b144}\u{c6d4}\u{c77c}: 1990. 5. 14", "1990. 5. 14"),
        ] {
            assert_eq!(found(birth, text), [wanted], "{text}");
        }
        assert!(found(birth, "created 1980-05-12, stubborn 2020-01-01").is_empty());
    }
}
