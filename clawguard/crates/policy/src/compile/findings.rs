//! What became of each line of a contract.

mod models;

use super::{Compiler, GUARD, places::Mediated};
use crate::{
    contract::{DataClass, DataClasses, Form, Handling, Line, Mcp, Profile, TokenRules, ToolLine, Tools},
    finding::{Finding, Outcome},
    group::Risk,
    host,
    tool::{NamePattern, ServerPattern, ToolVerdict},
};

/// Where the forms have what they have in common.
impl Form {
    pub(super) const fn receipts(self) -> &'static str {
        match self {
            Self::Registered => "metadata.clawguard.v1.model.require_proxy_receipts",
            Self::Listed | Self::Profiled => "model_egress.require_proxy_receipts",
        }
    }

    const fn version(self) -> &'static str {
        match self {
            Self::Registered => "policy_version",
            Self::Listed | Self::Profiled => "wpc_version",
        }
    }

    const fn allowed_tools(self) -> &'static str {
        match self {
            Self::Registered => "metadata.clawguard.v1.tools.allow",
            Self::Listed => "allowed_tools",
            Self::Profiled => "tools.allow",
        }
    }

    const fn denied_tools(self) -> &'static str {
        match self {
            Self::Registered => "metadata.clawguard.v1.tools.deny",
            Self::Listed => "denied_tools",
            Self::Profiled => "tools.deny",
        }
    }

    const fn data_classes(self) -> &'static str {
        match self {
            Self::Registered => "metadata.clawguard.v1.data_classes",
            Self::Listed | Self::Profiled => "data_classes",
        }
    }

    /// Where the contract has what it says of MCP.
    pub(super) const fn of_mcp(self, member: Mediated) -> &'static str {
        match (self, member) {
            (Self::Registered, Mediated::Tools) => "metadata.clawguard.v1.tools",
            (Self::Listed, Mediated::Tools) => "allowed_tools",
            (Self::Profiled, Mediated::Tools) => "tools",
            (_, Mediated::Mcp) => "metadata.clawguard.v1.mcp",
            (_, Mediated::Data) => self.data_classes(),
        }
    }

    /// The token's rules: the object, the scope's hash, the pin.
    const fn token(self) -> [&'static str; 3] {
        match self {
            Self::Registered => ["metadata.clawguard.v1.token", "require_scope_hash", "policy_hash_pinning"],
            Self::Listed => ["token_constraints", "require_scope_hash", "policy_hash_pinning"],
            Self::Profiled => ["token_binding", "require_cst_scope_hash", "optional_policy_hash_pinning"],
        }
    }
}

const WAY: &str = "MCP servers are reached through the gateway alone";

