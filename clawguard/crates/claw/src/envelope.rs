//! The signed envelope that carries every Claw artefact.
//!
//! The signature is over the 43 ASCII characters of the payload's hash. What it does not cover (`envelope_type`,
//! `signer_did`, `issued_at`) is therefore checked, but proves nothing.

use crate::{
    encoding::{self, Hash},
    json::{self, Canon, Limits, Value},
    key::{Did, PrivateKey},
    time::Instant,
};

/// What an envelope carries, by its `envelope_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A Work Policy Contract.
    WorkPolicyContract,
    /// The gateway's word that a model call went through it.
    GatewayReceipt,
    /// A tool's call.
    ToolReceipt,
    /// An effect outside the job.
    SideEffectReceipt,
    /// A person's yes or no.
    HumanApprovalReceipt,
    /// What a job's egress was held to.
    EgressPolicyReceipt,
    /// A sentinel's word on what it saw of a run.
    CoverageAttestation,
    /// A sandbox's word on what ran in it.
    ExecutionAttestation,
    /// A run's evidence.
    ProofBundle,
}

impl Kind {
    /// The `envelope_type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WorkPolicyContract => "work_policy_contract",
            Self::GatewayReceipt => "gateway_receipt",
            Self::ToolReceipt => "tool_receipt",
            Self::SideEffectReceipt => "side_effect_receipt",
            Self::HumanApprovalReceipt => "human_approval_receipt",
            Self::EgressPolicyReceipt => "egress_policy_receipt",
            Self::CoverageAttestation => "coverage_attestation",
            Self::ExecutionAttestation => "execution_attestation",
            Self::ProofBundle => "proof_bundle",
        }
    }

    /// The form in which its payload is hashed. Claw sorts contracts; all evidence is as V8 writes it.
    #[must_use]
    pub const fn canon(self) -> Canon {
        match self {
            Self::WorkPolicyContract => Canon::Sorted,
            _ => Canon::Insertion,
        }
    }
}

/// Bytes of an envelope with up to a million entries.
const MOST_BYTES: usize = 128 << 20;
/// Deep enough for every Claw format.
const DEEPEST: usize = 32;

/// An envelope whose hash and signature are right. Whether its signer is trusted is for the caller to say.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// What it carries.
    pub payload: Value,
    /// The hash by which the payload is known.
    pub hash: Hash,
    /// Who signed the hash.
    pub signer: Did,
    /// When it says that it was signed. Not covered by the signature.
    pub issued_at: Instant,
}

