//! What is wrong with a configuration, where, and how to mend it.
use std::fmt;

/// One fault of a policy or a rendered configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field from the object's root, such as `spec.kafka.brokers[0]`.
    pub path: String,
    /// What is wrong and what to write instead, one sentence.
    pub message: String,
}

impl Fault {
    /// A fault at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}
