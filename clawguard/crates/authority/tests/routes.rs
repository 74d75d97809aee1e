//! Every route against what upstream's services answered, and who may do what.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod common;

use std::sync::atomic::Ordering;

use claw::{
    envelope::{Envelope, Kind},
    json::{self as strict, Limits},
    key::PrivateKey,
    time::Instant,
    token::{Claims, Token, TokenHash},
};
use common::{ADMIN, START, World, vectors};
use serde_json::{Value, json};

/// The request of the worked example. Upstream takes the control plane's hash from its own registry; here it is said.
fn issue_request() -> Value {
    let mut request = vectors()["cst"]["issue_request"].clone();
    request["control_plane_policy_hash_b64u"] =
        vectors()["cst"]["issue_response"]["control_plane_policy_hash_b64u"].clone();
    request
}

fn issue(world: &World) -> Value {
    let issued = world.admin("POST", "/v1/tokens/issue/canonical", &issue_request().to_string());
    assert_eq!(issued.status, 200, "{}", issued.body);
    issued.json()
}

#[test]
fn tokens_are_issued_looked_into_and_revoked_byte_for_byte_as_upstream_does() {
    let (world, vectors) = (World::new("vectors"), vectors());
    let issued = issue(&world);
    assert_eq!(issued, vectors["cst"]["issue_response"]);
    let body = json!({ "token": issued["token"] });
    assert_eq!(world.post("/v1/tokens/introspect", &body).json(), vectors["cst"]["introspect"]["body"]);

    let mut tampered = issued["token"].as_str().unwrap().to_owned();
    let at = tampered.rfind('.').unwrap() + 1;
    tampered.replace_range(at..=at, if &tampered[at..=at] == "A" { "B" } else { "A" });
    let answer = world.post("/v1/tokens/introspect", &json!({ "token": tampered }));
    assert_eq!((answer.status, answer.json()), (401, vectors["cst"]["introspect_tampered"]["body"].clone()));

    let revoke = json!({ "token": issued["token"], "reason": "seen elsewhere" }).to_string();
    let revoked = world.admin("POST", "/v1/tokens/revoke", &revoke);
    assert_eq!((revoked.status, revoked.json()), (200, vectors["revocation"]["revoke"]["body"].clone()));
    let after = world.post("/v1/tokens/introspect", &body);
    assert_eq!((after.status, after.json()), (200, vectors["revocation"]["introspect_after"]["body"].clone()));

    world.now.store(START + 5, Ordering::SeqCst);
    let again = json!({ "token_hash": issued["token_hash"].as_str().unwrap().to_uppercase() }).to_string();
    let again = world.admin("POST", "/v1/tokens/revoke", &again).json();
    assert_eq!(again["status"], "already_revoked");
    assert_eq!(again["revoked_at"], START);
    assert!(again.get("event_key").is_none());

    let events = world.admin("GET", "/v1/revocations/events", "").json();
    let event = &events["events"][0];
    assert_eq!(event["key"], vectors["revocation"]["revoke"]["body"]["event_key"]);
    let record = json!({
        "token_hash": issued["token_hash"], "revoked_at": START, "revoked_at_iso": "2026-03-01T00:00:00.000Z",
        "reason": "seen elsewhere", "revoked_by": "admin",
    });
    assert_eq!(event["record"], record);
    assert_eq!((&events["cursor"], &events["list_complete"]), (&Value::Null, &json!(true)));
}

