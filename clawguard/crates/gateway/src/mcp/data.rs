//! What calls and answers carry.

use std::collections::BTreeMap;

use mcp::json::Json;
use policy::contract::DataClasses;

/// Looks through calls and answers.
pub(crate) struct Data;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) denied: Option<String>,
    pub(crate) counts: BTreeMap<String, u64>,
}

impl Data {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn look(&self, _rules: &DataClasses, _value: &mut Json) -> Found {
        Found::default()
    }
}
