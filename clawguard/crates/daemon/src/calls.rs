//! Calls of MCP, for the record: those that the gateway is making, and what became of them.

mod beginnings;

use std::{
    collections::{BTreeMap, HashMap},
    io, mem,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use claw::envelope::{Envelope, Kind as EnvelopeKind};
use control::{
    calls::{Call, Called, Ended},
    channel::{Ask, Told},
};
use evidence::chain::Kind;
use serde::Serialize;
use serde_json::json;

use self::beginnings::Beginnings;
use crate::{
    approvals::Approvals,
    core::{Core, Shared},
};

/// Calls that one gateway may be making.
const MOST: usize = 65_536;
/// Bytes of arguments that are kept for the records of calls that are under way.
const MOST_ARGUMENTS: usize = 64 << 20;
/// Bytes of a call's arguments that its record has.
const LONGEST_ARGUMENTS: usize = 64 << 10;
/// Characters of any other text of a call.
const LONGEST: usize = 256;
/// Data classes of one call.
const MOST_CLASSES: usize = 64;
/// Alerts that a call can be.
const ALERTS: [&str; 2] = ["tool_unseen", "mcp_direct"];

/// What became of a call that nobody spoke of any more.
const UNKNOWN: &str = "unknown";

/// A call that is over, or was never made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Past {
    /// What is known of it. The gateway may say that something ended of which it never said that it began.
    call: Option<Box<Call>>,
    /// How it ended; `None` for one that was not made.
    ended: Option<Ended>,
}

/// The calls of every gateway's channel. A lock of their own, under which nothing waits.
#[derive(Default)]
pub(crate) struct Calls(Mutex<(u64, BTreeMap<u64, UnderWay>)>);

/// The calls that one gateway is making.
#[derive(Clone, Default)]
pub(crate) struct UnderWay(Arc<Mutex<Begun>>);

#[derive(Default)]
struct Begun {
    calls: HashMap<u64, Box<Call>>,
    arguments: usize,
    beginnings: Option<Beginnings>,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, UnderWay>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A channel begins: its number, and room for its calls.
    pub(crate) fn opened(&self) -> (u64, UnderWay) {
        let mut calls = self.lock();
        calls.0 += 1;
        let (number, under_way) = (calls.0, UnderWay::default());
        calls.1.insert(number, under_way.clone());
        (number, under_way)
    }

    /// A channel ended: nobody knows what becomes of its calls.
    pub(crate) fn closed(&self, channel: u64) -> Vec<Past> {
        self.lock().1.remove(&channel).map(|under_way| under_way.give_up()).unwrap_or_default()
    }

    /// All channels end.
    pub(crate) fn all_closed(&self) -> Vec<Past> {
        mem::take(&mut self.lock().1).into_values().flat_map(|under_way| under_way.give_up()).collect()
    }
}

impl UnderWay {
    fn lock(&self) -> MutexGuard<'_, Begun> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the way on which the gateway writes what begins; its end of it.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] if it has one: what it wrote there is not forgotten for another.
    pub(crate) fn beginnings(&self) -> io::Result<OwnedFd> {
        let mut begun = self.lock();
        if begun.beginnings.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (ours, theirs) = Beginnings::new()?;
        begun.beginnings = Some(ours);
        Ok(theirs)
    }

    /// Takes what the gateway says, in its order, and answers what is to be recorded; and whether all that it wrote beside the channel
    /// was what a gateway writes.
    pub(crate) fn sort(&self, called: Vec<Called>) -> (Vec<Past>, bool) {
        let mut begun = self.lock();
        let mut past = Vec::new();
        let honest = begun.read(&mut past);
        for said in called {
            match said {
                Called::Begun(call) => past.extend(begun.begin(call)),
                Called::Ended(ended) => {
                    past.push(Past { call: begun.end(ended.number), ended: Some(capped_end(ended)) });
                }
                Called::Refused(call) => past.push(Past { call: Some(capped(call)), ended: None }),
            }
        }
        (past, honest)
    }

    fn give_up(&self) -> Vec<Past> {
        let mut begun = mem::take(&mut *self.lock());
        let mut past = Vec::new();
        if !begun.read(&mut past) {
            tracing::warn!("the gateway wrote a beginning that is none");
        }
        let mut calls: Vec<Box<Call>> = begun.calls.into_values().collect();
        calls.sort_unstable_by_key(|call| call.number);
        past.extend(calls.into_iter().map(lost));
        past
    }
}

