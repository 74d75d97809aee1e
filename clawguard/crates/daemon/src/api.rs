//! The control API's routes, answered.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Instant};

use claw::Hash;
use clawguard_common::Hook;
use control::{
    api::{
        AgentView, ApprovalBody, Code, Decisions, DrillBody, ErrorDetail, FlipBody, JobBody, KillView, McpView,
        ModeBody, ModelView, PinBody, PresentBody, ProcessBody, RevokeBody, ServerView, Status, UseBody,
    },
    route::Route,
    server::{Call, Reply},
};
use fence::{AgentName, JobId, NotAName};
use serde::Serialize;
use serde_json::{json, value::RawValue};
use switch::Actor;
use sys::peer::Peer;

use crate::{
    audit::Ticket,
    config::ModelGateway,
    contracts::{Terms, Use, judge},
    core::{Answer, Core, Shared, refuse},
    flips::InEffect,
    jobs::Hands,
    tokens::{Case, JobToken},
};

/// Answers calls, each on a thread that may wait for the disk.
pub(crate) fn handler(shared: Arc<Shared>) -> Arc<control::server::Handler> {
    Arc::new(move |call| {
        let shared = Arc::clone(&shared);
        let started = Instant::now();
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || answer(&shared, &call, started)).await;
            done.unwrap_or_else(|error| {
                Reply::Error(ErrorDetail::new(Code::Internal, format!("the call was not answered: {error}"), ""))
            })
        }) as Pin<Box<dyn Future<Output = Reply> + Send>>
    })
}

fn answer(shared: &Shared, call: &Call, started: Instant) -> Reply {
    match routed(shared, call, started) {
        Ok(reply) => reply,
        Err(detail) => Reply::Error(detail),
    }
}

fn routed(shared: &Shared, call: &Call, started: Instant) -> Answer<Reply> {
    admit(shared, call)?;
    let actor = actor(&call.peer);
    let flip = |work: &dyn Fn(&mut Core) -> Answer<InEffect>| {
        let effect = work(&mut shared.lock())?;
        // Whoever waits for the gateway holds nothing else up.
        let word = shared.rulebook.wait(effect.serial);
        shared.acknowledged(|core| core.conclude(effect, word)).map(|answer| Reply::json(&answer))
    };
    match call.route {
        Route::Status => Ok(Reply::json(&shared.lock().status())),
        Route::Groups => Ok(Reply::json(&shared.lock().groups())),
        Route::Kill => {
            let body: FlipBody = call.body()?;
            flip(&|core| core.kill(&call.name, &body, actor.clone(), started))
        }
        Route::Restore => {
            let body: FlipBody = call.body()?;
            flip(&|core| core.restore(&call.name, &body, actor.clone(), started))
        }
        Route::Mode => {
            let body: ModeBody = call.body()?;
            flip(&|core| core.set_mode(&body, actor.clone(), started))
        }
        Route::Drill => {
            let body: DrillBody = call.body()?;
            acknowledged(shared, |core| core.drill(&body, &actor))
        }
        Route::Jobs => Ok(Reply::json(&shared.lock().status().jobs)),
        Route::StartJob => start_job(shared, call),
        Route::EndJob => acknowledged(shared, |core| core.end_job(&call.name, &json!(actor))),
        Route::AddProcess => {
            let body: ProcessBody = call.body()?;
            acknowledged(shared, |core| core.add_process(&call.name, body.pid, &call.peer))
        }
        Route::PresentToken => {
            let body: PresentBody = call.body()?;
            shared.present_token(&call.name, &body, &json!(actor)).map(|view| Reply::json(&view))
        }
        Route::MintKey => shared.lock().mint_key(&call.name).map(|view| Reply::json(&view)),
        Route::RevokeToken => {
            let body: RevokeBody = call.body()?;
            shared.revoke_token(&body, &json!(actor)).map(|answer| Reply::json(&answer))
        }
        Route::Decisions => decisions(shared, call),
        Route::Contract => contract(shared, call),
        Route::UseContract => use_contract(shared, call, actor),
        Route::Observed => {
            let name = agent_name(&call.name)?;
            shared.lock().observed_view(&name).map(|view| Reply::json(&view))
        }
        Route::ForgetObserved => {
            let name = agent_name(&call.name)?;
            acknowledged(shared, |core| core.forget_observed(&name, &json!(actor)))
        }
        Route::Approvals => Ok(Reply::json(&shared.lock().approvals.views())),
        Route::DecideApproval => {
            let body: ApprovalBody = call.body()?;
            acknowledged(shared, |core| core.decide_approval(&call.name, &body, &actor))
        }
        Route::Pins => shared.lock().pins_view().map(|view| Reply::json(&view)),
        Route::PinsOf => shared.lock().pins_view_of(&call.name, true).map(|view| Reply::json(&view)),
        Route::Evidence => {
            let answer = shared.export(&call.name)?;
            if call.stream {
                return Ok(Reply::Events(crate::export::streamed(answer)));
            }
            crate::export::at_once(&answer)?;
            Ok(Reply::json(&answer))
        }
        Route::SetPins => {
            let body: PinBody = call.body()?;
            acknowledged(shared, |core| core.set_pins(&call.name, &body, &actor))
        }
    }
}

