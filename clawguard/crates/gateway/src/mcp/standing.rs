//! What is in force: the daemon's rules, with the contracts that they name, read.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use control::{
    calls::{JobRules, Rules, ServerRules, Upstream},
    channel::{Ask, Told},
};
use mcp::decide::{Approval, Defined, Facts, Judged, Limit};
use policy::{
    Contract, ModelPolicy, gateway::GatewayPolicy, group::Class, host::McpServer, mcp::What, tool::NamePattern,
};

use super::upstream::Http;
use crate::{channel::Channel, model::Models};

/// What the daemon took is taken here too.
const LIMITS: claw::json::Limits = claw::json::Limits { bytes: control::channel::LONGEST, depth: 64 };
/// Judgements of one contract that are kept.
const MOST_KEPT: usize = 8192;

/// All that callers are held to, at one moment.
pub(crate) struct Standing {
    pub(crate) rules: Rules,
    pub(crate) servers: HashMap<String, Arc<Server>>,
    /// The ways to models.
    pub(crate) models: Arc<Models>,
    /// By slot.
    jobs: HashMap<u32, Arc<Job>>,
}

/// A server, as it is reached.
pub(crate) struct Server {
    pub(crate) rules: ServerRules,
    /// `None` for a stdio server.
    pub(crate) http: Option<Arc<Http>>,
    /// Why it cannot be reached at all, if so.
    pub(crate) broken: Option<String>,
}

/// A job and what it is under.
pub(crate) struct Job {
    pub(crate) rules: JobRules,
    pub(crate) contract: Option<Arc<Terms>>,
}

/// A server's and a tool's name.
type Tool = (Box<str>, Box<str>);

/// A contract, read.
pub(crate) struct Terms {
    policy: GatewayPolicy,
    kept: Mutex<HashMap<Tool, Arc<Judged>>>,
}

impl Standing {
    pub(crate) fn empty() -> Self {
        Self { rules: Rules::default(), servers: HashMap::new(), models: Arc::default(), jobs: HashMap::new() }
    }

    /// The number of the job that has a slot.
    pub(crate) fn key(&self, slot: u32) -> Option<u64> {
        self.jobs.get(&slot).map(|job| job.rules.key)
    }

    /// The job that has a slot, if it is still the one of this number.
    pub(crate) fn job(&self, slot: u32, key: u64) -> Option<&Arc<Job>> {
        self.jobs.get(&slot).filter(|job| job.rules.key == key)
    }

    /// Reads new rules. What did not change is taken over.
    pub(crate) async fn next(before: &Self, rules: Rules, daemon: &Channel) -> std::io::Result<Self> {
        let mut servers = HashMap::new();
        for server in &rules.servers {
            let known = before.servers.get(&server.name).filter(|known| known.rules.upstream == server.upstream);
            let same = known.filter(|known| known.rules == *server);
            let server = match (same, known) {
                (Some(same), _) => Arc::clone(same),
                (None, Some(known)) => {
                    Arc::new(Server { rules: server.clone(), http: known.http.clone(), broken: known.broken.clone() })
                }
                (None, None) => Arc::new(Server::new(server)),
            };
            servers.insert(server.rules.name.clone(), server);
        }
        // What a server is said to be is part of how a contract is read.
        let facts: Vec<McpServer> = rules.servers.iter().map(fact).collect();
        let mut contracts: HashMap<String, Option<Arc<Terms>>> = HashMap::new();
        if facts == before.rules.servers.iter().map(fact).collect::<Vec<_>>() {
            for job in before.jobs.values() {
                if let (Some(hash), Some(terms)) = (&job.rules.contract, &job.contract) {
                    contracts.insert(hash.clone(), Some(Arc::clone(terms)));
                }
            }
        }
        let mut jobs = HashMap::with_capacity(rules.jobs.len());
        for job in &rules.jobs {
            let contract = match &job.contract {
                None => None,
                Some(hash) => match contracts.get(hash) {
                    Some(known) => known.clone(),
                    None => {
                        let terms = Terms::ask(hash, &facts, daemon).await?;
                        contracts.insert(hash.clone(), terms.clone());
                        terms
                    }
                },
            };
            let same = before.jobs.get(&job.slot).filter(|same| {
                let contracts = match (&same.contract, &contract) {
                    (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                    (one, other) => one.is_none() && other.is_none(),
                };
                same.rules == *job && contracts
            });
            let job = same.map_or_else(|| Arc::new(Job { rules: job.clone(), contract }), Arc::clone);
            jobs.insert(job.rules.slot, job);
        }
        let models = if rules.model == before.rules.model {
            Arc::clone(&before.models)
        } else {
            Arc::new(Models::new(&rules.model))
        };
        Ok(Self { rules, servers, models, jobs })
    }

    /// What is known of a job's calls before anything else is.
    pub(crate) fn facts<'a>(&'a self, job: &'a Job, defined: Defined) -> Facts<'a> {
        Facts {
            recordable: self.rules.closed.is_none(),
            in_force: job.rules.stopped.is_none() && job.contract.is_some(),
            token_fits: true,
            killed: [&self.rules.killed, &job.rules.killed],
            defined,
            data: false,
            limit: None::<Limit>,
            approval: Approval::Unasked,
            observe: job.rules.observe,
        }
    }
}

impl Server {
    fn new(rules: &ServerRules) -> Self {
        let (http, broken) = match &rules.upstream {
            Upstream::Stdio => (None, None),
            Upstream::Http { url, addresses, ca, headers, .. } => {
                let own = headers.iter().map(|(name, value)| (name.clone(), value.clone()));
                match Http::new(url, addresses, ca.as_deref(), own) {
                    Ok(http) => (Some(Arc::new(http)), None),
                    Err(why) => {
                        tracing::error!(server = rules.name, why, "a server's configuration cannot be used");
                        (None, Some(why))
                    }
                }
            }
        };
        Self { rules: rules.clone(), http, broken }
    }

