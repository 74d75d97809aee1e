use std::collections::BTreeSet;

use policy::{
    group::{Class, Risk},
    tool::{ToolReason, ToolVerdict},
};
use proptest::prelude::*;

use super::*;

fn judged(verdict: ToolVerdict) -> Judged {
    let groups = ["all", "mcp:crm", "risk:low", "tool:crm/get_case"].map(Into::into).to_vec();
    Judged { verdict, risk: Risk::Low, class: Class::Read, groups, rule: None }
}

#[derive(Clone, Debug)]
struct Case {
    verdict: ToolVerdict,
    recordable: bool,
    in_force: bool,
    token_fits: bool,
    host: bool,
    job: bool,
    defined: Defined,
    data: bool,
    limit: Option<Limit>,
    approval: Approval,
    observe: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let verdicts = prop_oneof![
        4 => Just(ToolVerdict::Allow),
        3 => Just(ToolVerdict::Hold),
        2 => proptest::sample::select(ToolReason::ALL.to_vec()).prop_map(ToolVerdict::Deny),
    ];
    let often = |usual: bool| prop_oneof![4 => Just(usual), 1 => Just(!usual)];
    let defined = [
        Defined::Accepted,
        Defined::Accepted,
        Defined::None,
        Defined::New,
        Defined::Changed,
        Defined::Ambiguous,
        Defined::Unseen,
    ];
    let approvals = [
        Approval::Unasked,
        Approval::Given,
        Approval::Given,
        Approval::Pending,
        Approval::Refused,
        Approval::Impossible,
    ];
    let limits = [None, None, None, Some(Limit::Rate), Some(Limit::Concurrency)];
    let facts = (
        often(true),
        often(true),
        often(true),
        often(false),
        often(false),
        proptest::sample::select(defined.to_vec()),
        often(false),
        proptest::sample::select(limits.to_vec()),
        proptest::sample::select(approvals.to_vec()),
        often(false),
    );
    (verdicts, facts).prop_map(|(verdict, facts)| {
        let (recordable, in_force, token_fits, host, job, defined, data, limit, approval, observe) = facts;
        Case { verdict, recordable, in_force, token_fits, host, job, defined, data, limit, approval, observe }
    })
}

fn decided(case: &Case) -> Verdict {
    let killed = |killed: bool| if killed { BTreeSet::from(["mcp:crm".to_owned()]) } else { BTreeSet::new() };
    let (host, job) = (killed(case.host), killed(case.job));
    let facts = Facts {
        recordable: case.recordable,
        in_force: case.in_force,
        token_fits: case.token_fits,
        killed: [&host, &job],
        defined: case.defined,
        data: case.data,
        limit: case.limit,
        approval: case.approval,
        observe: case.observe,
    };
    decide(&judged(case.verdict), &facts)
}

/// Said the other way round: what has to be true of a call that is made.
fn may_be_made(case: &Case) -> bool {
    let hosts = case.recordable
        && case.token_fits
        && !case.host
        && !case.job
        && matches!(case.defined, Defined::Accepted | Defined::None)
        && case.limit.is_none();
    let contracts = case.in_force
        && !case.data
        && match case.verdict {
            ToolVerdict::Allow => true,
            ToolVerdict::Hold => case.approval == Approval::Given,
            ToolVerdict::Deny(_) => false,
        };
    let watched = case.observe
        && (!matches!(case.verdict, ToolVerdict::Hold)
            || matches!(case.approval, Approval::Given | Approval::Unasked)
            || case.data);
    hosts && (contracts || watched)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn a_call_is_made_only_if_everything_allows_it(case in cases()) {
        let made = matches!(decided(&case), Verdict::Allow | Verdict::Observe(_));
        prop_assert_eq!(made, may_be_made(&case), "{:?}", decided(&case));
    }

    #[test]
    fn a_kill_holds_whatever_else_is_true(mut case in cases()) {
        case.host = true;
        prop_assert!(matches!(decided(&case), Verdict::Deny(_)));
    }

    #[test]
    fn nobody_is_asked_about_a_call_that_would_not_be_made_anyway(case in cases()) {
        if decided(&case) == Verdict::Hold {
            let given = Case { approval: Approval::Given, ..case };
            prop_assert_eq!(decided(&given), Verdict::Allow);
        }
    }

    #[test]
    fn only_an_agent_that_is_watched_does_what_its_contract_denies(case in cases()) {
        if matches!(decided(&case), Verdict::Observe(_)) {
            prop_assert!(case.observe);
        }
    }
}

#[test]
fn what_the_contract_hides_stays_hidden_when_it_is_killed() {
    let killed = BTreeSet::from(["all".to_owned()]);
    let none = BTreeSet::new();
    let facts = Facts {
        recordable: true,
        in_force: true,
        token_fits: true,
        killed: [&killed, &none],
        defined: Defined::Accepted,
        data: false,
        limit: None,
        approval: Approval::Unasked,
        observe: false,
    };
    let denied = decide(&judged(ToolVerdict::Deny(ToolReason::ToolNotAllowed)), &facts);
    assert!(matches!(denied, Verdict::Deny(reason) if reason.hides()));
    assert_eq!(decide(&judged(ToolVerdict::Allow), &facts), Verdict::Deny(Reason::Killed));
    assert!(!Reason::Killed.hides());
    assert!(!shown(&judged(ToolVerdict::Allow), &facts));
    assert!(shown(&judged(ToolVerdict::Hold), &Facts { killed: [&none, &none], ..facts }));
    assert!(!shown(&judged(ToolVerdict::Allow), &Facts { killed: [&none, &none], defined: Defined::Changed, ..facts }));
}

#[test]
fn the_kill_of_a_single_tool_spares_the_others() {
    let one = judged(ToolVerdict::Allow);
    let none = BTreeSet::new();
    let tool = BTreeSet::from(["tool:crm/get_case".to_owned()]);
    let other = BTreeSet::from(["tool:crm/get_cases".to_owned()]);
    assert_eq!(one.killed([&none, &tool]), Some("tool:crm/get_case"));
    assert_eq!(one.killed([&other, &none]), None);
}
