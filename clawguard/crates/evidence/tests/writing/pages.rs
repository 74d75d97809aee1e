//! The page of a bundle, without a browser.

use claw::{Hash, json};
use evidence::{
    chain::Kind,
    report::{Change, Input, page},
};
use proptest::prelude::*;
use serde_json::json;

use crate::job::{Host, at, eventful, export, judge};

fn written(host: &Host, with_records: bool, changes: &[Change], contract: Option<&claw::Value>) -> String {
    let export = export(host);
    let bundles: Vec<&[u8]> = export.parts.iter().map(|part| part.text.as_bytes()).collect();
    let lines: Vec<&[u8]> = host.lines.iter().map(|line| line.trim_end().as_bytes()).collect();
    page(&Input {
        bundles: &bundles,
        whole: &judge(&export),
        records: if with_records { &lines } else { &[] },
        contract,
        changes,
        visible: str::to_owned,
        version: "0.1.0",
        made_at: at(1000),
    })
}

/// With records that need not be its own.
fn page_of(host: &Host, lines: &[String]) -> String {
    let export = export(host);
    let bundles: Vec<&[u8]> = export.parts.iter().map(|part| part.text.as_bytes()).collect();
    let records: Vec<&[u8]> = lines.iter().map(|line| line.trim_end().as_bytes()).collect();
    page(&Input {
        bundles: &bundles,
        whole: &judge(&export),
        records: &records,
        contract: None,
        changes: &[],
        visible: str::to_owned,
        version: "0.1.0",
        made_at: at(1000),
    })
}

#[test]
fn with_records_it_says_what_was_called_and_without_them_it_counts() {
    let host = eventful();
    let full = written(&host, true, &[], None);
    for text in ["Tool called: crm/search", "Tool refused: crm/delete", "Killed: crm", "13 of 13 events"] {
        assert!(full.contains(text), "{text}");
    }
    let alone = written(&host, false, &[], None);
    assert!(!alone.contains("crm/search") && alone.contains("0 of 13 events"));
    for text in ["<b>3</b> <span>tool calls</span>", "Tool refused", "5, 2 refused", "audit records beside it"] {
        assert!(alone.contains(text), "{text}");
    }
}

#[test]
fn a_record_that_is_not_the_one_that_was_signed_for_is_not_told() {
    let mut host = eventful();
    for line in &mut host.lines {
        *line = line.replace("\"delete\"", "\"nothing\"");
    }
    let page = page_of(&eventful(), &host.lines);
    assert!(page.contains("crm/search") && !page.contains("crm/nothing") && !page.contains("crm/delete"));
    assert!(page.contains("2 audit records are not those"));
}

#[test]
fn alike_events_are_one_row_and_every_part_of_a_long_run_is_in_it() {
    let mut host = Host::default();
    host.begin("enforce");
    for _ in 0..1000 {
        host.call("search", "allowed", Some("ok"));
    }
    let page = written(&host, true, &[], None);
    assert!(page.contains("\u{d7} 1000") && page.contains("part 2") && page.contains("1001 of 1001 events"));
    assert!(page.len() < 60_000, "{}", page.len());
}

#[test]
fn a_picture_has_no_more_marks_than_can_be_told_apart() {
    let mut host = Host::default();
    host.begin("enforce");
    for i in 0..3000 {
        // No two that follow each other are alike.
        host.call(if i % 2 == 0 { "one" } else { "other" }, if i % 3 == 0 { "denied" } else { "allowed" }, Some("ok"));
    }
    let page = written(&host, true, &[], None);
    let marks = page.matches("<circle").count() + page.matches("height=\"16\"").count();
    assert!((500..1800).contains(&marks), "{marks}");
}

#[test]
fn traffic_is_told_by_the_groups_of_its_contract() {
    let contract = json!({ "metadata": { "clawguard.v1": { "egress": [{}, { "groups": ["crm", "crm-write"] }] } } });
    let contract = json::parse(contract.to_string().as_bytes(), json::Limits { bytes: 4096, depth: 16 }).unwrap();
    let under = |hash: String| {
        let mut host = Host::default();
        host.begin("enforce");
        let entry = json!({ "job": "j1", "verdict": "allowed", "count": 7, "name": "crm.example", "wpc_hash": hash,
            "rule": "metadata.clawguard.v1.egress[1]" });
        host.record(Kind::Decisions, &json!({ "decisions": [entry] }));
        host
    };
    let own = under(contract.canonical_hash().to_string());
    assert!(written(&own, true, &[], Some(&contract)).contains(">crm + crm-write</text>"));
    assert!(written(&own, true, &[], None).contains(">crm.example</text>"));
    let others = under(Hash::of(b"another").to_string());
    assert!(written(&others, true, &[], Some(&contract)).contains(">crm.example</text>"));
}

#[test]
fn its_policy_lets_nothing_in_but_its_own_style() {
    let page = written(&eventful(), true, &[], None);
    let policy = page.split("Content-Security-Policy\" content=\"").nth(1).unwrap().split('"').next().unwrap();
    let style = page.split("<style>").nth(1).unwrap().split("</style>").next().unwrap();
    let hash = Hash::of(style.as_bytes()).to_string().replace('-', "+").replace('_', "/") + "=";
    assert_eq!(policy, format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'"));
    for way_out in ["http://", "https://", "url(", "@import", "src=", "href=", " style=", "<script"] {
        assert!(!page.replace("url(#hatch)", "").contains(way_out), "{way_out}");
    }
}

/// A page in which a word stands everywhere.
fn of(word: &str) -> String {
    let mut host = Host::default();
    host.begin("enforce");
    host.call(word, "denied", None);
    for (kind, name) in
        [(Kind::Alert, "kind"), (Kind::Alert, "command"), (Kind::Approval, "by"), (Kind::Model, "model")]
    {
        let mut body =
            json!({ "job": "j1", "decision": "denied", "result": "approved", "server": word, "reason": word });
        body[name] = json!(word);
        host.record(kind, &body);
    }
    let decision = json!({ "job": "j1", "verdict": "denied", "count": 1, "name": word, "reason": word });
    host.record(Kind::Decisions, &json!({ "decisions": [decision] }));
    written(&host, true, &[Change { kind: word.into(), text: word.into() }], None)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Wherever a word of somebody else's stands, it makes no element, no attribute and no entity: the page has as many of them
    /// as with a word that has nothing in it.
    #[test]
    fn no_word_of_anybodys_is_markup(word in "[a-z]{1,6}[<>&\"']{1,4}[a-z<>&\"'/= ]{0,12}") {
        let (hostile, tame) = (of(&word), of(&"x".repeat(word.chars().count())));
        prop_assert!(hostile.contains(&word.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")));
        let marks = |page: &str, mark: char| page.split("<body>").nth(1).unwrap().matches(mark).count();
        for mark in ['<', '>', '"'] {
            prop_assert_eq!(marks(&hostile, mark), marks(&tame, mark), "{}", mark);
        }
    }
}
