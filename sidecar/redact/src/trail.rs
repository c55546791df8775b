//! The way to a value, kept on the stack and written out only where something is redacted there.
use std::fmt::Write;

use steno_event::names::IDENTIFIERS;

/// One step of the way.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step<'p> {
    /// A member, by the name that is shown.
    Name(&'p str),
    /// An array element.
    Index(usize),
}

/// The way to a value, last step first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trail<'p> {
    pub(crate) parent: Option<&'p Trail<'p>>,
    pub(crate) step: Step<'p>,
}

impl Trail<'_> {
    /// The way as readers know it, such as `metadata.cards[0].number`.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(out);
        }
        match self.step {
            Step::Name(name) => {
                if self.parent.is_some() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Step::Index(index) => {
                // Writing to a string does not fail.
                let _ = write!(out, "[{index}]");
            }
        }
    }

    /// Whether it leads to exactly these members.
    fn is(&self, names: &[&str]) -> bool {
        let mut at: Option<&Trail<'_>> = Some(self);
        for name in names.iter().rev() {
            match at {
                Some(Trail { step: Step::Name(here), parent }) if here == name => at = *parent,
                _ => return false,
            }
        }
        at.is_none()
    }

    /// Whether it leads to a member whose value is an identity.
    pub(crate) fn is_identifier(&self) -> bool {
        IDENTIFIERS.iter().any(|names| self.is(names))
    }

    /// Whether it leads to a member that a record cannot do without.
    pub(crate) fn is_indispensable(&self) -> bool {
        self.is(&["action"]) || self.is_identifier()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_reads_as_a_path_and_knows_identifiers() {
        let actor = Trail { parent: None, step: Step::Name("actor") };
        let id = Trail { parent: Some(&actor), step: Step::Name("id") };
        let deeper = Trail { parent: Some(&id), step: Step::Index(3) };
        assert_eq!(deeper.render(), "actor.id[3]");
        assert!(id.is_identifier() && !actor.is_identifier() && !deeper.is_identifier());
        assert!(Trail { parent: None, step: Step::Name("action") }.is_indispensable());
        assert!(!Trail { parent: Some(&actor), step: Step::Name("eventId") }.is_identifier());
    }
}