impl Begun {
    /// Takes what the gateway wrote beside the channel. Answers whether all of it was what a gateway writes.
    fn read(&mut self, past: &mut Vec<Past>) -> bool {
        let Some(mut beginnings) = self.beginnings.take() else { return true };
        let honest = beginnings.read(|call| past.extend(self.begin(call)));
        self.beginnings = Some(beginnings);
        honest
    }

    /// Answers a call that there is no room to remember, or whose number was given anew.
    fn begin(&mut self, call: Box<Call>) -> Option<Past> {
        let mut call = capped(call);
        let size = call.arguments.as_ref().map_or(0, String::len);
        if self.arguments + size > MOST_ARGUMENTS {
            call.arguments = None;
        }
        if self.calls.len() >= MOST && !self.calls.contains_key(&call.number) {
            return Some(lost(call));
        }
        self.arguments += call.arguments.as_ref().map_or(0, String::len);
        let before = self.calls.insert(call.number, call)?;
        self.arguments -= before.arguments.as_ref().map_or(0, String::len);
        Some(lost(before))
    }

    fn end(&mut self, number: u64) -> Option<Box<Call>> {
        let call = self.calls.remove(&number)?;
        self.arguments -= call.arguments.as_ref().map_or(0, String::len);
        Some(call)
    }
}

/// A call that the gateway made, and of which nobody will say how it ended.
fn lost(call: Box<Call>) -> Past {
    let ended = Ended {
        number: call.number,
        status: UNKNOWN.into(),
        duration_us: 0,
        bytes_in: 0,
        bytes_out: 0,
        result_hash: None,
        classes: BTreeMap::new(),
    };
    Past { call: Some(call), ended: Some(ended) }
}

/// What a call says of itself, no longer than a record takes it.
fn capped(mut call: Box<Call>) -> Box<Call> {
    let texts = [
        &mut call.session,
        &mut call.server,
        &mut call.method,
        &mut call.tool,
        &mut call.arguments_hash,
        &mut call.reason,
        &mut call.risk,
        &mut call.class,
        &mut call.contract,
    ];
    texts.into_iter().for_each(|text| cut(text, LONGEST));
    let more = [&mut call.reported, &mut call.rule, &mut call.approval, &mut call.token, &mut call.definition];
    more.into_iter().flatten().for_each(|text| cut(text, LONGEST));
    if let Some(arguments) = &mut call.arguments {
        cut_bytes(arguments, LONGEST_ARGUMENTS);
    }
    call.alert.take_if(|alert| !ALERTS.contains(&alert.as_str()));
    call
}

fn capped_end(mut ended: Ended) -> Ended {
    cut(&mut ended.status, LONGEST);
    ended.result_hash.iter_mut().for_each(|hash| cut(hash, LONGEST));
    while ended.classes.len() > MOST_CLASSES {
        ended.classes.pop_last();
    }
    if ended.classes.keys().any(|class| class.len() > LONGEST) {
        ended.classes = mem::take(&mut ended.classes)
            .into_iter()
            .map(|(mut class, count)| {
                cut(&mut class, LONGEST);
                (class, count)
            })
            .collect();
    }
    ended
}

/// Cuts a text after so many characters, and says so.
pub(crate) fn cut(text: &mut String, most: usize) {
    // Nearly all are short enough however they are counted.
    if text.len() > most
        && let Some((at, _)) = text.char_indices().nth(most)
    {
        text.truncate(at);
        text.push('\u{2026}');
        text.shrink_to_fit();
    }
}

fn cut_bytes(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('\u{2026}');
        // What was cut off takes no room either.
        text.shrink_to_fit();
    }
}

/// A call's record.
#[derive(Serialize)]
struct Record<'a> {
    agent: &'a str,
    job: &'a str,
    session: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reported_session: Option<&'a str>,
    server: &'a str,
    method: &'a str,
    tool: &'a str,
    arguments_sha256: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a str>,
    decision: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    risk: &'a str,
    class: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approved_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_out: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_sha256: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_classes: Option<&'a BTreeMap<String, u64>>,
    wpc_hash: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_hash: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    definition_sha256: Option<&'a str>,
    #[serde(skip_serializing_if = "is_one")]
    count: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's own form")]
const fn is_one(count: &u64) -> bool {
    *count == 1
}

type Owners = HashMap<u64, (fence::JobId, fence::AgentName)>;

