//! What is in a bundle.

use evidence::bundle::{Absent, Error, Gathering, With, write};
use evidence::chain::Kind;
use serde_json::{Value, json};

use crate::{
    job::{AGENT, CONTRACT, Host, SENTINEL, at, eventful, export, held, judge, key, keys, with},
    schema::Schemas,
};

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn everything_that_is_written_has_the_shape_of_claws_schemas() {
    let (schemas, written) = (Schemas::read(), export(&eventful()));
    let bundle = parse(&written.parts[0].text);
    for (schema, value) in [
        ("claw.poh.proof_bundle_envelope.v1.json", &bundle),
        ("claw.poh.urm.v1.json", &parse(&written.urm)),
        ("claw.poh.trust_pulse.v1.json", &parse(&written.trust_pulse)),
        ("claw.poh.gateway_receipt_envelope.v1.json", &bundle["payload"]["receipts"][0]),
        ("claw.poh.coverage_attestation_envelope.v1.json", &bundle["payload"]["coverage_attestations"][0]),
        ("tool_receipt.v1.json", &bundle["payload"]["tool_receipts"][0]),
    ] {
        assert_eq!(schemas.fault(schema, value), None, "{schema}");
    }
    // And that reader does see what is wrong.
    for (place, wrong) in
        [("bundle_version", json!("2")), ("receipts", json!([])), ("more", json!(1)), ("agent_did", json!(1))]
    {
        let mut bundle = bundle.clone();
        bundle["payload"][place] = wrong;
        assert!(schemas.fault("claw.poh.proof_bundle_envelope.v1.json", &bundle).is_some(), "{place}");
    }
}

#[test]
fn a_bundle_is_valid_where_everything_is_demanded() {
    let written = export(&eventful());
    let whole = judge(&written);
    assert_eq!(whole.broken, None);
    let verdict = &whole.verdicts[0];
    assert_eq!(
        (verdict.agent_did.clone(), verdict.hash),
        (Some(key(AGENT).did().to_string()), Some(written.parts[0].hash))
    );
    assert!(verdict.risk_flags.iter().all(|flag| !flag.starts_with("COVERAGE")), "{:?}", verdict.risk_flags);
    let grade = |about: &str| verdict.claim(about).unwrap().grade.name();
    assert_eq!(
        ["event_chain", "model_calls", "coverage", "egress_policy", "manifest", "trust_pulse"].map(grade),
        ["verified", "verified", "verified", "verified", "verified", "self-reported"]
    );
    assert_eq!(written.left_out, []);
}

#[test]
fn what_happened_is_counted_and_what_is_missing_is_told() {
    let written = export(&eventful());
    let bundle = parse(&written.parts[0].text);
    let own = &bundle["payload"]["metadata"]["clawguard.v1"];
    assert_eq!((own["job"].as_str(), own["wpc_hash_b64u"].as_str()), (Some("j1"), Some(CONTRACT)));
    assert_eq!((own["part"].as_u64(), own["parts"].as_u64()), (Some(1), Some(1)));
    assert_eq!(own["sentinel_did"], key(SENTINEL).did().to_string());
    assert_eq!(
        own["counts"],
        json!({ "tool_calls": 3, "tool_denied": 1, "tool_held": 1, "model_calls": 1, "model_denied": 0, "flips": 1,
            "alerts": 1, "egress_allowed": 5, "egress_denied": 2, "egress_observed": 0 })
    );
    let sentinels = &bundle["payload"]["metadata"]["sentinels"];
    assert_eq!((sentinels["net_events"].as_u64(), sentinels["net_suspicious"].as_u64()), (Some(7), Some(1)));
    assert_eq!(sentinels["egress_policy_receipt"]["payload"]["blocked_attempt_count"], 2);
    let tools = bundle["payload"]["tool_receipts"].as_array().unwrap();
    let words: Vec<(&str, &str)> = tools
        .iter()
        .map(|tool| (tool["tool_name"].as_str().unwrap(), tool["result_status"].as_str().unwrap()))
        .collect();
    assert_eq!(words, [("mcp.crm.search", "success"), ("mcp.crm.search", "error")]);
    let absent: Vec<&str> = own["absent"].as_array().unwrap().iter().map(|one| one["what"].as_str().unwrap()).collect();
    assert_eq!(absent, ["receipts of 1 tool calls", "human_approval_receipts and side_effect_receipts"]);
    let pulse = parse(&written.trust_pulse);
    assert_eq!(
        pulse["tools"],
        json!([{ "name": "mcp.crm.search", "calls": 2 }, { "name": "mcp.crm.slow", "calls": 1 }])
    );
    assert_eq!((pulse["files"].clone(), pulse["duration_ms"].as_u64()), (json!([]), Some(12_000)));
}

