//! What receipts say of causes: spans, their parents, phases, times. And what has to be anchored in them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use claw::Value;

use super::{
    Bundle,
    fault::{At, Code, Fault, PAYLOAD},
    seal::{items, milliseconds, number, text},
};

/// A schema's fault in a causal member has a name of its own.
pub(super) fn of_schema(fault: Fault) -> Fault {
    let within = fault.place.rsplit_once("binding.").filter(|(before, _)| before.is_empty() || before.ends_with('.'));
    let code = match within.map(|(_, member)| member) {
        Some("phase") => Code::Phase,
        Some("attribution_confidence" | "attributionConfidence") => Code::Confidence,
        Some("span_id" | "spanId" | "parent_span_id" | "parentSpanId" | "tool_span_id" | "toolSpanId") => {
            Code::Normalization
        }
        _ => fault.code,
    };
    Fault { code, ..fault }
}

/// The spans that a binding names.
#[derive(Clone, Default)]
struct Spans<'a> {
    own: Option<&'a str>,
    parent: Option<&'a str>,
    tool: Option<&'a str>,
}

const OWN: (&str, &str) = ("span_id", "spanId");
const PARENT: (&str, &str) = ("parent_span_id", "parentSpanId");
const TOOL: (&str, &str) = ("tool_span_id", "toolSpanId");
const CONFIDENCE: (&str, &str) = ("attribution_confidence", "attributionConfidence");

impl<'a> Spans<'a> {
    fn of(binding: &'a Value, at: At<'_>) -> Result<Self, Fault> {
        Ok(Self { own: span(binding, OWN, at)?, parent: span(binding, PARENT, at)?, tool: span(binding, TOOL, at)? })
    }
}

/// A span in either of its two spellings.
fn span<'a>(binding: &'a Value, (snake, camel): (&str, &str), at: At<'_>) -> Result<Option<&'a str>, Fault> {
    let read = |name: &str| match binding.get(name) {
        None => Ok(None),
        Some(value) => match value.as_str().map(str::trim).filter(|span| !span.is_empty()) {
            Some(span) => Ok(Some(span)),
            None => Err(at.fault(name, Code::Normalization, "it names no span")),
        },
    };
    match (read(snake)?, read(camel)?) {
        (Some(one), Some(other)) if one != other => {
            Err(at.fault(snake, Code::Conflict, format!("{snake} and {camel} differ")))
        }
        (one, other) => Ok(one.or(other)),
    }
}

/// The spelling that is there, for a fault's place.
fn spelled(binding: &Value, (snake, camel): (&'static str, &'static str)) -> &'static str {
    if binding.get(snake).is_none() && binding.get(camel).is_some() { camel } else { snake }
}

/// A receipt that says something of causes.
struct Entry<'a> {
    receipt: usize,
    binding: &'a Value,
    spans: Spans<'a>,
    phase: Option<&'a str>,
    confidence: Option<f64>,
    at_ms: Option<u64>,
}

impl Entry<'_> {
    fn fault(&self, name: &str, code: Code, text: &str) -> Fault {
        in_receipt(self.receipt, &["payload", "binding"], name, code, text)
    }

    fn clock(&self, text: &str) -> Fault {
        in_receipt(self.receipt, &["payload"], "timestamp", Code::Clock, text)
    }
}

fn in_receipt(receipt: usize, within: &[&str], name: &str, code: Code, text: &str) -> Fault {
    let list = PAYLOAD.name("receipts");
    let at = list.index(receipt);
    match within {
        [one, two] => at.name(one).name(two).fault(name, code, text),
        [one] => at.name(one).fault(name, code, text),
        _ => at.fault(name, code, text),
    }
}

/// All rules on causes.
pub(super) fn check(bundle: &Bundle<'_>) -> Result<(), Fault> {
    let entries = entries(bundle.payload)?;
    let known: HashSet<&str> = entries.iter().filter_map(|entry| entry.spans.own).collect();
    for entry in &entries {
        if entry.confidence.is_some_and(|confidence| !(0.0..=1.0).contains(&confidence)) {
            let name = spelled(entry.binding, CONFIDENCE);
            return Err(entry.fault(name, Code::Confidence, "it is not between 0 and 1"));
        }
        for (span, name) in [(entry.spans.parent, PARENT), (entry.spans.tool, TOOL)] {
            if span.is_some_and(|span| !known.contains(span)) {
                let name = spelled(entry.binding, name);
                return Err(entry.fault(name, Code::Dangling, "no receipt has that span"));
            }
        }
    }
    let first = first_of_each(&entries)?;
    related(&entries, &first)?;
    acyclic(&entries)?;
    confident(&entries)?;
    connected(&entries, &first)?;
    for (name, code) in
        [("side_effect_receipts", Code::SideEffectOrphan), ("human_approval_receipts", Code::ApprovalOrphan)]
    {
        anchored(bundle.payload, name, code, &known)?;
    }
    Ok(())
}

