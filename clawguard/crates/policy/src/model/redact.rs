//! What of a request is left out: paths, and what takes the place of what they lead to.

/// A rule of `redaction_rules`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redaction {
    /// The way from the request's body to what is left out. Never empty.
    pub steps: Vec<Step>,
    /// What becomes of it.
    pub action: Action,
}

/// A step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `.name`: a member of an object.
    Member(Box<str>),
    /// `[*]`: every item of a list.
    Items,
    /// `[3]`: one item of a list, from zero.
    Item(usize),
}

/// Words in which providers' APIs say the same, as [`folded`]: whoever may call several would choose the one that no rule names.
const SAME: [&[&str]; 3] = [
    &["messages", "input", "contents"],
    &["content", "parts", "output"],
    &["system", "instructions", "systeminstruction"],
];

/// A name as the most lenient reader takes it: protocol buffers read `systemInstruction` and `system_instruction`, Go passes over case
/// and what Unicode folds to ASCII.
fn folded(name: &str) -> impl Iterator<Item = char> {
    let letters = name.chars().filter(|letter| !matches!(letter, '_' | '-'));
    letters.flat_map(char::to_uppercase).flat_map(char::to_lowercase)
}

fn same(name: &str, folded_other: &str) -> bool {
    folded(name).eq(folded_other.chars())
}

impl Step {
    /// Whether it leads to a member of that name: by its own name, in any spelling that a reader takes for it, or by another API's
    /// word for the same.
    #[must_use]
    pub fn leads_to(&self, name: &str) -> bool {
        let Self::Member(own) = self else { return false };
        let of = |name: &str| SAME.iter().position(|words| words.iter().any(|word| same(name, word)));
        **own == *name || folded(own).eq(folded(name)) || of(own).is_some_and(|words| of(name) == Some(words))
    }

    /// Whether it leads to what a message, or a part of one, carries.
    #[must_use]
    pub fn is_content(&self) -> bool {
        self.leads_to("content")
    }

    /// Whether it leads to a part's text.
    #[must_use]
    pub fn is_text(&self) -> bool {
        matches!(self, Self::Member(name) if same(name, "text"))
    }

    /// Whether a bare text may stand where this step leads on: providers take one for a list of one part, or of one message.
    #[must_use]
    pub fn is_in_text(&self) -> bool {
        match self {
            Self::Items | Self::Item(0) => true,
            Self::Item(_) => false,
            Self::Member(_) => self.is_text() || self.is_content(),
        }
    }
}

/// What becomes of what a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It is not there any more.
    Remove,
    /// A text with its SHA-256 stands in its place.
    Hash,
    /// `[REDACTED]` stands in its place.
    Mask,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Remove, Self::Hash, Self::Mask];

    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Remove => "remove",
            Self::Hash => "hash",
            Self::Mask => "mask",
        }
    }
}

/// A text that is no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a path is written $.member, $.member.inner, $.list[*].member or $.list[0]: names without . [ ] and * between them, and \
     no other expression"
)]
pub struct NotAPath;

/// Steps that a path may have; JSON that lies deeper is not read.
const MOST_STEPS: usize = 64;

impl Redaction {
    /// Reads a path. Claw's own proxy passes over what it does not understand; here it is refused, since it restricts.
    ///
    /// # Errors
    ///
    /// The text is no path.
    pub fn new(path: &str, action: Action) -> Result<Self, NotAPath> {
        // The beginning may be left out, as Claw has it.
        let mut rest = path.strip_prefix('$').map_or_else(|| format!(".{path}"), str::to_owned);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = step(&rest)?;
            if steps.len() == MOST_STEPS {
                return Err(NotAPath);
            }
            steps.push(step);
            rest = after.to_owned();
        }
        if steps.is_empty() { Err(NotAPath) } else { Ok(Self { steps, action }) }
    }
}

fn step(text: &str) -> Result<(Step, &str), NotAPath> {
    if let Some(rest) = text.strip_prefix('.') {
        let end = rest.find(['.', '[', ']', '*']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let fits = !name.is_empty() && !after.starts_with([']', '*']);
        return if fits { Ok((Step::Member(name.into()), after)) } else { Err(NotAPath) };
    }
    let (inner, after) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).ok_or(NotAPath)?;
    if inner == "*" {
        return Ok((Step::Items, after));
    }
    let number = inner.parse().ok().filter(|number: &usize| number.to_string() == inner);
    number.map(|number| (Step::Item(number), after)).ok_or(NotAPath)
}
