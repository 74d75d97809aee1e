//! What agents in observe mode did that their contract would have denied: each thing once, with counts, from which a contract
//! can be written.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    net::IpAddr,
};

use claw::{envelope::Envelope, envelope::Kind as Sealed};
use clawguard_common::{Hook, INBOUND, Reason, guard, protocol};
use control::api::{Code, ObservedEntry, ObservedForgotten, ObservedView};
use evidence::chain::Kind;
use fence::{AgentName, Decision, JobId};
use policy::{net, special};
use serde_json::{Value, json};

use crate::{
    audit::Ticket,
    config::AgentMode,
    core::{Answer, Core, failed, refuse},
    ledger,
};

/// Things that are kept of one agent.
const MOST: usize = 10_000;
/// Addresses of one agent whose names are remembered.
const MOST_ADDRESSES: usize = 16_384;
/// Names that are remembered of one address.
const MOST_NAMES: usize = 8;
/// Ends of intervals between two writes of what only counted on.
const SELDOM: u32 = 30;

/// What tells two observations apart.
type Key = (String, String, String, String, u16, String);

/// What one agent did.
#[derive(Default)]
struct Table {
    entries: BTreeMap<Key, ObservedEntry>,
    /// Observations that found no room.
    left_out: u64,
    /// Where the names led that it asked for, the latest last, and when: nanoseconds, CLOCK_BOOTTIME.
    names: HashMap<IpAddr, Vec<(String, u64)>>,
    /// Where datagrams were sent first, and from where they came first.
    sent: HashSet<(IpAddr, u16)>,
    called: HashSet<(IpAddr, u16)>,
    /// There are things that are not on disk.
    news: bool,
    /// There are counts that are not on disk.
    counts: bool,
    waited: u32,
}

/// What all observed agents did.
#[derive(Default)]
pub(crate) struct Observed {
    by_agent: BTreeMap<AgentName, Table>,
}

/// What is kept on disk.
#[derive(Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    left_out: u64,
    entries: Vec<ObservedEntry>,
}

fn key(entry: &ObservedEntry) -> Key {
    let ObservedEntry { kind, name, address, protocol, port, reason, .. } = entry;
    // Of a host, the address is only an example.
    let address = if kind == "host" { String::new() } else { address.clone() };
    (kind.clone(), name.clone(), address, protocol.clone(), *port, reason.clone())
}

impl Table {
    /// Counts one more of a thing, or keeps it if there is room.
    fn note(&mut self, entry: ObservedEntry) {
        let key = key(&entry);
        if let Some(known) = self.entries.get_mut(&key) {
            known.count = known.count.saturating_add(entry.count);
            if known.last_at < entry.last_at {
                known.last_at = entry.last_at;
            }
            known.tls |= entry.tls;
            known.shared |= entry.shared;
            if known.command.is_empty() {
                (known.pid, known.command, known.job) = (entry.pid, entry.command, entry.job);
            }
            self.counts = true;
        } else if self.entries.len() < MOST {
            self.entries.insert(key, entry);
            self.news = true;
        } else {
            self.left_out = self.left_out.saturating_add(entry.count);
            self.counts = true;
        }
    }

    /// A question for a name was answered.
    fn led(&mut self, name: &str, addresses: &[IpAddr], now_ns: u64) {
        for address in addresses {
            if self.names.len() >= MOST_ADDRESSES && !self.names.contains_key(address) {
                continue;
            }
            let names = self.names.entry(*address).or_default();
            match names.iter().position(|(known, _)| known == name) {
                Some(_) => {}
                None if names.len() < MOST_NAMES => names.push((name.into(), now_ns)),
                // The oldest makes room.
                None => {
                    names.remove(0);
                    names.push((name.into(), now_ns));
                }
            }
        }
    }

    /// The names that had led to an address by then.
    fn names_of(&self, address: IpAddr, by_ns: u64) -> Vec<String> {
        let names = self.names.get(&address).into_iter().flatten();
        names.filter(|(_, since)| *since <= by_ns).map(|(name, _)| name.clone()).collect()
    }

