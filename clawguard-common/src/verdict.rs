//! Why the fence decided as it did.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $label:literal;)*) => {
        /// Why a socket, a flow or a packet was allowed or denied. Its label is the metric's `reason`.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $name = $value,)*
        }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word for it in metrics, records and the API.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// From the number that a kernel record carries.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

reasons! {
    /// A rule of the contract names it.
    Allowed = 0, "allowed";
    /// No rule of the contract names it.
    NotInContract = 1, "not_in_contract";
    /// A private, link-local or otherwise special range that no CIDR of the contract names.
    SpecialRange = 2, "special_range";
    /// A cloud metadata address that no CIDR of the contract names.
    Metadata = 3, "metadata";
    /// A group that the rule belongs to is killed.
    Killed = 4, "killed";
    /// The contract's `not_after` has passed.
    Expired = 5, "expired";
    /// No contract is in force.
    NoContract = 6, "no_contract";
    /// The job that made the socket is over.
    JobOver = 7, "job_over";
    /// A process in a managed cgroup that belongs to no job.
    NoJob = 8, "no_job";
    /// A socket that was not made inside the job that uses it.
    ForeignSocket = 9, "foreign_socket";
    /// A socket type or protocol other than TCP and UDP.
    Protocol = 10, "protocol";
    /// A raw or ping socket.
    RawSocket = 11, "raw_socket";
    /// A socket option that would send what the fence cannot judge.
    SocketOption = 12, "socket_option";
    /// Inbound traffic that no `listen` rule names.
    Inbound = 13, "inbound";
    /// A packet whose headers the fence does not accept (IP options, extension headers, cut short).
    Malformed = 14, "malformed";
    /// A model provider's host, other than by the contract's way to models.
    ModelDirect = 15, "model_direct";
    /// A loopback service that is not the job's own and that no rule names.
    Loopback = 16, "loopback";
    /// A look-up that may not fail failed.
    Internal = 17, "internal";
    /// The job's token has ended: expired, revoked, no longer known to be good, or not there though the contract demands one.
    TokenEnded = 18, "token_ended";
    /// A TLS flow called for a name that the contract does not allow at its address and port.
    SniMismatch = 19, "sni_mismatch";
    /// A TLS flow called for no name.
    NoSni = 20, "no_sni";
    /// What a flow began with, where TLS is demanded, is not one well-formed ClientHello, or changed on its way.
    NotTls = 21, "not_tls";
    /// A ClientHello that hides its true name.
    Ech = 22, "ech";
    /// DNS by another way than the guard's.
    Dns = 23, "dns";
    /// UDP to port 443, where the contract does not say `quic`.
    Quic = 24, "quic";
    /// The answer that named the address is no longer good.
    NameExpired = 25, "name_expired";
    /// An MCP server, other than through the MCP gateway.
    McpDirect = 26, "mcp_direct";
}

/// How many reasons the per-agent counters hold; room to grow without a new ABI.
pub const REASONS: usize = 32;

const _: () = assert!(Reason::ALL.len() <= REASONS, "REASONS is too small");

/// The hook that decided.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Hook {
    /// `cgroup/sock_create`
    SockCreate = 0,
    /// `cgroup/connect4`
    Connect4 = 1,
    /// `cgroup/connect6`
    Connect6 = 2,
    /// `cgroup/sendmsg4`
    Sendmsg4 = 3,
    /// `cgroup/sendmsg6`
    Sendmsg6 = 4,
    /// `cgroup/setsockopt`
    Setsockopt = 5,
    /// `cgroup_skb/egress`
    Egress = 6,
    /// `cgroup_skb/ingress`
    Ingress = 7,
    /// `cgroup/recvmsg4`
    Recvmsg4 = 8,
    /// `cgroup/recvmsg6`
    Recvmsg6 = 9,
    /// `cgroup/getpeername4`
    Getpeername4 = 10,
    /// `cgroup/getpeername6`
    Getpeername6 = 11,
}

impl Hook {
    /// Every hook, in the order of its number.
    pub const ALL: [Self; 12] = [
        Self::SockCreate,
        Self::Connect4,
        Self::Connect6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Setsockopt,
        Self::Egress,
        Self::Ingress,
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Getpeername4,
        Self::Getpeername6,
    ];

    /// The word for it in metrics and records; also the program's and the pin's name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::SockCreate => "sock_create",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::Setsockopt => "setsockopt",
            Self::Egress => "egress",
            Self::Ingress => "ingress",
            Self::Recvmsg4 => "recvmsg4",
            Self::Recvmsg6 => "recvmsg6",
            Self::Getpeername4 => "getpeername4",
            Self::Getpeername6 => "getpeername6",
        }
    }

    /// From the number that a kernel record carries.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        if (number as usize) < Self::ALL.len() { Some(Self::ALL[number as usize]) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::{Hook, Reason};

    #[test]
    fn numbers_round_trip() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_number(*reason as u8), Some(*reason));
        }
        for hook in Hook::ALL {
            assert_eq!(Hook::from_number(hook as u8), Some(hook));
        }
        assert_eq!(Reason::from_number(200), None);
        assert_eq!(Hook::from_number(Hook::ALL.len() as u8), None);
    }
}