#[test]
fn keys_are_published_as_upstream_does_and_a_rotation_overlaps() {
    let (world, vectors) = (World::new("keys"), vectors());
    let jwks = world.get("/v1/jwks");
    assert_eq!(jwks.json(), vectors["cst"]["jwks"]);
    assert!(jwks.head.contains("cache-control: public, max-age=300"), "{}", jwks.head);
    assert!(jwks.head.contains("content-type: application/json; charset=utf-8"));
    let did = world.get("/v1/did").json();
    for name in ["kid", "public_key_b64u"] {
        assert_eq!(did[name], vectors["cst"]["did"][name]);
    }
    assert_eq!(did.as_object().unwrap().len(), 3);
    assert_eq!(claw::token::read_jwks(jwks.body.as_bytes()).unwrap().len(), 1);

    let old = issue(&world)["token"].clone();
    let directory = authority::keys::Directory::open(&world.data).unwrap();
    let kid = directory.rotate(START).unwrap().active.did().kid();
    let contract = world.get("/v1/keys/rotation-contract").json();
    assert_eq!(contract["active_kid"], json!(kid));
    assert_eq!(contract["accepted_kids"], json!([kid, "1325b850c2871916"]));
    assert_eq!(contract["signing_kids"], json!([kid]));
    assert_eq!(contract["verify_only_kids"], json!(["1325b850c2871916"]));
    assert_eq!(contract["expiring_kids"], json!([{ "kid": "1325b850c2871916", "not_after_unix": START + 3600 }]));
    assert_eq!((&contract["overlap_seconds"], &contract["overlap_window_open"]), (&json!(3600), &json!(true)));
    assert_eq!(issue(&world)["kid"], json!(kid), "the new key signs without a restart");
    let introspect = |token: &Value| world.post("/v1/tokens/introspect", &json!({ "token": token }));
    assert_eq!(introspect(&old).status, 200);

    // A token of the old key that would live longer than the overlap.
    let claims = Claims {
        sub: "did:key:z1".into(),
        aud: vec!["a".into()],
        scope: vec!["proxy:call".into()],
        iat: START,
        exp: START + 9000,
        ..Claims::default()
    };
    let long = json!(Token::issue(claims, "legacy", &PrivateKey::from_seed(&[0x22; 32])));
    world.now.store(START + 3600, Ordering::SeqCst);
    assert_eq!(introspect(&long).status, 200);
    world.now.store(START + 3601, Ordering::SeqCst);
    assert_eq!(introspect(&long).error(), (401, "TOKEN_KID_EXPIRED".into()));
    assert_eq!(world.get("/v1/jwks").json()["keys"].as_array().unwrap().len(), 1);
}

#[test]
fn contracts_are_registered_and_fetched_as_upstream_does() {
    let (world, vectors) = (World::new("wpc"), vectors());
    let wpc = &vectors["wpc"];
    let hash = wpc["policy_hash_b64u"].as_str().unwrap();
    let body = json!({ "wpc": wpc["payload"] }).to_string();
    let path = format!("/v1/wpc/{hash}");
    let refused = |name: &str, answer: common::Reply| {
        assert_eq!(json!({ "status": answer.status, "body": answer.json() }), wpc["http"][name], "{name}");
    };
    refused("create_unauth", world.call("POST", "/v1/wpc", &[], &body));
    refused("not_found", world.get(&path));
    refused("bad_hash", world.get("/v1/wpc/short"));

    let created = world.admin("POST", "/v1/wpc", &body);
    assert_eq!(created.status, 201, "{}", created.body);
    let expected = json!({ "ok": true, "existed": false, "policy_hash_b64u": hash, "envelope": wpc["envelope"] });
    assert_eq!(created.json(), expected);
    world.now.store(START + 60, Ordering::SeqCst);
    let again = world.admin("POST", "/v1/wpc", &body);
    assert_eq!((again.status, &again.json()["existed"]), (200, &json!(true)));
    assert_eq!(again.json()["envelope"], wpc["envelope"], "the first issued_at stays");
    let fetched = world.get(&path);
    assert_eq!((fetched.status, fetched.json()), (200, wpc["get_response"].clone()));
    assert!(fetched.head.contains("access-control-allow-origin: *"));
    let envelope = strict::parse(fetched.body.as_bytes(), Limits { bytes: 1 << 20, depth: 32 }).unwrap();
    let envelope = envelope.get("envelope").unwrap().to_string();
    assert!(Envelope::open(envelope.as_bytes(), Kind::WorkPolicyContract).is_ok());

    let mut second = wpc["payload"].clone();
    second["policy_version"] = json!("2");
    let upstream = wpc["http"]["v2_create"]["body"]["error"]["message"].as_str().unwrap();
    for (body, code) in [
        (json!({ "wpc": second }), "INVALID_WPC"),
        (json!({ "wpc": [] }), "INVALID_WPC"),
        (json!({ "wpc": { "policy_version": "1" } }), "INVALID_WPC"),
        (json!({ "policy": {} }), "INVALID_REQUEST"),
        (json!([]), "INVALID_REQUEST"),
    ] {
        let answer = world.admin("POST", "/v1/wpc", &body.to_string());
        assert_eq!(answer.wpc_error(), (400, code.into()), "{body}");
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(code == "INVALID_WPC", message.starts_with(upstream), "{message}");
    }
    assert_eq!(world.admin("POST", "/v1/wpc", "{\"wpc\":{},\"wpc\":{}}").wpc_error(), (400, "INVALID_JSON".into()));
    assert_eq!(world.admin("POST", "/v1/wpc", "{").wpc_error(), (400, "INVALID_JSON".into()));
}

