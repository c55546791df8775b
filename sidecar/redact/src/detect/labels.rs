//! What names and labels say of personal data: the words of the larger languages, for members' names (`mobilePhone`) and for text (`Tel.: `).
use std::sync::OnceLock;

use steno_crds::Detector;

use super::fold_name;
use crate::names::Words;

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
    ("telefonnr", Detector::Phone),
    ("rufnummer", Detector::Phone),
    ("handynr", Detector::Phone),
    ("mobil", Detector::Phone),
    ("mobilnummer", Detector::Phone),
    ("mobiel", Detector::Phone),
    ("mob", Detector::Phone),
    ("tlf", Detector::Phone),
    ("ph", Detector::Phone),
    ("telefoon", Detector::Phone),
    ("telefoonnummer", Detector::Phone),
    ("gsm", Detector::Phone),
    ("puhelin", Detector::Phone),
    ("puhelinnumero", Detector::Phone),
    ("komorka", Detector::Phone),
    ("cellulare", Detector::Phone),
    ("telepon", Detector::Phone),
    ("nohp", Detector::Phone),
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
    ("urodzenia", Detector::DateOfBirth),
    ("dogumtarihi", Detector::DateOfBirth),
    ("fodselsdato", Detector::DateOfBirth),
    ("fodelsedatum", Detector::DateOfBirth),
    ("syntymaaika", Detector::DateOfBirth),
    ("narozeni", Detector::DateOfBirth),
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
    ("personnumer", Detector::NationalId),
    ("fodselsnummer", Detector::NationalId),
    ("henkilotunnus", Detector::NationalId),
    ("isikukood", Detector::NationalId),
    ("rijksregisternummer", Detector::NationalId),
    ("burgerservicenummer", Detector::NationalId),
    ("ausweisnummer", Detector::NationalId),
    ("personalausweis", Detector::NationalId),
    ("personalausweisnummer", Detector::NationalId),
    ("sozialversicherungsnummer", Detector::NationalId),
    ("steueridentifikationsnummer", Detector::NationalId),
    ("reisepass", Detector::NationalId),
    ("reisepassnummer", Detector::NationalId),
    ("passeport", Detector::NationalId),
    ("pasaporte", Detector::NationalId),
    ("passaporte", Detector::NationalId),
    ("passaporto", Detector::NationalId),
    ("paspoort", Detector::NationalId),
    ("paszport", Detector::NationalId),
    ("dowod", Detector::NationalId),
    ("cedula", Detector::NationalId),
    ("cuil", Detector::NationalId),
    ("jmbg", Detector::NationalId),
    ("inn", Detector::NationalId),
    ("pps", Detector::NationalId),
    ("ppsn", Detector::NationalId),
    ("emso", Detector::NationalId),
    ("amka", Detector::NationalId),
    ("tckn", Detector::NationalId),
    ("ktp", Detector::NationalId),
    ("mykad", Detector::NationalId),
    ("nrnic", Detector::NationalId),
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
    ("datenaissance", Detector::DateOfBirth),
    ("dogumtarihi", Detector::DateOfBirth),
    ("ngaysinh", Detector::DateOfBirth),
    ("tanggallahir", Detector::DateOfBirth),
    ("dienthoai", Detector::Phone),
    ("sodienthoai", Detector::Phone),
    ("ceptelefonu", Detector::Phone),
    ("numerodetelephone", Detector::Phone),
    ("numerodetelefono", Detector::Phone),
    ("securitesociale", Detector::NationalId),
    ("numerosecuritesociale", Detector::NationalId),
    ("cartaidentita", Detector::NationalId),
    ("carteidentite", Detector::NationalId),
    ("teudatzehut", Detector::NationalId),
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
    if name.len() < 2 || name.len() > 64 {
        return None;
    }
    let of_script = of_script(name);
    if of_script.is_some() {
        return of_script;
    }
    let words = Words::of(&fold_name(name));
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
            let single = joined.strip_suffix('s').unwrap_or(&joined);
            if let Some((_, detector)) = COMPOUNDS.iter().find(|(compound, _)| *compound == joined || *compound == single) {
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

/// Labels in scripts that have no words of ASCII, after folding; they count wherever they stand at the end.
const SCRIPTS: &[(&str, Detector)] = &[
    ("\u{442}\u{435}\u{43b}", Detector::Phone),
    ("\u{442}\u{435}\u{43b}\u{435}\u{444}\u{43e}\u{43d}", Detector::Phone),
    ("\u{442}\u{435}\u{43b}\u{435}\u{444}\u{43e}\u{43d}\u{443}", Detector::Phone),
    ("\u{3c4}\u{3b7}\u{3bb}\u{3ad}\u{3c6}\u{3c9}\u{3bd}\u{3bf}", Detector::Phone),
    ("\u{7535}\u{8bdd}", Detector::Phone),
    ("\u{7535}\u{8bdd}\u{53f7}\u{7801}", Detector::Phone),
    ("\u{96fb}\u{8a71}", Detector::Phone),
    ("\u{96fb}\u{8a71}\u{756a}\u{53f7}", Detector::Phone),
    ("\u{624b}\u{673a}", Detector::Phone),
    ("\u{624b}\u{673a}\u{53f7}", Detector::Phone),
    ("\u{624b}\u{673a}\u{53f7}\u{7801}", Detector::Phone),
    ("\u{643a}\u{5e2f}", Detector::Phone),
    ("\u{c804}\u{d654}", Detector::Phone),
    ("\u{c804}\u{d654}\u{bc88}\u{d638}", Detector::Phone),
    ("\u{d734}\u{b300}\u{d3f0}", Detector::Phone),
    ("\u{647}\u{627}\u{62a}\u{641}", Detector::Phone),
    ("\u{92b}\u{93c}\u{94b}\u{928}", Detector::Phone),
    ("\u{440}\u{43e}\u{436}\u{434}\u{435}\u{43d}\u{438}\u{44f}", Detector::DateOfBirth),
    ("\u{51fa}\u{751f}\u{65e5}\u{671f}", Detector::DateOfBirth),
    ("\u{751f}\u{5e74}\u{6708}\u{65e5}", Detector::DateOfBirth),
    ("\u{c0dd}\u{b144}\u{c6d4}\u{c77c}", Detector::DateOfBirth),
    ("\u{8eab}\u{4efd}\u{8bc1}", Detector::NationalId),
    ("\u{8eab}\u{4efd}\u{8bc1}\u{53f7}", Detector::NationalId),
    ("\u{8eab}\u{4efd}\u{8bc1}\u{53f7}\u{7801}", Detector::NationalId),
    ("\u{8eab}\u{5206}\u{8b49}", Detector::NationalId),
    ("\u{30de}\u{30a4}\u{30ca}\u{30f3}\u{30d0}\u{30fc}", Detector::NationalId),
    ("\u{c8fc}\u{bbfc}\u{b4f1}\u{b85d}\u{bc88}\u{d638}", Detector::NationalId),
    ("\u{43f}\u{430}\u{441}\u{43f}\u{43e}\u{440}\u{442}", Detector::NationalId),
    ("\u{441}\u{43d}\u{438}\u{43b}\u{441}", Detector::NationalId),
    ("\u{438}\u{43d}\u{43d}", Detector::NationalId),
];

/// What a text or a name in another script ends in.
pub(crate) fn of_script(text: &str) -> Option<Detector> {
    static FOLDED: OnceLock<Vec<(String, Detector)>> = OnceLock::new();
    if text.is_ascii() {
        return None;
    }
    let known =
        FOLDED.get_or_init(|| SCRIPTS.iter().map(|(word, detector)| (fold_name(word).to_lowercase(), *detector)).collect());
    let folded = fold_name(text).to_lowercase();
    let ends = |word: &str| {
        let before = folded.strip_suffix(word)?.chars().next_back();
        // Where words have blanks between them, this is one.
        let is_spaced = word.chars().all(|c| c < '\u{900}');
        (!is_spaced || !before.is_some_and(char::is_alphabetic)).then_some(())
    };
    known.iter().find(|(word, _)| ends(word).is_some()).map(|(_, detector)| *detector)
}