/// Why an envelope is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not JSON.
    #[error("the envelope is no JSON that is accepted: {0}")]
    Json(#[from] json::Error),
    /// Not an object.
    #[error("the envelope is {0}, not an object")]
    NotAnObject(&'static str),
    /// A member that no envelope has.
    #[error("the envelope has an unknown member \"{0}\"")]
    Unknown(String),
    /// A member that every envelope has.
    #[error("the envelope has no \"{0}\"")]
    Missing(&'static str),
    /// A member with another value than the one that is expected.
    #[error("the envelope's \"{name}\" is not {expected}")]
    Wrong {
        /// Which member.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The payload is not the one that was signed.
    #[error("the payload's hash is {computed}, the envelope says {stated}: it was changed after it was signed")]
    Hash {
        /// What the payload gives.
        computed: Hash,
        /// What the envelope says.
        stated: Hash,
    },
    /// The signer did not sign this.
    #[error("the signature is not {signer}'s signature of {hash}")]
    Signature {
        /// Who is said to have signed.
        signer: Did,
        /// What is said to be signed.
        hash: Hash,
    },
}

const MEMBERS: [&str; 9] = [
    "envelope_version",
    "envelope_type",
    "payload",
    "payload_hash_b64u",
    "hash_algorithm",
    "signature_b64u",
    "algorithm",
    "signer_did",
    "issued_at",
];

impl Envelope {
    /// Reads an envelope and checks its shape, its hash and its signature.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn open(text: &[u8], kind: Kind) -> Result<Self, Error> {
        let envelope = json::parse(text, Limits { bytes: MOST_BYTES, depth: DEEPEST })?;
        let what = envelope.kind();
        let Value::Object(members) = envelope else {
            return Err(Error::NotAnObject(what));
        };
        if let Some((name, _)) = members.iter().find(|(name, _)| !MEMBERS.contains(&&**name)) {
            return Err(Error::Unknown(name.chars().take(64).collect()));
        }
        let mut payload = None;
        let mut texts = [const { None }; MEMBERS.len()];
        for (name, value) in members {
            let Some(at) = MEMBERS.iter().position(|member| **member == *name) else { continue };
            if MEMBERS[at] == "payload" {
                payload = Some(value);
            } else if let Value::String(text) = value {
                texts[at] = Some(text);
            } else {
                return Err(Error::Wrong { name: MEMBERS[at], expected: "a string" });
            }
        }
        let payload = payload.ok_or(Error::Missing("payload"))?;
        let member = |name: &'static str| {
            MEMBERS
                .iter()
                .position(|member| *member == name)
                .and_then(|at| texts[at].as_deref())
                .ok_or(Error::Missing(name))
        };
        for (name, expected) in [
            ("envelope_version", "1"),
            ("envelope_type", kind.name()),
            ("hash_algorithm", "SHA-256"),
            ("algorithm", "Ed25519"),
        ] {
            if member(name)? != expected {
                return Err(Error::Wrong { name, expected });
            }
        }
        let wrong = |name, expected| Error::Wrong { name, expected };
        let stated: Hash =
            member("payload_hash_b64u")?.parse().map_err(|_| wrong("payload_hash_b64u", "a SHA-256 hash"))?;
        let signature = encoding::decode::<64>(member("signature_b64u")?)
            .ok_or_else(|| wrong("signature_b64u", "64 bytes of base64url"))?;
        let signer: Did = member("signer_did")?.parse().map_err(|_| wrong("signer_did", "an Ed25519 did:key"))?;
        let issued_at =
            Instant::parse(member("issued_at")?).ok_or_else(|| wrong("issued_at", "an RFC 3339 date-time"))?;
        let computed = payload.hash(kind.canon());
        if computed != stated {
            return Err(Error::Hash { computed, stated });
        }
        if !signer.verifies(stated.to_string().as_bytes(), &signature) {
            return Err(Error::Signature { signer, hash: stated });
        }
        Ok(Self { payload, hash: stated, signer, issued_at })
    }

    /// Signs a payload and writes the envelope.
    #[must_use]
    pub fn seal(payload: Value, kind: Kind, key: &PrivateKey, issued_at: Instant) -> String {
        let text = |text: &str| Value::String(text.into());
        let hash = payload.hash(kind.canon()).to_string();
        let signature = encoding::encode(&key.sign(hash.as_bytes()));
        let members = [
            ("envelope_version", text("1")),
            ("envelope_type", text(kind.name())),
            ("payload", payload),
            ("payload_hash_b64u", text(&hash)),
            ("hash_algorithm", text("SHA-256")),
            ("signature_b64u", text(&signature)),
            ("algorithm", text("Ed25519")),
            ("signer_did", text(&key.did().to_string())),
            ("issued_at", text(&issued_at.format())),
        ];
        let mut envelope =
            Value::Object(members.into_iter().map(|(name, value)| (name.into(), value)).collect()).to_string();
        envelope.push('\n');
        envelope
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../tests/vectors/wpc_envelope.json");

    /// The envelope of the worked example (the vector is a registry's answer, which wraps it).
    fn example() -> Value {
        json::parse(EXAMPLE.as_bytes(), Limits { bytes: 1 << 20, depth: 32 }).unwrap().get("envelope").unwrap().clone()
    }

    fn with(name: &str, value: Value) -> String {
        let Value::Object(mut members) = example() else { unreachable!() };
        match members.iter_mut().find(|(n, _)| **n == *name) {
            Some((_, old)) => *old = value,
            None => members.push((name.into(), value)),
        }
        Value::Object(members).to_string()
    }

    fn open(text: &str) -> Result<Envelope, Error> {
        Envelope::open(text.as_bytes(), Kind::WorkPolicyContract)
    }

    #[test]
    fn the_worked_example_verifies() {
        let envelope = open(&example().to_string()).unwrap();
        assert_eq!(envelope.hash.to_string(), "QmMQ0aNYNhEVSy7HuvraVk1SsiC7362h7kBTu5jL0i4");
        assert_eq!(envelope.signer, PrivateKey::from_seed(&[0x11; 32]).did());
        assert_eq!(envelope.issued_at.format(), "2026-03-01T00:00:00.000Z");
    }

    #[test]
    fn sealing_the_worked_example_gives_its_bytes() {
        let payload = example().get("payload").unwrap().clone();
        let key = PrivateKey::from_seed(&[0x11; 32]);
        let issued_at = Instant::parse("2026-03-01T00:00:00.000Z").unwrap();
        let sealed = Envelope::seal(payload, Kind::WorkPolicyContract, &key, issued_at);
        assert_eq!(sealed.trim_end(), example().to_string());
    }

    #[test]
    fn every_member_is_needed_and_no_other_is_known() {
        for name in MEMBERS {
            let Value::Object(mut members) = example() else { unreachable!() };
            members.retain(|(n, _)| **n != *name);
            assert_eq!(open(&Value::Object(members).to_string()).unwrap_err(), Error::Missing(name));
        }
        let error = open(&with("expires_at", Value::Null)).unwrap_err();
        assert_eq!(error, Error::Unknown("expires_at".into()));
    }

    #[test]
    fn a_changed_member_is_refused() {
        for (name, value) in [
            ("envelope_version", "2"),
            ("envelope_type", "gateway_receipt"),
            ("hash_algorithm", "BLAKE3"),
            ("algorithm", "none"),
            ("payload_hash_b64u", "QmMQ0aNYNhEVSy7HuvraVk1SsiC7362h7kBTu5jL0i5"),
            ("signature_b64u", "AAAA"),
            ("signer_did", "did:web:clawcontrols.com"),
            ("issued_at", "2026-03-01"),
        ] {
            let error = open(&with(name, Value::String(value.into()))).unwrap_err();
            assert!(matches!(error, Error::Wrong { .. } | Error::Hash { .. }), "{name}: {error}");
        }
        assert!(matches!(open(&with("issued_at", Value::Number(1.0))).unwrap_err(), Error::Wrong { .. }));
    }

    #[test]
    fn a_changed_payload_or_another_signer_is_refused() {
        let mut payload = example().get("payload").unwrap().clone();
        let Value::Object(members) = &mut payload else { unreachable!() };
        members[1].1 = Value::String("mcp-enterprise-agent-maximal".into());
        assert!(matches!(open(&with("payload", payload)).unwrap_err(), Error::Hash { .. }));
        let other = PrivateKey::from_seed(&[0x12; 32]).did().to_string();
        assert!(matches!(open(&with("signer_did", Value::String(other.into()))).unwrap_err(), Error::Signature { .. }));
    }

    #[test]
    fn any_flipped_bit_of_an_envelope_is_refused_or_means_the_same() {
        let text = example().to_string();
        let whole = open(&text).unwrap();
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                if let Ok(opened) = Envelope::open(&bytes, Kind::WorkPolicyContract) {
                    // Only what the signature does not cover can change.
                    assert_eq!((opened.hash, opened.signer), (whole.hash, whole.signer), "byte {at} bit {bit}");
                }
            }
        }
    }
}
