//! The registries: where they are, whether they answer, and what becomes of what they answer.

use std::{collections::BTreeSet, fs};

use claw::{
    Hash,
    key::Did,
    time::Instant,
    token::{Issuers, read_jwks},
};
use control::{
    api::{Code, RegistryView},
    channel::{Outcome, Source, Standing, What},
};
use fence::AgentName;
use sys::clock;

use crate::{
    config::Config,
    contracts::Terms,
    core::{Answer, Core, Shared, refuse},
    errands::{Purpose, Registry},
};

/// Seconds between two questions whether a registry is up, and between two looks for what it should have given.
const HEALTH: u64 = 15;
/// Seconds after which a key set is fetched anew.
const KEYS: u64 = 300;
/// Seconds between two fetches because of a key that nobody knows.
const KEYS_APART: u64 = 5;
/// Seconds for which a key set counts: how long clawscope lets an old key and a new one overlap.
const KEYS_COUNT: u64 = 3600;
/// Beats between two attempts to follow revocations.
const STREAM: u64 = 5;

const SECOND: u64 = 1_000_000_000;

/// How a registry fared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    /// Whether it answered the last time; `None` before the first.
    pub(crate) up: Option<bool>,
    /// When it last answered.
    pub(crate) last_success: Option<Instant>,
    /// What went wrong the last time, if it did.
    pub(crate) error: Option<String>,
}

/// The registries.
#[derive(Debug, Default)]
pub(crate) struct Registries {
    controls: Option<Source>,
    scope: Option<Source>,
    reach: [Reach; 2],
    /// clawscope's keys, and when they came (CLOCK_BOOTTIME).
    keys: Option<(Vec<Did>, u64)>,
    /// Since when these are the registries: nanoseconds, CLOCK_BOOTTIME.
    since_ns: u64,
    /// When the key set was last asked for because of a key that nobody knew.
    keys_asked_ns: u64,
    /// Why the key set is not there.
    pub(crate) keys_error: Option<String>,
    /// Contracts that the registry gave and that were refused.
    refused: BTreeSet<Hash>,
    /// Why revocations are not followed as they happen, though they should be.
    pub(crate) stream_error: Option<String>,
}

impl Registries {
    /// Where they are, by the configuration. What the host fixed of their addresses is used and nothing else.
    pub(crate) fn of(config: &Config) -> Result<Self, String> {
        let read = |path: &std::path::Path| {
            fs::read_to_string(path).map_err(|error| format!("[registry] {}: {error}", path.display()))
        };
        let registry = &config.registry;
        let ca = registry.ca.as_deref().map(read).transpose()?;
        let bearer = registry.token.as_deref().map(read).transpose()?.map(|text| text.trim().to_owned());
        let source = |url: Option<&String>, bearer: Option<String>| {
            let url = url?;
            let addresses = config.addresses_of(url);
            Some(Source { base: url.trim_end_matches('/').to_owned(), addresses, ca: ca.clone(), bearer })
        };
        Ok(Self {
            controls: source(registry.clawcontrols.as_ref(), None),
            scope: source(registry.clawscope.as_ref(), bearer),
            since_ns: clock::boot_ns(),
            ..Self::default()
        })
    }

    /// A registry, if the configuration names it.
    pub(crate) fn source(&self, registry: Registry) -> Option<&Source> {
        match registry {
            Registry::Clawcontrols => self.controls.as_ref(),
            Registry::Clawscope => self.scope.as_ref(),
        }
    }

    fn reach(&mut self, registry: Registry) -> &mut Reach {
        match registry {
            Registry::Clawcontrols => &mut self.reach[0],
            Registry::Clawscope => &mut self.reach[1],
        }
    }

    /// Notes how a registry fared.
    pub(crate) fn fared(&mut self, registry: Registry, outcome: Result<(), String>) {
        let reach = self.reach(registry);
        match outcome {
            Ok(()) => {
                if reach.up == Some(false) {
                    tracing::info!(registry = registry.label(), "the registry answers again");
                }
                *reach = Reach { up: Some(true), last_success: Some(Core::now()), error: None };
            }
            Err(why) => {
                if reach.up != Some(false) {
                    tracing::warn!(
                        registry = registry.label(),
                        why,
                        "the registry does not answer: what was verified before stays"
                    );
                }
                reach.up = Some(false);
                reach.error = Some(why);
            }
        }
    }

