//! The tables against the schemas' own files: what a file takes they take, and what it refuses they refuse at its place.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{ENVELOPE, TRUST_PULSE, URM, gateway};
use crate::verify::{fault::At, shape::Shape};

/// The files, by what refers to them.
struct Files(HashMap<String, Value>);

/// Evidence of which no rule is kept here, and which is therefore refused whatever it looks like.
const FOREIGN: [&str; 10] = [
    "vir_receipts",
    "web_receipts",
    "binary_semantic_evidence_attestations",
    "transparency",
    "x402_payment_ref",
    "x402_amount_minor",
    "x402_currency",
    "x402_network",
    "x402_payment_auth_hash_b64u",
    "co_signatures",
];

impl Files {
    fn read() -> Self {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/claw/schema");
        let mut files = HashMap::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let schema: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            files.insert(schema["$id"].as_str().unwrap().to_owned(), schema.clone());
            files.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), schema);
        }
        Self(files)
    }

    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema.get("$ref") {
            Some(name) => self.0.get(name.as_str().unwrap()).unwrap_or_else(|| panic!("no {name}")),
            // Of two versions the first is the one that is known here.
            None => schema.get("oneOf").map_or(schema, |one| self.resolve(&one[0])),
        }
    }

    /// A value with everything that a schema knows.
    fn sample(&self, schema: &Value) -> Value {
        let schema = self.resolve(schema);
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        if let Some(values) = schema.get("enum") {
            return values[0].clone();
        }
        match kind(schema) {
            "string" => json!(string(schema)),
            "boolean" => json!(true),
            "integer" | "number" => schema.get("minimum").cloned().unwrap_or(json!(1)),
            "array" => json!([self.sample(&schema["items"])]),
            _ => Value::Object(
                properties(schema).into_iter().map(|(name, inner)| (name.clone(), self.sample(inner))).collect(),
            ),
        }
    }

    /// Every way in which a sample can be wrong, with the place that is wrong then.
    fn wrong(
        &self,
        schema: &Value,
        sample: &Value,
        place: &str,
        found: &mut Vec<(String, Vec<Step>, Value)>,
        way: &[Step],
    ) {
        let schema = self.resolve(schema);
        let mut put = |place: String, value: Value| found.push((place, way.to_vec(), value));
        let here = || place.to_owned();
        let is_typed = schema.get("type").is_some();
        if is_typed {
            let other = if kind(schema) == "string" { json!(5) } else { json!("x") };
            put(here(), other);
        }
        if schema.get("const").is_some() || schema.get("enum").is_some() {
            put(here(), json!("another"));
        }
        let dates = [
            "2026-03-01",
            "2026-03-01_00:00:00Z",
            "2026-03-01T00:00:00",
            "2026-12-31T23:59:60Z",
            "2026-02-29T00:00:00Z",
        ];
        for bad in match schema.get("format").and_then(Value::as_str) {
            Some("uri") => &["not a uri", "x", "https://a/%zz", "https://a b/"][..],
            Some(_) => &dates[..],
            None => &[],
        } {
            put(here(), json!(bad));
        }
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
            for bad in against(pattern) {
                put(here(), json!(bad));
            }
        }
        if let Some(least) = schema.get("minLength").and_then(Value::as_u64) {
            put(here(), json!("A".repeat(least as usize - 1)));
        }
        if let Some(most) = schema.get("maxLength").and_then(Value::as_u64) {
            put(here(), json!("é".repeat(most as usize + 1)));
        }
        if let Some(least) = schema.get("minimum").and_then(Value::as_f64) {
            put(here(), json!(least - 1.0));
        }
        if let Some(most) = schema.get("maximum").and_then(Value::as_f64) {
            put(here(), json!(most + 1.0));
        }
        if kind(schema) == "integer" {
            put(here(), json!(1.5));
        }
        if schema.get("minItems").is_some() {
            put(here(), json!([]));
        }
        if let Some(most) = schema.get("maxItems").and_then(Value::as_u64) {
            put(here(), json!(vec![sample[0].clone(); most as usize + 1]));
        }
        if kind(schema) == "object" {
            let members = sample.as_object().unwrap();
            for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
                let name = name.as_str().unwrap();
                let mut without = members.clone();
                without.remove(name);
                put(join(place, name), Value::Object(without));
            }
            if schema.get("additionalProperties") == Some(&json!(false)) {
                let mut more = members.clone();
                more.insert("zzz".into(), json!(1));
                put(join(place, "zzz"), Value::Object(more));
            }
            for (name, inner) in properties(schema) {
                let way = [way, &[Step::Name(name.clone())]].concat();
                self.wrong(inner, &sample[name.as_str()], &join(place, name), found, &way);
            }
        }
        if kind(schema) == "array" {
            let way = [way, &[Step::First]].concat();
            self.wrong(&schema["items"], &sample[0], &format!("{place}[0]"), found, &way);
        }
    }
}

#[derive(Clone)]
enum Step {
    Name(String),
    First,
}

fn join(place: &str, name: &str) -> String {
    if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") }
}

fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(kind) => kind,
        // The only one with two is a string or nothing.
        Value::Array(kinds) => kinds[0].as_str().unwrap(),
        _ if schema.get("properties").is_some() => "object",
        _ => "",
    }
}

fn properties(schema: &Value) -> Vec<(&String, &Value)> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    let all = schema.get("properties").and_then(Value::as_object).unwrap_or(&NONE);
    all.iter()
        .filter(|(name, _)| {
            !FOREIGN.contains(&name.as_str())
                || name.as_str() == "vir_receipts" && all.len() > 20 && all.contains_key("interpose_active")
        })
        .collect()
}

