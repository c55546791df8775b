//! The chains of one sidecar, with a way back for a block that fails.
use std::collections::BTreeMap;

use steno_chain::{ChainState, Sealed, seal};
use steno_journal::ChainRange;

/// What has a chain of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    None,
    Writer,
    Tenant,
}

/// All chains, by tenant; the empty name is the writer's own.
pub(crate) struct Chains {
    pub(crate) base: String,
    pub(crate) scope: Scope,
    pub(crate) most: usize,
    by_name: BTreeMap<String, ChainState>,
    /// Chains of pods that had this volume before, by id.
    pub(crate) former: BTreeMap<String, ChainState>,
    /// Heads have no room for one more chain.
    pub(crate) heads_full: bool,
    /// Bytes of the heads of the chains that this block touches.
    touched_bytes: usize,
    /// States from before this block, of the chains that it touched. `None`: the chain began in it.
    before: BTreeMap<String, Option<ChainState>>,
    /// First number of each touched chain in this block.
    firsts: BTreeMap<String, u64>,
    /// Chains that were written to since the start.
    pub(crate) used: std::collections::BTreeSet<String>,
}

/// The id that the pod's own chains begin with. `plain` is its UID and the journal's; it goes on with the chains whose heads are there. If there is none,
/// and the journal is not new, another pod may have had it in between and ended this one's chains: what begins now has the journal's next sequence
/// number in its id (`@57`), for a chain that ended never goes on. `is_sure`: the journal is new, or damaged, where chains go on above everything lost.
pub(crate) fn base_of(plain: &str, heads: &[ChainRange], is_sure: bool, next_seq: u64) -> String {
    let tenure = |id: &str| {
        let rest = id.strip_prefix(plain)?;
        let own = rest.split('/').next()?;
        if own.is_empty() { Some(0) } else { own.strip_prefix('@')?.parse::<u64>().ok() }
    };
    match heads.iter().filter_map(|head| tenure(&head.id)).max() {
        Some(0) => plain.to_owned(),
        None if is_sure => plain.to_owned(),
        Some(begun) => format!("{plain}@{begun}"),
        None => format!("{plain}@{next_seq}"),
    }
}

// === impl Chains ===

impl Chains {
    pub(crate) fn new(base: String, scope: Scope, most: usize, heads: Vec<ChainRange>) -> Self {
        let (mut by_name, mut former) = (BTreeMap::new(), BTreeMap::new());
        for head in heads {
            let name =
                if head.id == base { Some(String::new()) } else { head.id.strip_prefix(&format!("{base}/")).map(str::to_owned) };
            let state = ChainState { id: head.id, epoch: head.epoch, next: head.last + 1, prev: head.hash };
            match name {
                Some(name) => by_name.insert(name, state),
                None => former.insert(state.id.clone(), state),
            };
        }
        Self {
            base,
            scope,
            most,
            by_name,
            former,
            heads_full: false,
            touched_bytes: 0,
            before: BTreeMap::new(),
            firsts: BTreeMap::new(),
            used: std::collections::BTreeSet::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The chain that a tenant's records go to.
    pub(crate) fn name_for<'a>(&self, tenant: Option<&'a str>) -> &'a str {
        match (self.scope, tenant) {
            (Scope::Tenant, Some(tenant)) if self.by_name.contains_key(tenant) || self.may_begin() => tenant,
            _ => "",
        }
    }

    /// Bytes of the head of the chain of this name, rounded up.
    pub(crate) fn head_bytes(&self, name: &str) -> usize {
        // The id, and what a ChainRange takes besides.
        self.base.len() + 1 + name.len() + 58
    }

    fn may_begin(&self) -> bool {
        self.by_name.len() < self.most && !self.heads_full
    }

    /// Bytes of the heads of the chains that this block touches.
    pub(crate) const fn touched_bytes(&self) -> usize {
        self.touched_bytes
    }

    /// Whether the chain of this name has begun.
    pub(crate) fn has_begun(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Number of the next record of the chain of this name; 0 if it has not begun.
    pub(crate) fn next(&self, name: &str) -> u64 {
        self.by_name.get(name).map_or(0, |state| state.next)
    }

    /// Names of all chains.
    pub(crate) fn names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }

    /// The id of the chain of this name.
    pub(crate) fn id(&self, name: &str) -> String {
        if name.is_empty() { self.base.clone() } else { format!("{}/{name}", self.base) }
    }

    fn touch(&mut self, name: &str) {
        if !self.before.contains_key(name) {
            let state = self.by_name.get(name).cloned();
            self.firsts.insert(name.to_owned(), state.as_ref().map_or(0, |state| state.next));
            self.before.insert(name.to_owned(), state);
            self.touched_bytes += self.head_bytes(name);
        }
        if !self.by_name.contains_key(name) {
            let id = self.id(name);
            self.by_name.insert(name.to_owned(), ChainState::begin(id));
        }
    }

    /// Begins a new epoch of a chain, at the earliest from `next` on.
    pub(crate) fn new_epoch(&mut self, name: &str, next: u64) {
        self.touch(name);
        if let Some(state) = self.by_name.get_mut(name) {
            *state = state.clone().new_epoch(next);
            self.firsts.insert(name.to_owned(), state.next);
        }
    }

    /// Whether a chain's last hash is not known, so that it must begin a new epoch.
    pub(crate) fn is_broken(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|state| state.next > 0 && state.prev == [0; 32])
    }

    /// Seals a record into a chain.
    pub(crate) fn seal(&mut self, name: &str, head: &[u8], tail: &[u8], out: &mut Vec<u8>) -> Option<Sealed> {
        if self.scope == Scope::None {
            out.extend_from_slice(head);
            out.extend_from_slice(tail);
            return None;
        }
        self.touch(name);
        self.by_name.get_mut(name).map(|state| seal(state, head, tail, out))
    }

    /// Heads of the chains that this block touched.
    pub(crate) fn ranges(&self) -> Vec<ChainRange> {
        let touched = self.before.keys().filter_map(|name| {
            let state = self.by_name.get(name)?;
            let first = *self.firsts.get(name)?;
            (state.next > first).then(|| ChainRange {
                id: state.id.clone(),
                epoch: state.epoch,
                first,
                last: state.next - 1,
                hash: state.prev,
            })
        });
        touched.collect()
    }

    /// The block is on disk.
    pub(crate) fn keep(&mut self) {
        for name in std::mem::take(&mut self.before).into_keys() {
            self.used.insert(name);
        }
        self.touched_bytes = 0;
        self.firsts.clear();
    }

    /// The block is not on disk: everything is as before.
    pub(crate) fn undo(&mut self) {
        for (name, state) in std::mem::take(&mut self.before) {
            match state {
                Some(state) => drop(self.by_name.insert(name, state)),
                None => drop(self.by_name.remove(&name)),
            }
        }
        self.touched_bytes = 0;
        self.firsts.clear();
    }
}