#[test]
fn an_envelope_that_was_signed_elsewhere_is_kept_byte_for_byte() {
    let world = World::new("put");
    let operator = PrivateKey::from_seed(&[0x66; 32]);
    let payload = |id: &str| {
        let text = json!({ "policy_version": "1", "policy_id": id, "issuer_did": operator.did().to_string() });
        strict::parse(text.to_string().as_bytes(), Limits { bytes: 1 << 20, depth: 32 }).unwrap()
    };
    let issued_at = Instant(START * 1_000_000_000);
    let sealed = Envelope::seal(payload("a"), Kind::WorkPolicyContract, &operator, issued_at);
    let hash = payload("a").canonical_hash();
    // Spaces and line ends that no other writer would put there.
    let text = sealed.replace("\"payload\":", "\n \"payload\" :\t");
    let path = format!("/v1/wpc/{hash}");
    assert_eq!(world.call("PUT", &path, &[], &text).wpc_error(), (401, "UNAUTHORIZED".into()));
    let put = world.admin("PUT", &path, &text);
    assert_eq!((put.status, &put.json()["existed"]), (201, &json!(false)));
    let expected = format!("{{\"ok\":true,\"policy_hash_b64u\":\"{hash}\",\"envelope\":{text}}}");
    assert_eq!(world.get(&path).body, expected);
    assert_eq!(world.admin("PUT", &path, &text).status, 200);

    // The same contract, registered with this server's key or put again later: the first stays.
    let later = Envelope::seal(payload("a"), Kind::WorkPolicyContract, &operator, Instant((START + 9) * 1_000_000_000));
    assert_eq!(world.admin("PUT", &path, &later).json()["existed"], json!(true));
    let posted = world.admin("POST", "/v1/wpc", &format!("{{\"wpc\":{}}}", payload("a")));
    assert_eq!((posted.status, &posted.json()["envelope"]["signer_did"]), (200, &json!(operator.did().to_string())));
    assert_eq!(world.get(&path).body, expected);
    let other = Envelope::seal(payload("a"), Kind::WorkPolicyContract, &PrivateKey::from_seed(&[9; 32]), issued_at);
    assert_eq!(world.admin("PUT", &path, &other).wpc_error(), (409, "WPC_SIGNER_CONFLICT".into()));

    let forged = sealed.replace(&operator.did().to_string(), &PrivateKey::from_seed(&[9; 32]).did().to_string());
    let changed = sealed.replace("\"policy_id\":\"a\"", "\"policy_id\":\"b\"");
    let second = Envelope::seal(payload(""), Kind::WorkPolicyContract, &operator, issued_at);
    let elsewhere = format!("/v1/wpc/{}", payload("b").canonical_hash());
    for (path, body, code) in [
        (&elsewhere, sealed.as_str(), "WPC_HASH_MISMATCH"),
        (&path, &changed, "WPC_HASH_MISMATCH"),
        (&path, &forged, "WPC_HASH_MISMATCH"),
        (&path, &sealed.replace("work_policy_contract", "gateway_receipt"), "WPC_ENVELOPE_INVALID"),
        (&path, "{", "INVALID_JSON"),
        (&format!("/v1/wpc/{}", payload("").canonical_hash()), &second, "INVALID_WPC"),
        (&"/v1/wpc/x".to_owned(), &sealed, "INVALID_POLICY_HASH"),
    ] {
        let answer = world.admin("PUT", path, body);
        // The issuer is the signer here: another name in the payload is another payload.
        assert_eq!(answer.wpc_error(), (400, code.into()), "{body}");
    }
    let signer = format!("\"signer_did\":\"{}\"", operator.did());
    let forged = sealed.replace(&signer, &format!("\"signer_did\":\"{}\"", PrivateKey::from_seed(&[9; 32]).did()));
    assert_eq!(world.admin("PUT", &path, &forged).wpc_error(), (400, "WPC_SIGNATURE_INVALID".into()));
}

