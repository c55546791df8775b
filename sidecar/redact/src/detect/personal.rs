//! Personal data that no policy gets unless it asks: telephone numbers, dates of birth, national identity numbers.
//!
//! What a name says counts ([`of_name`]: `mobilePhone`, `dateOfBirth`, `nationalId`), a word before it in a text (`tel. 030 901820`, `born 12 May
//! 1980`), and a form that nothing else has (`+49 30 901820`, numbers with check digits: [`super::national`]). A date alone is no date of birth.
use std::ops::Range;

use phonenumber::country;
use steno_crds::Detector;

use super::{Set, bit, national, pattern};
use crate::names::Words;

/// Whether any detector of this room is on.
pub(crate) const ALL: Set = bit(Detector::Phone) | bit(Detector::DateOfBirth) | bit(Detector::NationalId);

/// Words of names, in lower case, and what they name; whole words of a name that is split where case or separators change.
const WORDS: &[(&str, Detector)] = &[
    ("phone", Detector::Phone),
    ("telephone", Detector::Phone),
    ("tel", Detector::Phone),
    ("mobile", Detector::Phone),
    ("cellphone", Detector::Phone),
    ("cell", Detector::Phone),
    ("fax", Detector::Phone),
    ("msisdn", Detector::Phone),
    ("whatsapp", Detector::Phone),
    ("telefon", Detector::Phone),
    ("telefono", Detector::Phone),
    ("telefone", Detector::Phone),
    ("movil", Detector::Phone),
    ("celular", Detector::Phone),
    ("handy", Detector::Phone),
    ("handynummer", Detector::Phone),
    ("telefonnummer", Detector::Phone),
    ("dob", Detector::DateOfBirth),
    ("born", Detector::DateOfBirth),
    ("birth", Detector::DateOfBirth),
    ("birthday", Detector::DateOfBirth),
    ("birthdate", Detector::DateOfBirth),
    ("geburtsdatum", Detector::DateOfBirth),
    ("geburtstag", Detector::DateOfBirth),
    ("nacimiento", Detector::DateOfBirth),
    ("nascimento", Detector::DateOfBirth),
    ("naissance", Detector::DateOfBirth),
    ("nascita", Detector::DateOfBirth),
    ("geboortedatum", Detector::DateOfBirth),
    ("nin", Detector::NationalId),
    ("nino", Detector::NationalId),
    ("aadhaar", Detector::NationalId),
    ("aadhar", Detector::NationalId),
    ("cpf", Detector::NationalId),
    ("curp", Detector::NationalId),
    ("dni", Detector::NationalId),
    ("nie", Detector::NationalId),
    ("nif", Detector::NationalId),
    ("pesel", Detector::NationalId),
    ("bsn", Detector::NationalId),
    ("nric", Detector::NationalId),
    ("hkid", Detector::NationalId),
    ("cnic", Detector::NationalId),
    ("cccd", Detector::NationalId),
    ("nik", Detector::NationalId),
    ("nir", Detector::NationalId),
    ("snils", Detector::NationalId),
    ("cnp", Detector::NationalId),
    ("egn", Detector::NationalId),
    ("cpr", Detector::NationalId),
    ("hetu", Detector::NationalId),
    ("itin", Detector::NationalId),
    ("tfn", Detector::NationalId),
    ("personnummer", Detector::NationalId),
    ("passport", Detector::NationalId),
];

/// Words of names that stand together, joined.
const COMPOUNDS: &[(&str, Detector)] = &[
    ("phonenumber", Detector::Phone),
    ("mobilenumber", Detector::Phone),
    ("telephonenumber", Detector::Phone),
    ("contactnumber", Detector::Phone),
    ("faxnumber", Detector::Phone),
    ("homephone", Detector::Phone),
    ("workphone", Detector::Phone),
    ("mobilephone", Detector::Phone),
    ("dateofbirth", Detector::DateOfBirth),
    ("birthday", Detector::DateOfBirth),
    ("nationalid", Detector::NationalId),
    ("nationalidnumber", Detector::NationalId),
    ("nationalinsurance", Detector::NationalId),
    ("nationalinsurancenumber", Detector::NationalId),
    ("nationalidentifier", Detector::NationalId),
    ("nationalidentity", Detector::NationalId),
    ("personalid", Detector::NationalId),
    ("personalidentitynumber", Detector::NationalId),
    ("identitycard", Detector::NationalId),
    ("idcard", Detector::NationalId),
    ("idcardnumber", Detector::NationalId),
    ("identitynumber", Detector::NationalId),
    ("identitydocument", Detector::NationalId),
    ("citizenid", Detector::NationalId),
    ("passportnumber", Detector::NationalId),
    ("passportno", Detector::NationalId),
    ("driverslicense", Detector::NationalId),
    ("driverlicense", Detector::NationalId),
    ("driverslicence", Detector::NationalId),
    ("drivinglicence", Detector::NationalId),
    ("nhsnumber", Detector::NationalId),
    ("socialinsurancenumber", Detector::NationalId),
    ("taxid", Detector::NationalId),
    ("taxidnumber", Detector::NationalId),
    ("taxfilenumber", Detector::NationalId),
    ("taxpayerid", Detector::NationalId),
    ("steuerid", Detector::NationalId),
    ("codicefiscale", Detector::NationalId),
    ("tckimlik", Detector::NationalId),
    ("tckimlikno", Detector::NationalId),
    ("mynumber", Detector::NationalId),
    ("rodnecislo", Detector::NationalId),
];

