//! What a page tells, read from bundles and records.

use std::collections::BTreeMap;

use claw::{
    Value,
    json::{self, Limits},
    time::Instant,
};
use serde_json::Value as Body;

use super::{Input, words};
use crate::{
    chain::Kind,
    events::{self, Told},
};

/// How something went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    Plain,
    Allowed,
    Held,
    Refused,
    Killed,
    Alert,
}

impl Tone {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Allowed => "allowed",
            Self::Held => "held",
            Self::Refused => "refused",
            Self::Killed => "killed",
            Self::Alert => "alert",
        }
    }
}

/// An event, or several that are alike.
pub(super) struct Happening {
    pub(super) at: Instant,
    pub(super) event_type: String,
    pub(super) tone: Tone,
    pub(super) title: String,
    pub(super) detail: String,
    /// How many in a row.
    pub(super) times: u64,
}

/// A bundle.
pub(super) struct Part {
    pub(super) hash: String,
    pub(super) events: usize,
    pub(super) receipts: usize,
}

/// Traffic of one kind.
#[derive(Clone, Copy, Default)]
pub(super) struct Flow {
    pub(super) passed: u64,
    pub(super) refused: u64,
}

/// What was called, refused, held or killed: by name, how often, and why last.
pub(super) type Outcomes = BTreeMap<(Tone, String), (u64, String)>;

/// Everything.
#[derive(Default)]
pub(super) struct Story {
    pub(super) job: String,
    pub(super) agent: String,
    pub(super) agent_did: String,
    pub(super) sentinel_did: String,
    pub(super) run_id: String,
    pub(super) mode: String,
    pub(super) started_at: Option<Instant>,
    pub(super) ended_at: Option<Instant>,
    pub(super) contracts: Vec<String>,
    pub(super) counts: BTreeMap<String, u64>,
    pub(super) absent: Vec<(String, String)>,
    pub(super) parts: Vec<Part>,
    pub(super) events: Vec<Happening>,
    /// How many events there are, alike or not.
    pub(super) total: usize,
    /// How many of them have a record whose hash is the one that they name.
    pub(super) known: usize,
    /// Records whose hash is another one.
    pub(super) forged: usize,
    pub(super) outcomes: Outcomes,
    /// By group, or by destination where no group is known.
    pub(super) traffic: BTreeMap<String, Flow>,
}

/// Bytes of a bundle that is read.
const LIMITS: Limits = Limits { bytes: 64 << 20, depth: 64 };

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    match value.get(name) {
        Some(Value::Array(items)) => items,
        _ => &[],
    }
}

impl Story {
    pub(super) fn read(input: &Input<'_>) -> Self {
        let mut story = Self::default();
        let records: BTreeMap<u64, Told<'_>> =
            input.records.iter().filter_map(|line| Told::of_line(line)).map(|told| (told.seq, told)).collect();
        // A rule's place means something in its own contract alone.
        let contract = input.contract.map(|contract| (contract, contract.canonical_hash().to_string()));
        let contract = contract.as_ref().map(|(contract, hash)| (*contract, hash.as_str()));
        for bundle in input.bundles {
            let Ok(envelope) = json::parse(bundle, LIMITS) else { continue };
            let Some(payload) = envelope.get("payload") else { continue };
            story.metadata(payload);
            story.parts.push(Part {
                hash: text(&envelope, "payload_hash_b64u").into(),
                events: items(payload, "event_chain").len(),
                receipts: items(payload, "receipts").len(),
            });
            for event in items(payload, "event_chain") {
                story.event(event, &records, contract);
            }
        }
        story
    }

    /// The last bundle's metadata speak of the whole run.
    fn metadata(&mut self, payload: &Value) {
        self.agent_did = text(payload, "agent_did").into();
        let Some(own) = payload.get("metadata").and_then(|metadata| metadata.get("clawguard.v1")) else { return };
        self.job = text(own, "job").into();
        self.agent = text(own, "agent").into();
        self.sentinel_did = text(own, "sentinel_did").into();
        self.mode = text(own, "mode").into();
        self.started_at = Instant::parse(text(own, "started_at"));
        self.ended_at = Instant::parse(text(own, "ended_at"));
        self.contracts = items(own, "contracts").iter().filter_map(Value::as_str).map(Into::into).collect();
        if let Some(Value::Object(counts)) = own.get("counts") {
            let count = |value: &Value| if let Value::Number(number) = value { *number as u64 } else { 0 };
            self.counts = counts.iter().map(|(name, value)| (name.to_string(), count(value))).collect();
        }
        self.absent =
            items(own, "absent").iter().map(|one| (text(one, "what").into(), text(one, "why").into())).collect();
    }