#[test]
fn a_bad_token_is_told_apart_by_its_code() {
    let world = World::new("codes");
    let key = PrivateKey::from_seed(&[0x22; 32]);
    let claims = |iat: u64, exp: u64| Claims {
        sub: "did:key:z1".into(),
        aud: vec!["a".into()],
        scope: vec!["proxy:call".into()],
        iat,
        exp,
        ..Claims::default()
    };
    let good = Token::issue(claims(START, START + 60), "legacy", &key);
    let parts: Vec<&str> = good.split('.').collect();
    let resigned = |header: &str, payload: &str| {
        let encode = |text: &str| claw::encoding::encode(text.as_bytes());
        let signed = format!("{}.{}", encode(header), encode(payload));
        format!("{signed}.{}", claw::encoding::encode(&key.sign(signed.as_bytes())))
    };
    let header = "{\"alg\":\"EdDSA\",\"typ\":\"JWT\",\"kid\":\"1325b850c2871916\"}";
    let table = [
        ("x".to_owned(), "TOKEN_MALFORMED"),
        (format!("{}.{}", parts[0], parts[1]), "TOKEN_MALFORMED"),
        (format!("{good}.x"), "TOKEN_MALFORMED"),
        (resigned(&header.replace("EdDSA", "none"), "{}"), "TOKEN_UNSUPPORTED_ALG"),
        (resigned(&header.replace("EdDSA", "HS256"), "{}"), "TOKEN_UNSUPPORTED_ALG"),
        (resigned(header, "{\"token_version\":\"2\"}"), "TOKEN_UNKNOWN_VERSION"),
        (resigned(header, "{\"token_version\":\"1\",\"sub\":\"x\"}"), "TOKEN_INVALID_CLAIMS"),
        (Token::issue(claims(START - 60, START), "legacy", &key), "TOKEN_EXPIRED"),
        (Token::issue(claims(START, START + 60), "legacy", &PrivateKey::from_seed(&[3; 32])), "TOKEN_UNKNOWN_KID"),
        (format!("{}.{}.{}", parts[0], parts[1], claw::encoding::encode(&[7; 64])), "TOKEN_SIGNATURE_INVALID"),
    ];
    for (token, code) in &table {
        let introspected = world.post("/v1/tokens/introspect", &json!({ "token": token }));
        assert_eq!(introspected.error(), (401, (*code).into()), "{token}");
        let bound = world.post("/v1/tokens/bind", &json!({ "token": token, "binder": "h" }));
        assert_eq!(bound.error(), (401, (*code).into()), "{token}");
        let used = world.call("GET", "/v1/revocations/events", &[("x-cst", token)], "");
        assert_eq!(used.error(), (401, (*code).into()), "{token}");
        let used = world.call("POST", "/v1/wpc", &[("x-scoped-token", token)], "{}");
        assert_eq!(used.wpc_error(), (401, (*code).into()), "{token}");
    }
    assert_eq!(world.post("/v1/tokens/introspect", &json!({ "token": good })).status, 200);
    for route in ["/v1/tokens/introspect", "/v1/tokens/bind"] {
        assert_eq!(world.post(route, &json!({ "token": 1 })).error(), (400, "INVALID_REQUEST".into()));
        assert_eq!(world.post(route, &json!([])).error(), (400, "INVALID_REQUEST".into()));
        assert_eq!(world.call("POST", route, &[], "{").error(), (400, "INVALID_JSON".into()));
    }
}

