//! What is wrong with a bundle: a reason by its public name, and the first bad place.

use std::fmt;

use serde::{Serialize, Serializer};

/// Names of reasons as Claw's verifiers print them, so that both can be compared.
macro_rules! codes {
    ($($variant:ident $name:literal $means:literal,)*) => {
        /// Why a bundle is refused, in Claw's words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $means] $variant,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its public name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

codes! {
    Parse "PARSE_ERROR" "No JSON, or JSON that two readers could read differently.",
    Malformed "MALFORMED_ENVELOPE" "Not of the shape that is signed.",
    EnvelopeVersion "UNKNOWN_ENVELOPE_VERSION" "An envelope of another version.",
    EnvelopeType "UNKNOWN_ENVELOPE_TYPE" "An envelope of something else.",
    Algorithm "UNKNOWN_ALGORITHM" "Signed in an unknown way.",
    HashAlgorithm "UNKNOWN_HASH_ALGORITHM" "Hashed in an unknown way.",
    Did "INVALID_DID_FORMAT" "No DID, or not the one that has to be there.",
    Expired "EXPIRED_TTL" "No longer to be believed.",
    Schema "SCHEMA_VALIDATION_FAILED" "A member that is missing, unknown, or of the wrong kind.",
    UnknownSchema "UNKNOWN_SCHEMA_ID" "Evidence of a kind that cannot be verified here.",
    Hash "HASH_MISMATCH" "Changed after it was hashed.",
    Signature "SIGNATURE_INVALID" "Not signed by whom it says.",
    Missing "MISSING_REQUIRED_FIELD" "Evidence that is demanded is not there.",
    Evidence "EVIDENCE_MISMATCH" "Evidence that contradicts other evidence, or says itself that it does not suffice.",
    Agent "PROOF_BUNDLE_AGENT_MISMATCH" "Of another agent.",
    Version "UNKNOWN_VERSION" "A receipt of another version.",
    Receipt "RECEIPT_VERIFICATION_FAILED" "A receipt that cannot be believed.",
    Binding "RECEIPT_BINDING_MISMATCH" "A receipt of another run or event.",
    NotConfigured "DEPENDENCY_NOT_CONFIGURED" "Nobody is trusted to have signed it.",
    NotTrusted "CLAIM_NOT_FOUND" "Signed by somebody who is not trusted.",
    UrmMissing "URM_MISSING" "The manifest that the bundle points at is not there.",
    Urm "URM_MISMATCH" "The manifest is another run's.",
    RateWindow "RATE_LIMIT_WINDOW_INVALID" "A window that ends before it begins.",
    RateClaim "RATE_LIMIT_CLAIM_INCONSISTENT" "A rate limit's claim that contradicts itself or the run.",
    RateExceeded "RATE_LIMIT_EXCEEDED" "More requests than the claim allows.",
    Replay "CAUSAL_RECEIPT_REPLAY_DETECTED" "One receipt for the second time.",
    Normalization "CAUSAL_BINDING_NORMALIZATION_FAILED" "A span that is none.",
    Conflict "CAUSAL_BINDING_FIELD_CONFLICT" "Two spellings of one member that say two things.",
    Phase "CAUSAL_PHASE_INVALID" "A phase that does not exist.",
    Transition "CAUSAL_PHASE_TRANSITION_INVALID" "A phase that cannot follow from the one before.",
    Confidence "CAUSAL_CONFIDENCE_OUT_OF_RANGE" "A confidence outside of 0 to 1.",
    Overconfident "CAUSAL_CONFIDENCE_EVIDENCE_INCONSISTENT" "More confidence than the evidence gives.",
    Dangling "CAUSAL_REFERENCE_DANGLING" "A span that is nowhere.",
    Cycle "CAUSAL_CYCLE_DETECTED" "A span that is its own ancestor.",
    Clock "CAUSAL_CLOCK_CONTRADICTION" "An effect before its cause.",
    SpanReuse "CAUSAL_SPAN_REUSE_CONFLICT" "One span with two meanings.",
    Disconnected "CAUSAL_GRAPH_DISCONNECTED" "Spans without a common root.",
    SideEffectOrphan "CAUSAL_SIDE_EFFECT_ORPHANED" "A side effect that nothing anchors.",
    ApprovalOrphan "CAUSAL_HUMAN_APPROVAL_ORPHANED" "An approval that nothing anchors.",
    Discrepancy "COVERAGE_CLDD_DISCREPANCY_ENFORCED" "The sentinel and the harness count differently.",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

/// The first bad thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{code} at {}: {text}", if place.is_empty() { "the whole" } else { place })]
pub struct Fault {
    /// Why it is bad.
    pub code: Code,
    /// Where: `payload.event_chain[3].event_hash_b64u`; empty for the whole text.
    pub place: String,
    /// What it is, in a sentence.
    pub text: String,
}

impl Fault {
    pub(super) fn new(code: Code, at: At<'_>, text: impl Into<String>) -> Self {
        Self { code, place: at.to_string(), text: text.into() }
    }
}

/// A place within a text. It lies on the stack while the text is walked, and is written out only when something is wrong.
#[derive(Clone, Copy)]
pub(super) enum At<'a> {
    Root,
    Name(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
}

/// A bundle's payload.
pub(super) static PAYLOAD: At<'static> = At::Name(&At::Root, "payload");

impl<'a> At<'a> {
    pub(super) const fn name(&'a self, name: &'a str) -> Self {
        Self::Name(self, name)
    }

    pub(super) const fn index(&'a self, index: usize) -> Self {
        Self::Index(self, index)
    }

    /// A fault in one of its members.
    pub(super) fn fault(&self, name: &str, code: Code, text: impl Into<String>) -> Fault {
        Fault::new(code, self.name(name), text)
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Index(within, index) => write!(f, "{within}[{index}]"),
            Self::Name(within, name) => {
                let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '$');
                if name.is_empty() || name.starts_with(|char: char| char.is_ascii_digit()) || !name.chars().all(plain) {
                    // Escaped as JSON, and shortened: it may be anything.
                    let name: String = name.chars().take(64).collect();
                    return write!(f, "{within}[{}]", claw::Value::String(name.into()));
                }
                let dot = if matches!(within, Self::Root) { "" } else { "." };
                write!(f, "{within}{dot}{}", name.get(..64).unwrap_or(name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_claws_verifiers_write_it() {
        let root = At::Root;
        let payload = root.name("payload");
        let metadata = payload.name("metadata");
        let chain = payload.name("event_chain");
        let third = chain.index(3);
        assert_eq!(third.name("event_hash_b64u").to_string(), "payload.event_chain[3].event_hash_b64u");
        assert_eq!(metadata.name("clawguard.v1").to_string(), "payload.metadata[\"clawguard.v1\"]");
        assert_eq!(root.name("a\n\"").to_string(), "[\"a\\n\\\"\"]");
        assert_eq!(root.name("1a").to_string(), "[\"1a\"]");
        assert_eq!(root.name(&"x".repeat(100)).to_string(), "x".repeat(64));
    }
}