    /// How the registries that the configuration names fared, by name.
    pub(crate) fn reached(&self) -> impl Iterator<Item = (&'static str, &Reach)> {
        let named = Registry::ALL.into_iter().zip(&self.reach);
        named
            .filter(|(registry, _)| self.source(*registry).is_some())
            .map(|(registry, reach)| (registry.label(), reach))
    }

    /// What is known of the registries that the configuration names.
    pub(crate) fn views(&self) -> Vec<RegistryView> {
        Registry::ALL
            .into_iter()
            .zip(&self.reach)
            .filter_map(|(registry, reach)| {
                let source = self.source(registry)?;
                Some(RegistryView {
                    name: registry.label().into(),
                    url: source.base.clone(),
                    up: reach.up,
                    last_success: reach.last_success.map(Instant::format),
                    error: reach.error.clone(),
                })
            })
            .collect()
    }

    /// Whose tokens count: the pinned keys, and those of a key set that is young enough.
    pub(crate) fn issuers(&self, config: &Config) -> Issuers {
        let pinned = config.trust.cst_issuers.iter().map(|did| did.0);
        let age = |fetched: u64| clock::boot_ns().saturating_sub(fetched) / SECOND;
        let fetched = self.keys.as_ref().filter(|(_, at)| config.registry.jwks && age(*at) < KEYS_COUNT);
        Issuers::new(pinned.chain(fetched.into_iter().flat_map(|(keys, _)| keys.iter().copied())))
    }

    /// Whether a key of clawscope's set may have issued tokens. Until the set has come, for a while after the start, a token of
    /// before stands.
    pub(crate) fn counts_key(&self, config: &Config, kid: &str) -> bool {
        let age = |at: u64| clock::boot_ns().saturating_sub(at) / SECOND;
        config.registry.jwks
            && match &self.keys {
                Some((keys, at)) => age(*at) < KEYS_COUNT && keys.iter().any(|key| key.kid() == kid),
                None => age(self.since_ns) < config.registry.revocation_max_age_seconds,
            }
    }

    fn keys_are_old(&self) -> bool {
        self.keys.as_ref().is_none_or(|(_, at)| clock::boot_ns().saturating_sub(*at) / SECOND >= KEYS)
    }
}

impl Core {
    /// Takes the registries as a new configuration has them.
    pub(crate) fn registries_anew(&mut self, config: &Config) {
        const PROBLEM: &str = "registry";
        match Registries::of(config) {
            Ok(registries) => {
                let before = std::mem::replace(&mut self.registries, registries);
                let same = |which| before.source(which) == self.registries.source(which);
                if Registry::ALL.into_iter().all(same) {
                    let Registries { reach, keys, .. } = before;
                    (self.registries.reach, self.registries.keys) = (reach, keys);
                } else {
                    self.errands.forget();
                }
                self.problems.remove(PROBLEM);
            }
            Err(why) => {
                tracing::error!(why, "the registries cannot be asked");
                self.registries = Registries::default();
                self.errands.forget();
                self.problems.insert(PROBLEM.into(), why);
            }
        }
    }

