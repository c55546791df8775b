//! Which member names matter. Names are folded as [`fold_name`] does, from their end and without allocation.
use steno_crds::fold_name;

/// Longer than every name that is looked for, so that what does not fit can only match by its end.
const SIZE: usize = 24;

/// What a member's name says about its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// The value is a secret, whole.
    Secret,
    /// The raw body of a request.
    RequestBody,
    /// The raw body of a response.
    ResponseBody,
    /// The value half of a name/value pair.
    PairValue,
}

/// The end of a folded name.
pub(crate) struct Tail {
    bytes: [u8; SIZE],
    from: usize,
    whole: bool,
}

/// Ends that make a longer name secret.
const SUFFIXES: &[&[u8]] = &[
    b"password",
    b"passwd",
    b"passphrase",
    b"secret",
    b"apikey",
    b"privatekey",
    b"accesstoken",
    b"refreshtoken",
    b"secretkey",
    b"authtoken",
    b"secretaccesskey",
];

/// Ends of the names that assign a secret in free text. Fewer than the members' names: `token: …` and `pin: …` are prose.
const ASSIGNED: &[&[u8]] = &[
    b"password",
    b"passwd",
    b"pwd",
    b"passphrase",
    b"secret",
    b"apikey",
    b"accesstoken",
    b"refreshtoken",
    b"authtoken",
    b"secretkey",
    b"secretaccesskey",
    b"privatekey",
];

/// What the name of a member says about its value.
pub(crate) fn kind(name: &str) -> Kind {
    let tail = Tail::of(name);
    match tail.whole() {
        Some(b"requestbody" | b"requestobject") => Kind::RequestBody,
        Some(b"responsebody" | b"responseobject") => Kind::ResponseBody,
        Some(b"value" | b"values" | b"val") => Kind::PairValue,
        _ if tail.is_secret() => Kind::Secret,
        _ => Kind::Plain,
    }
}

/// Whether a text is a secret name.
pub(crate) fn is_secret(name: &str) -> bool {
    Tail::of(name).is_secret()
}

/// Whether a text is the name of a header that carries a secret. Such a name next to a value is a pair anywhere.
pub(crate) fn is_secret_header(name: &str) -> bool {
    matches!(
        Tail::of(name).whole(),
        Some(
            b"authorization"
                | b"proxyauthorization"
                | b"cookie"
                | b"setcookie"
                | b"xapikey"
                | b"xauthtoken"
                | b"xcsrftoken"
                | b"xxsrftoken"
        )
    )
}

/// Whether a member with this name holds the name of a name/value pair.
pub(crate) fn is_pair_name(name: &str) -> bool {
    // Most names are ruled out by their length.
    matches!(name.len(), 3..=6) && ["name", "key", "header", "field"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Whether a member is likely a raw body, for the order in which values are cut.
pub(crate) fn is_body(name: &str) -> bool {
    name.len() >= 4 && fold_name(name).contains("body")
}

fn is_exact(name: &[u8]) -> bool {
    matches!(
        name,
        b"password" | b"passwd" | b"pwd" | b"passphrase" | b"passcode" | b"pin" | b"secret" | b"clientsecret" | b"apikey"
            | b"xapikey" | b"apisecret" | b"accesskey" | b"accesskeysecret" | b"secretkey" | b"secretaccesskey" | b"privatekey"
            | b"signingkey" | b"encryptionkey" | b"token" | b"accesstoken" | b"refreshtoken" | b"idtoken" | b"authtoken"
            | b"bearertoken" | b"sessiontoken" | b"csrftoken" | b"xsrftoken" | b"xcsrftoken" | b"xxsrftoken" | b"xauthtoken"
            | b"authorization" | b"proxyauthorization" | b"cookie" | b"setcookie" | b"credential" | b"credentials"
            | b"connectionstring" | b"cvv" | b"cvc" | b"cvv2" | b"cardnumber" | b"cardno" | b"pan" | b"ssn"
            | b"socialsecuritynumber" | b"otp" | b"totp" | b"mfacode" | b"recoverycode"
    )
}

fn ends_in(name: &[u8], suffixes: &[&[u8]]) -> bool {
    // The last letters of all suffixes: most names end here.
    matches!(name.last(), Some(b'd' | b'e' | b'n' | b't' | b'y')) && suffixes.iter().any(|suffix| name.ends_with(suffix))
}

// === impl Tail ===

impl Tail {
    fn of(name: &str) -> Self {
        // A few letters outside ASCII fold into it, such as the Kelvin sign.
        if name.is_ascii() { Self::ascii(name.as_bytes()) } else { Self::ascii(fold_name(name).as_bytes()) }
    }

    /// The end of a name whose letters are ASCII or folded already.
    pub(crate) fn ascii(name: &[u8]) -> Self {
        let mut tail = Self { bytes: [0; SIZE], from: SIZE, whole: true };
        for byte in name.iter().rev() {
            if matches!(byte, b'-' | b'_' | b' ' | b'.') {
                continue;
            }
            if tail.from == 0 {
                tail.whole = false;
                break;
            }
            tail.from -= 1;
            tail.bytes[tail.from] = byte.to_ascii_lowercase();
        }
        tail
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.from..]
    }

    fn whole(&self) -> Option<&[u8]> {
        self.whole.then(|| self.bytes())
    }

    /// Whether it is the name of a secret member.
    pub(crate) fn is_secret(&self) -> bool {
        self.whole().is_some_and(is_exact) || ends_in(self.bytes(), SUFFIXES)
    }

    /// Whether it is a name that assigns a secret in free text.
    pub(crate) fn is_assigned(&self) -> bool {
        ends_in(self.bytes(), ASSIGNED)
    }

    /// Whether it is the name of a query parameter that carries a secret.
    pub(crate) fn is_secret_parameter(&self) -> bool {
        self.is_secret() || matches!(self.whole(), Some(b"sig" | b"signature" | b"xamzsignature" | b"xamzsecuritytoken"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_names_are_found_in_any_spelling() {
        for name in ["password", "PaSsWoRd", "API KEY", "api.key", "Pass-_.Word", "X-XSRF-Token", "aws_secret_access_key", "PGPASSWORD"] {
            assert_eq!(kind(name), Kind::Secret, "{name}");
        }
        assert_eq!(kind("to\u{212a}en"), Kind::Secret, "the Kelvin sign folds to k");
        assert_eq!(kind(&format!("{}_password", "x".repeat(500))), Kind::Secret);
    }

    #[test]
    fn names_that_only_contain_a_secret_name_are_plain() {
        for name in ["passwordChangedAt", "tokenType", "secretary", "company", "spin", "imagePullSecrets", "nextPageToken", "", "пин"] {
            assert_eq!(kind(name), Kind::Plain, "{name}");
        }
        // Whole names do not match as the end of a longer one.
        assert_eq!(kind(&format!("{}pin", "x".repeat(40))), Kind::Plain);
    }

    #[test]
    fn bodies_and_pairs_are_told_apart() {
        assert_eq!(kind("request_body"), Kind::RequestBody);
        assert_eq!(kind("responseObject"), Kind::ResponseBody);
        assert_eq!(kind("Values"), Kind::PairValue);
        assert!(is_pair_name("Header") && !is_pair_name("named"));
        assert!(is_body("httpBody") && !is_body("boy"));
    }

    #[test]
    fn every_suffix_passes_the_check_of_the_last_letter() {
        for suffix in SUFFIXES.iter().chain(ASSIGNED) {
            assert!(ends_in(suffix, SUFFIXES) || ends_in(suffix, ASSIGNED));
            assert!(suffix.len() < SIZE);
        }
    }
}