/// Whether a receipt was signed before what it speaks of.
pub(super) fn is_early(receipt: &Value) -> bool {
    let speaks_of = receipt.get("payload").and_then(|payload| milliseconds(payload, "timestamp"));
    speaks_of > milliseconds(receipt, "issued_at")
}

/// A member of a binding, if there is one, that says something of causes.
pub(super) fn says(binding: &Value) -> Option<&'static str> {
    let members = [OWN, PARENT, TOOL, CONFIDENCE, ("phase", "phase")];
    members.into_iter().flat_map(|(snake, camel)| [snake, camel]).find(|name| binding.get(name).is_some())
}

/// The receipts that say something of causes. The time of any bound receipt is looked at as well: Claw's verifiers do
/// that only where there are spans.
fn entries(payload: &Value) -> Result<Vec<Entry<'_>>, Fault> {
    let list = PAYLOAD.name("receipts");
    let mut entries = Vec::new();
    for (i, receipt) in items(payload, "receipts").iter().enumerate() {
        let inner = receipt.get("payload").unwrap_or(&Value::Null);
        let Some(binding) = inner.get("binding") else { continue };
        let at_ms = milliseconds(inner, "timestamp");
        if is_early(receipt) {
            return Err(in_receipt(i, &["payload"], "timestamp", Code::Clock, "it is later than its signature"));
        }
        if says(binding).is_none() {
            continue;
        }
        let (item, payload_at);
        item = list.index(i);
        payload_at = item.name("payload");
        let at = payload_at.name("binding");
        let spans = Spans::of(binding, at)?;
        let (snake, camel) = CONFIDENCE;
        let confidence = match (number(binding, snake), number(binding, camel)) {
            (Some(one), Some(other)) if one != other => {
                return Err(at.fault(snake, Code::Conflict, format!("{snake} and {camel} differ")));
            }
            (one, other) => one.or(other),
        };
        let phase = binding.get("phase").and_then(Value::as_str);
        entries.push(Entry { receipt: i, binding, spans, phase, confidence, at_ms });
    }
    Ok(entries)
}

/// The first receipt of each span; another one of it must mean the same.
fn first_of_each<'a>(entries: &[Entry<'a>]) -> Result<BTreeMap<&'a str, usize>, Fault> {
    let mut first = BTreeMap::new();
    for (i, entry) in entries.iter().enumerate() {
        let Some(span) = entry.spans.own else { continue };
        let known = *first.entry(span).or_insert(i);
        let Some(known) = entries.get(known).filter(|_| known != i) else { continue };
        if known.at_ms != entry.at_ms {
            return Err(entry.clock("its span has another time elsewhere"));
        }
        let differ = |one: Option<&str>, other: Option<&str>| one.is_some() && other.is_some() && one != other;
        let confidences = known.confidence.zip(entry.confidence).is_some_and(|(one, other)| one != other);
        if differ(known.spans.parent, entry.spans.parent)
            || differ(known.spans.tool, entry.spans.tool)
            || differ(known.phase, entry.phase)
            || confidences
        {
            return Err(entry.fault(spelled(entry.binding, OWN), Code::SpanReuse, "it means something else elsewhere"));
        }
    }
    Ok(first)
}

/// Phases that may follow from a phase.
fn follows(phase: &str) -> &'static [&'static str] {
    match phase {
        "setup" => &["setup", "planning"],
        "planning" => &["planning", "reasoning", "execution"],
        "reasoning" => &["reasoning", "execution", "observation"],
        "execution" => &["execution", "observation", "reflection", "teardown"],
        "observation" => &["observation", "reflection", "teardown"],
        "reflection" => &["reflection", "teardown"],
        "teardown" => &["teardown"],
        _ => &[],
    }
}

