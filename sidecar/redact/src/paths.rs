//! Paths of a policy, matched against the tree while it is descended: a set of positions a path, as bits.
use steno_crds::{MemberPath, Segment};

/// Most steps of a path: one bit each.
const MAX_STEPS: usize = 128;

/// What a path is for. The number is that of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Where the rule applies.
    Rule(usize),
    /// Where the rule does not apply.
    Except(usize),
}

/// A compiled path. Bit *n* of a mask stands for the *n*-th step being due.
#[derive(Debug)]
pub(crate) struct Pattern {
    names: Vec<Box<str>>,
    named: u128,
    any: u128,
    deep: u128,
    last: u128,
    pub(crate) target: Target,
}

#[derive(Debug, Clone, Copy)]
struct Alive {
    pattern: usize,
    mask: u128,
}

/// A range of the stack: the patterns that can still match below one value.
pub(crate) type Frame = (usize, usize);

/// Patterns that can still match, a frame for each value on the way down.
#[derive(Debug, Default)]
pub(crate) struct Stack {
    alive: Vec<Alive>,
    folded: String,
}

// === impl Pattern ===

impl Pattern {
    /// Compiles a path; `None` where it has too many steps.
    pub(crate) fn new(path: &MemberPath, target: Target) -> Option<Self> {
        let mut pattern = Self { names: Vec::new(), named: 0, any: 0, deep: 0, last: 0, target };
        let mut previous = None;
        for segment in &path.0 {
            // `**.**` is `**`.
            if previous == Some(&Segment::Deep) && *segment == Segment::Deep {
                continue;
            }
            previous = Some(segment);
            if pattern.names.len() == MAX_STEPS {
                return None;
            }
            let bit = 1u128 << pattern.names.len();
            let (mask, name) = match segment {
                Segment::Name(name) => (&mut pattern.named, name.as_str()),
                Segment::Any => (&mut pattern.any, ""),
                Segment::Deep => (&mut pattern.deep, ""),
            };
            *mask |= bit;
            pattern.last = bit;
            pattern.names.push(name.into());
        }
        (pattern.last != 0 && (pattern.last & pattern.deep) == 0).then_some(pattern)
    }

    /// `**` may stand for nothing: the step after it is due with it. It is never the last step.
    fn close(&self, mask: u128) -> u128 {
        mask | ((mask & self.deep) << 1)
    }

    /// One step down, by a folded name or into an array's element; whether the value there is addressed, and what is due below.
    fn step(&self, mask: u128, name: Option<&str>) -> (bool, u128) {
        let mut matched = mask & self.any;
        // An element is no step for a name: `cards.number` also addresses `cards[3].number`.
        let mut stays = mask & self.deep;
        match name {
            None => stays |= mask & self.named,
            Some(name) => {
                let mut due = mask & self.named;
                while due != 0 {
                    let index = due.trailing_zeros() as usize;
                    if &*self.names[index] == name {
                        matched |= 1 << index;
                    }
                    due &= due - 1;
                }
            }
        }
        (matched & self.last != 0, self.close(((matched & !self.last) << 1) | stays))
    }
}

// === impl Stack ===

impl Stack {
    /// The frame of the whole tree.
    pub(crate) fn root(&mut self, patterns: &[Pattern]) -> Frame {
        self.alive.extend(patterns.iter().enumerate().map(|(index, pattern)| Alive { pattern: index, mask: pattern.close(1) }));
        (0, self.alive.len())
    }

    /// The frame of a value below another, by its name or as an array's element. Calls back for each path that addresses it.
    pub(crate) fn enter(&mut self, patterns: &[Pattern], from: Frame, name: Option<&str>, mut hit: impl FnMut(Target)) -> Frame {
        let start = self.alive.len();
        if from.0 == from.1 {
            return (start, start);
        }
        if let Some(name) = name {
            self.fold(name);
        }
        for index in from.0..from.1 {
            let Alive { pattern, mask } = self.alive[index];
            let compiled = &patterns[pattern];
            let (addressed, mask) = compiled.step(mask, name.is_some().then_some(self.folded.as_str()));
            if addressed {
                hit(compiled.target);
            }
            if mask != 0 {
                self.alive.push(Alive { pattern, mask });
            }
        }
        (start, self.alive.len())
    }

    /// Leaves the value of a frame.
    pub(crate) fn leave(&mut self, frame: Frame) {
        self.alive.truncate(frame.0);
    }

    /// As [`steno_crds::fold_name`], into a buffer that is used again.
    fn fold(&mut self, name: &str) {
        self.folded.clear();
        self.folded.extend(name.chars().filter(|c| !matches!(c, '-' | '_' | ' ' | '.')).flat_map(char::to_lowercase));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `path` addresses the value at `way`, where `[]` is an array's element.
    fn addresses(path: &str, way: &str) -> bool {
        let patterns = [Pattern::new(&path.parse().unwrap(), Target::Rule(0)).unwrap()];
        let mut stack = Stack::default();
        let mut frame = stack.root(&patterns);
        let mut hit = false;
        for step in way.split('.') {
            hit = false;
            frame = stack.enter(&patterns, frame, (step != "[]").then_some(step), |_| hit = true);
        }
        hit
    }

    #[test]
    fn paths_address_what_their_steps_say() {
        for (path, way) in [
            ("actor.id", "actor.id"),
            ("Meta_Data.API-key", "metadata.apiKey"),
            ("metadata.*.ssn", "metadata.person.ssn"),
            ("metadata.*.ssn", "metadata.people.[].ssn"),
            ("**.password", "password"),
            ("**.password", "a.b.[].c.password"),
            ("a.**.b.*.c", "a.x.b.y.c"),
            ("a.**.b.*.c", "a.b.b.b.c"),
            ("metadata.cards.number", "metadata.cards.[].number"),
            ("metadata.cards.number", "metadata.cards.[].[].number"),
            ("metadata.cards.*", "metadata.cards.[]"),
            ("**.**.x", "x"),
        ] {
            assert!(addresses(path, way), "{path} {way}");
        }
        for (path, way) in [
            ("actor.id", "actor"),
            ("actor.id", "resource.id"),
            ("actor.id", "metadata.actor.id"),
            ("metadata.*", "metadata"),
            ("metadata.*", "metadata.a.b"),
            ("metadata.*.ssn", "metadata.ssn"),
            ("metadata.cards", "metadata.cards.[]"),
        ] {
            assert!(!addresses(path, way), "{path} {way}");
        }
    }

    #[test]
    fn the_longest_path_uses_every_bit_and_a_longer_one_is_refused() {
        let steps = |count: usize| ["a"].repeat(count).join(".");
        assert!(addresses(&steps(128), &steps(128)));
        assert!(Pattern::new(&steps(129).parse().unwrap(), Target::Rule(0)).is_none());
    }
}