    /// Whether a flow of datagrams was begun by the other end.
    fn called(&mut self, from: (IpAddr, u16), came: bool) -> bool {
        if self.called.contains(&from) {
            return true;
        }
        if self.sent.contains(&from) {
            return false;
        }
        let first = if came { &mut self.called } else { &mut self.sent };
        if first.len() < MOST {
            first.insert(from);
        }
        came
    }
}

impl Observed {
    fn table(&mut self, agent: &AgentName) -> &mut Table {
        self.by_agent.entry(agent.clone()).or_default()
    }

    /// A question that an observed agent asked was answered.
    pub(crate) fn led(&mut self, agent: &AgentName, name: &str, addresses: &[IpAddr]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| net::ip(net::addr(*address))).collect();
        self.table(agent).led(name, &addresses, sys::clock::boot_ns());
    }

    /// An observed agent asked for a name that its contract does not name.
    pub(crate) fn asked(&mut self, agent: &AgentName, job: &JobId, name: &str, reason: Reason, count: u64) {
        let at = Core::wall(sys::clock::boot_ns());
        self.table(agent).note(ObservedEntry {
            kind: "name".into(),
            name: name.into(),
            reason: reason.label().into(),
            count,
            first_at: at.clone(),
            last_at: at,
            job: job.to_string(),
            ..ObservedEntry::default()
        });
    }
}

/// Of one socket's life, the caller's part comes before the packets'.
fn by_caller(decision: &Decision) -> bool {
    decision.hook().is_some_and(|hook| (hook as u8) < Hook::Egress as u8)
}

impl Core {
    /// Reads what was seen before.
    pub(crate) fn adopt_observed(&mut self) {
        let directory = self.paths.observed();
        let names: Vec<AgentName> = self.ledger.agents.keys().cloned().collect();
        for name in names {
            let path = directory.join(format!("{name}.json"));
            match ledger::read::<File>(&path) {
                Ok(File { left_out, entries }) => {
                    let table = self.observed.table(&name);
                    table.left_out = left_out;
                    table.entries = entries.into_iter().map(|entry| (key(&entry), entry)).collect();
                }
                Err(error) => {
                    tracing::error!(%error, "what the agent was seen to do is not known any more");
                    let aside = path.with_extension("damaged");
                    let what = match fs::rename(&path, &aside) {
                        Ok(()) => {
                            format!("{error}; it lies at {} now, and what is seen is noted anew", aside.display())
                        }
                        Err(_) => error.to_string(),
                    };
                    self.problems.insert("observed".into(), what);
                }
            }
        }
        self.observed.by_agent.retain(|_, table| !table.entries.is_empty() || table.left_out > 0);
    }

    /// Notes what of an interval's decisions passed only because the agent is observed.
    pub(crate) fn observe(&mut self, decisions: &[Decision]) {
        let mut seen: Vec<&Decision> = decisions.iter().filter(|decision| decision.observed()).collect();
        // What a caller asked for is known before its packets are looked at.
        seen.sort_by_key(|decision| (!by_caller(decision), decision.count.first_ns));
        for decision in seen {
            self.observe_one(decision);
        }
    }

