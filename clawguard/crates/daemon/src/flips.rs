//! Flips: kills, restores, modes and drills, from the request to the record.

use std::{cell::Cell, collections::BTreeSet, time::Instant};

use clawguard_common::Groups;
use control::api::{
    ActorView, CanaryView, Code, DrillAnswer, DrillBody, DrillView, FlipAnswer, FlipBody, GroupView, ModeBody,
};
use evidence::chain::Kind;
use fence::{AgentName, Numbering, Scope};
use policy::Group;
use serde_json::json;
use switch::{Actor, Change, Flipped, Kill, Mode, Proof, State, Target, Wanted, Whose};

use crate::{
    audit::Ticket,
    contracts::InForce,
    core::{Answer, Core, SWITCH, failed, refuse},
    rules::Word,
};

/// What tells endpoints apart.
const KERNEL: &str = "kernel";

fn word(proof: Proof) -> String {
    match proof {
        Proof::Accepted => "accepted",
        Proof::Refused => "refused",
        Proof::Mixed => "mixed",
        Proof::Nothing => "nothing",
        Proof::Unknown => "unknown",
    }
    .into()
}

fn actor_view(actor: &Actor) -> ActorView {
    ActorView {
        channel: actor.channel.clone(),
        uid: actor.uid,
        pid: actor.pid,
        executable: actor.executable.clone(),
        cgroup: actor.cgroup.clone(),
    }
}

/// A flip that is to be carried out.
struct Flip {
    /// What it is called in the answer.
    group: String,
    /// The state after, in a word.
    state: String,
    whose: Whose,
    next: State,
    /// What tells it apart.
    enforced_by: Vec<String>,
    /// What the canary tries, and how it must fare afterwards.
    targets: Vec<Target>,
    expected: Proof,
    policies: Vec<String>,
    previous: String,
    reason: String,
    actor: Actor,
    flip_id: String,
    started: Instant,
}

/// A flip that is in force, and on which only the gateway's word is missing. It is recorded and answered by
/// [`Core::conclude`].
#[must_use = "a flip that is not concluded is neither recorded nor answered"]
pub(crate) struct InEffect {
    flip: Flip,
    done: Flipped,
    /// Whether it took something away.
    takes: bool,
    /// How many stdio servers ended by it.
    servers: usize,
    /// The number of the rules that have it.
    pub(crate) serial: u64,
}

impl Core {
    /// The groups that are in force or killed.
    pub(crate) fn groups(&self) -> Vec<GroupView> {
        let mode = self.switch.mode.groups();
        self.ledger
            .numbers
            .all()
            .filter_map(|(group, number)| {
                let holds = |contract: &InForce| contract.kernel_groups.contains(&group);
                let policies: Vec<String> =
                    self.contracts.iter().filter(|(_, c)| holds(c)).map(|(hash, _)| hash.to_string()).collect();
                let kills: Vec<&Kill> = self.switch.kills.iter().filter(|kill| kill.group == group).collect();
                let gateway = self.contracts.values().any(|contract| contract.gateway_groups.contains(&group));
                let by_mode = mode.contains(number);
                if policies.is_empty() && kills.is_empty() && !gateway && group.built_in().is_none() {
                    return None;
                }
                let killed = by_mode || kills.iter().any(|kill| kill.whose == Whose::Host);
                Some(GroupView {
                    group: group.to_string(),
                    state: if killed { "killed" } else { "live" }.into(),
                    killed_for: kills
                        .iter()
                        .filter(|kill| kill.whose != Whose::Host)
                        .map(|kill| kill.whose.to_string())
                        .collect(),
                    by_mode,
                    enforced_by: self.enforced_by(&group),
                    policies,
                })
            })
            .chain(self.groups_without_number())
            .collect()
    }