fn record<'a>(owners: &'a Owners, approvals: &'a Approvals, call: &'a Call, ended: Option<&'a Ended>) -> Record<'a> {
    let (job, agent) = owners.get(&call.key).map_or(("", ""), |(job, agent)| (job.as_str(), agent.as_str()));
    Record {
        agent,
        job,
        session: &call.session,
        reported_session: call.reported.as_deref(),
        server: &call.server,
        method: &call.method,
        tool: &call.tool,
        arguments_sha256: &call.arguments_hash,
        arguments: call.arguments.as_deref(),
        decision: call.decision.label(),
        reason: &call.reason,
        rule: call.rule.as_deref(),
        risk: &call.risk,
        class: &call.class,
        approval: call.approval.as_deref(),
        approved_by: call.approval.as_deref().and_then(|id| approvals.who_approved(id)),
        status: ended.map(|ended| ended.status.as_str()),
        duration_us: ended.map(|ended| ended.duration_us),
        bytes_in: ended.map(|ended| ended.bytes_in),
        bytes_out: ended.map(|ended| ended.bytes_out),
        result_sha256: ended.and_then(|ended| ended.result_hash.as_deref()),
        data_classes: ended.map(|ended| &ended.classes).filter(|classes| !classes.is_empty()),
        wpc_hash: &call.contract,
        token_hash: call.token.as_deref(),
        definition_sha256: call.definition.as_deref(),
        count: call.count,
    }
}

/// What the gateway is told of records: whether their callers may be answered.
fn told(written: &io::Result<()>) -> Told {
    match written {
        Ok(()) => Told::Noted,
        Err(error) => Told::Unrecorded(format!("the audit chain cannot be written: {error}")),
    }
}

impl Core {
    /// Writes the records of calls, and counts them. What could not be written is told: no answer to any of them may go out.
    pub(crate) fn record_calls(&mut self, past: &[Past]) -> Told {
        let known: Vec<(&Call, Option<&Ended>)> =
            past.iter().filter_map(|past| Some((past.call.as_deref()?, past.ended.as_ref()))).collect();
        let records: Vec<Record<'_>> =
            known.iter().map(|(call, ended)| record(&self.owners, &self.approvals, call, *ended)).collect();
        let mut written = self.audit.append_all(Kind::Call, &records);
        for (call, ended) in &known {
            let named = self.servers.iter().any(|server| server.name == call.server);
            let server = if named { call.server.as_str() } else { "other" };
            self.counters.called(server, call.decision.label(), call.count);
            if let Some(ended) = ended.filter(|ended| ended.status != UNKNOWN) {
                self.counters.call_seconds.observe(ended.duration_us as f64 / 1e6);
            }
        }
        self.audit_fared(written.as_ref().err());
        for past in past.iter().filter(|past| past.call.is_none()) {
            let Some(ended) = &past.ended else { continue };
            tracing::error!(number = ended.number, "the gateway ended a call that it did not begin");
            let body = json!({ "decision": UNKNOWN, "reason": "never_begun", "status": ended.status,
                "duration_us": ended.duration_us });
            written = written.and(self.record(Kind::Call, body).map(drop));
        }
        for (call, _) in known {
            self.call_alarm(call);
        }
        told(&written)
    }

    /// Counts and tells a call that is an attempt to go around.
    fn call_alarm(&mut self, call: &Call) {
        let Some(kind) = ALERTS.into_iter().find(|kind| call.alert.as_deref() == Some(kind)) else { return };
        let Some((job, agent)) = self.owners.get(&call.key).cloned() else { return };
        self.counters.alert(&agent, kind, call.count);
        if !self.recent.is_first(&agent, kind) {
            return;
        }
        tracing::warn!(kind, %job, server = call.server, tool = call.tool, "bypass attempt");
        let body = json!({ "kind": kind, "job": job.as_str(), "agent": agent.as_str(), "server": call.server,
            "tool": call.tool, "method": call.method, "wpc_hash": call.contract, "reason": call.reason,
            "verdict": call.decision.label() });
        self.note(Kind::Alert, body);
    }
}

impl Shared {
    /// The payload of a contract in force, as JSON.
    fn contract_text(&self, hash: &str) -> Option<String> {
        let bytes = {
            let core = self.lock();
            let hash = hash.parse().ok().filter(|hash| core.contracts.contains_key(hash))?;
            core.contract_bytes(hash).ok()?
        };
        // What is kept under a hash may have been changed since it was judged: then it is nobody's contract.
        let envelope = Envelope::open(&bytes, EnvelopeKind::WorkPolicyContract).ok()?;
        (envelope.hash.to_string() == hash).then(|| envelope.payload.to_string())
    }
}

