//! What a receipt says, and which of a clawproxy's count.

use control::calls::Decision;

use super::*;

fn key() -> PrivateKey {
    PrivateKey::from_seed(&[5; 32])
}

fn hash(text: &str) -> Hash {
    Hash::of(text.as_bytes())
}

pub(crate) fn begun() -> Begun {
    let call = ModelCall {
        number: 1,
        slot: 3,
        key: 7,
        provider: "openai".into(),
        model: "gpt-5-mini".into(),
        route: "/v1/chat/completions".into(),
        streamed: true,
        nonce: "n-1".into(),
        request_hash: hash("request").to_string(),
        bytes_in: 70,
        redactions: 2,
        decision: Decision::Allowed,
        reason: "allowed".into(),
        rule: Some("allowed_models[0]".into()),
        contract: hash("contract").to_string(),
        token: None,
        count: 1,
    };
    Begun {
        call: Box::new(call),
        job: "j".into(),
        agent: "a".into(),
        run_id: "run_j_4".into(),
        event_hash: hash("event"),
        scope_hash: Some(hash("scope").to_string()),
    }
}

pub(crate) fn end() -> ModelEnd {
    ModelEnd {
        number: 1,
        outcome: "cut".into(),
        status: 200,
        response_hash: hash("response").to_string(),
        bytes_out: 900,
        first_byte_us: Some(1500),
        duration_us: 2_345_678,
        tokens_input: Some(12),
        tokens_output: None,
        receipt: None,
    }
}

fn now() -> Instant {
    Instant(1_772_323_200_123_000_000)
}

/// What a clawproxy would sign for the call.
fn proxied(change: impl FnOnce(&mut GatewayReceipt), by: &PrivateKey) -> ModelEnd {
    let own = sign(&begun(), &end(), &key(), now()).unwrap();
    let mut receipt = GatewayReceipt::open(own.as_bytes()).unwrap().receipt;
    change(&mut receipt);
    ModelEnd { receipt: Some(receipt.seal(by, now())), ..end() }
}

#[test]
fn a_receipt_binds_to_its_run_event_contract_and_token_and_says_how_the_call_ended() {
    let opened = GatewayReceipt::open(sign(&begun(), &end(), &key(), now()).unwrap().as_bytes()).unwrap();
    let receipt = opened.receipt;
    assert_eq!(opened.signer, key().did());
    assert_eq!(receipt.binding.run_id, "run_j_4");
    assert_eq!(receipt.binding.event_hash, hash("event"));
    assert_eq!(receipt.binding.policy_hash, Some(hash("contract")));
    assert_eq!(receipt.binding.token_scope_hash, Some(hash("scope")));
    assert_eq!(receipt.binding.nonce.as_deref(), Some("n-1"));
    assert_eq!((receipt.request_hash, receipt.response_hash), (hash("request"), hash("response")));
    assert_eq!((receipt.tokens_input, receipt.tokens_output, receipt.latency_ms), (12, 0, 2345));
    assert!(receipt.timestamp <= opened.issued_at);
    let metadata = receipt.metadata.unwrap();
    assert_eq!(metadata.get("outcome").and_then(Value::as_str), Some("cut"));
}

#[test]
fn no_provider_makes_a_receipt_that_verifiers_refuse() {
    let odd = ModelEnd { tokens_input: Some(MOST_TOKENS + 1), duration_us: u64::MAX, ..end() };
    let receipt = GatewayReceipt::open(sign(&begun(), &odd, &key(), now()).unwrap().as_bytes()).unwrap().receipt;
    assert_eq!((receipt.tokens_input, receipt.tokens_output, receipt.latency_ms), (0, 0, MOST_LATENCY_MS));
    let metadata = receipt.metadata.unwrap();
    assert_eq!(metadata.get("tokens_counted_by_provider"), Some(&Value::Bool(false)));
    assert!(metadata.get("duration_us").is_some());
    for change in [
        (|receipt| receipt.tokens_output = MOST_TOKENS + 1) as fn(&mut GatewayReceipt),
        |receipt| receipt.latency_ms = MOST_LATENCY_MS + 1,
        |receipt| receipt.timestamp.0 += 1_000_000_000,
    ] {
        assert!(verify(&begun(), &proxied(change, &key()), &[key().did()]).is_err());
    }
}

#[test]
fn a_clawproxys_receipt_that_no_bundle_may_have_is_none() {
    let metadata = [json!({ "x402_payment_ref": "p" }), json!({ "x402_network": "n", "x402_amount_minor": "1" })];
    for metadata in metadata {
        let odd = proxied(|receipt| receipt.metadata = value(&metadata), &key());
        let refused = verify(&begun(), &odd, &[key().did()]).unwrap_err();
        assert!(refused.contains("no bundle may have") && refused.contains("payload.metadata.x402_"), "{refused}");
    }
    let more = proxied(|receipt| receipt.metadata = value(&json!({ "region": "x", "n": [1, null] })), &key());
    assert!(verify(&begun(), &more, &[key().did()]).is_ok());
}

