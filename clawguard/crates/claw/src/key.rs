//! Ed25519 keys and the did:key names of their public halves.

use std::{fmt, str::FromStr};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    encoding,
    json::{self, Value},
};

/// Multicodec's number for an Ed25519 public key.
const ED25519: [u8; 2] = [0xed, 0x01];

/// The did:key of an Ed25519 public key: `"did:key:z" + base58btc(0xED 0x01 ‖ 32 bytes)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Did([u8; 32]);

impl Did {
    /// The raw public key.
    #[must_use]
    pub const fn public_key(&self) -> &[u8; 32] {
        &self.0
    }

    /// Of a raw public key, if it is one.
    #[must_use]
    pub fn from_public_key(key: [u8; 32]) -> Option<Self> {
        VerifyingKey::from_bytes(&key).is_ok().then_some(Self(key))
    }

    /// The key id: the first 16 hexadecimal digits of the public key's SHA-256.
    #[must_use]
    pub fn kid(&self) -> String {
        Sha256::digest(self.0)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether this key made that signature of these bytes. Strict: no small-order keys, one spelling per signature.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.verifier().is_some_and(|key| key.verifies(message, signature))
    }

    /// The key, unpacked: for whoever verifies many signatures of one key.
    #[must_use]
    pub fn verifier(&self) -> Option<Verifier> {
        VerifyingKey::from_bytes(&self.0).ok().map(Verifier)
    }
}

/// A public key, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verifier(VerifyingKey);

impl Verifier {
    /// As [`Did::verifies`].
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<u8> = ED25519.into_iter().chain(self.0).collect();
        write!(f, "did:key:z{}", bs58::encode(bytes).into_string())
    }
}

impl fmt::Debug for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text that is no Ed25519 did:key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no Ed25519 key: did:key:z6Mk… is expected")]
pub struct NotADid(pub String);

impl FromStr for Did {
    type Err = NotADid;

    fn from_str(text: &str) -> Result<Self, NotADid> {
        let wrong = || NotADid(text.chars().take(256).collect());
        // 48 characters name 34 bytes; a longer text would only cost time.
        let base58 = text.strip_prefix("did:key:z").filter(|rest| rest.len() <= 64).ok_or_else(wrong)?;
        let bytes = bs58::decode(base58).into_vec().map_err(|_| wrong())?;
        let key: [u8; 32] = bytes.strip_prefix(&ED25519).and_then(|key| key.try_into().ok()).ok_or_else(wrong)?;
        VerifyingKey::from_bytes(&key).map_err(|_| wrong())?;
        Ok(Self(key))
    }
}

/// A private key. It is wiped from memory when dropped, and never printed.
pub struct PrivateKey(SigningKey);

impl PrivateKey {
    /// From its 32-byte seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The name of its public half.
    #[must_use]
    pub fn did(&self) -> Did {
        Did(self.0.verifying_key().to_bytes())
    }

    /// Signs some bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// As a JSON Web Key (RFC 8037), the form in which key files are written.
    #[must_use]
    pub fn to_jwk(&self) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"{}\",\"x\":\"{}\",\"d\":\"{}\"}}\n",
            self.did().kid(),
            encoding::encode(self.did().public_key()),
            encoding::encode(self.0.as_bytes()),
        ))
    }

    /// From a JSON Web Key. Its public half, where it is there, must fit.
    ///
    /// # Errors
    ///
    /// [`NotAKey`] says what is wrong, without any part of the key.
    pub fn from_jwk(text: &str) -> Result<Self, NotAKey> {
        let value = json::parse(text.as_bytes(), json::Limits { bytes: 4096, depth: 4 })
            .map_err(|_| NotAKey("it is no JSON"))?;
        let field = |name| value.get(name).and_then(Value::as_str);
        if field("kty") != Some("OKP") || field("crv") != Some("Ed25519") {
            return Err(NotAKey("its kty is not OKP or its crv is not Ed25519"));
        }
        let seed = field("d").and_then(encoding::decode::<32>).map(Zeroizing::new);
        let key = Self::from_seed(&*seed.ok_or(NotAKey("its d is missing or not 32 bytes of base64url"))?);
        match field("x") {
            Some(x) if x != encoding::encode(key.did().public_key()) => Err(NotAKey("its x does not belong to its d")),
            _ => Ok(key),
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.did())
    }
}

/// A text that is no private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no Ed25519 private key in JWK form (RFC 8037): {0}")]
pub struct NotAKey(&'static str);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn did_and_kid_of_the_worked_example() {
        let controls = PrivateKey::from_seed(&[0x11; 32]).did();
        assert_eq!(controls.to_string(), "did:key:z6MktULudTtAsAhRegYPiZ6631RV3viv12qd4GQF8z1xB22S");
        assert_eq!(controls.kid(), "10ba682c8ad13513");
        assert_eq!(controls.to_string().parse::<Did>().unwrap(), controls);
        assert_eq!(PrivateKey::from_seed(&[0x22; 32]).did().kid(), "1325b850c2871916");
    }

    #[test]
    fn other_dids_are_refused() {
        for wrong in [
            "did:key:z6Mk",
            "did:web:clawproxy.com",
            "did:key:",
            "",
            "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme",
        ] {
            assert!(wrong.parse::<Did>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_survives_its_file() {
        let key = PrivateKey::from_seed(&[7; 32]);
        let read = PrivateKey::from_jwk(&key.to_jwk()).unwrap();
        assert_eq!(read.did(), key.did());
        let other = PrivateKey::from_seed(&[8; 32]).to_jwk().replace(
            &encoding::encode(PrivateKey::from_seed(&[8; 32]).did().public_key()),
            &encoding::encode(key.did().public_key()),
        );
        assert!(PrivateKey::from_jwk(&other).is_err());
        assert!(!format!("{key:?}").contains(&encoding::encode(&[7; 32])));
    }

    #[test]
    fn a_signature_is_of_its_message_and_its_key_only() {
        let key = PrivateKey::from_seed(&[7; 32]);
        let signature = key.sign(b"message");
        assert!(key.did().verifies(b"message", &signature));
        assert!(!key.did().verifies(b"messagf", &signature));
        assert!(!PrivateKey::from_seed(&[8; 32]).did().verifies(b"message", &signature));
    }
}