    fn observe_one(&mut self, decision: &Decision) {
        let named = self.named(decision);
        let (Some(agent), Some(job)) = (named.agent, named.job) else { return };
        let remote = &decision.key.remote;
        let (reason, inbound) = (decision.reason(), remote.loopback & INBOUND != 0);
        // Told by name, flow by flow. And the way to the DNS guard is every job's, with a contract or without.
        if reason == Reason::SniMismatch || guard::job(remote.addr).is_some() {
            return;
        }
        let view = self.view(decision);
        let address = net::ip(remote.addr);
        let number = match remote.protocol {
            protocol::TCP => Some("tcp"),
            protocol::UDP => Some("udp"),
            _ => None,
        };
        let mut entry = ObservedEntry {
            kind: "other".into(),
            protocol: view.protocol,
            reason: view.reason,
            count: decision.count.count,
            first_at: view.at,
            last_at: view.last_at,
            pid: view.pid,
            command: view.command,
            job: job.to_string(),
            ..ObservedEntry::default()
        };
        let table = self.observed.table(&agent);
        let sockets = matches!(decision.hook(), Some(Hook::SockCreate | Hook::Setsockopt));
        let disguised = !inbound && remote.loopback == 0 && remote.addr.is_loopback();
        if sockets || view.remote.is_empty() || disguised || number.is_none() {
            if disguised {
                entry.protocol = format!("another form of the loopback address {address}");
            }
            table.note(entry);
            return;
        }
        (entry.address, entry.port) = (address.to_string(), remote.port);
        if inbound {
            entry.kind = "inbound".into();
            table.note(entry);
            return;
        }
        let came = decision.hook() == Some(Hook::Ingress);
        if remote.protocol == protocol::UDP && table.called((address, remote.port), came) {
            // To which of the job's ports it came is not told.
            (entry.kind, entry.port) = ("inbound".into(), 0);
            table.note(entry);
            return;
        }
        let names = table.names_of(address, decision.count.last_ns);
        let shared = names.len() > 1;
        for name in &names {
            table.note(ObservedEntry { kind: "host".into(), name: name.clone(), shared, ..entry.clone() });
        }
        // A name opens no address in a special range.
        if names.is_empty() || special::of(remote.addr).is_some() {
            table.note(ObservedEntry { kind: "address".into(), ..entry });
        }
    }

    /// A flow of an observed agent called for a name that is not allowed there.
    pub(crate) fn observe_name(&mut self, decision: &Decision, name: &str) {
        let named = self.named(decision);
        let (Some(agent), Some(job)) = (named.agent, named.job) else { return };
        if !decision.observed() || decision.reason() != Reason::SniMismatch {
            return;
        }
        let view = self.view(decision);
        let remote = &decision.key.remote;
        self.observed.table(&agent).note(ObservedEntry {
            kind: "host".into(),
            name: name.into(),
            address: net::ip(remote.addr).to_string(),
            protocol: view.protocol,
            port: remote.port,
            reason: view.reason,
            tls: true,
            shared: false,
            count: 1,
            first_at: view.at,
            last_at: view.last_at,
            pid: view.pid,
            command: view.command,
            job: job.to_string(),
        });
    }

    /// Puts on disk what is new. What only counted on waits, unless it is now or never.
    pub(crate) fn save_observed(&mut self, now_or_never: bool) {
        let directory = self.paths.observed();
        let mut failed = None;
        for (agent, table) in &mut self.observed.by_agent {
            table.waited = table.waited.saturating_add(1);
            let due = table.news || (table.counts && (now_or_never || table.waited >= SELDOM));
            if !due {
                continue;
            }
            let file = File { left_out: table.left_out, entries: table.entries.values().cloned().collect() };
            let path = directory.join(format!("{agent}.json"));
            let written = sys::file::directory(&directory, 0o700)
                .and_then(|()| serde_json::to_vec(&file).map_err(io::Error::other))
                .and_then(|text| sys::file::replace(&path, &text, 0o600));
            match written {
                Ok(()) => (table.news, table.counts, table.waited) = (false, false, 0),
                Err(error) => failed = Some(format!("what {agent} was seen to do is not on disk: {error}")),
            }
        }
        match failed {
            Some(why) => {
                tracing::error!(why, "observations are kept in memory alone");
                self.problems.insert("observed".into(), why);
            }
            None if now_or_never => {}
            None => {
                self.problems.retain(|what, why| what != "observed" || why.contains(".damaged"));
            }
        }
    }

    /// What an agent was seen to do, and the contract that it is under.
    pub(crate) fn observed_view(&mut self, agent: &AgentName) -> Answer<ObservedView> {
        self.end_interval();
        let known = self.agents.get(agent).cloned();
        let Some(known) = known else {
            return refuse(Code::NotFound, format!("there is no agent {agent}"), "`clawguard status` lists them");
        };
        let contract = match known.wpc {
            None => None,
            Some(hash) => {
                let bytes = self.contract_bytes(hash)?;
                let envelope = Envelope::open(&bytes, Sealed::WorkPolicyContract)
                    .map_err(|error| failed("read the contract in force", &error))?;
                let value: Value = serde_json::from_str(&envelope.payload.to_string())
                    .map_err(|error| failed("read the contract in force", &error))?;
                Some(value)
            }
        };
        let table = self.observed.by_agent.get(agent);
        Ok(ObservedView {
            agent: agent.to_string(),
            mode: known.mode.label().into(),
            wpc_hash: known.wpc.map(|hash| hash.to_string()),
            contract,
            left_out: table.map_or(0, |table| table.left_out),
            entries: table.map(|table| table.entries.values().cloned().collect()).unwrap_or_default(),
        })
    }

