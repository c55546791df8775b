//! An event being put together from another format.
use std::borrow::Cow;

use crate::{
    json::{Json, Object},
    names::{self, Place, Takes},
};

/// Members as they are found; each name is taken once.
#[derive(Debug, Default)]
pub(super) struct Sheet<'a>(Object<'a>);

impl<'a> Sheet<'a> {
    /// A sheet that begins with these members.
    pub(super) const fn of(members: Object<'a>) -> Self {
        Self(members)
    }

    /// Whether this place is taken.
    pub(super) fn has(&self, place: Place) -> bool {
        match place {
            Place::Top(name) => self.0.contains(name),
            Place::In(outer, inner) => self.0.get(outer).and_then(Json::as_object).is_some_and(|there| there.contains(inner)),
        }
    }

    /// Puts a value where it belongs; what is there stays, and the value comes back.
    pub(super) fn put(&mut self, place: Place, value: Json<'a>) -> Option<Json<'a>> {
        if value == Json::Null {
            return None;
        }
        if self.has(place) {
            return Some(value);
        }
        match place {
            Place::Top(name) => drop(self.0.insert(name, text_where_wanted(names::takes(name).map(|(_, takes)| takes), value))),
            Place::In(outer, inner) => {
                let value = text_where_wanted(inner_takes(outer, inner), value);
                match self.inside(outer) {
                    Some(there) => drop(there.insert(inner, value)),
                    None => return Some(value),
                }
            }
        }
        None
    }

    /// Puts a value into `metadata`, under another name where this one is taken.
    pub(super) fn meta(&mut self, name: impl Into<Cow<'a, str>>, value: Json<'a>) {
        if let Some(metadata) = self.inside("metadata") {
            metadata.insert_free(name, value);
        }
    }

    /// The object of this name; made where there is none. `None`: something else has that name.
    fn inside(&mut self, outer: &'static str) -> Option<&mut Object<'a>> {
        if !self.0.contains(outer) {
            self.0.insert(outer, Json::Object(Object::default()));
        }
        match self.0.get_mut(outer) {
            Some(Json::Object(there)) => Some(there),
            _ => None,
        }
    }

    /// Puts an attribute of a flat list where its name says: a member of the model (`outcome`, `actor.id`), one of the spellings of audit libraries,
    /// else `metadata`.
    pub(super) fn attribute(&mut self, name: Cow<'a, str>, value: Json<'a>) {
        let refused = match place_of(&name) {
            Some(place) => self.put(place, value),
            None => Some(value),
        };
        if let Some(value) = refused {
            self.meta(name, value);
        }
    }

    /// The event.
    pub(super) fn finish(mut self, converted: Vec<String>) -> Json<'a> {
        if !converted.is_empty() {
            self.meta(super::CONVERTED, super::listed(converted));
        }
        Json::Object(self.0)
    }
}

fn inner_takes(outer: &str, inner: &str) -> Option<Takes> {
    match names::takes(outer) {
        Some((_, Takes::Members(known))) => known.iter().find(|(known, _)| *known == inner).map(|(_, takes)| *takes),
        _ => None,
    }
}

/// A number or a boolean where the model has a string.
fn text_where_wanted(takes: Option<Takes>, value: Json<'_>) -> Json<'_> {
    match (takes, &value) {
        (Some(Takes::Word(_) | Takes::Text), Json::Number(_) | Json::Bool(_)) => {
            Json::String(Cow::Owned(crate::json::canonical(&value)))
        }
        _ => value,
    }
}

fn place_of(name: &str) -> Option<Place> {
    if let Some((known, _)) = names::takes(name) {
        return Some(Place::Top(known));
    }
    if let Some((_, place)) = names::ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Some(*place);
    }
    let (outer, inner) = name.split_once('.')?;
    let (outer, Takes::Members(known)) = names::takes(outer)? else { return None };
    known.iter().find(|(known, _)| *known == inner).map(|(inner, _)| Place::In(outer, inner))
}
