//! Names of models by their parts.

/// A pattern: upper and lower case do not differ (of ASCII), `*` stands for any number of characters, and everything else, `.` and
/// `?` among it, for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Box<str>);

impl Glob {
    /// Takes a pattern. Every text is one.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Self(pattern.to_ascii_lowercase().into())
    }

    /// Whether it stands for a name. Takes steps in number at most the product of both lengths.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        let mut parts = self.0.split('*');
        let (first, mut parts) = (parts.next().unwrap_or_default(), parts.peekable());
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        // Without a star the beginning is all there may be.
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            // The earliest place leaves the most for what follows.
            let Some(at) = rest.find(part) else { return false };
            rest = rest.get(at + part.len()..).unwrap_or_default();
        }
        true
    }
}
