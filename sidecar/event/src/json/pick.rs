//! Single members of a text that is not read as a whole.
use jiter::{Jiter, JiterError, Peek};

use super::{Fault, FaultKind};

/// An error of the parser, with its place.
pub(crate) fn fault(jiter: &Jiter<'_>, error: &JiterError) -> Fault {
    let place = jiter.error_position(error.index);
    let kind = FaultKind::Syntax(error.error_type.to_string());
    Fault { kind, line: place.line, column: place.column, path: String::new() }
}

/// The items of a list, from its first one, as the texts they stand in.
pub(crate) fn rest_of_list<'a>(text: &'a str, jiter: &mut Jiter<'a>, first: Option<Peek>) -> Result<Vec<&'a str>, JiterError> {
    let mut items = Vec::new();
    let mut peek = first;
    while let Some(current) = peek {
        let start = jiter.current_index();
        jiter.known_skip(current)?;
        items.push(text.get(start..jiter.current_index()).unwrap_or_default());
        peek = jiter.array_step()?;
    }
    Ok(items)
}

/// The text that stands under `name` in the object `text`, as far as the object can be read.
pub fn member_text(text: &str, name: &str) -> Option<String> {
    let mut jiter = Jiter::new(text.as_bytes());
    let mut key = jiter.next_object().ok()?.map(|key| key == name);
    while let Some(is_it) = key {
        if is_it {
            return jiter.next_str().ok().map(str::to_owned);
        }
        jiter.next_skip().ok()?;
        key = jiter.next_key().ok()?.map(|key| key == name);
    }
    None
}
