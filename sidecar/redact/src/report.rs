//! What was done, for the record and for metrics.
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use steno_crds::RedactionAction as Action;
use steno_event::json::{Json, Object};

/// What redaction did to an event.
#[derive(Debug, Default)]
pub struct Report {
    /// The `redactions` member; `None`: nothing was done. Insert it after the fingerprint was taken.
    pub redactions: Option<Json<'static>>,
    /// How often each rule acted.
    pub counts: Vec<(Arc<str>, u64)>,
    /// A rule could not be applied; keep metadata only.
    pub failed: bool,
}

/// One thing that was done.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) rule: Arc<str>,
    pub(crate) action: Action,
    /// The member's name itself was redacted.
    pub(crate) name: bool,
    /// There was no key to hash with.
    pub(crate) no_key: bool,
}

/// More are folded to counts.
const MOST: usize = 64;

pub(crate) fn word(action: Action) -> &'static str {
    match action {
        Action::Mask => "Mask",
        Action::Hash => "Hash",
        Action::Replace => "Replace",
        Action::Remove => "Remove",
    }
}

/// The report of what was done.
pub(crate) fn report(entries: Vec<Entry>) -> Report {
    if entries.is_empty() {
        return Report::default();
    }
    let mut counts: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    for entry in &entries {
        *counts.entry(entry.rule.clone()).or_default() += 1;
    }
    let object = |members: Vec<(&'static str, Json<'static>)>| {
        let members = members.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect();
        // Names are this room's own and distinct.
        Json::Object(Object::from_members(members).unwrap_or_default())
    };
    let text = |text: &str| Json::String(Cow::Owned(text.to_owned()));
    let list = if entries.len() > MOST {
        counts.iter().map(|(rule, count)| object(vec![("count", Json::Number(*count as f64)), ("rule", text(rule))])).collect()
    } else {
        entries
            .into_iter()
            .map(|entry| {
                let mut members = vec![
                    ("action", Json::text(word(entry.action))),
                    ("path", Json::String(entry.path.into())),
                    ("rule", text(&entry.rule)),
                ];
                if entry.name {
                    members.push(("name", Json::Bool(true)));
                }
                if entry.no_key {
                    members.push(("note", Json::text("no key")));
                }
                object(members)
            })
            .collect()
    };
    Report { redactions: Some(Json::Array(list)), counts: counts.into_iter().collect(), failed: false }
}