    /// What is done for the registries at each beat: errands are sent, and late ones given up.
    pub(crate) fn tend_registries(&mut self, beats: u64) {
        for late in self.errands.give_up() {
            self.errand_failed(&late, "no answer came through the gateway in time");
        }
        let every = |seconds: u64| beats.is_multiple_of(seconds);
        for registry in Registry::ALL {
            let Some(source) = self.registries.source(registry) else { continue };
            let asked = |purpose: &Purpose| matches!(purpose, Purpose::Health(asked) if *asked == registry);
            if every(HEALTH) && !self.errands.under_way(asked) {
                self.errands.send(source, What::Health, Purpose::Health(registry));
            }
        }
        if let Some(scope) = self.registries.source(Registry::Clawscope) {
            let fetching = self.errands.under_way(|purpose| matches!(purpose, Purpose::Keys));
            // Without any, every second; to refresh them, at leisure.
            let due = self.registries.keys.is_none() || every(HEALTH);
            if self.config.registry.jwks && due && self.registries.keys_are_old() && !fetching {
                self.errands.send(scope, What::Keys, Purpose::Keys);
            }
            let following = self.errands.under_way(|purpose| matches!(purpose, Purpose::Revocations));
            if scope.bearer.is_some() && every(STREAM) && !following {
                self.errands.send(scope, What::Revocations, Purpose::Revocations);
            }
        }
        if let Some(controls) = self.registries.source(Registry::Clawcontrols)
            && every(HEALTH)
        {
            for hash in self.contracts_wanted().into_iter().map(|(_, hash)| hash) {
                if !self.errands.under_way(|purpose| matches!(purpose, Purpose::Contract(wanted) if *wanted == hash)) {
                    self.errands.send(controls, What::Contract { hash: hash.to_string() }, Purpose::Contract(hash));
                }
            }
        }
        self.ask_about_tokens();
    }

    /// The issuer's key set, as it came.
    fn keys_came(&mut self, text: &str) {
        match read_jwks(text.as_bytes()) {
            Ok(keys) => {
                self.registries.keys = Some((keys, clock::boot_ns()));
                self.registries.keys_error = None;
                self.settle_tokens();
            }
            Err(error) => self.registries.keys_error = Some(error.to_string()),
        }
    }

    /// Agents that the configuration puts under a contract by hash, and that are under none because it is not here.
    fn contracts_wanted(&self) -> Vec<(AgentName, Hash)> {
        let wanted = self.config.agent.iter().filter_map(|agent| {
            let hash: Hash = agent.wpc.as_ref()?.parse().ok()?;
            let without = self.agents.get(&agent.name).is_some_and(|known| known.wpc.is_none());
            // What was refused is not asked for again before something changes.
            let without = without && !self.registries.refused.contains(&hash);
            (without && self.contract_bytes(hash).is_err()).then(|| (agent.name.clone(), hash))
        });
        wanted.collect()
    }

    fn errand_failed(&mut self, purpose: &Purpose, why: &str) {
        match purpose {
            Purpose::Answer(_) => {}
            Purpose::Revocations => self.registries.stream_error = Some(why.to_owned()),
            Purpose::Health(registry) => self.registries.fared(*registry, Err(why.to_owned())),
            Purpose::Contract(_) => self.registries.fared(Registry::Clawcontrols, Err(why.to_owned())),
            Purpose::Keys => self.registries.keys_error = Some(why.to_owned()),
            Purpose::Token { job, .. } => {
                self.registries.fared(Registry::Clawscope, Err(why.to_owned()));
                self.ask_soon(job);
            }
        }
    }
}

impl Shared {
    /// Something came of an errand.
    pub(crate) fn errand_done(&self, errand: u64, outcome: Outcome) {
        let Some(purpose) = self.errands.finish(errand) else { return };
        let outcome = plain(outcome);
        if let Purpose::Answer(waits) = purpose {
            // Whoever waited may have gone.
            let _ = waits.try_send(outcome);
            return;
        }
        match (purpose, outcome) {
            (purpose, Outcome::Failed(why)) => self.lock().errand_failed(&purpose, &why),
            (Purpose::Health(registry), Outcome::Healthy) => self.lock().registries.fared(registry, Ok(())),
            (Purpose::Keys, Outcome::Keys(text)) => self.lock().keys_came(&text),
            (Purpose::Token { job, token, asked_ns }, Outcome::Token(standing)) => {
                let mut core = self.lock();
                core.registries.fared(Registry::Clawscope, Ok(()));
                core.token_stands(&job, token, asked_ns, &standing);
            }
            (Purpose::Contract(hash), Outcome::Contract(envelope)) => self.contract_came(hash, &envelope),
            (Purpose::Revocations, Outcome::Ended) => self.lock().registries.stream_error = None,
            (purpose, _) => self.lock().errand_failed(&purpose, "the gateway brought something else"),
        }
    }

