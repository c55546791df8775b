//! One position for several sinks: `fanOut: AllOrNothing`.
use std::{collections::BTreeMap, sync::Arc};

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use crate::{Deliveries, Event};

/// Where the slowest of several sinks stands, and who waits for it.
pub struct Gate {
    members: Mutex<BTreeMap<String, Member>>,
    /// What all have.
    all: Arc<Deliveries>,
}

struct Member {
    position: u64,
    inbox: Sender<Event>,
}

// === impl Gate ===

impl Gate {
    /// A gate of sinks: their names, positions and inboxes.
    pub fn new(members: impl IntoIterator<Item = (String, u64, Sender<Event>)>) -> Self {
        let member = |(name, position, inbox)| (name, Member { position, inbox });
        let members: BTreeMap<String, Member> = members.into_iter().map(member).collect();
        let least = members.values().map(|member| member.position).min().unwrap_or_default();
        Self { members: Mutex::new(members), all: Arc::new(Deliveries::new(least)) }
    }

    /// Whether it is of these sinks and no others.
    pub fn is_of<'a>(&self, names: impl Iterator<Item = &'a str>) -> bool {
        let members = self.members.lock();
        let mut count = 0;
        let all = names.inspect(|_| count += 1).all(|name| members.contains_key(name));
        all && count == members.len()
    }

    /// What every sink has: for those that wait until a record is delivered.
    pub fn all(&self) -> &Arc<Deliveries> {
        &self.all
    }

    /// The first record that not every sink is known to have.
    pub fn position(&self) -> u64 {
        self.all.position()
    }

    /// A sink has everything below a position.
    pub(crate) fn reached(&self, name: &str, position: u64) {
        let mut members = self.members.lock();
        let Some(member) = members.get_mut(name) else { return };
        if member.position >= position {
            return;
        }
        member.position = position;
        let least = members.values().map(|member| member.position).min().unwrap_or_default();
        if least > self.all.position() {
            self.all.reach(least);
            for (_, other) in members.iter().filter(|(other, _)| *other != name) {
                let _ = other.inbox.send(Event::Synced(least));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_have_is_what_the_slowest_has_and_the_others_are_told() {
        let (sender, inbox) = crossbeam_channel::unbounded();
        let gate = Gate::new([("a".to_owned(), 5, sender.clone()), ("b".to_owned(), 3, sender)]);
        assert_eq!(gate.position(), 3);
        gate.reached("a", 9);
        assert_eq!((gate.position(), inbox.len()), (3, 0));
        gate.reached("b", 7);
        assert_eq!((gate.position(), inbox.len()), (7, 1));
        gate.reached("b", 20);
        assert_eq!(gate.position(), 9, "never further than the slowest");
    }
}
