//! Claw's own schemas, read by a small reader of as much of JSON Schema as they use.

use std::{fs, path::Path};

use serde_json::Value;

/// Every schema, by its `$id`.
pub(crate) struct Schemas(Vec<Value>);

impl Schemas {
    pub(crate) fn read() -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/claw/schema");
        let files = fs::read_dir(directory).unwrap();
        Self(files.map(|file| serde_json::from_slice(&fs::read(file.unwrap().path()).unwrap()).unwrap()).collect())
    }

    fn of(&self, id: &str) -> Option<&Value> {
        let name = |id: &str| id.rsplit('/').next().unwrap().to_owned();
        self.0.iter().find(|schema| name(schema["$id"].as_str().unwrap()) == name(id))
    }

    /// What is wrong with a value, if anything is.
    pub(crate) fn fault(&self, id: &str, value: &Value) -> Option<String> {
        self.check(self.of(id).unwrap(), value, "")
    }

    fn check(&self, schema: &Value, value: &Value, at: &str) -> Option<String> {
        let wrong = |what: &str| Some(format!("{at}: {what}: {value}"));
        for (keyword, rule) in schema.as_object().unwrap() {
            let fault = match keyword.as_str() {
                "$id" | "$schema" | "title" | "description" | "default" => None,
                "$ref" => self.of(rule.as_str().unwrap()).and_then(|schema| self.check(schema, value, at)),
                "type" => {
                    let one = |kind: &Value| is(kind.as_str().unwrap(), value);
                    let fits = rule.as_array().map_or_else(|| one(rule), |kinds| kinds.iter().any(one));
                    if fits { None } else { wrong("type") }
                }
                "const" => (rule != value).then(|| wrong("const")).flatten(),
                "enum" => (!rule.as_array().unwrap().contains(value)).then(|| wrong("enum")).flatten(),
                "required" => {
                    let missing =
                        rule.as_array().unwrap().iter().find(|name| value.get(name.as_str().unwrap()).is_none());
                    missing.and_then(|name| wrong(&format!("{name} is missing")))
                }
                "properties" => value.as_object().and_then(|members| {
                    members.iter().find_map(|(name, inner)| self.check(rule.get(name)?, inner, &format!("{at}.{name}")))
                }),
                "additionalProperties" if rule == false => value.as_object().and_then(|members| {
                    let extra = members.keys().find(|name| schema["properties"].get(name).is_none());
                    extra.and_then(|name| wrong(&format!("{name} is unknown")))
                }),
                "additionalProperties" => None,
                "items" => value.as_array().and_then(|items| {
                    items.iter().enumerate().find_map(|(i, item)| self.check(rule, item, &format!("{at}[{i}]")))
                }),
                "minItems" | "maxItems" => value.as_array().and_then(|items| bound(keyword, rule, items.len())),
                "minLength" | "maxLength" => value.as_str().and_then(|text| bound(keyword, rule, text.chars().count())),
                "minimum" => (value.as_f64() < rule.as_f64()).then(|| wrong("minimum")).flatten(),
                "maximum" => (value.as_f64() > rule.as_f64()).then(|| wrong("maximum")).flatten(),
                "pattern" => value
                    .as_str()
                    .and_then(|text| (!matches(rule.as_str().unwrap(), text)).then(|| wrong("pattern"))?),
                "format" => value
                    .as_str()
                    .and_then(|text| (!formatted(rule.as_str().unwrap(), text)).then(|| wrong("format"))?),
                "anyOf" => {
                    let fits = rule.as_array().unwrap().iter().any(|one| self.check(one, value, at).is_none());
                    (!fits).then(|| wrong("anyOf")).flatten()
                }
                // Schemas that are not here are of receipts that nobody writes.
                "oneOf" => {
                    let known = |one: &&Value| one["$ref"].as_str().is_none_or(|id| self.of(id).is_some());
                    let fit = rule
                        .as_array()
                        .unwrap()
                        .iter()
                        .filter(known)
                        .filter(|one| self.check(one, value, at).is_none());
                    (fit.count() != 1).then(|| wrong("oneOf")).flatten()
                }
                other => panic!("{other} is not known here"),
            };
            if fault.is_some() {
                return fault;
            }
        }
        None
    }
}

fn bound(keyword: &str, rule: &Value, count: usize) -> Option<String> {
    let limit = rule.as_u64().unwrap() as usize;
    let fits = if keyword.starts_with("min") { count >= limit } else { count <= limit };
    (!fits).then(|| format!("{keyword}: {count}"))
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{other}"),
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    let all = |of: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || of.contains(c));
    match pattern {
        "^did:" => text.starts_with("did:"),
        "^[A-Za-z0-9_-]+$" => all("_-"),
        "^[a-z0-9.*:-]+$" => all(".*:-") && !text.contains(|c: char| c.is_ascii_uppercase()),
        other => panic!("{other} is not known here"),
    }
}

fn formatted(format: &str, text: &str) -> bool {
    match format {
        "date-time" => claw::time::Instant::parse(text).is_some(),
        "uri" => text.contains("://"),
        other => panic!("{other} is not known here"),
    }
}