    /// Whether it speaks HTTP+SSE of 2024-11-05.
    pub(crate) fn is_sse(&self) -> bool {
        matches!(self.rules.upstream, Upstream::Http { sse: true, .. })
    }
}

impl Job {
    /// What the job's contract says of a tool. Without a contract, nothing is given.
    pub(crate) fn tool(&self, server: &str, tool: &str) -> Arc<Judged> {
        let Some(terms) = &self.contract else {
            return Arc::new(GatewayPolicy::default().tool(server, tool).into());
        };
        // Whoever calls chooses the name, and its length.
        if tool.len() > mcp::definition::NAME {
            return Arc::new(terms.policy.tool(server, tool).into());
        }
        let key = (server.into(), tool.into());
        let mut kept = terms.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.get(&key) {
            return Arc::clone(known);
        }
        let judged = Arc::new(Judged::from(terms.policy.tool(server, tool)));
        if kept.len() >= MOST_KEPT {
            kept.clear();
        }
        kept.insert(key, Arc::clone(&judged));
        judged
    }

    /// Whether the contract gives anything of a server.
    pub(crate) fn reaches(&self, server: &str) -> bool {
        self.contract.as_ref().is_some_and(|terms| terms.policy.reaches(server))
    }

    /// What the job's contract says of anything else.
    pub(crate) fn other(&self, server: &str, what: What<'_>) -> Judged {
        match &self.contract {
            Some(terms) => terms.policy.other(server, what).into(),
            None => GatewayPolicy::default().other(server, what).into(),
        }
    }

    /// What the contract says of models. Without a contract, none is given.
    pub(crate) fn models(&self) -> &ModelPolicy {
        static NONE: ModelPolicy = ModelPolicy::NONE;
        self.contract.as_ref().map_or(&NONE, |terms| &terms.policy.models)
    }

    /// What the contract says of data, if anything.
    pub(crate) fn data(&self) -> Option<&policy::contract::DataClasses> {
        self.contract.as_ref().and_then(|terms| terms.policy.data.as_ref())
    }

    /// What lists and streams depend on.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        let contracts = match (&self.contract, &other.contract) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        contracts
            && self.rules.killed == other.rules.killed
            && self.rules.stopped.is_none() == other.rules.stopped.is_none()
            && self.rules.observe == other.rules.observe
    }
}

impl Terms {
    /// Asks for a contract and reads it. One that cannot be read gives nothing.
    async fn ask(hash: &str, servers: &[McpServer], daemon: &Channel) -> std::io::Result<Option<Arc<Self>>> {
        let payload = match daemon.ask(Ask::Contract { hash: hash.into() }).await? {
            Told::Contract(Some(payload)) => payload,
            Told::Contract(None) => {
                tracing::warn!(hash, "the daemon has no such contract in force: nothing is given under it");
                return Ok(None);
            }
            _ => return Err(std::io::ErrorKind::InvalidData.into()),
        };
        let read = claw::json::parse(payload.as_bytes(), LIMITS).map_err(|error| error.to_string());
        let read = read.and_then(|value| Contract::read(&value).map_err(|error| error.to_string()));
        match read {
            Ok(contract) => {
                let policy = GatewayPolicy::of(&contract, servers);
                Ok(Some(Arc::new(Self { policy, kept: Mutex::default() })))
            }
            Err(error) => {
                tracing::error!(hash, error, "a contract cannot be read: nothing is given under it");
                Ok(None)
            }
        }
    }
}

fn fact(server: &ServerRules) -> McpServer {
    let patterns = |texts: &[String]| -> Vec<NamePattern> {
        // One that is none names no tool, and what no pattern names is judged by its name.
        texts.iter().filter_map(|text| text.parse().ok()).collect()
    };
    McpServer {
        name: server.name.clone(),
        endpoint: None,
        risk: server.risk.parse().unwrap_or(policy::group::Risk::High),
        class: Class::Irreversible,
        read: patterns(&server.read),
        write: patterns(&server.write),
        irreversible: patterns(&server.irreversible),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_caller_invents_do_not_fill_the_memory() {
        let rules = JobRules {
            slot: 1,
            key: 1,
            job: "j".into(),
            agent: "a".into(),
            contract: Some("c".into()),
            killed: std::collections::BTreeSet::new(),
            observe: false,
            token: None,
            stopped: None,
        };
        let terms = Arc::new(Terms { policy: GatewayPolicy::default(), kept: Mutex::default() });
        let job = Job { rules, contract: Some(Arc::clone(&terms)) };
        for length in [1, mcp::definition::NAME, mcp::definition::NAME + 1, 1 << 20] {
            assert!(matches!(job.tool("crm", &"x".repeat(length)).verdict, policy::tool::ToolVerdict::Deny(_)));
        }
        assert_eq!(terms.kept.lock().unwrap().len(), 2);
    }
}
