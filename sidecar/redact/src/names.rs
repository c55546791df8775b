//! Member names whose value is a secret, whatever it is.
//!
//! A name is a list of words: `http.request.header.x-api-key`, `user[password][]` and `MYSQL_PWD` are split where a separator stands or the case changes,
//! after folding ([`crate::detect::fold_name`]). What counts are the last words, without those that only say which form of it this is
//! (`passwordHash`, `secretValue`). So `passwordPolicy`, `tokenCount` and `secretName` are no secrets.
use std::{collections::HashMap, sync::OnceLock};

use crate::detect::fold_name;

/// How sure a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Says nothing.
    Plain,
    /// Stands before ordinary values, too: secret is what looks random.
    Soft,
    /// A secret.
    Secret,
}

/// Last words that name a secret, without an `s`; sorted.
const NOUNS: &[&str] = &[
    "auths",
    "creds",
    "pswd",
    "pw",
    "xsrf",
    "psk",
    "mpin",
    "csrfmiddlewaretoken",
    "keytab",
    "kubeconfig",
    "ccnum",
    "pepper",
    "assertion",
    "passw0rd",
    "authorization",
    "cookie",
    "credential",
    "csc",
    "cvc",
    "cvn",
    "cvv",
    "cvv2",
    "dockercfg",
    "dockerconfigjson",
    "mnemonic",
    "otp",
    "pan",
    "passcode",
    "passphrase",
    "passwd",
    "password",
    "pin",
    "pwd",
    "secret",
    "ssn",
    "token",
    "totp",
];

/// Last words that may name a secret.
const SOFT: &[&str] = &["pat", "tan", "auth", "authentication", "dsn", "pas", "pass", "jwt", "sid"];

/// Last two to four words, joined, without an `s`; sorted.
const COMPOUNDS: &[&str] = &[
    "accesscode",
    "activationkey",
    "aspnetsessionid",
    "authenticationcode",
    "certificatekey",
    "devicekey",
    "enckey",
    "idrsa",
    "keymaterial",
    "keysbase",
    "recoverykeysbase",
    "secretbinary",
    "securestring",
    "tfacode",
    "unlockcode",
    "wifikey",
    "presharedkey",
    "totpseed",
    "walletseed",
    "mnemonicphrase",
    "onetimecode",
    "otpauth",
    "otpauthurl",
    "oauthverifier",
    "authheader",
    "ccnumber",
    "primaryaccountnumber",
    "bankaccountiban",
    "unlockkey",
    "saltkey",
    "noncesalt",
    "loggedinkey",
    "applicationkey",
    "agekey",
    "rolekey",
    "insertkey",
    "emailkey",
    "authconfig",
    "bcrypthash",
    "shadowhash",
    "ntlmhash",
    "sajson",
    "gcpsajson",
    "credentialsjson",
    "connectionstringsdefault",
    "jwtassertion",
    "samlresponse",
    "clientassertion",
    "codeverifier",
    "secretanswer",
    "wepkey",
    "authorizationbearer",
    "amzsignature",
    "hubsignature256",
    "hubsignature",
    "slacksignature",
    "stripesignature",
    "squaresignature",
    "twiliosignature",
    "sessionidcookie",
    "accesskey",
    "accesskeysecret",
    "accountkey",
    "aeskey",
    "apikey",
    "appkey",
    "authcode",
    "authkey",
    "authorizationcode",
    "backupcode",
    "cardcode",
    "cardnumber",
    "cardno",
    "cipherkey",
    "clientkey",
    "communitystring",
    "connectionstring",
    "connstr",
    "connstring",
    "consumerkey",
    "creditcard",
    "creditcardnumber",
    "cryptokey",
    "cryptographickey",
    "debitcard",
    "decryptionkey",
    "deploykey",
    "encryptionkey",
    "functionskey",
    "functionkey",
    "hmackey",
    "instrumentationkey",
    "jwtkey",
    "licensekey",
    "licencekey",
    "masterkey",
    "mfacode",
    "otpcode",
    "passkey",
    "pincode",
    "privatekey",
    "privkey",
    "productkey",
    "recoverycode",
    "recoverykey",
    "recoveryphrase",
    "rootkey",
    "rsakey",
    "secretaccesskey",
    "secretkey",
    "securityanswer",
    "securitycode",
    "seedphrase",
    "serverkey",
    "servicekey",
    "serviceaccountkey",
    "sessid",
    "sessionkey",
    "setcookie",
    "sharedaccesskey",
    "sharedkey",
    "signingkey",
    "smscode",
    "snmpcommunity",
    "socialsecurity",
    "socialsecuritynumber",
    "socialsecurityno",
    "sshkey",
    "sslkey",
    "storagekey",
    "subscriptionkey",
    "symmetrickey",
    "tlskey",
    "totpcode",
    "twofactorcode",
    "unsealkey",
    "verificationcode",
    "webhookkey",
    "writekey",
];

