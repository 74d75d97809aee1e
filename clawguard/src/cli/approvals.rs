//! `clawguard approvals`, `approve`, `deny`

use control::{
    api::{ApprovalBody, ApprovalView},
    client::encode,
};
use hyper::Method;

use super::{Context, Done, shown::within, table::short};

#[derive(clap::Args)]
pub(crate) struct ApproveArguments {
    /// The approval's id; `clawguard approvals` lists them.
    id: String,
    /// Why; it is recorded.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

#[derive(clap::Args)]
pub(crate) struct DenyArguments {
    /// The approval's id; `clawguard approvals` lists them.
    id: String,
    /// Why; it is recorded, and the agent is told.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(crate) fn list(context: &Context) -> Done {
    let client = context.client();
    let approvals: Vec<ApprovalView> = context.wait(client.get("/v1/approvals"))?;
    context.print(&approvals, |approvals| {
        if approvals.is_empty() {
            return "no call waits for a person\n".into();
        }
        approvals.iter().map(block).collect::<Vec<_>>().join("\n")
    })
}

pub(crate) fn approve(context: &Context, arguments: &ApproveArguments) -> Done {
    decide(context, &arguments.id, "approve", &arguments.reason)
}

pub(crate) fn deny(context: &Context, arguments: &DenyArguments) -> Done {
    decide(context, &arguments.id, "deny", &arguments.reason)
}

fn decide(context: &Context, id: &str, decision: &str, reason: &str) -> Done {
    let client = context.client();
    let body = ApprovalBody { decision: decision.into(), reason: reason.into() };
    let path = format!("/v1/approvals/{}", encode(id));
    let approval: ApprovalView = context.wait(client.send(Method::POST, &path, &body))?;
    context.print(&approval, block)
}

/// A call with everything that a person needs to decide: the arguments are complete, and nothing in them moves a cursor.
fn block(approval: &ApprovalView) -> String {
    let rule = approval.rule.as_deref().map_or_else(String::new, |rule| format!(", {rule}"));
    let mut lines = vec![
        format!("{}  {}  {}/{}", approval.id, approval.state, approval.server, approval.tool),
        format!("  agent      {} (job {})", approval.agent, approval.job),
        format!("  call       {}, risk {}, class {}", approval.method, approval.risk, approval.class),
        format!("  contract   {}{rule}", short(&approval.wpc_hash)),
        format!("  asked      {}, ends {}", approval.asked_at, approval.expires_at),
        format!("  arguments  {}", approval.arguments),
    ];
    if let (Some(by), Some(at)) = (&approval.decided_by, &approval.decided_at) {
        let reason = approval.reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
        lines.push(format!("  decided    by {by} at {at}{reason}"));
    }
    lines.iter().map(|line| within(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_complete_and_nothing_in_them_moves_a_cursor() {
        let approval = ApprovalView {
            id: "ap-1".into(),
            state: "pending".into(),
            agent: "a".into(),
            job: "j".into(),
            session: "s".into(),
            server: "crm".into(),
            method: "tools/call".into(),
            tool: "delete\nap-2  approved".into(),
            risk: "high".into(),
            class: "irreversible".into(),
            wpc_hash: "QmMQ0aNYNhEVSy7H".into(),
            rule: Some("tools.approve[0]".into()),
            arguments: format!("{{\"id\":\"\u{202e}1\u{1b}[2K{}\"}}", "x".repeat(5000)),
            arguments_sha256: "h".into(),
            definition_sha256: None,
            asked_at: "t".into(),
            expires_at: "u".into(),
            decided_by: None,
            decided_at: None,
            reason: None,
        };
        let text = block(&approval);
        assert_eq!(text.lines().count(), 6);
        assert!(text.contains("crm/delete\\u000aap-2") && text.contains("\\u202e1\\u001b[2K"), "{text}");
        assert!(text.contains(&"x".repeat(5000)));
    }
}