#[test]
fn only_who_may_does() {
    let world = World::new("access");
    let revoke = json!({ "token_hash": TokenHash::of("x").to_string() }).to_string();
    let wpc = json!({ "wpc": vectors()["wpc"]["payload"] }).to_string();
    let issue = issue_request().to_string();
    // Only the administrator issues.
    let powerful = world.token("control:token:issue_sensitive", "clawscope.com");
    for path in ["/v1/tokens/issue", "/v1/tokens/issue/canonical"] {
        for headers in [
            vec![],
            vec![("authorization", "Bearer wrong")],
            vec![("authorization", ADMIN)],
            vec![("x-cst", powerful.as_str())],
        ] {
            let answer = world.call("POST", path, &headers, &issue);
            assert_eq!(answer.error(), (401, "UNAUTHORIZED".into()), "{headers:?}");
        }
    }
    // The other routes are for holders of the right token as well.
    for (method, path, body, scope, controls) in [
        ("POST", "/v1/tokens/revoke", revoke.as_str(), "control:token:revoke", false),
        ("GET", "/v1/revocations/events", "", "control:audit:read", false),
        ("GET", "/v1/revocations/stream", "", "control:audit:read", false),
        ("POST", "/v1/wpc", wpc.as_str(), "control:policy:update", true),
    ] {
        let code = |headers: &[(&str, &str)]| {
            let answer = world.call(method, path, headers, body);
            if controls { answer.wpc_error() } else { answer.error() }
        };
        let other = world.token("control:other", "clawscope.com");
        let away = world.token(scope, "clawproxy.com");
        let right = world.token(scope, "clawscope.com");
        let gone = world.token(scope, "clawscope.com");
        let hash = json!({ "token_hash": TokenHash::of(&gone).to_string() }).to_string();
        assert_eq!(world.admin("POST", "/v1/tokens/revoke", &hash).status, 200);
        let nobody = if controls { "UNAUTHORIZED" } else { "TOKEN_REQUIRED" };
        assert_eq!(code(&[]), (401, nobody.into()));
        assert_eq!(code(&[("authorization", "Bearer wrong")]), (401, "UNAUTHORIZED".into()));
        assert_eq!(code(&[("x-cst", &other)]), (403, "TOKEN_INSUFFICIENT_SCOPE".into()));
        assert_eq!(code(&[("x-cst", &away)]), (401, "TOKEN_AUDIENCE_MISMATCH".into()));
        assert_eq!(code(&[("x-cst", &gone)]), (401, "TOKEN_REVOKED".into()));
        assert_eq!(code(&[("x-cst", &right), ("x-scoped-token", &other)]), (401, "TOKEN_MALFORMED".into()));
        assert_eq!(code(&[("x-cst", &right), ("x-cst", &right)]), (401, "TOKEN_MALFORMED".into()));
        // A token that is there decides, also beside the administrator's.
        let bearer = format!("Bearer {ADMIN}");
        assert_eq!(code(&[("x-cst", &other), ("authorization", &bearer)]), (403, "TOKEN_INSUFFICIENT_SCOPE".into()));
        if path.ends_with("/stream") {
            continue;
        }
        for headers in [
            vec![("x-cst", right.as_str())],
            vec![("x-scoped-token", right.as_str())],
            vec![("authorization", &format!("Bearer {right}"))],
            vec![("authorization", bearer.as_str())],
        ] {
            assert!(matches!(world.call(method, path, &headers, body).status, 200 | 201), "{path} {headers:?}");
        }
        world.now.fetch_add(3600, Ordering::SeqCst);
        assert_eq!(code(&[("x-cst", &right)]), (401, "TOKEN_EXPIRED".into()));
    }
    let denied = world.token("control:other", "clawscope.com");
    let denied = world.call("GET", "/v1/revocations/events", &[("x-cst", &denied)], "");
    assert_eq!(denied.json(), vectors()["revocation"]["events_without_audit_scope"]["body"]);
}