    /// Fetches the issuer's key set now, unless it came a moment ago; answers whether it was fetched.
    pub(crate) fn fetch_keys(&self) -> bool {
        let scope = {
            let mut core = self.lock();
            let (now, asked) = (clock::boot_ns(), core.registries.keys_asked_ns);
            if !core.config.registry.jwks || now.saturating_sub(asked) < KEYS_APART * SECOND {
                return false;
            }
            core.registries.keys_asked_ns = now;
            core.registries.source(Registry::Clawscope).cloned()
        };
        let Some(Ok(Outcome::Keys(text))) = scope.map(|scope| self.errands.ask(&scope, What::Keys)) else {
            return false;
        };
        self.lock().keys_came(&text);
        true
    }

    /// The gateway that took errands is gone.
    pub(crate) fn errands_lost(&self, taken: &[u64]) {
        let lost = self.errands.lost(taken);
        let mut core = self.lock();
        for purpose in lost {
            // Asked again soon; a registry is not down because a gateway was.
            match purpose {
                Purpose::Revocations | Purpose::Keys => core.errand_failed(&purpose, "the gateway ended"),
                Purpose::Token { job, .. } => core.ask_soon(&job),
                _ => {}
            }
        }
    }

    /// A contract that agents wait for.
    fn contract_came(&self, hash: Hash, envelope: &str) {
        let waiting: Vec<AgentName> = {
            let core = self.lock();
            core.contracts_wanted().into_iter().filter(|(_, wanted)| *wanted == hash).map(|(agent, _)| agent).collect()
        };
        for agent in waiting {
            let terms = Terms { configured: Some(hash.to_string()), expected: Some(hash), ..Terms::default() };
            let done = self.put_in_force(&agent, envelope.as_bytes().to_vec(), &terms);
            let mut core = self.lock();
            match done {
                Ok(_) => {
                    core.registries.fared(Registry::Clawcontrols, Ok(()));
                    tracing::info!(%agent, %hash, "the contract came from the registry and is in force");
                }
                Err(error) => {
                    tracing::error!(%agent, %hash, message = error.message, "what the registry gave is refused");
                    if error.code == Code::ContractRefused {
                        core.registries.refused.insert(hash);
                    }
                    if let Ok(entry) = core.agent(&agent) {
                        entry.problem = Some(error.message);
                    }
                }
            }
        }
    }

    /// The bytes of a contract: from this host, else from the registry.
    pub(crate) fn contract_bytes(&self, hash: Hash) -> Answer<Vec<u8>> {
        let controls = {
            let core = self.lock();
            match core.contract_bytes(hash) {
                Err(error) if error.code == Code::NotFound => {
                    core.registries.source(Registry::Clawcontrols).cloned().ok_or(error)?
                }
                other => return other,
            }
        };
        let outcome = self.errands.ask(&controls, What::Contract { hash: hash.to_string() })?;
        let (came, fared) = match outcome {
            Outcome::Contract(envelope) => (Ok(envelope.into_bytes()), Ok(())),
            Outcome::Failed(why) => (Err(why.clone()), Err(why)),
            _ => (Err(String::from("the gateway brought something else")), Ok(())),
        };
        self.lock().registries.fared(Registry::Clawcontrols, fared);
        came.or_else(|why| {
            refuse(
                Code::NotFound,
                format!("no contract {hash} is here, and none came: {why}"),
                "what is in force stays",
            )
        })
    }
}

/// An outcome whose words, which come from outside, are few and plain: they go into logs, records and answers.
fn plain(outcome: Outcome) -> Outcome {
    let printable = |text: String| text.chars().filter(|char| !char.is_control()).take(200).collect::<String>();
    match outcome {
        Outcome::Failed(why) => Outcome::Failed(printable(why)),
        Outcome::Token(Standing::Refused(code)) => {
            let fit =
                |code: &String| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
            Outcome::Token(Standing::Refused(Some(code).filter(fit).unwrap_or_else(|| "UNKNOWN".into())))
        }
        other => other,
    }
}