fn acknowledged<T: Serialize>(
    shared: &Shared,
    work: impl FnOnce(&mut Core) -> Answer<(T, Option<Ticket>)>,
) -> Answer<Reply> {
    shared.acknowledged(work).map(|answer| Reply::json(&answer))
}

/// Nobody inside the fence is an operator, whatever their user. The one exception is root in an agent's slice who enrols the
/// unit that is being started.
fn admit(shared: &Shared, call: &Call) -> Answer<()> {
    let refused = |whose: String| {
        tracing::warn!(
            pid = call.peer.pid,
            uid = call.peer.uid,
            cgroup = call.peer.cgroup,
            "refused on the control socket"
        );
        refuse(
            Code::Forbidden,
            format!("the caller is in {whose}, and no agent operates its own fence"),
            "call from outside the fence",
        )
    };
    let enrols = |body: &JobBody| body.enrol_caller;
    let body = if call.route == Route::StartJob { Some(call.body::<JobBody>()?).filter(enrols) } else { None };
    let core = shared.lock();
    match (core.hands(&call.peer.cgroup), body) {
        (Hands::Free, _) | (Hands::Slice, Some(_)) => Ok(()),
        // A unit that is started again within a moment of its last start.
        (Hands::Job(id), Some(body)) if core.jobs.get(&id).is_some_and(|job| job.is_asked_for_again(&body)) => Ok(()),
        (Hands::Slice, None) => refused("an agent's slice".into()),
        (Hands::Job(id), _) => refused(format!("the job {id}")),
    }
}

fn actor(peer: &Peer) -> Actor {
    Actor {
        channel: "control".into(),
        uid: Some(peer.uid),
        pid: Some(peer.pid),
        executable: peer.executable.as_ref().map(|path| path.to_string_lossy().into_owned()),
        cgroup: Some(peer.cgroup.clone()),
    }
}

/// The contract that a body names or carries, as bytes.
fn named_contract(shared: &Shared, envelope: Option<&RawValue>, hash: Option<&str>) -> Answer<Option<Vec<u8>>> {
    match (envelope, hash) {
        (None, None) => Ok(None),
        (Some(envelope), None) => Ok(Some(envelope.get().as_bytes().to_vec())),
        (None, Some(hash)) => match hash.parse() {
            Ok(hash) => shared.contract_bytes(hash).map(Some),
            Err(error) => refuse(Code::BadRequest, format!("{error}"), ""),
        },
        (Some(_), Some(_)) => refuse(Code::BadRequest, "either a contract or its hash, not both", ""),
    }
}

