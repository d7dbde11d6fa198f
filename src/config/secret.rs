//! A secret value: it can be used, but not shown. It leaves no trace in `Debug`, `Display`, logs or error messages.

use std::fmt;

/// A secret read from a file or the environment.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The secret itself, for the one call that needs it. Never log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The value of a librdkafka property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// May be shown.
    Plain(String),
    /// Must not be shown: came from a file or the environment.
    Hidden(Secret),
}

impl Property {
    /// The value, for the client's configuration. Never log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        match self {
            Property::Plain(text) => text,
            Property::Hidden(secret) => secret.expose(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let p = Property::Hidden(Secret::new("hunter2"));
        assert!(!format!("{p:?} {p:#?} {} {:?}", Secret::new("hunter2"), Secret::new("hunter2")).contains("hunter2"));
        assert_eq!(p.expose(), "hunter2");
    }
}
