//! A batch's body as items, each with the text it stands in.
use jiter::Jiter;

use crate::json::{Fault, fault, lax, rest_of_list};

/// The items of an NDJSON body: one a line, empty lines passed over. Objects one behind the other in a line are items each, as Fluent Bit writes them.
pub fn ndjson(body: &str) -> Items<'_> {
    Items { rest: body, line: 1 }
}

/// Iterator over the lines of an NDJSON body.
#[derive(Debug, Clone)]
pub struct Items<'a> {
    rest: &'a str,
    /// Of what is left, counted from 1.
    line: usize,
}

impl<'a> Iterator for Items<'a> {
    /// The line of the body, counted from 1, and the item.
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<(usize, &'a str)> {
        while !self.rest.is_empty() {
            let end = memchr::memchr(b'\n', self.rest.as_bytes()).unwrap_or(self.rest.len());
            let line = self.rest[..end].trim();
            if memchr::memmem::find(line.as_bytes(), b"}{").is_some()
                && let Some(first) = lax::object_end(line)
                && line[first..].starts_with('{')
            {
                let begun = end - self.rest[..end].trim_start().len();
                self.rest = &self.rest[begun + first..];
                return Some((self.line, &line[..first]));
            }
            let at = self.line;
            self.rest = self.rest.get(end + 1..).unwrap_or("");
            self.line += 1;
            if !line.is_empty() {
                return Some((at, line));
            }
        }
        None
    }
}

/// The items of a JSON array as the texts they stand in. Items are only told apart here, not checked: one that is no event, or has
/// duplicate names, must not take the others with it.
pub fn array_items(body: &str) -> Result<Vec<&str>, Fault> {
    let mut jiter = Jiter::new(body.as_bytes());
    let result = (|| {
        let peek = jiter.next_array()?;
        let items = rest_of_list(body, &mut jiter, peek)?;
        jiter.finish().map(|()| items)
    })();
    result.map_err(|error| fault(&jiter, &error))
}

#[cfg(test)]
mod tests {
    #[test]
    fn lines_are_items_and_empty_ones_are_not() {
        let items: Vec<_> = super::ndjson("{\"a\":1}\r\n\n  \n[2]\n3").collect();
        assert_eq!(items, [(1, "{\"a\":1}"), (4, "[2]"), (5, "3")]);
        let items: Vec<_> = super::ndjson(" {\"a\":\"}{\"}{\"b\":{}}{\"c\":1} x\n{\"d\":\"}{\"}").collect();
        assert_eq!(items, [(1, "{\"a\":\"}{\"}"), (1, "{\"b\":{}}"), (1, "{\"c\":1} x"), (2, "{\"d\":\"}{\"}")]);
    }

    #[test]
    fn items_of_an_array_are_told_apart_and_what_is_no_array_is_not() {
        assert_eq!(super::array_items(r#" [ {"a":[1,"]"]} , 2,"x,y" ] "#).unwrap(), [r#"{"a":[1,"]"]}"#, "2", "\"x,y\""]);
        assert_eq!(super::array_items("[]").unwrap(), Vec::<&str>::new());
        for text in ["", "{}", "[1", "[1,]", "[1] 2", "[{]"] {
            assert!(super::array_items(text).is_err(), "{text}");
        }
        assert!(super::array_items(&format!("[{}]", "[".repeat(10_000))).is_err());
    }
}