fn start_job(shared: &Shared, call: &Call) -> Answer<Reply> {
    let body: JobBody = call.body()?;
    let own = named_contract(shared, body.envelope.as_deref(), body.wpc_hash.as_deref())?;
    let expected = body.wpc_hash.as_ref().and_then(|hash| hash.parse().ok());
    let named = shared.lock().named_job(&body)?;
    let own = match own {
        None => None,
        Some(bytes) => {
            let judged = judge(bytes, &shared.bench(), Use::Once(expected))
                .inspect_err(|error| shared.lock().contract_refused(&named.0, error))?;
            // Held until the job is under it, or is not.
            Some((shared.load(&judged)?, judged))
        }
    };
    let hash = own.as_ref().map(|(_, judged)| judged.policy.hash);
    let made = judged_token(shared, &body, &named, hash).and_then(|token| {
        if let Some((_, judged)) = &own {
            shared.lock().accept_for_job(judged)?;
        }
        shared.acknowledged(|core| core.start_job(named, &body, hash, token, &call.peer))
    });
    made.map(|answer| match Reply::json(&answer) {
        Reply::Json(value) => Reply::Created(value),
        other => other,
    })
}

/// A new job's token, judged; without the lock, because its issuer is asked.
fn judged_token(
    shared: &Shared,
    body: &JobBody,
    (agent, job): &(AgentName, JobId),
    own: Option<Hash>,
) -> Answer<Option<(JobToken, Case)>> {
    let Some(cst) = &body.cst else { return Ok(None) };
    let (contract, rules) = {
        let mut core = shared.lock();
        let Some(contract) = core.contract_for(agent, own)? else {
            return refuse(Code::Conflict, format!("the agent {agent} has no contract that a token could be for"), "");
        };
        (contract, core.token_rules(contract)?)
    };
    let case = Case { agent: agent.clone(), job: job.clone(), contract, rules };
    shared.judge_token(cst, &case).map(|token| Some((token, case)))
}

fn decisions(shared: &Shared, call: &Call) -> Answer<Reply> {
    let since = match call.value("since").unwrap_or("0").parse::<u64>() {
        Ok(since) => since,
        Err(_) => return refuse(Code::BadRequest, "since is a decision's number", ""),
    };
    let mut core = shared.lock();
    if call.stream {
        let (sender, receiver) = tokio::sync::mpsc::channel(1024);
        let job = call.value("job").map(str::to_owned);
        if call.value("since").is_some() {
            for view in core.recent.since(since, job.as_deref()) {
                let text = serde_json::to_string(&view).unwrap_or_default();
                if sender.try_send(text).is_err() {
                    core.counters.lost_followers.inc();
                }
            }
        }
        core.followers.push_back((job, sender));
        return Ok(Reply::Events(receiver));
    }
    core.end_interval();
    Ok(Reply::json(&Decisions { decisions: core.recent.since(since, call.value("job")) }))
}

fn agent_name(name: &str) -> Answer<AgentName> {
    name.parse().or_else(|error: NotAName| refuse(Code::BadRequest, error.to_string(), ""))
}

fn contract(shared: &Shared, call: &Call) -> Answer<Reply> {
    let name = agent_name(&call.name)?;
    let core = shared.lock();
    let hash = core.agents.get(&name).and_then(|agent| agent.wpc);
    match hash {
        Some(hash) => core.contract_view(hash).map(|view| Reply::json(&view)),
        None => refuse(
            Code::NotFound,
            format!("no contract is in force for {name}"),
            "`clawguard wpc use` puts one in force",
        ),
    }
}

fn use_contract(shared: &Shared, call: &Call, actor: Actor) -> Answer<Reply> {
    let name = agent_name(&call.name)?;
    let body: UseBody = call.body()?;
    if body.allow_rollback && body.reason.trim().is_empty() {
        return refuse(Code::BadRequest, "to accept a lower sequence, a reason is needed", "say why: it is recorded");
    }
    let Some(bytes) = named_contract(shared, body.envelope.as_deref(), body.wpc_hash.as_deref())? else {
        return refuse(Code::BadRequest, "a contract or its hash is needed", "");
    };
    let configured = shared.lock().configured(&name);
    let expected = body.wpc_hash.as_ref().and_then(|hash| hash.parse().ok());
    let terms =
        Terms { rollback: body.allow_rollback.then_some(body.reason), configured, expected, actor: Some(actor) };
    shared.put_in_force(&name, bytes, &terms).map(|view| Reply::json(&view))
}

