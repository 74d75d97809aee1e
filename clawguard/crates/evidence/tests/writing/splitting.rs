//! Runs that are too long for one bundle.

use evidence::{
    bundle::{Export, write},
    chain::Kind,
    events::PART,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::job::{Host, export, judge, keys, with};

/// A job with so many events, of which some are model calls with receipts and some tool calls with results.
fn long(events: usize, pattern: &[u8]) -> Host {
    let mut host = Host::default();
    host.begin("enforce");
    for i in 1..events {
        match pattern[i % pattern.len()] % 4 {
            0 => host.model(),
            1 => host.call("search", "allowed", Some("ok")),
            2 => {
                // Nobody's event, in between.
                host.record(Kind::Checkpoint, &json!({}));
                host.call("search", "denied", None);
            }
            _ => drop(host.record(Kind::Pin, &json!({ "server": "crm" }))),
        }
    }
    host
}

fn parts(written: &Export) -> Vec<Value> {
    written.parts.iter().map(|part| serde_json::from_str(&part.text).unwrap()).collect()
}

fn ids<'a>(part: &'a Value, list: &str, id: &str) -> Vec<&'a str> {
    let items = part["payload"][list].as_array().map_or(&[][..], Vec::as_slice);
    items.iter().map(|item| item.get(id).or_else(|| item["payload"].get(id)).unwrap().as_str().unwrap()).collect()
}

fn holds(host: &Host) -> usize {
    let written = export(host);
    let parts = parts(&written);
    // No event lost, none twice, in order; and so with receipts.
    let events: Vec<&str> = parts.iter().flat_map(|part| ids(part, "event_chain", "event_id")).collect();
    let made: Vec<&str> = host.events.iter().map(|event| &*event.event_id).collect();
    assert_eq!(events, made);
    let receipts: Vec<&str> = parts.iter().flat_map(|part| ids(part, "receipts", "receipt_id")).collect();
    let signed: Vec<String> = (0..host.receipts.len()).map(|i| format!("rcpt_{i}")).collect();
    assert_eq!(receipts, signed);
    for (i, part) in parts.iter().enumerate() {
        let payload = &part["payload"];
        let chain = payload["event_chain"].as_array().unwrap();
        assert!(chain.len() <= 1000 && chain[0]["prev_hash_b64u"].is_null());
        assert!(chain.iter().skip(1).all(|event| event["prev_hash_b64u"].is_string()));
        assert!(ids(part, "receipts", "receipt_id").len() <= 1000);
        assert!(ids(part, "tool_receipts", "receipt_id").len() <= 1000);
        assert!(payload["metadata"].to_string().len() <= 16_384);
        let hashes = ids(part, "event_chain", "event_hash_b64u");
        for list in ["receipts", "tool_receipts"] {
            for receipt in payload[list].as_array().map_or(&[][..], Vec::as_slice) {
                let receipt = receipt.get("payload").unwrap_or(receipt);
                assert!(hashes.contains(&receipt["binding"]["event_hash_b64u"].as_str().unwrap()));
            }
        }
        let own = &payload["metadata"]["clawguard.v1"];
        assert_eq!((own["part"].as_u64(), own["parts"].as_u64()), (Some(i as u64 + 1), Some(parts.len() as u64)));
        if i == 0 {
            assert_eq!(
                (&own["previous_bundle_hash_b64u"], &own["continues_from_event_hash_b64u"]),
                (&Value::Null, &Value::Null)
            );
        } else {
            assert_eq!(own["previous_bundle_hash_b64u"], parts[i - 1]["payload_hash_b64u"]);
            let last =
                parts[i - 1]["payload"]["event_chain"].as_array().unwrap().last().unwrap()["event_hash_b64u"].clone();
            assert_eq!(own["continues_from_event_hash_b64u"], last);
        }
    }
    assert_eq!(judge(&written).broken, None);
    parts.len()
}

#[test]
fn a_run_is_split_where_its_chain_begins_anew() {
    for events in [PART as usize, PART as usize + 1, 2 * PART as usize] {
        let host = long(events, &[0, 1, 2, 3]);
        assert_eq!(holds(&host), events.div_ceil(PART as usize));
    }
}

#[test]
fn a_part_that_is_missing_changed_or_out_of_order_is_found() {
    let written = export(&long(2 * PART as usize + 5, &[0, 1]));
    assert_eq!(judge(&written).broken, None);
    let change = |change: &dyn Fn(&mut Export)| {
        let mut changed = written.clone();
        change(&mut changed);
        judge(&changed).broken.unwrap().fault.to_string()
    };
    for at in 0..3 {
        change(&|written| drop(written.parts.remove(at)));
        change(&|written| written.parts.insert(at, written.parts[at].clone()));
        change(&|written| written.parts.swap(at, (at + 1) % 3));
    }
}

#[test]
fn a_run_of_model_calls_alone_has_all_its_receipts() {
    let host = long(1500, &[0]);
    holds(&host);
    assert_eq!(host.receipts.len(), 1499);
}

#[test]
fn more_receipts_than_a_part_takes_are_an_error_and_not_lost() {
    let mut host = long(3, &[0]);
    let receipt = host.receipts[0].clone();
    let again = |i: usize| {
        let mut opened = claw::receipt::GatewayReceipt::open(receipt.as_bytes()).unwrap().receipt;
        opened.receipt_id = format!("again_{i}");
        opened.seal(&crate::job::key(crate::job::GATEWAY), opened.timestamp)
    };
    host.receipts.extend((0..1000).map(again));
    let keys = keys();
    let error = write(&host.run(), &with(&keys, &host.receipts)).unwrap_err();
    assert_eq!(error, evidence::bundle::Error::Receipts { part: 1, count: 1002 });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn no_event_is_lost_or_there_twice_however_long_the_run(
        events in 1..2000_usize, pattern in prop::collection::vec(any::<u8>(), 1..9),
    ) {
        holds(&long(events, &pattern));
    }
}