#[test]
fn a_token_request_that_is_not_understood_gives_no_token() {
    let world = World::new("requests");
    let canonical = "/v1/tokens/issue/canonical";
    let with = |name: &str, value: Value| {
        let mut request = issue_request();
        request[name] = value;
        request
    };
    for (path, request, code) in [
        (canonical, with("sub", json!("did:key:zSomebodyElse")), "CANONICAL_AGENT_SUB_MISMATCH"),
        (canonical, with("sub", json!("")), "INVALID_REQUEST"),
        (canonical, with("sub", json!("did:key:z1\nadmin")), "INVALID_REQUEST"),
        (canonical, with("aud", json!([])), "INVALID_REQUEST"),
        (canonical, with("aud", json!([1])), "INVALID_REQUEST"),
        (canonical, with("scope", json!([])), "INVALID_REQUEST"),
        (canonical, with("scope", json!("proxy:call")), "INVALID_REQUEST"),
        (canonical, with("scope", json!(["proxy:*"])), "SCOPE_WILDCARD_NOT_ALLOWED"),
        (canonical, with("scope", json!(["*"])), "SCOPE_WILDCARD_NOT_ALLOWED"),
        (canonical, with("scope", json!(["root:all"])), "SCOPE_NOT_ALLOWED"),
        (canonical, with("scope", json!(vec!["proxy:call"; 65])), "SCOPE_TOO_LARGE"),
        (canonical, with("scope", json!([format!("proxy:{}", "x".repeat(128))])), "SCOPE_ITEM_TOO_LONG"),
        (canonical, with("ttl_sec", json!(3601)), "TTL_TOO_LONG"),
        (canonical, with("ttl_sec", json!(0)), "INVALID_TTL"),
        (canonical, with("ttl_sec", json!("900")), "INVALID_TTL"),
        (canonical, with("ttl_sec", json!(0.5)), "TTL_EXPIRED"),
        (canonical, with("exp", json!(START)), "TTL_EXPIRED"),
        (canonical, with("exp", json!(START + 3601)), "TTL_TOO_LONG"),
        (canonical, with("policy_hash_b64u", json!("short")), "POLICY_HASH_INVALID"),
        (canonical, with("owner_did", json!("me")), "OWNER_DID_INVALID"),
        (canonical, with("spend_cap", json!(-1)), "INVALID_REQUEST"),
        (canonical, with("mission_id", json!(7)), "INVALID_REQUEST"),
        (canonical, with("policy_hash", json!("a name that is not known")), "INVALID_REQUEST"),
        (canonical, with("token_lane", json!("legacy")), "TOKEN_LANE_INVALID"),
        (canonical, with("delegate_did", json!("did:key:zOther")), "DELEGATE_DID_SUB_MISMATCH"),
        (canonical, with("delegator_did", json!("did:key:zOther")), "DELEGATOR_OWNER_MISMATCH"),
        (canonical, with("delegation_spend_cap_minor", json!("1.5")), "DELEGATION_SPEND_CAP_INVALID"),
        ("/v1/tokens/issue", with("delegation_id", json!("d")), "DELEGATION_CANONICAL_REQUIRED"),
    ] {
        let answer = world.admin("POST", path, &request.to_string());
        assert_eq!(answer.error(), (400, code.into()), "{request}");
    }
    let least = json!({ "sub": "did:key:z1", "aud": "clawproxy.com", "scope": [" proxy:call "] });
    let issued = world.admin("POST", "/v1/tokens/issue", &least.to_string()).json();
    assert_eq!(issued["token_lane"], "legacy");
    assert_eq!(issued["legacy_exchange_mode"], "enabled");
    assert_eq!(issued["migration_notice"], Value::Null);
    assert_eq!(issued["exp"], json!(START + 600));
    assert_eq!(issued["claims"]["scope"], json!(["proxy:call"]));
    let canonical = world.admin("POST", canonical, &least.to_string()).json();
    assert_eq!(canonical["agent_did"], "did:key:z1");
    let longest = world.admin("POST", "/v1/tokens/issue", &with("ttl_sec", json!(3600)).to_string());
    assert_eq!(longest.json()["exp"], json!(START + 3600));
}

#[test]
fn a_token_belongs_to_the_first_who_brings_it() {
    let world = World::new("bind");
    let token = world.token("proxy:call", "clawproxy.com");
    let bind = |binder: &str| world.post("/v1/tokens/bind", &json!({ "token": token, "binder": binder }));
    let expected = json!({ "bound": true, "token_hash": TokenHash::of(&token).to_string(), "binder": "host-a" });
    assert_eq!((bind("host-a").status, bind("host-a").json()), (200, expected));
    assert_eq!(bind("host-b").error(), (409, "TOKEN_REPLAYED".into()));
    assert_eq!(bind("host-a").status, 200);
    for wrong in ["", &"x".repeat(257), "a\nb"] {
        assert_eq!(bind(wrong).error(), (400, "INVALID_REQUEST".into()));
    }
    let revoked = world.admin("POST", "/v1/tokens/revoke", &json!({ "token": token }).to_string());
    assert_eq!(revoked.status, 200);
    assert_eq!(bind("host-a").error(), (403, "TOKEN_REVOKED".into()));
}