fn string(schema: &Value) -> String {
    match (schema["format"].as_str(), schema["pattern"].as_str()) {
        (Some("date-time"), _) => "2026-03-01T00:00:00+02:00".into(),
        (Some("uri"), _) => "https://a.example/x?y=%20#z".into(),
        (_, Some("^[A-Za-z0-9_-]+$")) => "Az09_-AAAA".into(),
        (_, Some("^did:")) => "did:key:z6Mk".into(),
        (_, Some("^[0-9]+$")) => "0123".into(),
        (_, Some(pattern)) if pattern.starts_with("^eip155") => {
            format!("eip155:1:0x{}", "aF".repeat(20))
        }
        (_, Some("^[a-z0-9.*:-]+$")) => "*.a-b.example:443".into(),
        (_, Some(pattern)) if pattern.starts_with("^(?!/)") => "a/..b/c".into(),
        (_, Some(pattern)) => panic!("{pattern} has no sample"),
        _ => "x".repeat(schema["maxLength"].as_u64().unwrap_or(1) as usize),
    }
}

/// What a pattern is not.
fn against(pattern: &str) -> Vec<String> {
    let wrong: &[&str] = match pattern {
        "^[A-Za-z0-9_-]+$" => &["AAAAAAA+", "AAAAAAAA=", "AAAAAAAA\n", "ÄAAAAAAAA"],
        "^did:" => &["key:", " did:key:x"],
        "^[0-9]+$" => &["0x1", "", "1 "],
        "^[a-z0-9.*:-]+$" => &["A.example", "a_b", "a b", ""],
        _ if pattern.starts_with("^eip155") => {
            &["eip155:1:0x12", "eip155:x:0xaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
        }
        _ if pattern.starts_with("^(?!/)") => &["/a", "~/a", "a\\b", "..", "a/../b", "../a", "a/..", ""],
        other => panic!("{other} has no counterexample"),
    };
    wrong.iter().map(|text| (*text).to_owned()).collect()
}

fn check(shape: &Shape, value: &Value) -> Result<(), (String, String)> {
    let value =
        claw::json::parse(value.to_string().as_bytes(), claw::json::Limits { bytes: 64 << 20, depth: 64 }).unwrap();
    shape.check(&value, At::Root).map_err(|fault| (fault.code.name().to_owned(), fault.place))
}

fn put(mut value: &mut Value, way: &[Step], to: Value) {
    for step in way {
        value = match step {
            Step::Name(name) => &mut value[name.as_str()],
            Step::First => &mut value[0],
        };
    }
    *value = to;
}

#[test]
fn the_tables_take_what_the_schemas_take_and_refuse_the_rest_at_its_place() {
    let files = Files::read();
    for (name, shape, at_least) in [
        ("proof_bundle_envelope.v1.json", &ENVELOPE, 700),
        ("gateway_receipt_envelope.v1.json", &gateway::RECEIPT, 200),
        ("urm.v1.json", &URM, 80),
        ("trust_pulse.v1.json", &TRUST_PULSE, 40),
    ] {
        let schema = files.0.get(name).unwrap();
        let sample = files.sample(schema);
        assert_eq!(check(shape, &sample), Ok(()), "{name}");
        let mut wrong = Vec::new();
        files.wrong(schema, &sample, "", &mut wrong, &[]);
        assert!(wrong.len() > at_least, "{name}: {}", wrong.len());
        for (place, way, value) in wrong {
            let mut whole = sample.clone();
            put(&mut whole, &way, value.clone());
            let said = check(shape, &whole);
            assert_eq!(said, Err(("SCHEMA_VALIDATION_FAILED".into(), place)), "{name}: {value}");
        }
    }
}

/// A tool's receipt may come bare or in an envelope; the file of the envelope is the second of the two.
#[test]
fn a_tools_receipt_may_be_in_an_envelope() {
    let files = Files::read();
    let bundle = files.0.get("proof_bundle_envelope.v1.json").unwrap();
    let envelope = files.0.get("tool_receipt_envelope.v1.json").unwrap();
    let mut sample = files.sample(bundle);
    let inner = files.sample(envelope);
    sample["payload"]["tool_receipts"][0] = inner.clone();
    assert_eq!(check(&ENVELOPE, &sample), Ok(()));
    let mut wrong = Vec::new();
    files.wrong(envelope, &inner, "payload.tool_receipts[0]", &mut wrong, &[]);
    assert!(wrong.len() > 40, "{}", wrong.len());
    for (place, way, value) in wrong {
        // Without its version it is taken for a bare one.
        if place == "payload.tool_receipts[0].envelope_version"
            && value.get("envelope_version").is_none()
            && way.is_empty()
        {
            continue;
        }
        let mut whole = sample.clone();
        let at = [&[Step::Name("payload".into()), Step::Name("tool_receipts".into()), Step::First], &way[..]].concat();
        put(&mut whole, &at, value.clone());
        assert_eq!(check(&ENVELOPE, &whole), Err(("SCHEMA_VALIDATION_FAILED".into(), place)), "{value}");
    }
}

#[test]
fn a_bundle_has_some_evidence() {
    let files = Files::read();
    let schema = files.0.get("proof_bundle_envelope.v1.json").unwrap();
    let mut sample = files.sample(schema);
    let members = sample["payload"].as_object_mut().unwrap();
    for any in files.0["proof_bundle.v1.json"]["anyOf"].as_array().unwrap() {
        members.remove(any["required"][0].as_str().unwrap());
    }
    assert_eq!(check(&ENVELOPE, &sample), Err(("SCHEMA_VALIDATION_FAILED".into(), "payload".into())));
}