/// Words that may follow, and change nothing.
const ENDS: &[&str] = &["number", "no", "num", "nr", "date", "on", "e164", "value", "primary", "home", "work"];

/// What a member's name says of its value. At most a few dozen bytes of the name are looked at.
pub(crate) fn of_name(name: &str) -> Option<Detector> {
    if name.len() < 3 || name.len() > 64 {
        return None;
    }
    let words = Words::of(&super::fold_name(name));
    let mut count = words.count;
    if count > 0 && matches!(words.get(0), "number" | "count") && (1..count).any(|index| words.get(index) == "of") {
        // How many there are.
        return None;
    }
    loop {
        let last = words.get(count.checked_sub(1)?).trim_end_matches(|c: char| c.is_ascii_digit());
        let of_word = WORDS.iter().find(|(word, _)| *word == last || last.strip_suffix('s') == Some(word));
        if let Some((_, detector)) = of_word {
            return Some(*detector);
        }
        for first in count.saturating_sub(4)..count {
            let joined = (first..count - 1).map(|index| words.get(index)).collect::<String>() + last;
            if let Some((_, detector)) = COMPOUNDS.iter().find(|(compound, _)| *compound == joined) {
                return Some(*detector);
            }
        }
        let is_end = last.is_empty() || ENDS.contains(&last);
        if !is_end {
            return None;
        }
        count -= 1;
    }
}

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

/// Loads the numbering plans where they are needed (some 10 MiB and 0.1 s), so that no event waits for them.
pub(crate) fn prepare(on: Set) {
    if on & bit(Detector::Phone) != 0 {
        let _ = phonenumber::parse(None, "+10000000");
    }
}

/// The end of what stands before a place, in lower case, for what it says of what follows.
fn before(text: &str, start: usize) -> String {
    super::before(text, start, 40).to_lowercase()
}

/// Telephone numbers: international ones by the numbering plans (ITU-T E.164), national ones after a word that says so, and those of North America in
/// their usual form.
pub(super) fn phone(text: &str, add: &mut dyn FnMut(usize, usize)) {
    pattern!(shape, r"(?:\+|\b00)?[ ]?\(?[0-9][0-9 ()./\u{2010}-\u{2015}\u{a0}-]{4,22}[0-9]");
    pattern!(american, r"^(?:\+?1[ .-]?)?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-.])[2-9][0-9]{2}[-.][0-9]{4}$");
    pattern!(
        says,
        r"(?:(?:^|[^\p{L}])(?:phone|telephone|phonenumber|ph|tel|tlf|mobile|mobil|cell|cellphone|fax|msisdn|whatsapp|telefon|telefonnummer|telefono|telefone|t\u{e9}l\u{e9}phone|tel\u{e9}fono|m\u{f3}vil|celular|handy|handynummer|\u{442}\u{435}\u{43b}|(?:call|text) (?:me|us|him|her|them|back)|sms (?:sent )?to)|\u{7535}\u{8bdd}|\u{96fb}\u{8a71}|\u{624b}\u{673a}|\u{c804}\u{d654})s?(?:[_ -]?(?:number|nr|no|num))?(?:[^0-9\p{L}+]{0,4}(?:is|was|at|to|on|updated to))?[^0-9\p{L}+]{0,5}$"
    );
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
            || says().is_some_and(|says| says.is_match(&before(text, start)));
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
    pattern!(
        said,
        r"(?i)(?:\bdob\b|\bborn\b|birth(?:day|date)?\b|\bgeb(?:oren|urtsdatum|urtstag|\.)|\bn\u{e9}e? le\b|naissance|nacimiento|nascimento|nascita|geboortedatum|\u{440}\u{43e}\u{436}\u{434}\u{435}\u{43d}\u{438}\u{44f}|\u{51fa}\u{751f}|\u{751f}\u{5e74}\u{6708}\u{65e5})[^0-9\n]{0,24}?((?:[0-9]{4}[-/.\u{5e74}][0-9]{1,2}[-/.\u{6708}][0-9]{1,2})|(?:[0-9]{1,2}[-/. ][0-9]{1,2}[-/. ](?:[0-9]{4}|[0-9]{2}))|(?:[0-9]{1,2}(?:st|nd|rd|th|\.)? (?:de )?\p{L}{3,10}\.?,? (?:de )?[0-9]{4})|(?:(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.? [0-9]{1,2}(?:st|nd|rd|th)?,? [0-9]{4})|(?:(?:19|20)[0-9]{6}))"
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
                if national::is_number(number, || named_before(text, start)) {
                    add(start, end);
                    from = to + 1;
                    continue 'words;
                }
            }
            from += 1;
        }
    }
}

/// Whether the last words before a place name a national number.
fn named_before(text: &str, start: usize) -> bool {
    let before = before(text, start);
    let said = before.trim_end_matches(|c: char| !c.is_alphanumeric());
    let said = said.strip_suffix(" is").unwrap_or(said);
    let tail: Vec<&str> = said.rsplit([' ', '"', '\'', ',', ';', '{', '(']).take(4).collect();
    (1..=tail.len()).any(|count| {
        let name = tail[..count].iter().rev().copied().collect::<Vec<_>>().join(" ");
        of_name(&name) == Some(Detector::NationalId)
    })
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
        ] {
            assert_eq!(found(birth, text), [wanted], "{text}");
        }
        assert!(found(birth, "created 1980-05-12, stubborn 2020-01-01").is_empty());
    }
}
