//! Sizes (`64Ki`) and durations (`30s`), written as Kubernetes writes them.
use std::{fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes. Written as an integer or with a suffix: `Ki Mi Gi Ti` (powers of 1024), `k M G T` (powers of 1000).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// A span of time, to the millisecond. Written as `250ms`, `30s`, `5m`, `24h`, `7d` or a sum such as `1m30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub u64);

/// Longest text of a quantity in a schema.
const LONGEST: usize = 24;

const SIZE_SUFFIXES: [(&str, u64); 8] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];
const SPAN_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

// === impl ByteSize ===

impl ByteSize {
    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, suffix) = text.split_at(digits);
        let factor = match suffix {
            "" => Some(1),
            _ => SIZE_SUFFIXES.iter().find(|(name, _)| *name == suffix).map(|(_, factor)| *factor),
        };
        number
            .parse::<u64>()
            .ok()
            .zip(factor)
            .and_then(|(number, factor)| number.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a size; write bytes or a suffix, such as 65536, 64Ki, 16Mi or 1Gi"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = SIZE_SUFFIXES[..4].iter().rev().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        match binary {
            Some((suffix, factor)) => write!(f, "{}{suffix}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

// === impl Span ===

impl Span {
    /// The span as the standard library has it.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = || format!("{text:?} is not a duration; write such as 250ms, 30s, 5m, 24h or 7d");
        let (mut rest, mut total) = (text, 0u64);
        if rest.is_empty() {
            return Err(fault());
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest[..digits].parse().map_err(|_| fault())?;
            rest = &rest[digits..];
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let unit = SPAN_UNITS.iter().find(|(name, _)| *name == &rest[..letters]).ok_or_else(fault)?;
            total = number.checked_mul(unit.1).and_then(|ms| total.checked_add(ms)).ok_or_else(fault)?;
            rest = &rest[letters..];
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SPAN_UNITS.iter().find(|(_, ms)| self.0 >= *ms && self.0.is_multiple_of(*ms));
        match unit {
            Some((suffix, ms)) => write!(f, "{}{suffix}", self.0 / ms),
            None => write!(f, "{}ms", self.0),
        }
    }
}

// === serde and schema, alike for both ===

macro_rules! text_form {
    ($type:ident, $expecting:literal, $pattern:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$type, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                // What the schema lets through can be read: a value that cannot would take the whole list of objects with it.
                json_schema!({ "type": "string", "pattern": $pattern, "maxLength": LONGEST })
            }
        }
    };
}

text_form!(
    ByteSize,
    "a size such as 64Ki",
    "^([0-9]{1,18}|[0-9]{1,15}(Ki|k)|[0-9]{1,12}(Mi|M)|[0-9]{1,9}(Gi|G)|[0-9]{1,7}(Ti|T))$"
);
text_form!(Span, "a duration such as 30s", "^([0-9]{1,9}(ms|s|m|h|d))+$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_kubernetes_writes_them_and_print_back() {
        for (text, bytes, shown) in [
            ("0", 0, "0"),
            ("65536", 65536, "64Ki"),
            ("64Ki", 65536, "64Ki"),
            ("1500", 1500, "1500"),
            ("1G", 1_000_000_000, "1000000000"),
            ("1Gi", 1 << 30, "1Gi"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown), "{text}");
        }
        for text in ["", "Ki", "-1", "1.5Gi", "64KiB", "99999999999Ti"] {
            assert!(text.parse::<ByteSize>().unwrap_err().contains("64Ki"), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_schema_lets_through_can_be_read(
            size in "([0-9]{1,18}|[0-9]{1,15}(Ki|k)|[0-9]{1,12}(Mi|M)|[0-9]{1,9}(Gi|G)|[0-9]{1,7}(Ti|T))",
            span in "([0-9]{1,9}(ms|s|m|h|d)){1,12}",
        ) {
            proptest::prop_assert!(size.parse::<ByteSize>().is_ok(), "{}", size);
            proptest::prop_assert!(span.len() > LONGEST || span.parse::<Span>().is_ok(), "{}", span);
        }
    }

    #[test]
    fn the_largest_that_the_schema_lets_through_can_be_read() {
        for text in ["999999999999999999", "999999999999999Ki", "999999999999Mi", "999999999Gi", "9999999Ti", "9999999T"] {
            assert!(text.parse::<ByteSize>().is_ok(), "{text}");
        }
        assert!("999999999d999999999d9999".parse::<Span>().is_err() && "999999999d999999999d99d".parse::<Span>().is_ok());
    }

    #[test]
    fn durations_read_and_print_back() {
        for (text, ms, shown) in [("250ms", 250, "250ms"), ("1m30s", 90_000, "90s"), ("24h", 86_400_000, "1d"), ("0s", 0, "0ms")]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.0, span.to_string().as_str()), (ms, shown), "{text}");
        }
        for text in ["", "30", "s", "1 s", "-5s", "1w", "999999999999999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