/// Endings of one word that somebody ran together: `dbpassword`, `JSESSIONID`, `PGPASSWORD`.
const ENDINGS: &[&str] = &[
    "accesskey",
    "accesstoken",
    "apikey",
    "apitoken",
    "authtoken",
    "clientsecret",
    "connectionstring",
    "creditcard",
    "cardnumber",
    "encryptionkey",
    "idtoken",
    "passcode",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "refreshtoken",
    "secretaccesskey",
    "secretkey",
    "secrettoken",
    "sessid",
    "sessionid",
    "sessiontoken",
    "signingkey",
    "socialsecuritynumber",
    "csrftoken",
    "xsrftoken",
    "setcookie",
    "userpass",
    "webhooksecret",
    "signaturesecret",
    "jwtsecret",
    "apisecret",
    "appsecret",
    "tokensecret",
    "consumersecret",
];

/// The same in other languages (Spanish, Portuguese, French, German, Dutch, Italian, the Nordic and Slavic languages, Turkish, Indonesian, Vietnamese).
const LATIN: &[&str] = &[
    "adgangskode",
    "contrasena",
    "contrasenia",
    "contrasenya",
    "geheim",
    "geheimnis",
    "haslo",
    "heslo",
    "jelszo",
    "katasandi",
    "kennwort",
    "kodeord",
    "losenord",
    "lozinka",
    "matkhau",
    "motdepasse",
    "motpasse",
    "parola",
    "parolachiave",
    "parole",
    "parool",
    "passord",
    "passwort",
    "salasana",
    "salasona",
    "senha",
    "sifre",
    "slaptazodis",
    "wachtwoord",
    "zaporka",
];

/// In other scripts, anywhere in a name.
const SCRIPTS: &[&str] = &[
    "пароль",
    "парола",
    "лозинка",
    "κωδικος",
    "密码",
    "密碼",
    "口令",
    "密钥",
    "密鑰",
    "令牌",
    "卡号",
    "パスワード",
    "暗証番号",
    "비밀번호",
    "암호",
    "סיסמה",
    "סיסמא",
    "كلمة المرور",
    "كلمة السر",
    "पासवर्ड",
    "पासवर्ड",
    "รหัสผ่าน",
    "пассворд",
];

/// Last words that say which form of a secret this is.
const FORMS: &[&str] = &[
    "again",
    "b64",
    "base",
    "base64",
    "binary",
    "bytes",
    "clear",
    "cleartext",
    "confirm",
    "confirmation",
    "current",
    "data",
    "decoded",
    "digest",
    "enc",
    "encoded",
    "encrypted",
    "field",
    "full",
    "hash",
    "hashed",
    "header",
    "hex",
    "input",
    "md5",
    "new",
    "old",
    "param",
    "pem",
    "plain",
    "plaintext",
    "raw",
    "repeat",
    "salt",
    "sha1",
    "sha256",
    "str",
    "string",
    "text",
    "val",
    "value",
    "var",
];

