//! A batch's body as items, each with the text it stands in.

/// The items of an NDJSON body: one a line, empty lines passed over.
pub fn ndjson(body: &str) -> Items<'_> {
    Items { rest: body }
}

/// Iterator over the lines of an NDJSON body.
#[derive(Debug, Clone)]
pub struct Items<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        while !self.rest.is_empty() {
            let end = memchr::memchr(b'\n', self.rest.as_bytes()).unwrap_or(self.rest.len());
            let line = self.rest[..end].trim();
            self.rest = self.rest.get(end + 1..).unwrap_or("");
            if !line.is_empty() {
                return Some(line);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn lines_are_items_and_empty_ones_are_not() {
        let items: Vec<_> = super::ndjson("{\"a\":1}\r\n\n  \n[2]\n3").collect();
        assert_eq!(items, ["{\"a\":1}", "[2]", "3"]);
    }
}
