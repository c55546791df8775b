//! Paths that address members of an event: `actor.id`, `metadata.*.ssn`, `**.password`.
use std::{fmt, str::FromStr};

/// One step of a [`MemberPath`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// A member by name, folded by [`fold_name`].
    Name(String),
    /// `*`: any one member or array element.
    Any,
    /// `**`: any number of members and elements, none included.
    Deep,
}

/// A parsed path. Names are case-insensitive, and `-`, `_` and camelCase are alike; array elements count as a step only
/// for `*` and `**`, so that `metadata.cards.number` also addresses `metadata.cards[3].number`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberPath(pub Vec<Segment>);

/// Folds a member name for comparison: lower case, without `-`, `_`, `.` and spaces.
pub fn fold_name(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_' | ' ' | '.')).flat_map(char::to_lowercase).collect()
}

// === impl MemberPath ===

impl FromStr for MemberPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = |what: &str| format!("{text:?} {what}; write such as actor.id, metadata.*.ssn or **.password");
        if text.is_empty() || text.len() > 512 {
            return Err(fault("is not a path (1 to 512 bytes)"));
        }
        let segments: Vec<Segment> = text
            .split('.')
            .map(|step| match step {
                "" => Err(fault("has an empty step")),
                "*" => Ok(Segment::Any),
                "**" => Ok(Segment::Deep),
                name if name.contains(['*', '[', ']', '/']) => Err(fault("mixes a name with * [ ] or /")),
                name => Ok(Segment::Name(fold_name(name))),
            })
            .collect::<Result<_, _>>()?;
        match segments.last() {
            Some(Segment::Deep) => Err(fault("ends in **, which would address everything")),
            _ => Ok(Self(segments)),
        }
    }
}

impl fmt::Display for MemberPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.0.iter().enumerate() {
            let dot = if index == 0 { "" } else { "." };
            match segment {
                Segment::Name(name) => write!(f, "{dot}{name}")?,
                Segment::Any => write!(f, "{dot}*")?,
                Segment::Deep => write!(f, "{dot}**")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fold_so_that_spellings_are_alike() {
        for name in ["apiKey", "API_KEY", "api-key", "Api Key", "api.key"] {
            assert_eq!(fold_name(name), "apikey");
        }
    }

    #[test]
    fn a_path_that_says_nothing_is_refused() {
        for text in ["", ".", "a..b", "a.", "metadata.**", "a[0]", "x*y"] {
            assert!(text.parse::<MemberPath>().is_err(), "{text}");
        }
        assert_eq!("**.Pass_Word".parse::<MemberPath>().unwrap().0, [Segment::Deep, Segment::Name("password".into())]);
    }
}