    fn event(&mut self, event: &Value, records: &BTreeMap<u64, Told<'_>>, contract: Option<(&Value, &str)>) {
        let Some(at) = Instant::parse(text(event, "timestamp")) else { return };
        self.total += 1;
        self.run_id = text(event, "run_id").into();
        let seq = text(event, "event_id").strip_prefix("evt_").and_then(|seq| seq.parse::<u64>().ok());
        let body = seq.and_then(|seq| records.get(&seq)).and_then(|told| {
            let payload = events::payload_of(told, &self.job);
            if events::payload_hash(&payload).to_string() != text(event, "payload_hash_b64u") {
                self.forged += 1;
                return None;
            }
            self.known += 1;
            Some((told.kind, serde_json::from_str::<Body>(&payload).ok()?))
        });
        let (kind, body) = body.map_or((None, Body::Null), |(kind, body)| (Some(kind), body));
        let event_type = text(event, "event_type");
        let said = words::of(event_type, &body);
        self.outcome(kind, said.tone, &body);
        if kind == Some(Kind::Decisions) {
            self.decisions(&body, contract);
        }
        let alike = |last: &&mut Happening| {
            last.title == said.title
                && last.tone == said.tone
                && last.event_type == event_type
                && kind != Some(Kind::Flip)
        };
        if let Some(last) = self.events.last_mut().filter(alike) {
            last.times += 1;
            // Of calls that took different times, the last is told.
            last.detail = said.detail;
            return;
        }
        self.events.push(Happening {
            at,
            event_type: event_type.into(),
            tone: said.tone,
            title: said.title,
            detail: said.detail,
            times: 1,
        });
    }

    fn outcome(&mut self, kind: Option<Kind>, tone: Tone, body: &Body) {
        let field = |name: &str| body.get(name).and_then(Body::as_str).unwrap_or_default();
        let (name, why) = match kind {
            Some(Kind::Call) => {
                let flow = self.traffic.entry(format!("mcp:{}", field("server"))).or_default();
                let count = body.get("count").and_then(Body::as_u64).unwrap_or(1);
                let of = if tone == Tone::Allowed { &mut flow.passed } else { &mut flow.refused };
                *of = of.saturating_add(count);
                (words::tool(body), field("reason"))
            }
            Some(Kind::Model) if body.get("decision").is_some() => {
                let flow = self.traffic.entry("model".into()).or_default();
                *(if tone == Tone::Allowed { &mut flow.passed } else { &mut flow.refused }) += 1;
                (words::model(body), field("reason"))
            }
            Some(Kind::Flip | Kind::FlipFailed) if tone == Tone::Killed => {
                let flip = body.get("flip").and_then(|flip| flip.get("group")).and_then(Body::as_str);
                (flip.unwrap_or("found in the kernel").to_owned(), field("reason"))
            }
            Some(Kind::Alert) => (
                field("kind").to_owned(),
                [field("name"), field("remote")].into_iter().find(|t| !t.is_empty()).unwrap_or_default(),
            ),
            _ => return,
        };
        let entry = self.outcomes.entry((tone, name)).or_default();
        entry.0 += body.get("count").and_then(Body::as_u64).unwrap_or(1);
        entry.1 = words::plainly(why);
    }

    /// Traffic by group where the contract's rule names one, else by where it went.
    fn decisions(&mut self, body: &Body, contract: Option<(&Value, &str)>) {
        for entry in body.get("decisions").and_then(Body::as_array).into_iter().flatten() {
            let field = |name: &str| entry.get(name).and_then(Body::as_str).unwrap_or_default();
            let own = contract.filter(|(_, hash)| *hash == field("wpc_hash"));
            let label = own.and_then(|(contract, _)| group(contract, field("rule"))).unwrap_or_else(|| {
                let remote = field("remote").rsplit_once(':').map_or(field("remote"), |(host, _)| host);
                let place = [field("name"), remote, field("protocol")];
                place.into_iter().find(|place| !place.is_empty()).unwrap_or("other").to_owned()
            });
            let flow = self.traffic.entry(label).or_default();
            let of = if field("verdict") == "denied" { &mut flow.refused } else { &mut flow.passed };
            *of = of.saturating_add(entry.get("count").and_then(Body::as_u64).unwrap_or(1));
        }
    }
}

/// The groups of the rule at a place like `metadata.clawguard.v1.egress[3]`.
fn group(contract: &Value, rule: &str) -> Option<String> {
    let index: usize = rule.strip_prefix("metadata.clawguard.v1.egress[")?.split(']').next()?.parse().ok()?;
    let rules = contract.get("metadata")?.get("clawguard.v1")?.get("egress")?;
    let Value::Array(rules) = rules else { return None };
    let groups: Vec<&str> = items(rules.get(index)?, "groups").iter().filter_map(Value::as_str).collect();
    (!groups.is_empty()).then(|| groups.join(" + "))
}
