//! The job token: clawscope's own bytes, and every way in which a token can be wrong.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use claw::{
    Hash, Value,
    encoding::encode,
    json::{self, Limits},
    key::PrivateKey,
    token::{Claims, Demands, Error, Issuers, Token, TokenHash, read_jwks},
};

const EXAMPLE: &str = include_str!("vectors/cst.json");
/// 2026-03-01T00:05:00Z, within the example's life.
const NOW: u64 = 1_772_323_500;

fn example() -> Value {
    json::parse(EXAMPLE.as_bytes(), Limits { bytes: 1 << 20, depth: 16 }).unwrap()
}

fn text(name: &str) -> String {
    example().get(name).and_then(Value::as_str).unwrap().to_owned()
}

fn scope_key() -> PrivateKey {
    PrivateKey::from_seed(&[0x22; 32])
}

fn issuers() -> Issuers {
    Issuers::new([scope_key().did()])
}

fn lists() -> (Vec<String>, Vec<String>) {
    (vec!["clawproxy.com".into()], vec!["proxy:call".into()])
}

fn suits(claims: &Claims, change: impl FnOnce(&mut Demands<'_>)) -> Result<(), Error> {
    let (audiences, scopes) = lists();
    let mut demands = Demands {
        now: NOW,
        audiences: &audiences,
        scopes: &scopes,
        job: "job_7f3a",
        contract: "QmMQ0aNYNhEVSy7HuvraVk1SsiC7362h7kBTu5jL0i4".parse().unwrap(),
        longest_life: 900,
        require_scope_hash: true,
        require_pin: true,
    };
    change(&mut demands);
    claims.suit(&demands)
}

fn claims() -> Claims {
    Token::verify(&text("token"), &issuers()).unwrap().claims
}

/// A token with this header and payload, rightly signed.
fn signed(header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", encode(header.as_bytes()), encode(payload.as_bytes()));
    let signature = encode(&scope_key().sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

const HEADER: &str = r#"{"alg":"EdDSA","typ":"JWT","kid":"1325b850c2871916"}"#;

#[test]
fn the_worked_example_verifies_and_suits_its_job() {
    let token = Token::verify(&text("token"), &issuers()).unwrap();
    assert_eq!(token.hash.to_string(), text("token_hash_hex"));
    assert_eq!(token.hash.to_string().parse::<TokenHash>().unwrap(), token.hash);
    assert_eq!(token.kid, "1325b850c2871916");
    assert_eq!(token.claims.scope_hash().to_string(), "2bx4Qyw9DF0tdY9Ji6Lo5X_D-DGo1roP9ZgpOCzQeKo");
    assert_eq!(suits(&token.claims, |_| ()), Ok(()));
}

#[test]
fn issuing_the_worked_example_gives_its_bytes() {
    let claims = claims();
    assert_eq!(claims.to_value("canonical").to_string(), text("claims_json_bytes"));
    assert_eq!(Token::issue(claims, "canonical", &scope_key()), text("token"));
}

#[test]
fn a_token_that_suits_no_job_says_why() {
    type Change = fn(&mut Demands<'_>);
    let one = |change: Change, code: &str| assert_eq!(suits(&claims(), change).unwrap_err().code(), code);
    one(|demands| demands.now = 1_772_324_100, "TOKEN_EXPIRED");
    one(|demands| demands.now = 1_772_323_100, "TOKEN_NOT_YET_VALID");
    one(|demands| demands.audiences = &[], "TOKEN_AUDIENCE_MISMATCH");
    one(|demands| demands.scopes = &[], "TOKEN_INSUFFICIENT_SCOPE");
    one(|demands| demands.job = "job_7f3b", "TOKEN_MISSION_MISMATCH");
    one(|demands| demands.contract = Hash::of(b"another"), "POLICY_HASH_MISMATCH");
    one(|demands| demands.longest_life = 899, "TOKEN_TTL_EXCEEDED");
    assert_eq!(suits(&claims(), |demands| demands.now = 1_772_324_099), Ok(()));

    let without = |change: fn(&mut Claims)| {
        let mut claims = claims();
        change(&mut claims);
        claims.token_scope_hash_b64u = Some(claims.scope_hash().to_string());
        claims
    };
    let unpinned = without(|claims| claims.policy_hash_b64u = None);
    assert_eq!(suits(&unpinned, |_| ()).unwrap_err().code(), "TOKEN_UNPINNED");
    assert_eq!(suits(&unpinned, |demands| demands.require_pin = false), Ok(()));
    let free = without(|claims| claims.mission_id = None);
    assert_eq!(suits(&free, |_| ()).unwrap_err().code(), "TOKEN_MISSION_MISMATCH");
    let over = without(|claims| claims.delegation_expires_at = Some(NOW));
    assert_eq!(suits(&over, |_| ()).unwrap_err().code(), "TOKEN_DELEGATION_EXPIRED");

    let mut unhashed = claims();
    unhashed.token_scope_hash_b64u = None;
    assert_eq!(suits(&unhashed, |_| ()).unwrap_err().code(), "TOKEN_SCOPE_HASH_MISSING");
    assert_eq!(suits(&unhashed, |demands| demands.require_scope_hash = false), Ok(()));
    // Every claim that permits something is in the hash.
    let widen: [fn(&mut Claims); 6] = [
        |claims| claims.scope.push("control:policy:update".into()),
        |claims| claims.aud.push("elsewhere.example".into()),
        |claims| claims.spend_cap = Some(1e9),
        |claims| claims.sub = "did:key:zSomebody".into(),
        |claims| claims.delegation_expires_at = Some(NOW + 1),
        |claims| assert!(claims.carry("owner_did", "did:key:zSomebody")),
    ];
    for change in widen {
        let mut wider = claims();
        change(&mut wider);
        assert_eq!(suits(&wider, |_| ()).unwrap_err().code(), "TOKEN_SCOPE_HASH_MISMATCH");
    }
}

#[test]
fn scopes_match_as_words_or_by_a_star_after_a_colon() {
    let permits = |scope: &str| {
        let mut claims = claims();
        claims.scope = vec![scope.into()];
        claims.token_scope_hash_b64u = None;
        suits(&claims, |demands| demands.require_scope_hash = false).is_ok()
    };
    for yes in ["proxy:call", "proxy:*", "*"] {
        assert!(permits(yes), "{yes}");
    }
    for no in ["proxy:calls", "proxy:", "proxy", "pro*", "PROXY:CALL", "clawproxy:*", "proxy:call:anthropic", ""] {
        assert!(!permits(no), "{no}");
    }
}

#[test]
fn only_eddsa_and_only_known_keys() {
    let payload = text("claims_json_bytes");
    let token = |header: &str| Token::verify(&signed(header, &payload), &issuers()).map(|_| ()).map_err(|e| e.code());
    assert_eq!(token(HEADER), Ok(()));
    for (header, code) in [
        (r#"{"alg":"none","typ":"JWT","kid":"1325b850c2871916"}"#, "TOKEN_UNSUPPORTED_ALG"),
        (r#"{"alg":"HS256","typ":"JWT","kid":"1325b850c2871916"}"#, "TOKEN_UNSUPPORTED_ALG"),
        (r#"{"alg":"EDDSA","typ":"JWT","kid":"1325b850c2871916"}"#, "TOKEN_UNSUPPORTED_ALG"),
        (r#"{"typ":"JWT","kid":"1325b850c2871916"}"#, "TOKEN_UNSUPPORTED_ALG"),
        (r#"{"alg":"EdDSA","typ":"JWT","kid":"10ba682c8ad13513"}"#, "TOKEN_UNKNOWN_KID"),
        (r#"{"alg":"EdDSA","typ":"JWT"}"#, "TOKEN_MALFORMED"),
        (r#"{"alg":"EdDSA","typ":"at+jwt","kid":"1325b850c2871916"}"#, "TOKEN_MALFORMED"),
        (r#"{"alg":"EdDSA","kid":"1325b850c2871916","crit":["b64"],"b64":false}"#, "TOKEN_MALFORMED"),
        (r#"{"alg":"EdDSA","kid":"1325b850c2871916","jwk":{}}"#, "TOKEN_MALFORMED"),
        (r#"["EdDSA"]"#, "TOKEN_MALFORMED"),
    ] {
        assert_eq!(token(header), Err(code), "{header}");
    }
    // The same bytes under the name of another known key.
    let two = Issuers::new([scope_key().did(), PrivateKey::from_seed(&[0x11; 32]).did()]);
    let other = signed(r#"{"alg":"EdDSA","typ":"JWT","kid":"10ba682c8ad13513"}"#, &payload);
    assert_eq!(Token::verify(&other, &two).unwrap_err().code(), "TOKEN_SIGNATURE_INVALID");
    assert_eq!(Token::verify(&text("token"), &Issuers::default()).unwrap_err().code(), "TOKEN_UNKNOWN_KID");
}

#[test]
fn an_hmac_with_the_public_key_as_its_secret_is_no_signature() {
    use sha2::{Digest, Sha256};
    let payload = text("claims_json_bytes");
    let header = r#"{"alg":"HS256","typ":"JWT","kid":"1325b850c2871916"}"#;
    let signed = format!("{}.{}", encode(header.as_bytes()), encode(payload.as_bytes()));
    // RFC 2104, with the 32 bytes of the public key as the key.
    let padded = |with: u8| {
        let mut block = [with; 64];
        for (byte, key) in block.iter_mut().zip(scope_key().did().public_key()) {
            *byte ^= key;
        }
        block
    };
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(signed.as_bytes()).finalize();
    let mac = Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize();
    let token = format!("{signed}.{}", encode(&mac));
    assert_eq!(Token::verify(&token, &issuers()).unwrap_err().code(), "TOKEN_UNSUPPORTED_ALG");
}

#[test]
fn claims_are_all_known_and_of_their_kind() {
    let good = text("claims_json_bytes");
    let verdict = |payload: &str| Token::verify(&signed(HEADER, payload), &issuers()).map(|_| ()).map_err(|e| e.code());
    assert_eq!(verdict(&good), Ok(()));
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replace(from, to)
    };
    for (payload, code) in [
        (with(r#""token_version":"1""#, r#""token_version":"2""#), "TOKEN_UNKNOWN_VERSION"),
        (with(r#""token_version":"1","#, ""), "TOKEN_UNKNOWN_VERSION"),
        (with(r#""iat":1772323200"#, r#""iat":"1772323200""#), "TOKEN_INVALID_CLAIMS"),
        (with(r#""iat":1772323200"#, r#""iat":1772323200.5"#), "TOKEN_INVALID_CLAIMS"),
        (with(r#""exp":1772324100"#, r#""exp":1e300"#), "TOKEN_INVALID_CLAIMS"),
        (with(r#""exp":1772324100"#, r#""exp":1772323200"#), "TOKEN_INVALID_CLAIMS"),
        (with(r#","exp":1772324100"#, ""), "TOKEN_INVALID_CLAIMS"),
        (with(r#""mission_id":"#, r#""run_id":"#), "TOKEN_INVALID_CLAIMS"),
        (with(r#""mission_id":"job_7f3a""#, r#""mission_id":7"#), "TOKEN_INVALID_CLAIMS"),
        (with(r#""spend_cap":1.5"#, r#""spend_cap":-1"#), "TOKEN_INVALID_CLAIMS"),
        (with(r#""token_lane":"canonical""#, r#""token_lane":"fast""#), "TOKEN_INVALID_CLAIMS"),
        (with("did:key:z6Mki11Bt3TszrQcX7c1GuaNUc3gFh4XLWjCQWXrRis9QQeH", "did:web:a:b"), "TOKEN_INVALID_CLAIMS"),
        (with(r#"["clawproxy.com","clawcontrols.com"]"#, "[]"), "TOKEN_INVALID_CLAIMS"),
        (with(r#""token_version":"1""#, r#""token_version":"1","token_version":"1""#), "TOKEN_MALFORMED"),
        ("[]".into(), "TOKEN_INVALID_CLAIMS"),
        ("{".into(), "TOKEN_MALFORMED"),
    ] {
        assert_eq!(verdict(&payload), Err(code), "{payload}");
    }
    // A single audience may stand without a list.
    assert_eq!(verdict(&with(r#"["clawproxy.com","clawcontrols.com"]"#, r#""clawproxy.com""#)), Ok(()));
}

#[test]
fn any_changed_byte_of_a_token_is_refused() {
    let token = text("token");
    for at in 0..token.len() {
        for bit in 0..8 {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(Token::verify(&changed, &issuers()).is_err(), "byte {at} bit {bit}");
            }
        }
        let (before, after) = token.split_at(at);
        for changed in [format!("{before}{}", &after[1..]), format!("{before}A{after}"), format!("{before}={after}")] {
            assert!(Token::verify(&changed, &issuers()).is_err(), "{changed}");
        }
    }
    for shape in ["", ".", "..", "a.b.c", "....", &token[1..], &format!("{token}."), &format!(" {token}")] {
        assert!(Token::verify(shape, &issuers()).is_err(), "{shape}");
    }
    assert!(matches!(Token::verify(&"a".repeat(1 << 20), &issuers()), Err(Error::Malformed(_))));
}

#[test]
fn key_sets_give_their_ed25519_keys() {
    let did = scope_key().did();
    let x = encode(did.public_key());
    let set = format!(
        r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"1325b850c2871916","x":"{x}","use":"sig"}},
            {{"kty":"RSA","n":"AQAB","e":"AQAB"}}]}}"#
    );
    assert_eq!(read_jwks(set.as_bytes()).unwrap(), [did]);
    for wrong in [
        set.replace("1325b850c2871916", "10ba682c8ad13513"),
        set.replace(&x, "AAAA"),
        "{}".into(),
        "[]".into(),
        r#"{"keys":{}}"#.into(),
    ] {
        assert!(read_jwks(wrong.as_bytes()).is_err(), "{wrong}");
    }
}
