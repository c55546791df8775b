//! Member names whose value is a secret, whatever it is.

/// Names, folded (lower case, without `-`, `_`, `.` and spaces), sorted.
const NAMES: &[&str] = &[
    "accesskey",
    "accesskeysecret",
    "accesstoken",
    "apikey",
    "apisecret",
    "authorization",
    "authtoken",
    "bearertoken",
    "cardno",
    "cardnumber",
    "clientsecret",
    "connectionstring",
    "cookie",
    "credential",
    "credentials",
    "csrftoken",
    "cvc",
    "cvv",
    "cvv2",
    "encryptionkey",
    "idtoken",
    "mfacode",
    "otp",
    "pan",
    "passcode",
    "passphrase",
    "passwd",
    "password",
    "pin",
    "privatekey",
    "proxyauthorization",
    "pwd",
    "recoverycode",
    "refreshtoken",
    "secret",
    "secretaccesskey",
    "secretkey",
    "sessiontoken",
    "setcookie",
    "signingkey",
    "socialsecuritynumber",
    "ssn",
    "token",
    "totp",
    "xapikey",
    "xauthtoken",
    "xcsrftoken",
    "xsrftoken",
    "xxsrftoken",
];

/// Endings of folded names: `dbPassword`, `STRIPE_API_KEY`.
const ENDINGS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "secret",
    "apikey",
    "privatekey",
    "accesstoken",
    "refreshtoken",
    "secretkey",
    "authtoken",
    "secretaccesskey",
];

/// Query parameters that are secret besides.
const PARAMETERS: &[&str] = &["sig", "signature", "xamzsecuritytoken", "xamzsignature"];

/// Longest name that is looked at; a secret's name is shorter.
const LONGEST: usize = 64;

/// Folds a name into a buffer; `None`: it is too long or not ASCII, and so no secret's name.
fn fold<'b>(name: &str, buffer: &'b mut [u8; LONGEST]) -> Option<&'b str> {
    let mut length = 0;
    for byte in name.bytes() {
        if matches!(byte, b'-' | b'_' | b' ' | b'.') {
            continue;
        }
        *buffer.get_mut(length)? = byte.to_ascii_lowercase();
        length += 1;
    }
    std::str::from_utf8(&buffer[..length]).ok()
}

/// Whether a member of this name is secret.
pub(crate) fn is_secret(name: &str) -> bool {
    // The shortest names have three letters; most names are told by their last one.
    if name.len() < 3 {
        return false;
    }
    let mut buffer = [0; LONGEST];
    // Of a flattened name (`a.b.….password`) only the end counts.
    let end = name.len().saturating_sub(LONGEST);
    let tail = if name.is_char_boundary(end) { &name[end..] } else { name };
    let Some(folded) = fold(tail, &mut buffer) else { return false };
    let ending = matches!(folded.as_bytes().last(), Some(b'd' | b'e' | b't' | b'y' | b'n'));
    NAMES.binary_search(&folded).is_ok() || (ending && ENDINGS.iter().any(|ending| folded.ends_with(ending)))
}

/// Whether a query parameter of this name is secret.
pub(crate) fn is_secret_parameter(name: &str) -> bool {
    let mut buffer = [0; LONGEST];
    is_secret(name) || fold(name, &mut buffer).is_some_and(|folded| PARAMETERS.contains(&folded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_names_are_known_in_every_spelling_and_near_misses_are_not() {
        assert!(NAMES.is_sorted());
        for name in [
            "password",
            "PASSWORD",
            "db_password",
            "X-Api-Key",
            "apiKey",
            "aws.secret.access.key",
            "Set-Cookie",
            "refresh_token",
            "stripeSecretKey",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "passwordChangedAt",
            "tokenType",
            "secretName",
            "keyId",
            "pinned",
            "author",
            "cookieConsent",
            "sessionId",
            "id",
            "",
            "pants",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
