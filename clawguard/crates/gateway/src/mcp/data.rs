//! What calls and answers carry, as the contract wants it.

use std::{collections::BTreeMap, mem, sync::Arc};

use mcp::{
    classes::{BadPatterns, Scanner},
    json::Json,
};
use policy::contract::{DataClasses, Handling};
use tokio::sync::Semaphore;

/// Strings of a message beyond which it is looked through on a thread of its own: other callers do not wait for it.
const LARGE: usize = 32 << 10;
/// Such threads at once.
const AT_ONCE: usize = 2;

/// Looks through calls and answers.
pub(crate) struct Data {
    scanner: Arc<Scanner>,
    /// Large messages that are looked through at once: one that is made to take long must not take the host.
    places: Semaphore,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// A class that the contract denies.
    pub(crate) denied: Option<&'static str>,
    /// How often each class was found.
    pub(crate) counts: BTreeMap<String, u64>,
}

impl Data {
    pub(crate) fn new() -> Result<Self, BadPatterns> {
        let scanner = Arc::new(Scanner::new()?);
        // The first text that is looked through takes longer: not a caller's.
        let _ = scanner.scan(&Json::String("password=".into()));
        Ok(Self { scanner, places: Semaphore::new(AT_ONCE) })
    }

    /// Looks through a value, and redacts what is to be redacted; of an agent that is only watched nothing is.
    pub(crate) async fn look(&self, rules: &DataClasses, observe: bool, value: &mut Json) -> Found {
        let mut room = LARGE;
        if fits(value, &mut room) {
            return look(&self.scanner, rules, observe, value);
        }
        let _place = self.places.acquire().await;
        let (scanner, rules, mut taken) = (Arc::clone(&self.scanner), rules.clone(), mem::take(value));
        let looked = tokio::task::spawn_blocking(move || {
            let found = look(&scanner, &rules, observe, &mut taken);
            (found, taken)
        });
        match looked.await {
            Ok((found, taken)) => {
                *value = taken;
                found
            }
            // What could not be looked through is not passed on.
            Err(_) => Found { denied: Some("what could not be looked through"), counts: BTreeMap::new() },
        }
    }
}

/// Whether a value's strings have no more bytes than there is room for.
fn fits(value: &Json, room: &mut usize) -> bool {
    let takes = |room: &mut usize, bytes: usize| {
        let left = room.checked_sub(bytes);
        *room = left.unwrap_or(0);
        left.is_some()
    };
    match value {
        Json::String(text) | Json::Number(text) => takes(room, text.len()),
        Json::Array(items) => items.iter().all(|item| fits(item, room)),
        Json::Object(members) => members.iter().all(|(name, value)| takes(room, name.len()) && fits(value, room)),
        Json::Null | Json::Bool(_) => true,
    }
}

fn look(scanner: &Scanner, rules: &DataClasses, observe: bool, value: &mut Json) -> Found {
    let (denied, counts) = if observe {
        let mut counts = BTreeMap::new();
        for finding in scanner.scan(value) {
            *counts.entry(finding.class).or_default() += 1;
        }
        (counts.keys().copied().find(|class| rules.handling(*class) == Handling::Denied), counts)
    } else {
        let looked = scanner.look(rules, value);
        (looked.denied, looked.counts)
    };
    Found {
        denied: denied.map(|class| class.label()),
        counts: counts.into_iter().map(|(class, count)| (class.label().to_owned(), count)).collect(),
    }
}
