//! Values whose name stands beside them: `{"name": "Authorization", "value": …}`, `{"field": "password", "oldValue": …}`, JSON Patch, keys of JOSE.
use steno_crds::fold_name;
use steno_event::json::{Json, Object};

use crate::names;

/// Members that name something.
const NAMES: &[&str] = &[
    "name",
    "key",
    "header",
    "field",
    "fieldname",
    "attribute",
    "attributename",
    "parameter",
    "parameterkey",
    "configkey",
    "displayname",
    "settingname",
    "param",
    "property",
    "propertyname",
    "k",
    "label",
    "variable",
    "option",
    "column",
    "columnname",
    "path",
    "setting",
    "id",
    "type",
    "inputtype",
    "kind",
    "claim",
    "arg",
];

/// Members that have its value.
const VALUES: &[&str] = &[
    "value",
    "values",
    "val",
    "v",
    "rawvalue",
    "oldvalue",
    "newvalue",
    "old",
    "new",
    "before",
    "after",
    "from",
    "to",
    "current",
    "previous",
    "default",
    "defaultvalue",
    "stringvalue",
    "original",
    "updated",
    "was",
    "now",
    "content",
    "text",
    "plaintext",
    "oldval",
    "newval",
    "valuebefore",
    "fromstring",
    "tostring",
    "lhs",
    "rhs",
    "parametervalue",
    "configvalue",
    "settingvalue",
    "valueafter",
    "currentvalue",
    "previousvalue",
];

/// Members that say of the value beside them that it is secret, if they are `true`: Terraform's outputs and variables.
const SAID: &[&str] = &["sensitive", "issensitive", "issecret", "secret"];

/// Members of an object that only refers to a secret.
const REFERENCES: &[&str] = &[
    "secretname",
    "name",
    "namespace",
    "key",
    "optional",
    "items",
    "defaultmode",
    "audience",
    "audiences",
    "expirationseconds",
    "path",
    "mode",
    "driver",
    "readonly",
    "uid",
    "kind",
    "apiversion",
    "group",
    "version",
    "ref",
    "arn",
    "type",
    "id",
    "provider",
    "required",
    "enabled",
    "rotated",
    "status",
];

/// Whether an object only tells of a secret (`{"name": "ci", "revoked": true}`) or of a decision: some member says so by its kind of value, and none of the
/// others could be the secret.
fn only_tells(object: &Object<'_>) -> bool {
    let is_word = |value: &Json<'_>| value.as_str().is_some_and(|text| text.len() <= 64 && !names::looks_random(text));
    let is_date = |text: &str| text.len() >= 8 && text.as_bytes()[..4].iter().all(u8::is_ascii_digit) && text.contains('-');
    let says = |name: &str, value: &Json<'_>| match (name, value) {
        ("active" | "changed" | "revoked", Json::Bool(_)) => true,
        ("count", Json::Number(number)) => number.abs() < 1e5,
        ("last4", Json::String(text)) => text.len() <= 4,
        ("decision", Json::String(text)) => {
            ["allow", "deny", "allowed", "denied", "permit", "granted", "refused"].contains(&text.to_lowercase().as_str())
        }
        _ => false,
    };
    let goes_with = |name: &str, value: &Json<'_>| match name {
        "at" | "changedat" | "createdat" | "expiresat" | "updatedat" => value.as_str().is_none_or(is_date),
        "id" | "name" | "namespace" | "kind" | "type" | "provider" | "status" | "version" | "policy" | "scope" => {
            matches!(value, Json::Number(_)) || is_word(value)
        }
        "scopes" => matches!(value, Json::Array(items) if items.iter().all(is_word)),
        _ => false,
    };
    let folded = || object.iter().map(|(name, value)| (fold_name(name), value));
    folded().any(|(name, value)| says(&name, value))
        && folded().all(|(name, value)| says(&name, value) || goes_with(&name, value))
}

/// `"PWD": "/srv/app"` is where somebody is.
fn is_directory(name: &str, text: &str) -> bool {
    let is_path = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'~' | b'.' | b'_' | b'-'));
    matches!(name, "PWD" | "OLDPWD") && text.starts_with(['/', '~']) && is_path && !names::looks_random(text)
}

fn is_one_of(name: &str, known: &[&str]) -> bool {
    name.len() <= 20 && known.contains(&fold_name(name).as_str())
}

/// What the name of a member says to its object.
pub(crate) const VALUE: u8 = 1;
/// The object may be of a kind of its own: a key of JOSE, a message of SNMP, a Kubernetes Secret.
pub(crate) const KIND: u8 = 2;

/// What a name says, as bits.
pub(crate) fn says(name: &str) -> u8 {
    u8::from(is_value(name)) * VALUE + u8::from(matches!(name, "kty" | "community" | "kind" | "data" | "stringData")) * KIND
}

/// Whether a member names what has its value beside it.
pub(crate) fn is_name(name: &str) -> bool {
    is_one_of(name, NAMES)
}

/// Whether a value is that of what is named beside it.
pub(crate) fn is_value(name: &str) -> bool {
    is_one_of(name, VALUES)
}

