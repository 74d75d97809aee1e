//! No token stops its reader, and a token that was read can be issued again and permits the same.
//!
//! The input is a token, or, since no fuzzer finds its way through base64url, a header and a payload on two lines.
#![no_main]

use claw::{
    Hash, encoding,
    key::PrivateKey,
    token::{Demands, Error, Issuers, Token, TokenHash, read_jwks},
};
use libfuzzer_sys::fuzz_target;

fn signed(text: &str, key: &PrivateKey) -> Option<String> {
    let (header, payload) = text.split_once('\n')?;
    let signed = format!("{}.{}", encoding::encode(header.as_bytes()), encoding::encode(payload.as_bytes()));
    let signature = encoding::encode(&key.sign(signed.as_bytes()));
    Some(format!("{signed}.{signature}"))
}

fn check(text: &str, key: &PrivateKey) {
    let issuers = Issuers::new([key.did()]);
    let verified = Token::verify(text, &issuers);
    let Ok(token) = Token::parse(text) else {
        assert!(verified.is_err(), "verified, and cannot be read");
        return;
    };
    match verified {
        Ok(verified) => assert_eq!(verified, token),
        Err(error) => assert!(matches!(error, Error::UnknownKey(_) | Error::Signature(_)), "{error}"),
    }
    assert_eq!(token.hash, TokenHash::of(text));
    assert_eq!(token.hash.to_string().parse(), Ok(token.hash));

    let claims = &token.claims;
    let (audiences, scopes) = (claims.aud.clone(), claims.scope.clone());
    for (now, longest_life) in [(0, 0), (claims.iat, 900), (claims.exp, u64::MAX), (u64::MAX, 3600)] {
        let demands = Demands {
            now,
            audiences: &audiences,
            scopes: &scopes,
            job: claims.mission_id.as_deref().unwrap_or("job"),
            contract: Hash([0; 32]),
            longest_life,
            require_scope_hash: false,
            require_pin: false,
        };
        if claims.suit(&demands).is_ok() {
            assert!(now < claims.exp && claims.exp - claims.iat <= longest_life);
        }
    }
    let again = Token::issue(claims.clone(), "canonical", key);
    if let Ok(again) = Token::verify(&again, &issuers) {
        assert_eq!(again.claims.scope_hash(), claims.scope_hash());
        assert_eq!(again.claims.token_scope_hash_b64u, Some(claims.scope_hash().to_string()));
    } else {
        // Issuing writes the scope hash; the token can grow past what is read.
        assert!(again.len() > claw::token::LONGEST, "{again} was issued and cannot be read");
    }
}

fuzz_target!(|data: &[u8]| {
    let _ = read_jwks(data);
    let Ok(text) = str::from_utf8(data) else { return };
    let key = PrivateKey::from_seed(&[0x22; 32]);
    check(text, &key);
    if let Some(text) = signed(text, &key) {
        check(&text, &key);
    }
});