#[test]
fn what_concerns_a_token_is_forgotten_a_day_after_it_expired_and_not_before() {
    let world = World::new("prune");
    let now = std::sync::Arc::clone(&world.now);
    let token = world.token("proxy:call", "clawproxy.com");
    let gone = world.token("proxy:call", "clawproxy.com");
    world.post("/v1/tokens/bind", &json!({ "token": token, "binder": "a" }));
    world.admin("POST", "/v1/tokens/revoke", &json!({ "token": gone }).to_string());
    let unknown = json!({ "token_hash": TokenHash::of("elsewhere").to_string() }).to_string();
    world.admin("POST", "/v1/tokens/revoke", &unknown);
    let (mut data, mut counts) = (world.stop(), Vec::new());
    // A server forgets when it starts, and every ten minutes.
    for seconds in [0, 3600 + 86_400, 3600 + 86_400 + 1] {
        let world = World::on(data, |settings| {
            settings.clock = authority::Clock::new(move || Instant((START + seconds) * 1_000_000_000));
        });
        // The first request that is answered after the pruning's own commit.
        std::thread::sleep(std::time::Duration::from_millis(300));
        counts.push(world.admin("GET", "/v1/revocations/events", "").json()["events"].as_array().unwrap().len());
        data = world.stop();
    }
    assert_eq!(counts, [2, 2, 0]);
    // A cursor is not given twice, though what it stood for is forgotten.
    let world = World::on(data, |_| {});
    world.admin("POST", "/v1/tokens/revoke", &unknown);
    let events = world.admin("GET", "/v1/revocations/events", "").json();
    assert_eq!(events["events"][0]["sequence"], json!(3));
    drop(now);
}

