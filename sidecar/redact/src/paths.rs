//! Paths of a policy that address nothing: they are written for the event that a client sends, and rules work on the record.
use steno_crds::{MemberPath, Redaction, Segment, fold_name};
use steno_event::names::{ALIASES, CLIENT, Place};

/// What is wrong with each path of the rules that has no effect, and which path is meant.
pub fn without_effect(redaction: &Redaction) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, rule) in redaction.rules.iter().enumerate() {
        for path in rule.path.iter().chain(&rule.except) {
            if let Some(meant) = meant(path) {
                findings.push(format!(
                    "redaction.rules[{index}]: {path} has no effect: no member of a record begins like this; write {meant}"
                ));
            }
        }
    }
    findings
}

/// The path that is meant; `None`: this one is good.
fn meant(path: &str) -> Option<String> {
    let (first, rest) = path.split_at(path.find(['.', '[']).unwrap_or(path.len()));
    if first == "$" {
        return Some(rest.trim_start_matches('.').to_owned());
    }
    let MemberPath(segments) = path.parse().ok()?;
    let Some(Segment::Name(first_folded)) = segments.first() else { return None };
    let known = CLIENT.iter().any(|(name, _)| fold_name(name) == *first_folded);
    if known {
        return None;
    }
    let alias = ALIASES.iter().find(|(name, _)| fold_name(name) == *first_folded);
    Some(match alias {
        Some((_, Place::Top(name))) => format!("{name}{rest}"),
        Some((_, Place::In(outer, inner))) => format!("{outer}.{inner}{rest}"),
        None => format!("metadata.{path}"),
    })
}

#[cfg(test)]
mod tests {
    use super::meant;

    #[test]
    fn what_addresses_no_member_is_told_with_what_is_meant() {
        for (path, wanted) in [
            ("userId", Some("actor.id")),
            ("user_id", Some("actor.id")),
            ("nationalId", Some("metadata.nationalId")),
            ("$.actor.id", Some("actor.id")),
            ("actor.id", None),
            ("metadata.*.birthDate", None),
            ("**.password", None),
            ("Actor.ID", None),
        ] {
            assert_eq!(meant(path).as_deref(), wanted, "{path}");
        }
    }
}
