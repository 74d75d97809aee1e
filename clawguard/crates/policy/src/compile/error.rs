//! Why a contract that can be read is refused.

/// Why a contract that can be read is refused all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A restriction that nothing on this host could hold an agent to.
    #[error("{path} cannot be enforced: {why}")]
    Unenforceable {
        /// Which.
        path: String,
        /// Why not.
        why: String,
    },
    /// An entry of `egress` that `egress_allowlist` does not cover.
    #[error("{path} lies outside egress_allowlist; where both are there, every entry must be covered by it")]
    OutsideAllowlist {
        /// Which.
        path: String,
    },
    /// Two rules for one place with different groups.
    #[error(
        "{one} and {other} both name {place} but belong to different groups ({one_groups} / {other_groups}): \
         a kill of one could not spare the other"
    )]
    Conflict {
        /// The first.
        one: String,
        /// The second.
        other: String,
        /// Where they meet.
        place: String,
        /// The groups of the first.
        one_groups: String,
        /// The groups of the second.
        other_groups: String,
    },
    /// A place at which one entry asks for TLS and another does not.
    #[error(
        "{tls} asks for TLS at {place} and {plain} does not, which would undo it: give both the same tls, or the hosts \
         different addresses or ports"
    )]
    Undone {
        /// The one that asks for it.
        tls: String,
        /// The one that does not.
        plain: String,
        /// Where they meet.
        place: String,
    },
    /// More distinct sets of groups than are told apart.
    #[error("the contract has more than {limit} different sets of groups")]
    TooManySets {
        /// How many there may be.
        limit: usize,
    },
    /// More rules than any host's kernel is given.
    #[error(
        "the contract comes to more than {limit} rules on this host; name ranges instead of addresses, or fewer ports"
    )]
    TooManyRules {
        /// How many there may be.
        limit: usize,
    },
}