#[test]
fn of_two_signers_at_once_one_is_the_first() {
    let world = World::new("signers");
    for round in 0..30 {
        let text =
            json!({ "policy_version": "1", "policy_id": round.to_string(), "issuer_did": "did:key:z1" }).to_string();
        let payload = || strict::parse(text.as_bytes(), Limits { bytes: 1 << 20, depth: 32 }).unwrap();
        let path = format!("/v1/wpc/{}", payload().canonical_hash());
        let start = std::sync::Barrier::new(4);
        let mut answers = std::thread::scope(|scope| {
            let put = |signer: u8| {
                let key = PrivateKey::from_seed(&[signer; 32]);
                let issued_at = Instant(START * 1_000_000_000);
                let sealed = Envelope::seal(payload(), Kind::WorkPolicyContract, &key, issued_at);
                let (world, start, path) = (&world, &start, &path);
                scope.spawn(move || {
                    start.wait();
                    world.admin("PUT", path, &sealed).status
                })
            };
            (1..=4).map(put).collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        answers.sort_unstable();
        assert_eq!(answers, [201, 409, 409, 409]);
    }
}

#[test]
fn a_revocation_that_does_not_say_which_token_is_refused() {
    let world = World::new("which");
    let (token, other) = (world.token("proxy:call", "clawproxy.com"), TokenHash::of("other").to_string());
    for body in [
        json!({ "token": token, "token_hash": other }),
        json!({ "token": token, "token_hash": TokenHash::of(&token).to_string() }),
        json!({ "token": &token[1..] }),
        json!({ "token": TokenHash::of(&token).to_string() }),
        json!({ "token": "" }),
    ] {
        let revoked = world.admin("POST", "/v1/tokens/revoke", &body.to_string());
        assert_eq!(revoked.error(), (400, "INVALID_REQUEST".into()), "{body}");
    }
    assert_eq!(world.post("/v1/tokens/introspect", &json!({ "token": token })).json()["active"], json!(true));
    // Also one that is over, or of another issuer.
    let elsewhere = Token::issue(Token::parse(&token).unwrap().claims, "legacy", &PrivateKey::from_seed(&[9; 32]));
    for token in [&token, &elsewhere] {
        let revoked = world.admin("POST", "/v1/tokens/revoke", &json!({ "token": format!(" {token}\n") }).to_string());
        assert_eq!(revoked.json()["token_hash"], json!(TokenHash::of(token).to_string()));
    }
}

#[test]
fn a_clock_that_ran_ahead_revives_no_token() {
    let world = World::new("ahead");
    let (revoked, bound) =
        (world.token("control:audit:read", "clawscope.com"), world.token("proxy:call", "clawproxy.com"));
    world.admin("POST", "/v1/tokens/revoke", &json!({ "token": revoked }).to_string());
    assert_eq!(world.post("/v1/tokens/bind", &json!({ "token": bound, "binder": "a" })).status, 200);
    let data = world.stop();
    let world = World::on(data, |settings| {
        settings.clock = authority::Clock::new(|| Instant((START + 2 * 86_400) * 1_000_000_000));
    });
    let mut tries = 0;
    while !world.admin("GET", "/v1/revocations/events", "").json()["events"].as_array().unwrap().is_empty() {
        tries += 1;
        assert!(tries < 600, "nothing was forgotten");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // The clock is right again, and stays so.
    let mut data = world.stop();
    for _ in 0..2 {
        let world = World::on(data, |_| {});
        for token in [&revoked, &bound] {
            let introspected = world.post("/v1/tokens/introspect", &json!({ "token": token }));
            assert_eq!(introspected.error(), (401, "TOKEN_EXPIRED".into()));
            let again = world.post("/v1/tokens/bind", &json!({ "token": token, "binder": "b" }));
            assert_eq!(again.error(), (401, "TOKEN_EXPIRED".into()));
        }
        let listed = world.call("GET", "/v1/revocations/events", &[("x-cst", &revoked)], "");
        assert_eq!(listed.error(), (401, "TOKEN_EXPIRED".into()));
        // Tokens of which nothing was forgotten are as good as before.
        world.now.fetch_add(1, Ordering::SeqCst);
        let fresh = world.token("proxy:call", "clawproxy.com");
        assert_eq!(world.post("/v1/tokens/bind", &json!({ "token": fresh, "binder": "b" })).status, 200);
        data = world.stop();
    }
    std::fs::remove_dir_all(data).unwrap();
}

#[test]
fn events_come_in_pages_newest_first() {
    let world = World::new("pages");
    for i in 0..7 {
        let hash = json!({ "token_hash": TokenHash::of(&i.to_string()).to_string() }).to_string();
        assert_eq!(world.admin("POST", "/v1/tokens/revoke", &hash).status, 200);
    }
    let (mut seen, mut path) = (Vec::new(), "/v1/revocations/events?limit=3".to_owned());
    loop {
        let page = world.admin("GET", &path, "").json();
        seen.extend(page["events"].as_array().unwrap().iter().map(|event| event["sequence"].as_u64().unwrap()));
        let Some(cursor) = page["cursor"].as_str() else {
            assert_eq!(page["list_complete"], json!(true));
            break;
        };
        assert_eq!(page["list_complete"], json!(false));
        path = format!("/v1/revocations/events?limit=3&cursor={cursor}");
    }
    assert_eq!(seen, [7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(world.admin("GET", "/v1/revocations/events?cursor=x", "").error(), (400, "INVALID_REQUEST".into()));
    let bearer = format!("Bearer {ADMIN}");
    let headers = [("authorization", bearer.as_str()), ("accept", "application/json")];
    let page = world.call("GET", "/v1/revocations/stream?limit=2", &headers, "").json();
    assert_eq!((&page["stream_version"], page["events"].as_array().unwrap().len()), (&json!("1"), 2));
}

#[test]
fn what_is_not_there_is_said_in_the_shape_of_its_service() {
    let world = World::new("paths");
    let health = world.get("/health").json();
    assert_eq!((&health["status"], &health["signingEnabled"]), (&json!("ok"), &json!(true)));
    assert_eq!(world.get("/v1/nothing").error(), (404, "NOT_FOUND".into()));
    assert_eq!(world.get("/v1/tokens/issue").error(), (404, "NOT_FOUND".into()));
    assert_eq!(world.admin("DELETE", "/v1/wpc/x", "").wpc_error(), (404, "NOT_FOUND".into()));
}