    /// Begins anew.
    pub(crate) fn forget_observed(
        &mut self,
        agent: &AgentName,
        actor: &Value,
    ) -> Answer<(ObservedForgotten, Option<Ticket>)> {
        self.end_interval();
        if !self.agents.contains_key(agent) {
            return refuse(Code::NotFound, format!("there is no agent {agent}"), "`clawguard status` lists them");
        }
        let path = self.paths.observed().join(format!("{agent}.json"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove what was seen from the disk", &error));
            }
            _ => {}
        }
        let forgotten = self.observed.by_agent.get_mut(agent).map_or(0, |table| {
            // Where names led is not asked for anew as long as the answers are good.
            let names = std::mem::take(&mut table.names);
            let before = std::mem::replace(table, Table { names, ..Table::default() });
            before.entries.len() as u64
        });
        let ticket = self
            .record(
                Kind::Configuration,
                json!({ "agent": agent.as_str(), "observations_forgotten": forgotten, "actor": actor }),
            )
            .map_err(|error| failed("record it", &error))?;
        Ok((ObservedForgotten { agent: agent.to_string(), forgotten }, Some(ticket)))
    }

    /// Whose names are only observed: a job of an observed agent that no contract is in force for.
    pub(crate) fn observed_without_contract(&self, slot: u32) -> Option<(JobId, AgentName)> {
        let key = self.fence.job_key(slot);
        let (job, agent) = self.owners.get(&key).filter(|_| key != 0)?.clone();
        let known = self.jobs.get(&job).filter(|job| job.enrolled.key == key)?;
        let entry = self.agents.get(&agent)?;
        (known.wpc.or(entry.wpc).is_none() && entry.mode == AgentMode::Observe).then_some((job, agent))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn entry(n: u16) -> ObservedEntry {
        let kind = "address".into();
        ObservedEntry {
            kind,
            address: "203.0.113.9".into(),
            protocol: "tcp".into(),
            port: n,
            count: 1,
            ..ObservedEntry::default()
        }
    }

    #[test]
    fn each_thing_is_kept_once_and_what_finds_no_room_is_counted() {
        let mut table = Table::default();
        for n in 0..MOST as u16 + 5 {
            table.note(entry(n));
        }
        table.note(ObservedEntry {
            count: 3,
            last_at: "2030-01-01T00:00:00Z".into(),
            command: "curl".into(),
            ..entry(7)
        });
        assert_eq!((table.entries.len(), table.left_out), (MOST, 5));
        let known = &table.entries[&key(&entry(7))];
        assert_eq!((known.count, known.command.as_str(), known.last_at.as_str()), (4, "curl", "2030-01-01T00:00:00Z"));
    }

    #[test]
    fn a_name_counts_from_when_it_led_somewhere() {
        let (mut table, at) = (Table::default(), "203.0.113.9".parse().unwrap());
        table.led("one.example", &[at], 10);
        table.led("two.example", &[at], 20);
        table.led("one.example", &[at], 30);
        assert_eq!(table.names_of(at, 9), [""; 0]);
        assert_eq!(table.names_of(at, 15), ["one.example"]);
        assert_eq!(table.names_of(at, 25), ["one.example", "two.example"]);
        for n in 0..MOST_NAMES as u64 {
            table.led(&format!("n{n}.example"), &[at], 40 + n);
        }
        let names: BTreeSet<String> = table.names_of(at, 100).into_iter().collect();
        assert!(names.len() == MOST_NAMES && !names.contains("one.example"), "{names:?}");
    }
}