/// Whether a value, or one in a list, looks as if a generator had made it.
pub(crate) fn looks_random(value: &Json<'_>) -> bool {
    match value {
        Json::Array(items) => items.iter().any(looks_random),
        value => value.as_str().is_some_and(|text| names::looks_random(text) && !text.contains("://")),
    }
}

/// Whether a text, or the last step of a path, names a secret; of a weaker name only where the value looks random.
fn names_one(name: &Json<'_>, object: &Object<'_>) -> bool {
    let text = match name {
        Json::Array(steps) => steps.last().and_then(Json::as_str),
        name => name.as_str(),
    };
    let Some(text) = text.filter(|text| text.len() <= 256) else { return false };
    match names::class(text) {
        names::Class::Secret => true,
        names::Class::Soft => object.iter().any(|(name, value)| is_value(name) && looks_random(value)),
        // What is secret as a parameter of a URL is so here, too.
        names::Class::Plain => object
            .iter()
            .any(|(name, value)| is_value(name) && value.as_str().is_some_and(|value| names::is_secret_parameter(text, value))),
    }
}

/// Whether an object names a secret that has its value beside it.
pub(crate) fn names_secret(object: &Object<'_>, is_of_secrets: bool) -> bool {
    let mut has_value = false;
    let mut has_name = false;
    for (name, value) in object.iter() {
        if name.len() > 20 {
            continue;
        }
        has_value |= is_value(name);
        let text = value.as_str().unwrap_or_default();
        let is_patch = is_of_secrets && &**name == "path" && (text.starts_with("/data/") || text.starts_with("/stringData/"));
        let is_said = matches!(value, Json::Bool(true)) && is_one_of(name, SAID);
        has_name |= is_patch || is_said || is_name(name) && names_one(value, object);
    }
    has_name && has_value
}

/// Whether a value under a secret name is no secret: nothing, a yes or no, a number below ten, or a reference.
pub(crate) fn says_nothing(name: &str, value: &Json<'_>) -> bool {
    match value {
        // These are names of Secrets.
        Json::String(_) | Json::Array(_) if name.eq_ignore_ascii_case("imagePullSecrets") => true,
        Json::Null | Json::Removed | Json::Bool(_) => true,
        Json::Number(number) => {
            let counts = name.ends_with("okens")
                || number.fract() == 0.0 && number.abs() < 1e5 && names::counts(name)
                || name.len() >= 3 && name[name.len() - 3..].eq_ignore_ascii_case("pan") && number.abs() < 1e7;
            number.abs() < 10.0 || counts
        }
        Json::String(text) => {
            text.is_empty()
                || text.starts_with("arn:aws:secretsmanager:")
                || names::is_small(name, text)
                || names::is_state(text)
                || is_directory(name, text)
        }
        Json::Object(object) => {
            object.iter().next().is_some()
                && object.iter().all(|(name, value)| {
                    is_one_of(name, REFERENCES)
                        && (matches!(value, Json::Array(_)) || value.as_str().is_none_or(|text| text.len() <= 253))
                })
                && object.iter().any(|(name, _)| {
                    matches!(
                        fold_name(name).as_str(),
                        "secretname" | "name" | "audience" | "audiences" | "ref" | "arn" | "enabled" | "required"
                    )
                })
                || only_tells(object)
        }
        Json::Array(items) => {
            // A list of references.
            items.iter().all(|item| matches!(item, Json::Object(_) | Json::Null) && says_nothing(name, item))
        }
        Json::Redacted(_) | Json::Raw(_) => false,
    }
}

/// Whether an object is a private key of JOSE (RFC 7517, 7518).
pub(crate) fn is_private_jwk(object: &Object<'_>) -> bool {
    object.get("kty").is_some_and(|kind| kind.as_str().is_some()) && (object.get("d").is_some() || object.get("k").is_some())
}

/// Members of such a key that are secret.
pub(crate) fn is_private_part(name: &str) -> bool {
    matches!(name, "d" | "p" | "q" | "dp" | "dq" | "qi" | "oth" | "k")
}

/// Whether an object is a message of SNMP: its community is a password.
pub(crate) fn is_snmp(object: &Object<'_>) -> bool {
    let version = object.get("version");
    let is_version = version.is_some_and(|version| match version {
        Json::String(text) => matches!(text.trim_start_matches('v'), "1" | "2" | "2c" | "3"),
        _ => false,
    });
    object.get("community").is_some() && (is_version || object.get("oid").is_some() || object.get("pdu").is_some())
}

/// Whether an event is about Kubernetes Secrets.
pub(crate) fn is_about_secrets(event: &Object<'_>) -> bool {
    let text = |value: Option<&Json<'_>>, name: &str| match value {
        Some(Json::Object(object)) => object.get(name).and_then(Json::as_str).map(str::to_owned),
        _ => None,
    };
    let metadata = match event.get("metadata") {
        Some(Json::Object(metadata)) => text(metadata.get("objectRef"), "resource"),
        _ => None,
    };
    [text(event.get("resource"), "type"), text(event.get("objectRef"), "resource"), metadata].into_iter().flatten().any(|kind| {
        matches!(
            kind.to_ascii_lowercase().as_str(),
            "secret" | "secrets" | "v1/secrets" | "core/v1/secrets" | "kubernetes.secret"
        )
    })
}