    /// Groups that only the gateway knows: servers, and single tools that are killed.
    fn groups_without_number(&self) -> Vec<GroupView> {
        let killed = self.switch.kills.iter().map(|kill| kill.group.clone());
        let servers = self.servers.iter().map(|server| Group::mcp(&server.name));
        let groups: BTreeSet<Group> =
            servers.chain(killed).filter(|group| self.ledger.numbers.number(group).is_none()).collect();
        let view = |group: Group| {
            let kills = || self.switch.kills.iter().filter(|kill| kill.group == group);
            let host = kills().any(|kill| kill.whose == Whose::Host);
            let others = kills().filter(|kill| kill.whose != Whose::Host);
            GroupView {
                state: if host { "killed" } else { "live" }.into(),
                killed_for: others.map(|kill| kill.whose.to_string()).collect(),
                by_mode: false,
                enforced_by: self.enforced_by(&group),
                policies: Vec::new(),
                group: group.to_string(),
            }
        };
        groups.into_iter().map(view).collect()
    }

    /// What tells a group apart: the kernel its endpoints, the gateway its tools.
    fn enforced_by(&self, group: &Group) -> Vec<String> {
        let has = |groups: fn(&InForce) -> &BTreeSet<Group>| self.contracts.values().any(|c| groups(c).contains(group));
        let endpoints_alone = [Group::model(), Group::channel()].contains(group);
        let kernel = group.built_in().is_some() || has(|contract| &contract.kernel_groups);
        let tools = (group.built_in().is_some() && !endpoints_alone) || self.server_of(group).is_some();
        let gateway = (tools && !self.servers.is_empty()) || has(|contract| &contract.gateway_groups);
        let parts = [(kernel, KERNEL), (gateway, "gateway")];
        parts.into_iter().filter(|(there, _)| *there).map(|(_, word)| word.to_owned()).collect()
    }

    /// The server of this host whose group it is, or whose tool's.
    fn server_of(&self, group: &Group) -> Option<&str> {
        let named = group.as_str().strip_prefix("mcp:").or_else(|| Some(group.tool_of()?.0))?;
        self.config.mcp.server.iter().map(|server| server.name.as_str()).find(|name| *name == named)
    }

    fn group(&self, name: &str) -> Answer<Group> {
        let group: Group = match name.parse() {
            Ok(group) => group,
            Err(error) => return refuse(Code::BadRequest, format!("{error}"), ""),
        };
        let known = self.ledger.numbers.number(&group).is_some() || self.server_of(&group).is_some();
        let known = known || self.switch.kills.iter().any(|kill| kill.group == group);
        if !known || group == Group::tools() {
            let names: Vec<String> = self.groups().into_iter().map(|view| view.group).collect();
            return refuse(
                Code::NotFound,
                format!("there is no group {group}"),
                format!("there are {}; a single tool is tool:SERVER/TOOL", names.join(" ")),
            );
        }
        Ok(group)
    }

    fn whose(&self, body: &FlipBody) -> Answer<Whose> {
        match (&body.agent, &body.job) {
            (None, None) => Ok(Whose::Host),
            (Some(agent), None) => match agent.parse::<AgentName>() {
                Ok(name) if self.agents.contains_key(&name) => Ok(Whose::Agent(name)),
                _ => refuse(Code::NotFound, format!("there is no agent {agent}"), "`clawguard status` lists them"),
            },
            (None, Some(job)) => match job.parse::<fence::JobId>() {
                Ok(id) if self.jobs.contains_key(&id) => Ok(Whose::Job(id)),
                _ => refuse(Code::NotFound, format!("there is no job {job}"), "`clawguard status` lists them"),
            },
            (Some(_), Some(_)) => refuse(Code::BadRequest, "either an agent or a job, not both", ""),
        }
    }

    fn scope(&self, whose: &Whose) -> Option<Scope> {
        match whose {
            Whose::Host => Some(Scope::Host),
            Whose::Agent(name) => self.agents.get(name).map(|agent| Scope::Agent(agent.slot)),
            Whose::Job(id) => self.jobs.get(id).map(|job| Scope::Job(job.enrolled.slot)),
        }
    }

    /// Puts the whole switch into the kernel, as it is on disk. At start, and when an agent or a job appears.
    pub(crate) fn apply_switch(&self) {
        let numbers = &self.ledger.numbers;
        self.fence.set_killed(Scope::Host, &self.switch.groups(&Whose::Host, numbers));
        for (name, agent) in &self.agents {
            let groups = self.switch.groups(&Whose::Agent(name.clone()), numbers);
            self.fence.set_killed(Scope::Agent(agent.slot), &groups);
        }
        for (id, job) in &self.jobs {
            let groups = self.switch.groups(&Whose::Job(id.clone()), numbers);
            self.fence.set_killed(Scope::Job(job.enrolled.slot), &groups);
        }
    }