/// First words of names that ask or state something about a secret.
const ABOUT: &[&str] = &[
    "allow", "allows", "can", "did", "disable", "disabled", "enable", "enabled", "forgot", "has", "have", "hide", "invalid",
    "is", "missing", "must", "need", "needs", "no", "requires", "should", "show", "skip", "supports", "uses", "valid", "was",
    "without",
];

/// Services whose `key` is a secret.
const VENDORS: &[&str] = &[
    "airtable",
    "algolia",
    "amplitude",
    "bittrex",
    "bugsnag",
    "cloudflare",
    "codecov",
    "coinbase",
    "datadog",
    "discord",
    "dropbox",
    "etherscan",
    "fastly",
    "finnhub",
    "flickr",
    "freshbooks",
    "gitter",
    "gocardless",
    "heroku",
    "honeycomb",
    "hubspot",
    "infura",
    "intercom",
    "kraken",
    "kucoin",
    "linkedin",
    "lob",
    "mailchimp",
    "mailgun",
    "mapbox",
    "mattermost",
    "messagebird",
    "newrelic",
    "okta",
    "openai",
    "opsgenie",
    "pagerduty",
    "plaid",
    "postmark",
    "pusher",
    "sendbird",
    "sendgrid",
    "sentry",
    "shodan",
    "slack",
    "snyk",
    "squarespace",
    "stripe",
    "sumologic",
    "travis",
    "trello",
    "twilio",
    "twitch",
    "twitter",
    "typeform",
    "yandex",
    "zendesk",
];

/// Words before `token` that make it a place in a list, or a count.
const TOKENS_OF_LISTS: &[&str] = &[
    "completion",
    "continuation",
    "continue",
    "cursor",
    "delta",
    "input",
    "max",
    "min",
    "next",
    "output",
    "page",
    "paging",
    "pagination",
    "prompt",
    "resume",
    "skip",
    "sync",
    "total",
    "usage",
];

/// Query parameters that are secret besides.
const PARAMETERS: &[&str] = &["codeverifier", "assertion", "hmac", "samlrequest", "samlresponse", "sig", "signature", "ticket"];
/// Query parameters that are secret if they look random.
const SOFT_PARAMETERS: &[&str] = &["code", "jwt", "key", "k", "sessionid", "sid", "t", "auth"];

/// Longest part of a name that is looked at; a secret's name is shorter.
const LONGEST: usize = 72;
/// Most words that are looked at.
const WORDS: usize = 12;

/// The last words of a name, in lower case.
pub(crate) struct Words {
    text: [u8; LONGEST],
    bounds: [(u8, u8); WORDS],
    pub(crate) count: usize,
}

// === impl Words ===

impl Words {
    /// Of a name after folding. What is left of other scripts separates words.
    pub(crate) fn of(folded: &str) -> Self {
        Self::split(&folded.chars().map(|c| if c.is_ascii() { c as u8 } else { b'.' }).collect::<Vec<u8>>())
    }

    /// Of an ASCII name.
    fn split(name: &[u8]) -> Self {
        let tail = &name[name.len().saturating_sub(LONGEST)..];
        let mut words = Self { text: [0; LONGEST], bounds: [(0, 0); WORDS], count: 0 };
        for (at, byte) in tail.iter().enumerate() {
            words.text[at] = byte.to_ascii_lowercase();
        }
        // From the end: the last words are those that count.
        let mut end = tail.len();
        let mut found = [(0, 0); WORDS];
        while end > 0 && words.count < WORDS {
            if !tail[end - 1].is_ascii_alphanumeric() {
                end -= 1;
                continue;
            }
            let mut start = end - 1;
            while start > 0 && tail[start - 1].is_ascii_alphanumeric() {
                let (before, this) = (tail[start - 1], tail[start]);
                let begins = this.is_ascii_uppercase() && before.is_ascii_lowercase()
                    || this.is_ascii_uppercase()
                        && before.is_ascii_alphanumeric()
                        && tail.get(start + 1).is_some_and(u8::is_ascii_lowercase)
                        && start + 1 < end
                        && !before.is_ascii_lowercase();
                if begins {
                    break;
                }
                start -= 1;
            }
            found[words.count] = (start as u8, end as u8);
            words.count += 1;
            end = start;
        }
        for (index, bounds) in found[..words.count].iter().rev().enumerate() {
            words.bounds[index] = *bounds;
        }
        words
    }