/// Nothing happens before what it comes from, nor in a phase that cannot follow.
fn related(entries: &[Entry<'_>], first: &BTreeMap<&str, usize>) -> Result<(), Fault> {
    for (i, entry) in entries.iter().enumerate() {
        // What a span means, its first receipt says.
        if entry.spans.own.and_then(|span| first.get(span)) != Some(&i) {
            continue;
        }
        for from in [entry.spans.parent, entry.spans.tool].into_iter().flatten() {
            let Some(from) = first.get(from).and_then(|from| entries.get(*from)) else { continue };
            if entry.at_ms < from.at_ms {
                return Err(entry.clock("it is before what it comes from"));
            }
            if let (Some(phase), Some(before)) = (entry.phase, from.phase)
                && !follows(before).contains(&phase)
            {
                return Err(entry.fault("phase", Code::Transition, "it cannot follow from the phase before"));
            }
        }
    }
    Ok(())
}

/// No span is its own ancestor.
fn acyclic(entries: &[Entry<'_>]) -> Result<(), Fault> {
    let mut parents: HashMap<&str, (&str, &Entry<'_>)> = HashMap::new();
    for entry in entries {
        if let (Some(own), Some(parent)) = (entry.spans.own, entry.spans.parent) {
            parents.entry(own).or_insert((parent, entry));
        }
    }
    let mut done: HashSet<&str> = HashSet::new();
    for entry in entries {
        let (mut way, mut next) = (HashSet::new(), entry.spans.own);
        while let Some(span) = next.filter(|span| !done.contains(span)) {
            let Some((parent, entry)) = parents.get(span) else { break };
            if !way.insert(span) {
                let name = spelled(entry.binding, PARENT);
                return Err(entry.fault(name, Code::Cycle, "its span is its own ancestor"));
            }
            next = Some(parent);
        }
        done.extend(way);
    }
    Ok(())
}

/// Nobody is surer than the evidence allows.
fn confident(entries: &[Entry<'_>]) -> Result<(), Fault> {
    let referred: HashSet<&str> =
        entries.iter().flat_map(|entry| [entry.spans.parent, entry.spans.tool]).flatten().collect();
    for entry in entries {
        let Some(confidence) = entry.confidence else { continue };
        let most = match &entry.spans {
            Spans { parent: Some(_), .. } | Spans { tool: Some(_), .. } => 1.0,
            Spans { own: Some(own), .. } if referred.contains(own) => 1.0,
            Spans { own: Some(_), .. } => 0.5,
            _ => 0.0,
        };
        if confidence > most {
            let name = spelled(entry.binding, CONFIDENCE);
            return Err(entry.fault(name, Code::Overconfident, "the evidence gives less confidence"));
        }
    }
    Ok(())
}

/// All spans hang together, and from a root.
fn connected(entries: &[Entry<'_>], first: &BTreeMap<&str, usize>) -> Result<(), Fault> {
    let meaning: Vec<&Entry<'_>> = {
        let mut order: Vec<usize> = first.values().copied().collect();
        order.sort_unstable();
        order.into_iter().filter_map(|i| entries.get(i)).collect()
    };
    let Some(one) = meaning.first() else { return Ok(()) };
    let apart = |entry: &Entry<'_>, text| Err(entry.fault(spelled(entry.binding, OWN), Code::Disconnected, text));
    let from = |entry: &Entry<'_>| [entry.spans.parent, entry.spans.tool].into_iter().flatten().count();
    let mut rooted: BTreeSet<&str> =
        meaning.iter().filter(|entry| from(entry) == 0).filter_map(|entry| entry.spans.own).collect();
    if rooted.is_empty() {
        return apart(one, "no span is a root");
    }
    // What a rooted span leads to is rooted; and whatever is linked with the first one, in either direction, is one with it.
    let mut led: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut linked: HashMap<&str, Vec<&str>> = HashMap::new();
    for entry in &meaning {
        let Some(own) = entry.spans.own else { continue };
        for cause in [entry.spans.parent, entry.spans.tool].into_iter().flatten() {
            led.entry(cause).or_default().push(own);
            linked.entry(cause).or_default().push(own);
            linked.entry(own).or_default().push(cause);
        }
    }
    let mut reached: BTreeSet<&str> = one.spans.own.into_iter().collect();
    for (set, ways) in [(&mut rooted, &led), (&mut reached, &linked)] {
        let mut left: Vec<&str> = set.iter().copied().collect();
        while let Some(span) = left.pop() {
            left.extend(ways.get(span).into_iter().flatten().filter(|next| set.insert(next)));
        }
        if let Some(entry) = meaning.iter().find(|entry| entry.spans.own.is_some_and(|own| !set.contains(own))) {
            return apart(entry, "its span does not hang together with the others");
        }
    }
    Ok(())
}

/// Side effects and approvals belong to a call that a gateway signed for, or to nothing.
fn anchored(payload: &Value, name: &str, orphan: Code, known: &HashSet<&str>) -> Result<(), Fault> {
    let list = PAYLOAD.name(name);
    for (i, receipt) in items(payload, name).iter().enumerate() {
        let item = list.index(i);
        let Some(binding @ Value::Object(_)) = receipt.get("binding") else {
            return Err(item.fault("binding", orphan, "it is bound to nothing"));
        };
        let at = item.name("binding");
        let spans = Spans::of(binding, at)?;
        let (anchor, name) = match spans {
            Spans { tool: Some(tool), .. } => (Some(tool), TOOL),
            Spans { parent: Some(parent), .. } => (Some(parent), PARENT),
            Spans { own, .. } => (own, OWN),
        };
        if !anchor.is_some_and(|span| known.contains(span)) {
            return Err(at.fault(spelled(binding, name), orphan, "no gateway's receipt has that span"));
        }
    }
    Ok(())
}

/// How many side effects and approvals are claimed.
pub(super) fn claimed(payload: &Value, name: &str) -> usize {
    items(payload, name).len()
}

/// The first event whose type begins with a word.
pub(super) fn event<'a>(payload: &'a Value, word: &str) -> Option<&'a str> {
    items(payload, "event_chain").iter().map(|event| text(event, "event_type")).find(|kind| kind.starts_with(word))
}