#[test]
fn a_call_under_no_contract_has_a_receipt_that_names_none() {
    let mut watched = begun();
    watched.call.contract = String::new();
    let own = sign(&watched, &end(), &key(), now()).unwrap();
    assert_eq!(GatewayReceipt::open(own.as_bytes()).unwrap().receipt.binding.policy_hash, None);
    let end = ModelEnd { receipt: Some(own), ..end() };
    assert!(verify(&watched, &end, &[key().did()]).is_ok());
    assert!(verify(&begun(), &end, &[key().did()]).is_err());
}

#[test]
fn what_cannot_be_said_truly_is_not_signed() {
    let short = ModelEnd { response_hash: "abc".into(), ..end() };
    assert!(sign(&begun(), &short, &key(), now()).unwrap_err().contains("response"));
    let mut long = begun();
    long.call.route = "x".repeat(LONGEST);
    assert!(sign(&long, &end(), &key(), now()).unwrap_err().contains("too long"));
}

#[test]
fn what_is_too_long_for_a_receipt_does_not_wait_to_be_told_so() {
    for letter in ["x", "\u{20ac}"] {
        let mut long = ModelEnd { receipt: Some(letter.repeat(1 << 20)), outcome: letter.repeat(1 << 20), ..end() };
        long = *crate::model::capped_end(Box::new(long));
        let receipt = long.receipt.as_ref().unwrap();
        assert!(receipt.capacity() <= LONGEST + 4 && long.outcome.capacity() < 2048, "{letter}");
        assert!(verify(&begun(), &long, &[key().did()]).unwrap_err().contains("too long"), "{letter}");
    }
    let own = proxied(|_| {}, &key());
    assert_eq!(*crate::model::capped_end(Box::new(own.clone())), own);
}

#[test]
fn a_clawproxys_receipt_counts_if_everything_in_it_is_what_this_host_knows() {
    let end = proxied(|_| {}, &key());
    let kept = Kept { envelope: end.receipt.clone().unwrap(), compared: true };
    assert_eq!(verify(&begun(), &end, &[key().did()]), Ok(kept));
}

#[test]
fn a_clawproxys_receipt_for_anything_else_does_not_count() {
    type Change = fn(&mut GatewayReceipt);
    let changes: [(Change, &str); 9] = [
        (|receipt| receipt.binding.run_id = "run_j_9".into(), "another run's"),
        (|receipt| receipt.binding.event_hash = hash("other"), "another event's"),
        (|receipt| receipt.binding.nonce = Some("n-2".into()), "another call's"),
        (|receipt| receipt.binding.policy_hash = Some(hash("other")), "another contract's"),
        (|receipt| receipt.binding.policy_hash = None, "another contract's"),
        (|receipt| receipt.binding.token_scope_hash = None, "another token's"),
        (|receipt| receipt.provider = "anthropic".into(), "another provider's"),
        (|receipt| receipt.request_hash = hash("other"), "another request's"),
        (|receipt| receipt.response_hash = hash("other"), "another answer's"),
    ];
    for (change, why) in changes {
        let refused = verify(&begun(), &proxied(change, &key()), &[key().did()]).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    // Of what a clawproxy wrote anew it may not be known what came to it, and that is told: a whole answer, and the error of a stream.
    let other = proxied(|receipt| receipt.response_hash = hash("other"), &key());
    let mut whole = begun();
    whole.call.streamed = false;
    let compared = |begun: &Begun, end: &ModelEnd| verify(begun, end, &[key().did()]).map(|kept| kept.compared);
    assert_eq!(compared(&whole, &other), Ok(false));
    assert_eq!(compared(&whole, &proxied(|_| {}, &key())), Ok(true));
    assert_eq!(compared(&begun(), &ModelEnd { status: 429, ..other }), Ok(false));
    assert!(verify(&begun(), &end(), &[key().did()]).unwrap_err().contains("gave none"));
    let stranger = PrivateKey::from_seed(&[6; 32]);
    let refused = verify(&begun(), &proxied(|_| {}, &stranger), &[key().did()]).unwrap_err();
    assert!(refused.contains("not in [trust] receipt_signers"), "{refused}");
    let mut changed = proxied(|_| {}, &key());
    changed.receipt = changed.receipt.map(|text| text.replace("gpt-5-mini", "gpt-5-nano"));
    assert!(verify(&begun(), &changed, &[key().did()]).unwrap_err().contains("changed after it was signed"));
    let long = ModelEnd { receipt: Some("x".repeat(LONGEST + 1)), ..end() };
    assert!(verify(&begun(), &long, &[key().did()]).unwrap_err().contains("too long"));
}