    pub(crate) fn get(&self, index: usize) -> &str {
        let (start, end) = self.bounds[index];
        std::str::from_utf8(&self.text[usize::from(start)..usize::from(end)]).unwrap_or_default()
    }
}

fn singular(word: &str) -> &str {
    let word = word.trim_end_matches(|c: char| c.is_ascii_digit());
    if word.len() > 3 && !word.ends_with("ss") { word.strip_suffix('s').unwrap_or(word) } else { word }
}

const NOUN: u8 = 1;
const SOFTLY: u8 = 2;
const COMPOUND: u8 = 4;
const FORM: u8 = 8;
const STATES: u8 = 16;
const OF_LISTS: u8 = 32;

/// What is known of a word, or of several joined.
fn known(word: &str) -> u8 {
    static TABLE: OnceLock<HashMap<&'static str, u8>> = OnceLock::new();
    if !(2..=28).contains(&word.len()) {
        return 0;
    }
    let table = TABLE.get_or_init(|| {
        let mut table = HashMap::new();
        let lists = [
            (NOUNS, NOUN),
            (LATIN, NOUN),
            (SOFT, SOFTLY),
            (COMPOUNDS, COMPOUND),
            (FORMS, FORM),
            (ABOUT, STATES),
            (TOKENS_OF_LISTS, OF_LISTS),
        ];
        for (words, flag) in lists {
            for word in words {
                *table.entry(*word).or_default() |= flag;
            }
        }
        table
    });
    table.get(word).copied().unwrap_or_default()
}

fn is(word: &str, flag: u8) -> bool {
    known(word) & flag != 0
}

/// What a name says of its value.
pub(crate) fn class(name: &str) -> Class {
    if name.len() < 3 && !name.eq_ignore_ascii_case("pw") {
        return Class::Plain;
    }
    crate::detect::worked!(name.len());
    if name.is_ascii() {
        return class_of(name.as_bytes());
    }
    let folded = fold_name(name);
    if is_of_script(&folded) {
        return Class::Secret;
    }
    // What is left of other scripts separates words.
    class_of(&folded.chars().map(|c| if c.is_ascii() { c as u8 } else { b'.' }).collect::<Vec<u8>>())
}

fn is_of_script(folded: &str) -> bool {
    static FOLDED: OnceLock<Vec<String>> = OnceLock::new();
    let known = FOLDED.get_or_init(|| SCRIPTS.iter().map(|word| fold_name(word)).collect());
    let lower = folded.to_lowercase().replace('_', " ");
    known.iter().any(|word| lower.contains(word.as_str()))
}