impl Compiler<'_> {
    pub(super) fn describe_the_rest(&mut self) -> Vec<Finding> {
        if self.findings.is_none() {
            return Vec::new();
        }
        let contract = self.contract;
        let guard = &contract.guard;
        match contract.form {
            Form::Registered => self.describe_registered(),
            Form::Listed | Form::Profiled => self.describe_named(),
        }
        if let Some(model) = &guard.model {
            self.describe_model(model);
        }
        if let Some(tools) = &guard.tools {
            self.describe_tools(tools);
        }
        self.describe_openclaw();
        if let Some(rules) = &guard.token {
            self.describe_token(rules);
        }
        if let Some(mcp) = &guard.mcp {
            self.describe_mcp(mcp);
        }
        if let Some(classes) = &guard.data_classes {
            self.describe_data(classes);
        }
        let mut findings = self.findings.take().unwrap_or_default();
        for path in &contract.empty {
            if !findings.iter().any(|finding| finding.path == *path) {
                let note = "there, with nothing in it".into();
                findings.push(Finding { path: path.clone(), outcome: Outcome::Recorded, note });
            }
        }
        let mut keyed: Vec<_> = findings.into_iter().map(|finding| (natural(&finding.path), finding)).collect();
        keyed.sort_by(|(a, one), (b, other)| a.cmp(b).then_with(|| one.note.cmp(&other.note)));
        keyed.dedup_by(|(_, one), (_, other)| one == other);
        keyed.into_iter().map(|(_, finding)| finding).collect()
    }

    /// What only form 1 has.
    fn describe_registered(&mut self) {
        let contract = self.contract;
        let guard = &contract.guard;
        if guard.egress.is_empty() && contract.egress_allowlist.as_ref().is_none_or(Vec::is_empty) {
            self.found("egress_allowlist", Outcome::Kernel, "empty or absent: the agent reaches nothing");
        }
        self.describe_model_calls();
        for (i, spec) in guard.groups.iter().enumerate() {
            let by_rule = self.sets.keys().any(|set| set.contains(&spec.name));
            let path = format!("{GUARD}.groups[{i}]");
            if by_rule {
                self.found(path.as_str(), Outcome::Kernel, format!("{}: endpoints can be killed together", spec.name));
            }
            if !spec.tools.is_empty() {
                self.found(path.as_str(), Outcome::Gateway, format!("{}: tools can be killed together", spec.name));
            }
            if !by_rule && spec.tools.is_empty() {
                self.found(path, Outcome::Recorded, format!("{}: no endpoint and no tool belongs to it", spec.name));
            }
        }
        for (present, name) in [(guard.not_before.is_some(), "not_before"), (guard.not_after.is_some(), "not_after")] {
            if present {
                let (outcome, note) = if name == "not_after" {
                    (Outcome::Kernel, "by the kernel's clock, without the daemon")
                } else {
                    (Outcome::Daemon, "refused at load before that time")
                };
                self.found(format!("{GUARD}.{name}"), outcome, note);
            }
        }
        let note = "a lower one for the same policy_id is refused";
        self.found(format!("{GUARD}.sequence"), Outcome::Daemon, note);
        let note = if guard.unix_sockets {
            "the agent may make unix sockets"
        } else {
            "no unix sockets (under clawguard run)"
        };
        self.found(format!("{GUARD}.unix_sockets"), Outcome::Daemon, note);
        self.found("policy_version", Outcome::Recorded, "Claw's registered form");
        for name in ["policy_id", "issuer_did"] {
            self.found(name, Outcome::Recorded, "in every record");
        }
        for (name, _) in &contract.foreign_metadata {
            self.found(format!("metadata.{name}"), Outcome::Recorded, "not ClawGuard's");
        }
    }

    /// What only forms 2 and 3 have.
    fn describe_named(&mut self) {
        let version = self.contract.form.version();
        self.found(
            version,
            Outcome::Kernel,
            "this form names no endpoint: beside MCP servers by the gateway the agent reaches nothing",
        );
        let note = "this form says neither expiry nor sequence: it ends [trust] default_lifetime after an operator put it in \
                    force, and an older one comes back only by the operator's own wpc use";
        self.found(version, Outcome::Daemon, note);
        self.found("policy_name", Outcome::Recorded, "in every record, as policy_id");
    }

    fn describe_data(&mut self, classes: &DataClasses) {
        let path = self.contract.form.data_classes();
        let read = "arguments and results of MCP calls are looked through; what an agent sends to an endpoint of egress, or to a \
                    model, is not read";
        for (present, name) in
            [(classes.allow.is_some(), "allow"), (classes.deny.is_some(), "deny"), (classes.redact.is_some(), "redact")]
        {
            if present {
                self.found(format!("{path}.{name}"), Outcome::Gateway, read);
            }
        }
        for (i, name) in classes.allow.iter().flatten().enumerate() {
            if name.parse::<DataClass>().is_err() {
                let note =
                    "no kind of data that can be told by its form: nothing is found to be of it, and it gives nothing";
                self.found(format!("{path}.allow[{i}]"), Outcome::Recorded, note);
            }
        }
        if classes.allow.is_some() {
            let denied: Vec<_> = DataClass::ALL
                .into_iter()
                .filter(|class| classes.handling(*class) == Handling::Denied)
                .map(DataClass::label)
                .collect();
            if !denied.is_empty() {
                let note = format!("of what can be told by its form, denied: {}", denied.join(", "));
                self.found(format!("{path}.allow"), Outcome::Gateway, note);
            }
        }
        for (i, class) in classes.redact.iter().flatten().enumerate() {
            if classes.handling(*class) == Handling::Denied {
                let note = "denied, whatever else is said";
                self.found(format!("{path}.redact[{i}]"), Outcome::Gateway, note);
            }
        }
    }

    fn describe_tools(&mut self, tools: &Tools) {
        let form = self.contract.form;
        for entry in &tools.entries {
            let (outcome, note) = match &entry.server {
                None => {
                    let note = format!("\"{}\" is a kind of tools that this version does not know", entry.kind);
                    (Outcome::Denied, note)
                }
                Some(ServerPattern::Any) => (Outcome::Gateway, "tools of every MCP server".into()),
                Some(ServerPattern::Named(name)) => (Outcome::Gateway, format!("tools of the MCP server {name}")),
            };
            self.found(entry.path.as_str(), outcome, note);
        }
        if tools.allow.is_some() {
            self.found(form.allowed_tools(), Outcome::Gateway, WAY);
        }
        if !tools.deny.is_empty() {
            self.found(form.denied_tools(), Outcome::Gateway, WAY);
        }
        for (lines, name) in [(&tools.approve, "approve"), (&tools.no_approval, "no_approval")] {
            if !lines.is_empty() {
                self.found(format!("{GUARD}.tools.{name}"), Outcome::Gateway, WAY);
            }
        }
        for line in tools.allow.iter().flatten().chain(&tools.approve).chain(&tools.no_approval) {
            let (outcome, note) = self.decided(line);
            self.found(line.path.as_str(), outcome, note);
        }
        for line in &tools.deny {
            self.found(line.path.as_str(), Outcome::Gateway, "denied, whatever else is said");
        }
        match tools.profile {
            Some(Profile::Readonly) => self.found("tools.profile", Outcome::Gateway, "no tool but those of class read"),
            Some(Profile::Full) => self.found("tools.profile", Outcome::Recorded, "restricts nothing"),
            None => {}
        }
    }

    /// What the gateway does with the tools of a line.
    fn decided(&self, line: &ToolLine) -> (Outcome, String) {
        let server = match &line.pattern.server {
            ServerPattern::Any => {
                let note = "the tools of every [[mcp.server]] are decided one by one, by name";
                return (Outcome::Gateway, note.into());
            }
            ServerPattern::Named(name) => name,
        };
        let Some(known) = self.host.mcp_server(server) else { return (Outcome::Denied, unknown(server)) };
        let NamePattern::Exact(tool) = &line.pattern.tool else {
            let risk = host::risk_of(known, &self.contract.guard.groups);
            let only = if known.risk == Risk::High { ", which gives tools only by their exact names" } else { "" };
            return (Outcome::Gateway, format!("each tool by name, risk {risk}{only}"));
        };
        let judged = self.tools.judge(server, tool);
        let by_name = if known.class_of(tool).is_none() { " (by its name)" } else { "" };
        let (outcome, verdict) = match judged.verdict {
            ToolVerdict::Allow => (Outcome::Gateway, "allow".into()),
            ToolVerdict::Hold => (Outcome::Gateway, "hold for a person's approval".into()),
            ToolVerdict::Deny(reason) => (Outcome::Denied, format!("deny ({reason}: {})", reason.sentence())),
        };
        (outcome, format!("{verdict}; risk {}, class {}{by_name}", judged.risk, judged.class))
    }

    fn describe_mcp(&mut self, mcp: &Mcp) {
        let mut told: Vec<(&str, &ServerPattern, String)> = Vec::new();
        for (name, lines) in mcp.of_servers() {
            told.extend(
                lines
                    .iter()
                    .map(|line| (line.path.as_str(), &line.pattern, format!("{}: {}", line.pattern, of_servers(name)))),
            );
        }
        for Line { path, pattern } in &mcp.resources {
            told.push((path, &pattern.server, format!("{pattern}: may be read and watched")));
        }
        for Line { path, pattern } in &mcp.prompts {
            told.push((path, &pattern.server, format!("{pattern}: may be had")));
        }
        for (path, server, note) in told {
            let (outcome, note) = match server {
                ServerPattern::Named(name) if self.host.mcp_server(name).is_none() => (Outcome::Denied, unknown(name)),
                ServerPattern::Named(_) => (Outcome::Gateway, note),
                ServerPattern::Any => (Outcome::Gateway, format!("{note}; a server of high risk has to be named")),
            };
            self.found(path, outcome, note);
        }
    }

    fn describe_openclaw(&mut self) {
        const CARRIED: &str = "carried to OpenClaw's configuration compiler; the host's kernel does not see it";
        let openclaw = &self.contract.guard.openclaw;
        for line in &openclaw.allow {
            let note = format!("{}: {CARRIED}, and it opens nothing", line.name);
            self.found(line.path.as_str(), Outcome::Recorded, note);
        }
        for line in &openclaw.deny {
            let note = format!(
                "{}: {CARRIED}. What holds without OpenClaw: whatever is run in spite of it reaches no endpoint; its files \
                 and processes are those that its user may touch",
                line.name
            );
            self.found(line.path.as_str(), Outcome::OpenClaw, note);
        }
    }

    fn describe_token(&mut self, rules: &TokenRules) {
        let [token, scope, pin] = self.contract.form.token();
        let note = "a job needs a token of a trusted issuer; when it expires, the kernel's clock ends the job's access";
        self.found(token, Outcome::Daemon, note);
        if let Some(seconds) = rules.max_ttl_seconds {
            let note = format!("a token that lives longer than {seconds} s is refused");
            self.found(format!("{token}.cst_max_ttl_seconds"), Outcome::Daemon, note);
        }
        let note = if rules.require_scope_hash {
            "a token without the hash of its scope is refused"
        } else {
            "a token may lack the hash of its scope; one that is there is checked"
        };
        self.found(format!("{token}.{scope}"), Outcome::Daemon, note);
        let note = if rules.require_pin {
            "a token that does not carry this contract's hash is refused"
        } else {
            "a token that carries the hash of another contract is refused; it may carry none"
        };
        self.found(format!("{token}.{pin}"), Outcome::Daemon, note);
        if self.contract.form == Form::Profiled {
            let note = if rules.job_scoped {
                "a token is good for one job"
            } else {
                "false, but a token is good for one job anyway: that is narrower"
            };
            self.found(format!("{token}.job_scoped_anti_replay"), Outcome::Daemon, note);
        }
    }
}

fn unknown(server: &str) -> String {
    format!("no [[mcp.server]] has the name {server}")
}

/// What a list of servers gives.
fn of_servers(member: &str) -> &'static str {
    match member {
        "completion" => "may complete arguments of the prompts and resources that are given",
        "sampling" => "may have the client's model answer",
        "elicitation" => "may have the client ask its user",
        "elicitation_url" => "may have the client send its user to a URL",
        "roots" => "may know the client's roots",
        "tasks" => "calls may be tasks",
        _ => "its log may be asked for",
    }
}

/// Sorts `egress[10]` after `egress[9]`, at every level.
fn natural(path: &str) -> Vec<(u64, String)> {
    let part = |(i, part): (usize, &str)| match part.split_once(']') {
        Some((number, rest)) if i > 0 => (number.parse().unwrap_or(0), rest.to_owned()),
        _ => (0, part.to_owned()),
    };
    path.split('[').enumerate().map(part).collect()
}