    /// What the kernel holds killed and the disk does not know of, because a daemon ended between the two: it stays killed
    /// until somebody gives it back.
    ///
    /// # Errors
    ///
    /// If the kernel's switch cannot be read: what it holds must not be written over unseen.
    pub(crate) fn adopt_kills(&mut self) -> Result<(), fence::Error> {
        let mut scopes = vec![(Scope::Host, Whose::Host)];
        scopes.extend(
            self.ledger.agents.iter().map(|(name, known)| (Scope::Agent(known.slot), Whose::Agent(name.clone()))),
        );
        scopes.extend(self.jobs.iter().map(|(id, job)| (Scope::Job(job.enrolled.slot), Whose::Job(id.clone()))));
        let mut found = Vec::new();
        let groups: Vec<(Group, usize)> = self.ledger.numbers.all().collect();
        for (scope, whose) in scopes {
            let there = self.fence.killed(scope)?;
            let known = self.switch.groups(&whose, &self.ledger.numbers);
            for (group, number) in &groups {
                if !there.contains(*number) || known.contains(*number) {
                    continue;
                }
                found.push(json!({ "group": group.to_string(), "whose": whose.to_string() }));
                tracing::warn!(%group, %whose, "the kernel holds a group killed that the switch on disk does not: it stays so");
                if *group == Group::tools() {
                    self.switch.mode = Mode::ToolsOff;
                    continue;
                }
                let actor = Actor { channel: "kernel".into(), uid: None, pid: None, executable: None, cgroup: None };
                self.switch.kills.push(Kill {
                    group: group.clone(),
                    whose: whose.clone(),
                    reason: "found in the kernel at the daemon's start".into(),
                    actor,
                    at: Self::now().format(),
                    flip_id: flip_id(),
                });
            }
        }
        if !found.is_empty() {
            self.switch_is_saved();
            self.note(Kind::Flip, json!({ "adopted": found, "reason": "found in the kernel at the daemon's start" }));
        }
        Ok(())
    }

    /// What is killed for a job from its start.
    pub(crate) fn killed_for_job(&self, id: &fence::JobId) -> Groups {
        self.switch.groups(&Whose::Job(id.clone()), &self.ledger.numbers)
    }