fn class_of(name: &[u8]) -> Class {
    let words = Words::split(name);
    let mut count = words.count;
    // `password_2`, `password_v2`.
    let is_number = |word: &str| word.strip_prefix('v').unwrap_or(word).bytes().all(|byte| byte.is_ascii_digit());
    while count > 1 && is_number(words.get(count - 1)) {
        count -= 1;
    }
    if count == 0 {
        return Class::Plain;
    }
    if count > 1 && is(words.get(0), STATES) {
        return Class::Plain;
    }
    let whole = count;
    let mut found = last_words(&words, count);
    while found == Class::Plain && count > 1 && is(words.get(count - 1), FORM) {
        count -= 1;
        found = last_words(&words, count);
    }
    if found == Class::Plain && words.count > 2 && (words.get(0), words.get(1)) == ("tf", "token") {
        return Class::Secret;
    }
    if found == Class::Plain {
        // `AuThOrIzAtIoN`: what looks like many words is one.
        let tail: Vec<u8> =
            name.iter().rev().take(LONGEST).take_while(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect();
        let tail: String = tail.iter().rev().map(|byte| char::from(*byte)).collect();
        if words.count > 3 && is(&tail, NOUN) {
            return Class::Secret;
        }
    }
    // `dataInput` is no secret because `data` is no form of one.
    if found == Class::Soft && count < whole { Class::Plain } else { found }
}

fn last_words(words: &Words, count: usize) -> Class {
    let last = words.get(count - 1);
    let single = singular(last);
    let before = if count > 1 { words.get(count - 2) } else { "" };
    if single == "token" && (is(before, OF_LISTS) || before.ends_with("page")) {
        return Class::Plain;
    }
    // `PublicKey` and the like name what is no secret.
    if matches!(before, "public" | "pub") {
        return Class::Plain;
    }
    // The name of a Kubernetes Secret, unless it looks random.
    if single == "secret" && matches!(before, "existing" | "pull" | "tls" | "referenced") {
        return Class::Soft;
    }
    let of_last = known(last);
    if (of_last | known(single)) & NOUN != 0 {
        return Class::Secret;
    }
    if single == "key" && (before.ends_with("api") || before == "fastly") {
        return Class::Secret;
    }
    if single == "key" && VENDORS.contains(&before) {
        return Class::Soft;
    }
    let mut joined = [0u8; LONGEST];
    for first in (count.saturating_sub(4)..count).rev() {
        let mut length = 0;
        for index in first..count {
            let word = words.get(index).as_bytes();
            joined[length..length + word.len()].copy_from_slice(word);
            length += word.len();
        }
        let text = std::str::from_utf8(&joined[..length]).unwrap_or_default();
        let text = singular(text);
        if is(text, COMPOUND | NOUN) {
            return Class::Secret;
        }
        // Of words that stand apart, only the last one may have been run together.
        if first + 1 == count && ENDINGS.iter().any(|ending| text.ends_with(ending)) {
            return Class::Secret;
        }
    }
    // An id of a session is an identity where it is written as two words, and a cookie where it is one.
    if of_last & SOFTLY != 0 { Class::Soft } else { Class::Plain }
}

/// Whether a member of this name is secret.
pub(crate) fn is_secret(name: &str) -> bool {
    class(name) == Class::Secret
}

/// Whether a value looks as if a generator had made it.
pub(crate) fn looks_random(value: &str) -> bool {
    let has = |test: fn(&u8) -> bool| value.bytes().any(|byte| test(&byte));
    let kinds = usize::from(has(u8::is_ascii_digit))
        + usize::from(has(u8::is_ascii_lowercase))
        + usize::from(has(u8::is_ascii_uppercase));
    // Without a digit: the case changes more often than words do it.
    let changes = value.as_bytes().windows(2).filter(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase()).count();
    let is_mixed =
        kinds == 3 || has(u8::is_ascii_digit) && kinds == 2 && value.len() >= 16 || changes >= 5 && changes * 5 >= value.len();
    value.len() >= 8 && is_mixed && !value.contains(' ')
}

fn fold_parameter(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Whether a query parameter is secret.
pub(crate) fn is_secret_parameter(name: &str, value: &str) -> bool {
    match class(name) {
        Class::Secret => return !is_small(name, value),
        Class::Soft if looks_random(value) => return true,
        _ => {}
    }
    let folded = fold_parameter(name);
    PARAMETERS.iter().any(|known| folded == *known || known.len() > 6 && folded.ends_with(known))
        || SOFT_PARAMETERS.contains(&folded.as_str()) && value.len() >= 12 && looks_random(value)
}

/// Whether a name is that of a secret parameter and of nothing else: it is one without a URL around it, too.
pub(crate) fn is_parameter_only(name: &str) -> bool {
    let folded = fold_parameter(name);
    class(name) == Class::Plain && PARAMETERS.contains(&folded.as_str())
}

/// What is said of a secret's state where the secret would stand: `"password": "changed"`.
const STATES_OF: &[&str] = &[
    "absent",
    "changed",
    "created",
    "deleted",
    "denied",
    "disabled",
    "enabled",
    "expired",
    "failed",
    "granted",
    "incorrect",
    "invalid",
    "issued",
    "missing",
    "optional",
    "present",
    "rejected",
    "removed",
    "required",
    "reset",
    "revoked",
    "rotated",
    "unchanged",
    "updated",
    "valid",
    "verified",
];

/// Whether a text only says what became of a secret.
pub(crate) fn is_state(value: &str) -> bool {
    value.len() <= 9 && STATES_OF.iter().any(|state| state.eq_ignore_ascii_case(value))
}

/// Whether a whole number under this name counts secrets: `failedPasswords`, `apiKeys`.
pub(crate) fn counts(name: &str) -> bool {
    let last = name.trim_end_matches(|c: char| !c.is_alphanumeric());
    last.ends_with('s')
        && !last.ends_with("ss")
        && !["pins", "otps", "codes"].iter().any(|word| last.to_ascii_lowercase().ends_with(word))
}

/// A number that is no secret: below ten, or one that pans a map.
pub(crate) fn is_small(name: &str, value: &str) -> bool {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    is_number && (value.len() == 1 || value.len() < 8 && name.len() >= 3 && name[name.len() - 3..].eq_ignore_ascii_case("pan"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_names_are_known_in_every_spelling() {
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
            "GITHUB_TOKEN",
            "HTTP_COOKIE",
            "MYSQL_PWD",
            "PGPASSWORD",
            "user[password][]",
            "passwords[0]",
            "password?",
            "root['password']",
            "http.request.header.authorization",
            "X-Vault-Token",
            "apiKeys",
            "pass_word",
            "PassWord",
            "tls.key",
            "client-key-data",
            "secretKeyBase",
            "passwordConfirmation",
            "encryption_key_base64",
            "JSESSIONID",
            "sessId",
            "X-Rapidapi-Key",
            "DD-API-KEY",
            "ｐａｓｓｗｏｒｄ",
            "pаssword",
            "pass\u{200b}word",
            "pāssword",
            "motDePasse",
            "senha",
            "密码",
            "contraseña",
            "пароль",
            "şifre",
            "비밀번호",
            "card_cvv",
            "login.otp",
            "X-Forwarded-Authorization",
            "secretAccessKey",
            "recoveryCodes",
        ] {
            assert_eq!(class(name), Class::Secret, "{name}");
        }
    }

    #[test]
    fn weaker_names_are_told_apart() {
        for name in ["auth", "DB_PASS", "dsn", "authentication", "ftp_pass", "sid", "jwt"] {
            assert_eq!(class(name), Class::Soft, "{name}");
        }
        assert_eq!(class("auths"), Class::Secret);
    }

    #[test]
    fn names_about_secrets_are_no_secrets() {
        for name in [
            "passwordChangedAt",
            "tokenType",
            "secretName",
            "keyId",
            "pinned",
            "author",
            "cookieConsent",
            "sessionId",
            "session_id",
            "id",
            "",
            "pants",
            "passwordPolicy",
            "hasPassword",
            "isSecret",
            "tokenCount",
            "nextPageToken",
            "maxTokens",
            "secretary",
            "tokenizer",
            "publicKey",
            "sshPublicKey",
            "partitionKey",
            "company",
            "spinner",
            "passportControl",
            "secretsManagerArn",
            "resetPasswordUrl",
            "authorization_code_flow",
            "OSSAccessKeyId",
            "secretKeyRef",
            "compass",
            "key",
            "code",
            "bypass",
        ] {
            assert_ne!(class(name), Class::Secret, "{name}");
        }
    }
}