#[test]
fn what_cannot_be_attested_is_absent_with_its_reason() {
    let host = {
        let mut host = Host::default();
        host.begin("observe");
        host.model();
        host
    };
    let keys = keys();
    let mine = [Absent { what: "the contract".into(), why: "x".repeat(1000) }];
    let with = With {
        coverage: Err("the daemon was not there".into()),
        foreign_agent: Some("did:key:z6MkForeign"),
        receipts: &[],
        absent: &mine,
        ..with(&keys, &[])
    };
    let written = write(&host.run(), &with).unwrap();
    let bundle = parse(&written.parts[0].text);
    assert_eq!(Schemas::read().fault("claw.poh.proof_bundle_envelope.v1.json", &bundle), None);
    assert_eq!(bundle["payload"]["coverage_attestations"], Value::Null);
    let metadata = &bundle["payload"]["metadata"];
    // A job that is only observed could go anywhere: no receipt says that it could not.
    assert_eq!(metadata["sentinels"], json!({ "interpose_active": false, "net_events": 0, "net_suspicious": 0 }));
    let absent = metadata["clawguard.v1"]["absent"].as_array().unwrap();
    let what: Vec<&str> = absent.iter().map(|one| one["what"].as_str().unwrap()).collect();
    assert_eq!(
        what,
        [
            "the signature of did:key:z6MkForeign, whom the job's token names",
            "run_end",
            "coverage_attestation",
            "egress_policy_receipt",
            "receipts of 1 model calls",
            "human_approval_receipts and side_effect_receipts",
            "the contract"
        ]
    );
    assert_eq!(absent[6]["why"].as_str().unwrap().chars().count(), 241);
    // Where host evidence is demanded, such a bundle is refused.
    let whole = judge(&written);
    assert!(whole.broken.unwrap().fault.to_string().contains("egress_policy_receipt"));
}

#[test]
fn nothing_is_signed_before_what_it_speaks_of() {
    let written = export(&eventful());
    let bundle = parse(&written.parts[0].text);
    assert_eq!(bundle["issued_at"], at(12).format());
    assert_eq!(bundle["payload"]["coverage_attestations"][0]["issued_at"], at(12).format());
}

#[test]
fn receipts_of_others_and_receipts_that_are_there_twice_are_left_out_and_told() {
    let host = eventful();
    let other = {
        let mut other = Host::default();
        other.record(Kind::Pin, &json!({}));
        other.begin("enforce");
        other.model();
        other.model();
        // Of another id than that of any receipt here.
        other.receipts.remove(1)
    };
    let good = host.receipts[0].clone();
    let spaced = serde_json::to_string_pretty(&serde_json::from_str::<Value>(&good).unwrap()).unwrap();
    let receipts = [good.clone(), other, good.replace("\"latency_ms\":20", "\"latency_ms\":21"), good.clone()];
    let keys = keys();
    let written = write(&host.run(), &with(&keys, &receipts)).unwrap();
    let left: Vec<usize> = written.left_out.iter().map(|(i, _)| *i).collect();
    assert_eq!(left, [1, 2, 3]);
    assert!(written.parts[0].text.contains("3 gateway receipts"));
    assert_eq!(judge(&written).broken, None);
    // serde_json sorts: that is another text, with another hash. White space alone is no change.
    assert_eq!(write(&host.run(), &with(&keys, &[spaced])).unwrap().left_out.len(), 1);
    let spaced = [good.replace(',', " ,\n")];
    let written = write(&host.run(), &with(&keys, &spaced)).unwrap();
    assert_eq!((written.left_out.len(), judge(&written).broken), (0, None));
}

#[test]
fn hosts_that_do_not_fit_are_absent_and_the_rest_is_there() {
    let (host, keys) = (eventful(), keys());
    let hosts: Vec<String> = (0..1000).map(|i| format!("host-{i}.a-long-name.example")).collect();
    let written = write(&host.run(), &With { egress: Ok(held(&hosts)), ..with(&keys, &host.receipts) }).unwrap();
    let metadata = &parse(&written.parts[0].text)["payload"]["metadata"];
    assert!(metadata.to_string().len() <= 16_384);
    assert_eq!(metadata["sentinels"]["egress_policy_receipt"], Value::Null);
    assert!(metadata.to_string().contains("do not fit"));
}

#[test]
fn arguments_and_results_are_hashes_alone() {
    let mut host = Host::default();
    host.begin("enforce");
    let body = json!({ "job": "j1", "server": "crm", "method": "tools/call", "tool": "t", "decision": "allowed",
        "status": "ok", "arguments": "{\"password\":\"hunter2\"}", "arguments_sha256": CONTRACT,
        "result_sha256": CONTRACT, "duration_us": 1 });
    host.record(Kind::Call, &body);
    let written = export(&host);
    assert!(written.parts[0].text.contains("mcp.crm.t"));
    for text in [&written.parts[0].text, &written.urm, &written.trust_pulse] {
        assert!(!text.contains("hunter2"));
    }
}

#[test]
fn a_job_that_never_began_has_no_run_and_one_that_began_again_has_its_last() {
    assert_eq!(Gathering::new("nobody").finish(), None);
    let mut host = eventful();
    host.begin("enforce");
    let run = host.run();
    assert_eq!((&*run.run_id, run.events.len(), run.ended_at, run.results.len()), ("run_j1_13", 1, None, 0));
    let keys = keys();
    let empty = evidence::bundle::Run { events: Vec::new(), ..run };
    assert_eq!(write(&empty, &with(&keys, &[])).unwrap_err(), Error::Empty);
}
