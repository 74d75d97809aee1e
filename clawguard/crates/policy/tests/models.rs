//! What a contract gives of models.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use claw::{Hash, Value, json::Limits};
use policy::{
    Contract, GatewayPolicy, HostFacts, Outcome,
    compile::check,
    group::Group,
    model::{Action, Glob, ModelPolicy, ModelReason, Redaction, Step},
};
use proptest::prelude::*;

fn contract(rules: &str) -> Contract {
    let text = format!(r#"{{"policy_version":"1","policy_id":"p","issuer_did":"did:x"{rules}}}"#);
    Contract::read(&value(&text)).unwrap()
}

fn value(text: &str) -> Value {
    claw::json::parse(text.as_bytes(), Limits { bytes: 1 << 16, depth: 32 }).unwrap()
}

fn decide(rules: &str, provider: &str, model: &str) -> (Option<ModelReason>, Option<String>) {
    let judged = GatewayPolicy::of(&contract(rules), &[]).models.decide(provider, model);
    (judged.denied, judged.rule)
}

fn denied(rules: &str, provider: &str, model: &str) -> Option<ModelReason> {
    decide(rules, provider, model).0
}

#[test]
fn what_a_contract_does_not_speak_of_is_not_given() {
    assert_eq!(decide("", "openai", "gpt-5"), (Some(ModelReason::Provider), None));
    for rules in [r#","allowed_providers":[]"#, r#","allowed_models":[]"#, r#","redaction_rules":[]"#] {
        assert!(denied(rules, "openai", "gpt-5").is_some(), "{rules}");
        assert!(!ModelPolicy::of(&contract(rules)).gives(), "{rules}");
    }
    let other = r#","metadata":{"clawguard.v1":{"model":{"require_proxy_receipts":true}}}"#;
    assert!(denied(other, "openai", "gpt-5").is_some());
}

#[test]
fn provider_and_model_are_both_asked_for() {
    let both = r#","allowed_providers":["openai","anthropic"],"allowed_models":["gpt-5*","claude-*"]"#;
    assert_eq!(decide(both, "anthropic", "claude-9"), (None, Some("allowed_models[1]".into())));
    assert_eq!(decide(both, "anthropic", "o4"), (Some(ModelReason::Model), Some("allowed_models".into())));
    assert_eq!(decide(both, "google", "gpt-5"), (Some(ModelReason::Provider), Some("allowed_providers".into())));
    assert_eq!(
        decide(r#","allowed_providers":["openai"]"#, "openai", "any"),
        (None, Some("allowed_providers[0]".into()))
    );
    assert_eq!(denied(r#","allowed_models":["gpt-5"]"#, "google", "GPT-5"), None);
    assert_eq!(denied(r#","allowed_models":["gpt-5"]"#, "google", "gpt-5x"), Some(ModelReason::Model));
}

#[test]
fn what_cannot_be_kept_to_takes_every_call_away() {
    for (rule, reason, path) in [
        (r#""minimum_model_identity_tier":"tee_measured""#, ModelReason::Tier, "minimum_model_identity_tier"),
        (r#""receipt_privacy_mode":"encrypted""#, ModelReason::Privacy, "receipt_privacy_mode"),
        (r#""required_audit_packs":["a"]"#, ModelReason::Audit, "required_audit_packs"),
        (
            r#""redaction_rules":[{"path":"$.a","action":"mask"},{"path":"$..b","action":"mask"}]"#,
            ModelReason::Redaction,
            "redaction_rules[1].path",
        ),
    ] {
        let rules = format!(r#","allowed_models":["*"],{rule}"#);
        assert_eq!(decide(&rules, "openai", "m"), (Some(reason), Some(path.into())));
        assert!(!ModelPolicy::of(&contract(&rules)).gives());
    }
    let kept = r#","allowed_models":["*"],"minimum_model_identity_tier":"closed_opaque","receipt_privacy_mode":"hash_only",
        "required_audit_packs":[],"redaction_rules":[{"path":"$.a","action":"mask"}]"#;
    assert_eq!(denied(kept, "openai", "m"), None);
}

#[test]
fn form_2_gives_models_by_its_word_on_clawproxy_and_form_3_has_none() {
    let form = |model: &str| {
        let text = format!(r#"{{"wpc_version":"v1","policy_name":"p","allowed_tools":[],"model_egress":{model}}}"#);
        ModelPolicy::of(&Contract::read(&value(&text)).unwrap())
    };
    assert_eq!(form(r#"{"provider":"clawproxy","require_proxy_receipts":true}"#).decide("openai", "m").denied, None);
    for other in [r#"{"provider":"elsewhere"}"#, r#"{"require_proxy_receipts":true}"#] {
        assert!(form(other).decide("openai", "m").denied.is_some(), "{other}");
    }
    let third = value(r#"{"wpc_version":"v1","policy_name":"p","tools":{"profile":"full","allow":["crm/x"]}}"#);
    assert!(!ModelPolicy::of(&Contract::read(&third).unwrap()).gives());
}

#[test]
fn a_path_is_read_wholly_or_not_at_all() {
    let steps = |path: &str| Redaction::new(path, Action::Mask).map(|rule| rule.steps).ok();
    let member = |name: &str| Step::Member(name.into());
    assert_eq!(steps("$.messages[*].content"), Some(vec![member("messages"), Step::Items, member("content")]));
    assert_eq!(steps("messages[*]"), Some(vec![member("messages"), Step::Items]));
    assert_eq!(steps("$.a[10][*].b c"), Some(vec![member("a"), Step::Item(10), Step::Items, member("b c")]));
    for wrong in [
        "",
        "$",
        "$.",
        "$..a",
        "$.a.",
        "$.a[",
        "$.a[]",
        "$.a[01]",
        "$.a[-1]",
        "$.a[?(@.b)]",
        "$.*",
        "$.a*",
        "$.a]",
        "$.a['b']",
        "$.a[*]b",
    ] {
        assert_eq!(steps(wrong), None, "{wrong:?}");
    }
    assert_eq!(steps(&format!("${}", ".a".repeat(64))).map(|steps| steps.len()), Some(64));
    assert_eq!(steps(&format!("${}", ".a".repeat(65))), None);
}

#[test]
fn check_says_who_holds_an_agent_to_its_models() {
    let text = r#","allowed_models":["m*"],"allowed_providers":[],"receipt_privacy_mode":"hash_only",
        "minimum_model_identity_tier":"closed_opaque","redaction_rules":[{"path":"$.a","action":"hash"}],
        "metadata":{"clawguard.v1":{"model":{"require_proxy_receipts":true}}}"#;
    let outcomes = |rules: &str, gateway: bool, path: &str| -> Vec<Outcome> {
        let host = HostFacts { model_gateway: gateway, ..HostFacts::default() };
        let (_, findings) = check(&contract(rules), Hash::of(b"x"), &host).unwrap();
        findings.iter().filter(|found| found.path == path).map(|found| found.outcome).collect()
    };
    for path in [
        "allowed_models",
        "allowed_providers",
        "receipt_privacy_mode",
        "minimum_model_identity_tier",
        "redaction_rules",
        "redaction_rules[0]",
    ] {
        assert_eq!(outcomes(text, true, path), [Outcome::Gateway], "{path}");
    }
    for path in ["allowed_models", "receipt_privacy_mode"] {
        assert_eq!(outcomes(text, false, path), [Outcome::Denied], "{path}");
    }
    let receipts = "metadata.clawguard.v1.model.require_proxy_receipts";
    assert_eq!(outcomes(text, true, receipts), [Outcome::Gateway, Outcome::Kernel, Outcome::Daemon]);
    assert_eq!(outcomes(text, false, receipts), [Outcome::Kernel]);
    let encrypted = r#","allowed_models":["m*"],"receipt_privacy_mode":"encrypted""#;
    assert_eq!(outcomes(encrypted, true, "allowed_models"), [Outcome::Denied]);
    assert_eq!(outcomes(encrypted, true, "receipt_privacy_mode"), [Outcome::Gateway]);
    assert_eq!(outcomes(r#","redaction_rules":[]"#, true, "redaction_rules"), [Outcome::Denied]);
}

#[test]
fn the_group_of_models_is_the_gateways_where_it_makes_the_calls() {
    for (rules, gateway, there) in [
        (r#","allowed_models":["*"]"#, true, true),
        (r#","allowed_models":["*"]"#, false, false),
        (r#","allowed_models":[]"#, true, false),
        ("", true, false),
    ] {
        let host = HostFacts { model_gateway: gateway, ..HostFacts::default() };
        let (policy, _) = check(&contract(rules), Hash::of(b"x"), &host).unwrap();
        assert_eq!(policy.gateway_groups.contains(&Group::model()), there, "{rules} {gateway}");
    }
}

/// What a pattern means, one character at a time.
fn naive(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|taken| naive(rest, &name[taken..])),
        Some((byte, rest)) => {
            name.split_first().is_some_and(|(first, after)| first.eq_ignore_ascii_case(byte) && naive(rest, after))
        }
    }
}

fn json(words: &[String]) -> String {
    format!("[{}]", words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(","))
}

proptest! {
    #[test]
    fn a_pattern_means_what_it_says(pattern in "[abA.?*]{0,8}", name in "[abB.?*]{0,10}") {
        prop_assert_eq!(Glob::new(&pattern).matches(&name), naive(pattern.as_bytes(), name.as_bytes()));
    }

    /// A contract gives a call only if every list that it has names it, and no rule of it takes it away.
    #[test]
    fn no_call_is_given_that_a_list_leaves_out(
        providers in prop::option::of(prop::collection::vec("openai|anthropic|google", 0..3)),
        models in prop::option::of(prop::collection::vec("[ab*]{1,3}", 0..3)),
        tier in prop::option::of("closed_opaque|tee_measured"),
        privacy in prop::option::of("hash_only|encrypted"),
        provider in "openai|anthropic|google|other",
        model in "[ab]{0,3}",
    ) {
        let mut rules = String::new();
        for (name, list) in [("allowed_providers", &providers), ("allowed_models", &models)] {
            if let Some(list) = list {
                rules += &format!(",\"{name}\":{}", json(list));
            }
        }
        for (name, word) in [("minimum_model_identity_tier", &tier), ("receipt_privacy_mode", &privacy)] {
            if let Some(word) = word {
                rules += &format!(",\"{name}\":\"{word}\"");
            }
        }
        let named = providers.as_ref().is_none_or(|list| list.contains(&provider))
            && models.as_ref().is_none_or(|list| list.iter().any(|one| naive(one.as_bytes(), model.as_bytes())));
        let kept = tier.as_deref() != Some("tee_measured") && privacy.as_deref() != Some("encrypted");
        let given = (providers.is_some() || models.is_some()) && named && kept;
        prop_assert_eq!(denied(&rules, &provider, &model).is_none(), given, "{}", rules);
    }
}