impl Core {
    /// What the configuration says of an agent's contract.
    pub(crate) fn configured(&self, name: &AgentName) -> Option<String> {
        self.config.agent.iter().find(|agent| agent.name == *name).and_then(|agent| agent.wpc.clone())
    }

    fn mcp_view(&self) -> McpView {
        let servers = self.config.mcp.server.iter().map(|server| ServerView {
            name: server.name.clone(),
            upstream: match (&server.url, server.sse) {
                (None, _) => "stdio",
                (Some(_), true) => "sse",
                (Some(_), false) => "http",
            }
            .into(),
            risk: server.risk.to_string(),
            running: self.servers_running(&server.name),
            pins_waiting: self.pins.waiting(&server.name),
            problem: self.server_problem(&server.name),
        });
        McpView {
            port: self.config.mcp.port,
            servers: servers.collect(),
            approvals_pending: self.approvals.pending() as u64,
        }
    }

    fn model_view(&self) -> ModelView {
        let gateway = self.config.model.gateway();
        ModelView {
            gateway: match gateway {
                ModelGateway::None => "none".into(),
                ModelGateway::Builtin => "builtin".into(),
                ModelGateway::Clawproxy(url) => url.into(),
            },
            port: self.config.model.port,
            listening: self.models_at.is_some() && gateway != ModelGateway::None,
            signer: Some(self.model.signer.clone()).filter(|signer| !signer.is_empty()),
            providers: self.model.providers.iter().map(|provider| provider.name.clone()).collect(),
        }
    }

    /// How many processes of a stdio server run, each for one job.
    fn servers_running(&self, server: &str) -> u64 {
        let agent = crate::stdio::agent(server);
        self.jobs.values().filter(|job| !job.over && job.agent.as_str() == agent).count() as u64
    }

    /// What is in force.
    pub(crate) fn status(&self) -> Status {
        let kills = self.switch.kills.iter().map(|kill| KillView {
            group: kill.group.to_string(),
            whose: kill.whose.to_string(),
            reason: kill.reason.clone(),
            at: kill.at.clone(),
            flip_id: kill.flip_id.clone(),
        });
        let agents = self.agents.iter().map(|(name, agent)| {
            let contract = agent.wpc.and_then(|hash| self.contracts.get(&hash));
            AgentView {
                name: name.to_string(),
                mode: agent.mode.label().into(),
                wpc_hash: agent.wpc.map(|hash| hash.to_string()),
                policy_id: contract.map(|contract| contract.policy_id.clone()),
                expires_at: contract.and_then(|contract| contract.not_after).map(claw::time::Instant::format),
                entries: contract.map_or(0, |contract| self.fence.policy_entries(contract.slot) as u64),
                r#match: agent.matches.as_ref().map(ToString::to_string),
                problem: agent.problem.clone(),
            }
        });
        let mut warnings: Vec<String> = self.config.without_effect().into_iter().map(str::to_owned).collect();
        warnings.extend(self.problems.values().cloned());
        warnings
            .extend(self.registries.keys_error.iter().map(|why| format!("clawscope's key set did not come: {why}")));
        warnings.extend(self.registries.stream_error.iter().map(|why| format!("revocations are not followed: {why}")));
        if self.audit.owed() > 0 {
            warnings.push(format!("{} records wait in memory for room on the disk", self.audit.owed()));
        }
        let lost: BTreeMap<String, u64> =
            self.fence.lost().unwrap_or_default().into_iter().map(|(source, count)| (source.into(), count)).collect();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            abi: clawguard_common::ABI,
            started_at: self.started_at.format(),
            host_did: self.host_did().to_string(),
            hooks: Hook::ALL
                .into_iter()
                .map(|hook| (hook.label().to_owned(), self.armed && self.fence.attached(hook)))
                .collect(),
            mode: self.switch.mode.to_string(),
            kills: kills.collect(),
            agents: agents.collect(),
            jobs: self.jobs.iter().map(|(id, job)| self.job_view(id, job)).collect(),
            lost,
            maps: self.map_usage().into_iter().map(|(map, used, room)| (map.to_owned(), (used, room))).collect(),
            registries: self.registries.views(),
            mcp: self.mcp_view(),
            model: self.model_view(),
            warnings,
        }
    }
}
