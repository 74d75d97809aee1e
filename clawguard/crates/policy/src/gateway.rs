//! What a gateway holds callers to: all of a contract that is about MCP and models, without the kernel's rules.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    contract::{Contract, DataClasses, TokenRules},
    group::{Group, Risk},
    host::{self, McpServer},
    mcp::{McpRules, What},
    model::ModelPolicy,
    tool::{Judgement, ToolPolicy, ToolReason, ToolVerdict},
};

/// A contract, as a gateway needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayPolicy {
    /// Who may call which tool.
    pub tools: ToolPolicy,
    /// What else may pass.
    pub mcp: McpRules,
    /// Which models may be called, and what of the requests is left out.
    pub models: ModelPolicy,
    /// What calls and results may carry; `None` restricts nothing.
    pub data: Option<DataClasses>,
    /// What a job's token must be; where it is there, no job goes without one.
    pub token: Option<TokenRules>,
    /// The groups that calls to a server belong to as a whole, by the server's name, with its risk.
    servers: BTreeMap<String, (BTreeSet<Group>, Risk)>,
}

impl GatewayPolicy {
    /// What a contract says of these servers. Of a server only its name, its risk and what its tools do matter here.
    #[must_use]
    pub fn of(contract: &Contract, servers: &[McpServer]) -> Self {
        let guard = &contract.guard;
        let of = |server: &McpServer| {
            let risk = host::risk_of(server, &guard.groups);
            let fixed = [Group::all(), Group::tools(), Group::mcp(&server.name), Group::risk(risk)];
            let own = host::groups_of(server, &guard.groups).map(|spec| spec.name.clone());
            (server.name.clone(), (fixed.into_iter().chain(own).collect(), risk))
        };
        Self {
            tools: ToolPolicy::new(guard.tools.as_ref(), &guard.groups, servers),
            mcp: McpRules::new(guard.mcp.as_ref(), &guard.groups, servers),
            models: ModelPolicy::of(contract),
            data: guard.data_classes.clone(),
            token: guard.token.map(|rules| TokenRules { job_scoped: true, ..rules }),
            servers: servers.iter().map(of).collect(),
        }
    }

    /// What becomes of a call of a tool.
    #[must_use]
    pub fn tool(&self, server: &str, tool: &str) -> Judgement<'_> {
        self.tools.judge(server, tool)
    }

    /// Whether the contract gives anything of a server. Where it does not, the server is not even greeted.
    #[must_use]
    pub fn reaches(&self, server: &str) -> bool {
        self.tools.names(server) || What::WHOLE.iter().any(|what| self.mcp.may(server, *what))
    }

    /// What becomes of anything else. Its risk is the server's, and it belongs to every group of the contract that has any of
    /// the server's tools: the kill of one takes it away, which no name of a tool can tell apart.
    #[must_use]
    pub fn other(&self, server: &str, what: What<'_>) -> Judgement<'_> {
        let class = what.class();
        let known = self.servers.get(server);
        let rule = self.mcp.rule(server, what);
        let verdict = match (known, rule) {
            (None, _) => ToolVerdict::Deny(ToolReason::UnknownServer),
            (_, None) => ToolVerdict::Deny(ToolReason::McpNotAllowed),
            _ => ToolVerdict::Allow,
        };
        let unknown = || (BTreeSet::from([Group::all(), Group::tools(), Group::risk(Risk::High)]), Risk::High);
        let (mut groups, risk) = known.cloned().unwrap_or_else(unknown);
        groups.insert(Group::class(class));
        Judgement { verdict, risk, class, groups, rule }
    }
}
