//! The tree that events are worked on as.
//!
//! Strings borrow from the request's body where they have no escapes. Members of an object are kept sorted in canonical
//! order, so that duplicates are neighbours and writing needs no sort.
use std::{borrow::Cow, cmp::Ordering, sync::Arc};

pub mod lax;
mod number;
mod parse;
mod pick;
mod write;

pub use parse::{Fault, FaultKind, MAX_DEPTH, parse, parse_kept, parse_repaired, without_lone_surrogates};
pub use pick::member_text;
pub use write::{Form, canonical, write_json, write_string};

pub(crate) use number::survives;
pub(crate) use pick::{fault, rest_of_list};

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub enum Json<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number that IEEE double holds exactly enough to print it back.
    Number(f64),
    /// Text.
    String(Cow<'a, str>),
    /// A list.
    Array(Vec<Json<'a>>),
    /// Members.
    Object(Object<'a>),
    /// A value in place of which something else is shown.
    Redacted(Box<Redacted>),
    /// A value that is not shown at all; it still leaves its mark in the fingerprint.
    Removed,
    /// Canonical JSON that was written before, such as the writer's identity.
    Raw(Arc<str>),
}

/// What stands for a redacted value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redacted {
    /// What readers see.
    pub shown: String,
    /// What the fingerprint sees: the text with a fixed marker in place of each secret, the same whatever the action and key.
    pub print: String,
}

/// The fixed marker of the fingerprint.
pub const MARKER: &str = "\u{1}redacted";

/// Members in canonical order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Object<'a> {
    members: Vec<(Cow<'a, str>, Json<'a>)>,
}

/// Compares names as RFC 8785 does: by UTF-16 code units.
pub fn compare_names(a: &str, b: &str) -> Ordering {
    compare_with(prefix(a), a, b)
}

/// [`compare_names`] where the prefix of `a` is known.
fn compare_with(prefix_a: u64, a: &str, b: &str) -> Ordering {
    const NOT_ASCII: u64 = 0x8080_8080_8080_8080;
    let prefix_b = prefix(b);
    if prefix_a != prefix_b && (prefix_a | prefix_b) & NOT_ASCII == 0 {
        return prefix_a.cmp(&prefix_b);
    }
    if a.is_ascii() || b.is_ascii() {
        // Up to the first difference the bytes are equal; if one side is ASCII, byte order is code unit order.
        return a.as_bytes().cmp(b.as_bytes());
    }
    a.encode_utf16().cmp(b.encode_utf16())
}

/// The first eight bytes as a number, the first one on top, zeros where there are fewer. ASCII names order as their prefixes do, where
/// those differ.
pub(crate) const fn prefix(name: &str) -> u64 {
    let bytes = name.as_bytes();
    if let Some(first) = bytes.first_chunk::<8>() {
        return u64::from_be_bytes(*first);
    }
    let (mut prefix, mut index) = (0, 0);
    while index < bytes.len() {
        prefix |= (bytes[index] as u64) << (56 - 8 * index);
        index += 1;
    }
    prefix
}

// === impl Json ===

impl<'a> Json<'a> {
    /// A string.
    pub fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::String(text.into())
    }

    /// The text, where it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            Self::Redacted(redacted) => Some(&redacted.shown),
            _ => None,
        }
    }

    /// The members, where it is an object.
    pub fn as_object(&self) -> Option<&Object<'a>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The same value, which borrows nothing.
    pub fn into_static(self) -> Json<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(value),
            Self::Number(value) => Json::Number(value),
            Self::String(text) => Json::String(owned(text)),
            Self::Array(items) => Json::Array(items.into_iter().map(Json::into_static).collect()),
            Self::Object(object) => {
                let members = object.members.into_iter().map(|(name, value)| (owned(name), value.into_static()));
                Json::Object(Object { members: members.collect() })
            }
            Self::Redacted(redacted) => Json::Redacted(redacted),
            Self::Removed => Json::Removed,
            Self::Raw(text) => Json::Raw(text),
        }
    }

    /// What kind of value it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) | Self::Redacted(_) | Self::Raw(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
            Self::Removed => "nothing",
        }
    }
}

// === impl Object ===

impl<'a> Object<'a> {
    /// An object from members in any order; the error is a name that stands twice.
    pub fn from_members(mut members: Vec<(Cow<'a, str>, Json<'a>)>) -> Result<Self, String> {
        if !members.is_sorted_by(|a, b| compare_names(&a.0, &b.0) == Ordering::Less) {
            members.sort_by(|a, b| compare_names(&a.0, &b.0));
            if let Some(pair) = members.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                return Err(pair[0].0.to_string());
            }
        }
        Ok(Self { members })
    }

    /// An object of members whose names are the caller's own; of two of one name the later counts.
    pub fn of(members: impl IntoIterator<Item = (&'static str, Json<'a>)>) -> Self {
        let mut object = Self::default();
        for (name, value) in members {
            object.insert(name, value);
        }
        object
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        let wanted = prefix(name);
        self.members.binary_search_by(|member| compare_with(wanted, name, &member.0).reverse())
    }

    /// The member of this name.
    pub fn get(&self, name: &str) -> Option<&Json<'a>> {
        self.find(name).ok().map(|index| &self.members[index].1)
    }

    /// The member of this name.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Json<'a>> {
        self.find(name).ok().map(|index| &mut self.members[index].1)
    }

    /// Whether there is a member of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// Sets a member; gives back what was there.
    pub fn insert(&mut self, name: impl Into<Cow<'a, str>>, value: Json<'a>) -> Option<Json<'a>> {
        let name = name.into();
        match self.find(&name) {
            Ok(index) => Some(std::mem::replace(&mut self.members[index].1, value)),
            Err(index) => {
                self.members.insert(index, (name, value));
                None
            }
        }
    }

    /// Sets a member under its name, or under `name~2` and so on where that is taken.
    pub fn insert_free(&mut self, name: impl Into<Cow<'a, str>>, value: Json<'a>) {
        let name = name.into();
        let mut free = name.clone();
        let mut count = 1;
        while self.contains(&free) {
            count += 1;
            free = format!("{name}~{count}").into();
        }
        self.insert(free, value);
    }

    /// Sets members that are not there yet; the object is walked once.
    pub fn extend(&mut self, mut added: Vec<(Cow<'a, str>, Json<'a>)>) {
        added.sort_by(|a, b| compare_names(&a.0, &b.0));
        let known = std::mem::take(&mut self.members);
        self.members.reserve(known.len() + added.len() + 1);
        let mut added = added.into_iter().peekable();
        for member in known {
            while let Some(next) = added.next_if(|next| compare_names(&next.0, &member.0) != Ordering::Greater) {
                debug_assert!(next.0 != member.0);
                self.members.push(next);
            }
            self.members.push(member);
        }
        self.members.extend(added);
    }

    /// Takes a member out.
    pub fn remove(&mut self, name: &str) -> Option<Json<'a>> {
        self.find(name).ok().map(|index| self.members.remove(index).1)
    }

    /// Members in canonical order.
    pub fn iter(&self) -> impl Iterator<Item = &(Cow<'a, str>, Json<'a>)> {
        self.members.iter()
    }

    /// Values in canonical order of their names.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Json<'a>)> {
        self.members.iter_mut().map(|(name, value)| (&**name, value))
    }

    /// Takes the members out.
    pub fn into_members(self) -> Vec<(Cow<'a, str>, Json<'a>)> {
        self.members
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

#[cfg(test)]
mod tests;