/// Answers a question of MCP.
pub(crate) fn tell(shared: &Shared, ask: Ask) -> Told {
    match ask {
        // Under the lock, because whoever is told of a job by the kernel must not be told here that there is none.
        Ask::Job { slot } => {
            let core = shared.lock();
            let rules = core.rulebook.current();
            Told::Job(rules.jobs.iter().find(|job| job.slot == slot).map(|job| (job.key, rules.serial)))
        }
        Ask::Approval(held) => Told::Approval(shared.lock().stands(&held)),
        Ask::Pins { server, definitions } => Told::Pins(shared.lock().pins_asked(&server, &definitions)),
        Ask::Contract { hash } => Told::Contract(shared.contract_text(&hash)),
        // Answered where it can wait, or by nobody.
        _ => Told::Unrecorded("there is no such question".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write};

    use control::calls::Decision;

    use super::*;

    fn call(number: u64) -> Box<Call> {
        Box::new(Call {
            number,
            slot: 1,
            key: 7,
            session: "s".into(),
            reported: None,
            server: "crm".into(),
            method: "tools/call".into(),
            tool: "get".into(),
            arguments_hash: "h".into(),
            arguments: None,
            decision: Decision::Allowed,
            reason: "allowed".into(),
            rule: Some("tools.allow[0]".into()),
            risk: "low".into(),
            class: "read".into(),
            approval: None,
            contract: "c".into(),
            token: None,
            definition: None,
            count: 1,
            alert: None,
        })
    }

    fn ended(number: u64) -> Ended {
        Ended {
            number,
            status: "ok".into(),
            duration_us: 5,
            bytes_in: 1,
            bytes_out: 2,
            result_hash: Some("r".into()),
            classes: BTreeMap::from([("card".into(), 1)]),
        }
    }

    fn statuses(past: &[Past]) -> Vec<(u64, Option<&str>)> {
        let number = |past: &Past| past.call.as_ref().map_or(0, |call| call.number);
        past.iter().map(|past| (number(past), past.ended.as_ref().map(|ended| ended.status.as_str()))).collect()
    }

    #[test]
    fn a_call_is_recorded_when_it_ends_or_was_not_made() {
        let calls = Calls::default();
        let (_, under_way) = calls.opened();
        assert_eq!(under_way.sort(vec![Called::Begun(call(1)), Called::Begun(call(2))]).0, []);
        let past = under_way.sort(vec![Called::Ended(ended(2)), Called::Refused(call(3))]).0;
        assert_eq!(statuses(&past), [(2, Some("ok")), (3, None)]);
        // In one batch too.
        let past = under_way.sort(vec![Called::Begun(call(4)), Called::Ended(ended(4))]).0;
        assert_eq!(statuses(&past), [(4, Some("ok"))]);
        // What never began is told all the same.
        assert_eq!(statuses(&under_way.sort(vec![Called::Ended(ended(9))]).0), [(0, Some("ok"))]);
    }

    #[test]
    fn what_a_gateway_was_making_when_it_went_is_recorded_as_unknown() {
        let calls = Calls::default();
        let ((one, first), (two, second)) = (calls.opened(), calls.opened());
        first.sort(vec![Called::Begun(call(2)), Called::Begun(call(1)), Called::Begun(call(3))]);
        first.sort(vec![Called::Ended(ended(3))]);
        second.sort(vec![Called::Begun(call(5))]);
        assert_eq!(statuses(&calls.closed(one)), [(1, Some(UNKNOWN)), (2, Some(UNKNOWN))]);
        assert_eq!(calls.closed(one), []);
        assert_eq!(statuses(&calls.all_closed()), [(5, Some(UNKNOWN))]);
        assert_eq!(calls.closed(two), []);
    }

    #[test]
    fn what_was_written_beside_the_channel_began_before_whatever_is_asked() {
        let calls = Calls::default();
        let (number, under_way) = calls.opened();
        let mut way = File::from(under_way.beginnings().unwrap());
        let mut begin = |number| way.write_all(&serde_json::to_vec(&Called::Begun(call(number))).unwrap()).unwrap();
        begin(1);
        begin(2);
        assert_eq!(statuses(&under_way.sort(vec![Called::Ended(ended(2))]).0), [(2, Some("ok"))]);
        begin(3);
        assert_eq!(statuses(&calls.closed(number)), [(1, Some(UNKNOWN)), (3, Some(UNKNOWN))]);
        // Whoever writes something else is no gateway, and what it wrote before is not forgotten for it, nor for another way.
        let (_, under_way) = calls.opened();
        let mut way = File::from(under_way.beginnings().unwrap());
        way.write_all(&serde_json::to_vec(&Called::Begun(call(1))).unwrap()).unwrap();
        way.write_all(&serde_json::to_vec(&Called::Begun(call(1))).unwrap()).unwrap();
        way.write_all(&serde_json::to_vec(&Called::Ended(ended(1))).unwrap()).unwrap();
        assert_eq!(under_way.beginnings().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let (past, honest) = under_way.sort(Vec::new());
        assert_eq!((statuses(&past), honest), (vec![(1, Some(UNKNOWN))], false));
    }

    #[test]
    fn what_is_remembered_of_calls_has_bounds_and_nothing_goes_without_a_record() {
        let under_way = UnderWay::default();
        let begin = |number| under_way.sort(vec![Called::Begun(call(number))]).0;
        for number in 0..MOST as u64 {
            assert_eq!(begin(number), []);
        }
        assert_eq!(statuses(&begin(MOST as u64)), [(MOST as u64, Some(UNKNOWN))]);
        // A number that is given anew stands for the later call.
        assert_eq!(statuses(&begin(0)), [(0, Some(UNKNOWN))]);
        let under_way = UnderWay::default();
        let long = |number| Box::new(Call { arguments: Some("x".repeat(LONGEST_ARGUMENTS)), ..*call(number) });
        for number in 0..(MOST_ARGUMENTS / LONGEST_ARGUMENTS + 1) as u64 {
            under_way.sort(vec![Called::Begun(long(number))]);
        }
        let kept =
            |number| under_way.sort(vec![Called::Ended(ended(number))]).0[0].call.as_ref().unwrap().arguments.is_some();
        assert!(kept(0) && !kept((MOST_ARGUMENTS / LONGEST_ARGUMENTS) as u64));
    }

    #[test]
    fn nobody_is_answered_whose_record_could_not_be_written() {
        assert_eq!(told(&Ok(())), Told::Noted);
        let full = Err(io::ErrorKind::StorageFull.into());
        assert!(matches!(told(&full), Told::Unrecorded(why) if why.contains("audit chain")));
    }

    #[test]
    fn no_text_of_a_call_is_longer_than_a_record_takes_it() {
        let mut long = call(1);
        (long.tool, long.reported) = ("\u{e4}".repeat(LONGEST + 1), Some("y".repeat(5000)));
        long.alert = Some("z".repeat(1 << 20));
        long.arguments = Some("\u{e4}".repeat(LONGEST_ARGUMENTS));
        let past = UnderWay::default().sort(vec![Called::Refused(long)]).0;
        let call = past[0].call.as_ref().unwrap();
        assert_eq!(call.tool, "\u{e4}".repeat(LONGEST) + "\u{2026}");
        assert_eq!(call.reported.as_ref().unwrap().chars().count(), LONGEST + 1);
        let arguments = call.arguments.as_ref().unwrap();
        assert!(arguments.len() < LONGEST_ARGUMENTS + 4 && arguments.capacity() < LONGEST_ARGUMENTS + 64);
        assert_eq!(call.alert, None);
        let mut many = ended(1);
        many.classes = (0..1000).map(|i| (format!("{i}{}", "z".repeat(1000)), 1)).collect();
        let past = UnderWay::default().sort(vec![Called::Ended(many)]).0;
        let classes = &past[0].ended.as_ref().unwrap().classes;
        assert!(classes.len() <= MOST_CLASSES && classes.keys().all(|class| class.chars().count() <= LONGEST + 1));
    }

    #[test]
    fn a_record_says_everything_that_is_known_of_a_call() {
        let owners = HashMap::from([(7, ("j".parse().unwrap(), "a".parse().unwrap()))]);
        let (approvals, call, ended) = (Approvals::default(), call(1), ended(1));
        let written = serde_json::to_value(record(&owners, &approvals, &call, Some(&ended))).unwrap();
        assert_eq!(
            written,
            json!({ "agent": "a", "job": "j", "session": "s", "server": "crm", "method": "tools/call", "tool": "get",
                "arguments_sha256": "h", "decision": "allowed", "reason": "allowed", "rule": "tools.allow[0]",
                "risk": "low", "class": "read", "status": "ok", "duration_us": 5, "bytes_in": 1, "bytes_out": 2,
                "result_sha256": "r", "data_classes": { "card": 1 }, "wpc_hash": "c" })
        );
    }
}