    /// The endpoints at which a flip can be proven: one of the group for each agent's and each job's contract.
    fn targets(&self, group: &Group, whose: &Whose) -> (Vec<Target>, Vec<String>) {
        let mut pairs: Vec<(u32, claw::Hash)> = Vec::new();
        for (name, agent) in &self.agents {
            let concerned = match whose {
                Whose::Host => true,
                Whose::Agent(wanted) => wanted == name,
                Whose::Job(_) => false,
            };
            if concerned && let Some(hash) = agent.wpc {
                pairs.push((agent.slot, hash));
            }
        }
        for (id, job) in &self.jobs {
            let concerned = match whose {
                Whose::Host => true,
                Whose::Agent(wanted) => *wanted == job.agent,
                Whose::Job(wanted) => wanted == id,
            };
            let agent = self.agents.get(&job.agent);
            let hash = job.wpc.or_else(|| agent.and_then(|agent| agent.wpc));
            if concerned && let (Some(agent), Some(hash)) = (agent, hash) {
                pairs.push((agent.slot, hash));
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        let mut policies = Vec::new();
        let mut targets = Vec::new();
        for (agent, hash) in pairs {
            let Some(contract) = self.contracts.get(&hash) else { continue };
            let endpoint = contract.samples.get(group).copied();
            if let Some(endpoint) = endpoint.or_else(|| self.open_stand_in(agent, contract, group)) {
                targets.push(Target { agent, policy: contract.slot, endpoint });
            }
            if contract.kernel_groups.contains(group) {
                policies.push(hash.to_string());
            }
        }
        policies.dedup();
        (targets, policies)
    }

    /// Kills a group.
    pub(crate) fn kill(&mut self, name: &str, body: &FlipBody, actor: Actor, started: Instant) -> Answer<InEffect> {
        let group = self.group(name)?;
        let whose = self.whose(body)?;
        let reason = reason(&body.reason)?;
        let flip_id = flip_id();
        let kill = Kill {
            group: group.clone(),
            whose: whose.clone(),
            reason: reason.clone(),
            actor: actor.clone(),
            at: Self::now().format(),
            flip_id: flip_id.clone(),
        };
        let (targets, policies) = self.targets(&group, &whose);
        self.flip(Flip {
            previous: self.word(&group, &whose).into(),
            next: self.switch.after(&Change::Kill(kill)),
            enforced_by: self.enforced_by(&group),
            group: group.to_string(),
            state: "killed".into(),
            expected: Proof::Refused,
            whose,
            targets,
            policies,
            reason,
            actor,
            flip_id,
            started,
        })
    }

    /// Gives a group back.
    pub(crate) fn restore(&mut self, name: &str, body: &FlipBody, actor: Actor, started: Instant) -> Answer<InEffect> {
        let group = self.group(name)?;
        let whose = self.whose(body)?;
        let reason = reason(&body.reason)?;
        // Of its kind only an interval's first attempt is told at once: the first one after this must be, for `on_bypass`.
        self.end_interval();
        let next = self.switch.after(&Change::Restore { group: group.clone(), whose: whose.clone() });
        let (targets, policies) = self.targets(&group, &whose);
        self.flip(Flip {
            previous: self.word(&group, &whose).into(),
            enforced_by: self.enforced_by(&group),
            // Another group, another scope or the mode may still hold it down.
            expected: if next.kills.is_empty() && next.mode == Mode::Normal { Proof::Accepted } else { Proof::Mixed },
            next,
            group: group.to_string(),
            state: "live".into(),
            whose,
            targets,
            policies,
            reason,
            actor,
            flip_id: flip_id(),
            started,
        })
    }

    /// Takes another mode.
    pub(crate) fn set_mode(&mut self, body: &ModeBody, actor: Actor, started: Instant) -> Answer<InEffect> {
        let mode: Mode = match body.mode.parse() {
            Ok(mode) => mode,
            Err(error) => return refuse(Code::BadRequest, format!("{error}"), ""),
        };
        let reason = reason(&body.reason)?;
        let before = self.switch.mode;
        let telling = mode.telling_group().or(before.telling_group());
        let (targets, policies) = telling.map_or_else(Default::default, |group| self.targets(&group, &Whose::Host));
        self.flip(Flip {
            next: self.switch.after(&Change::Mode(mode)),
            enforced_by: self.enforced_by(&Group::all()),
            group: "mode".into(),
            state: mode.to_string(),
            whose: Whose::Host,
            expected: if mode == Mode::Normal { Proof::Mixed } else { Proof::Refused },
            targets,
            policies,
            previous: before.to_string(),
            reason,
            actor,
            flip_id: flip_id(),
            started,
        })
    }

    fn word(&self, group: &Group, whose: &Whose) -> &'static str {
        if self.switch.killed(group, whose).is_some() { "killed" } else { "live" }
    }

    fn flip(&mut self, flip: Flip) -> Answer<InEffect> {
        let Some(scope) = self.scope(&flip.whose) else {
            return refuse(Code::NotFound, format!("there is no {}", flip.whose), "");
        };
        let groups = flip.next.groups(&flip.whose, &self.ledger.numbers);
        let now = self.switch.groups(&flip.whose, &self.ledger.numbers);
        let kernel = |from: &Groups, to: &Groups| from.0.iter().zip(to.0).any(|(from, to)| from & !to != 0);
        // Of groups that the kernel does not know too.
        let named = |from: &State, to: &State| from.kills.iter().any(|k| to.killed(&k.group, &k.whose).is_none());
        let given_back = kernel(&now, &groups) || named(&self.switch, &flip.next);
        let takes = kernel(&groups, &now) || named(&flip.next, &self.switch);
        if given_back {
            self.may_grant()?;
        }
        // A kill does not wait for a canary that cannot be had; it is then not proven.
        if let Err(error) = self.canary() {
            tracing::error!(message = error.message, "no canary for this flip");
        }
        let mut canary = self.canary.take();
        let told = Cell::new(0);
        let doomed = if takes { self.servers_killed_by(&flip.next) } else { Vec::new() };
        let persist = || {
            self.cut_servers(&doomed);
            // Of what is killed, the gateway hears as soon as the kernel has it; of what is given back, once that is on disk.
            if takes {
                self.rulebook.publish(self.rules_in_between(&flip.next, given_back));
                told.set(u64::try_from(flip.started.elapsed().as_nanos()).unwrap_or(u64::MAX));
            }
            self.save_switch(&flip.next)
        };
        let wanted = Wanted {
            scope,
            groups: &groups,
            kernel: flip.enforced_by.iter().any(|by| by == KERNEL),
            targets: &flip.targets,
            started: flip.started,
        };
        let mut done = switch::apply(&self.fence, canary.as_mut(), wanted, persist);
        self.canary = canary;
        self.shut_stand_ins(&flip.targets);
        self.end_servers(&doomed, &format!("its group is killed: {}", flip.flip_id));
        // Only what was to be given back is not in force when it is not on disk.
        if let (Err(why), false) = (&done.persisted, takes) {
            return refuse(
                Code::Unavailable,
                format!("nothing was given back, because it cannot be written down: {why}"),
                format!("make room under {}", self.paths.state().display()),
            );
        }
        // What the kernel knows nothing of was in effect when the gateway was told.
        done.effective_ns = done.effective_ns.max(told.get());
        self.switch = flip.next.clone();
        if let Err(why) = &done.persisted {
            self.problems.insert(SWITCH.into(), format!("the switch is in force, but not on disk: {why}"));
        } else {
            self.problems.remove(SWITCH);
        }
        let serial = self.publish();
        Ok(InEffect { flip, done, takes, serial, servers: doomed.len() })
    }

    /// Records a flip that is in force, and says what was proven. A gateway that did not say that it keeps to it is killed, and
    /// with it every call that was under way.
    pub(crate) fn conclude(&mut self, effect: InEffect, heard: Word) -> Answer<(FlipAnswer, Option<Ticket>)> {
        let InEffect { flip, mut done, takes, servers, .. } = effect;
        let gateway = match heard {
            Word::Nobody => None,
            Word::Kept(_) => Some("kept"),
            Word::Missing if !takes => Some("silent"),
            Word::Missing if self.kill_gateway(&format!("it did not say that it keeps to {}", flip.flip_id)) => {
                Some("killed")
            }
            Word::Missing => {
                done.trouble = Some("the gateway did not say that it keeps to it, and cannot be killed".into());
                Some("lost")
            }
        };
        done.total_ns = u64::try_from(flip.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut answer = FlipAnswer {
            group: flip.group,
            state: flip.state,
            whose: flip.whose.to_string(),
            enforced_by: flip.enforced_by,
            effective_ns: done.effective_ns,
            total_ns: done.total_ns,
            sockets_destroyed: done.severed.destroyed as u64,
            sockets_left: done.severed.left as u64,
            calls_cancelled: if let Word::Kept(cancelled) = heard { cancelled } else { 0 },
            gateway: gateway.map(Into::into),
            canary: CanaryView { before: word(done.before), after: word(done.after) },
            policies: flip.policies,
            flip_id: flip.flip_id,
            actor: actor_view(&flip.actor),
            previous: flip.previous,
            persisted: done.persisted.is_ok(),
        };
        self.counters.flipped(&answer);
        let proven = done.trouble.is_none()
            && match flip.expected {
                Proof::Refused => matches!(done.after, Proof::Refused | Proof::Nothing),
                Proof::Accepted => matches!(done.after, Proof::Accepted | Proof::Nothing),
                _ => done.after != Proof::Unknown,
            };
        let kind = if proven { Kind::Flip } else { Kind::FlipFailed };
        let body = json!({ "flip": answer, "reason": flip.reason, "stdio_servers_ended": servers });
        let ticket = self.record(kind, body).ok();
        answer.persisted &= ticket.is_some();
        if let Some(trouble) = &done.trouble {
            return refuse(
                Code::Unproven,
                format!("{} is {} in the kernel, but {trouble}", answer.group, answer.state),
                "`clawguard mode lockdown` stops everything; `clawguard drill` tries the switch again",
            );
        }
        if !proven {
            return refuse(
                Code::Unproven,
                format!(
                    "{} is {} in the kernel, but the canary was {} afterwards where {} is right",
                    answer.group,
                    answer.state,
                    answer.canary.after,
                    word(flip.expected)
                ),
                "`clawguard drill` tries the switch again; `clawguard mode lockdown` stops everything",
            );
        }
        Ok((answer, ticket))
    }

    /// Tests the switch: for the canary alone, or for everybody and back.
    pub(crate) fn drill(&mut self, body: &DrillBody, actor: &Actor) -> Answer<(DrillAnswer, Option<Ticket>)> {
        let names: Vec<String> = if body.groups.is_empty() {
            let in_force: BTreeSet<String> = self
                .contracts
                .values()
                .flat_map(|contract| contract.kernel_groups.iter())
                .filter(|group| **group != Group::tools())
                .map(ToString::to_string)
                .collect();
            in_force.into_iter().collect()
        } else {
            body.groups.clone()
        };
        self.canary()?;
        let mut groups = Vec::new();
        for name in &names {
            groups.push(if body.live { self.drill_live(name, actor)? } else { self.drill_canary(name)? });
        }
        // Of all that are in force, those that an operator holds down are not the drill's to judge.
        if body.groups.is_empty() && (self.switch.mode != Mode::Normal || !self.switch.kills.is_empty()) {
            groups.retain(|group| group.canary.before != word(Proof::Refused));
        }
        if groups.is_empty() {
            return refuse(
                Code::Conflict,
                "there is nothing to drill: no group is in force, or all are killed",
                "`clawguard groups` lists them",
            );
        }
        let passed = groups.iter().all(|group| group.passed);
        let answer = DrillAnswer { groups, passed };
        let ticket = self.record(Kind::Drill, json!({ "drill": answer, "actor": actor })).ok();
        Ok((answer, ticket))
    }

    fn drill_canary(&mut self, name: &str) -> Answer<DrillView> {
        let group = self.group(name)?;
        let (targets, _) = self.targets(&group, &Whose::Host);
        let number = self.ledger.numbers.number(&group).unwrap_or(0);
        let Some(canary) = self.canary.as_mut() else {
            return Err(failed("drill", &"there is no canary"));
        };
        let done = switch::rehearse(&self.fence, canary, &Groups::one(number), &targets);
        let again = switch::rehearse(&self.fence, canary, &Groups::default(), &targets);
        self.shut_stand_ins(&targets);
        // A group that something else holds down proves nothing; neither does one that opens nothing.
        let passed = done.before == Proof::Accepted && done.after == Proof::Refused && again.after == done.before;
        Ok(DrillView {
            group: group.to_string(),
            live: false,
            canary: CanaryView { before: word(done.before), after: word(done.after) },
            restored: word(again.after),
            effective_ns: done.effective_ns,
            passed,
        })
    }

    fn drill_live(&mut self, name: &str, actor: &Actor) -> Answer<DrillView> {
        let group = self.group(name)?;
        if self.switch.killed(&group, &Whose::Host).is_some() {
            return refuse(Code::Conflict, format!("{group} is killed: a drill would restore it"), "restore it first");
        }
        let body = FlipBody { reason: "drill".into(), agent: None, job: None };
        // Nobody waits for the gateway: the next rules that it hears of have the group given back.
        let down = self.kill(name, &body, actor.clone(), Instant::now());
        let down = down.and_then(|effect| self.conclude(effect, Word::Nobody));
        // Given back whatever the kill came to.
        let up = self.restore(name, &body, actor.clone(), Instant::now())?;
        let (up, _) = self.conclude(up, Word::Nobody)?;
        let (down, _) = down?;
        let passed = down.canary.after == "refused" && up.canary.after == down.canary.before;
        Ok(DrillView {
            group: group.to_string(),
            live: true,
            canary: down.canary,
            restored: up.canary.after,
            effective_ns: down.effective_ns,
            passed,
        })
    }
}

/// A reason that says something.
fn reason(text: &str) -> Answer<String> {
    let text = text.trim();
    if text.is_empty() || text.len() > 1000 {
        return refuse(Code::BadRequest, "a reason of 1 to 1000 bytes is needed", "say why: it is recorded");
    }
    Ok(text.to_owned())
}

fn flip_id() -> String {
    crate::unique("flip")
}
