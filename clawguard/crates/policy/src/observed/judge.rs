//! What becomes of each observation.

use std::net::IpAddr;

use clawguard_common::{Reason, guard};

use super::{Observation, Unit, What};
use crate::{
    HostFacts,
    contract::Protocol,
    name::HostName,
    names::{Suspect, model_port, suspect},
    net, special,
};

/// What becomes of an observation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// The contract allows it as it is.
    Known,
    /// A question for a name, which is allowed once anything else of the name is.
    Asked,
    /// It is left out, for this.
    Leave(String),
    /// It is written, and this is to be looked at.
    Write(Unit, Vec<String>),
}

fn leave(why: &str) -> Judged {
    Judged::Leave(why.into())
}

const MODEL: &str = "it belongs to the model proxy: no contract should open a model past it";
const MCP: &str = "an MCP server is reached through the MCP gateway: give its tools in `tools`";
const DNS: &str = "names are asked for through the DNS guard alone";
const METADATA: &str =
    "it hands out a cloud's credentials: write a cidr entry of its own by hand, if the agent must have it";

pub(super) fn judged(observation: &Observation, facts: &HostFacts, known: bool) -> Judged {
    let Observation { what, reason, .. } = observation;
    if let Some(why) = for_no_rule(*reason) {
        return leave(why);
    }
    match what {
        What::Other(_) => leave("no rule can name it"),
        What::Name(name) => match name.parse::<HostName>() {
            Err(_) => leave("no rule can name it: it is no host name"),
            Ok(_) if known => Judged::Known,
            Ok(name) => match elsewhere(&name, facts) {
                Some(why) => leave(why),
                None => Judged::Asked,
            },
        },
        What::Host { port: 0, .. } | What::Address { port: 0, .. } => leave("no rule can name port 0"),
        What::Host { port, .. } | What::Address { port, .. } if resolves(*port) => leave(DNS),
        _ if known && *reason == Reason::NameExpired => {
            leave("the contract allows it; the DNS answer had run out, and must be asked for anew")
        }
        _ if known => Judged::Known,
        What::Host { name, .. } => host(what, name, facts),
        What::Address { addr, protocol, port } => address(*addr, *protocol, *port, facts),
        What::Inbound { port: 0, .. } => {
            leave("to which port it came is not known: write a listen entry by hand, if the agent serves others by UDP")
        }
        What::Inbound { from, .. } => Judged::Write(Unit::Caller(*from), vec!["it lets others call the agent".into()]),
    }
}

/// Why no rule, or none that is written unseen, would have allowed it.
const fn for_no_rule(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::ModelDirect => MODEL,
        Reason::McpDirect => MCP,
        Reason::Dns => DNS,
        Reason::Metadata => METADATA,
        Reason::RawSocket => "raw and ping sockets can send what the fence cannot judge: no contract allows them",
        Reason::Protocol => "only TCP and UDP pass at all",
        Reason::SocketOption => "it would send what the fence cannot judge: no contract allows it",
        Reason::ForeignSocket => "the socket was made outside the job: whatever makes it must run inside",
        Reason::Malformed => "the packet has IP options, extension headers or no whole header: no contract allows it",
        Reason::NoSni => "it called for no name in TLS, so that whatever shares the address would be open with it",
        Reason::NotTls => {
            "it does not speak TLS where the contract demands it: tls: false, by hand, opens the port to whatever shares \
             the address"
        }
        Reason::Ech => {
            "it hides its true name: ech: true, by hand, lets whatever the outer name's host serves be called"
        }
        Reason::Killed => "a group that it belongs to was killed",
        Reason::JobOver | Reason::NoJob => "it did not belong to a job that runs",
        Reason::Internal => "the fence failed to judge it, which no rule changes",
        Reason::Allowed
        | Reason::NotInContract
        | Reason::SpecialRange
        | Reason::Expired
        | Reason::NoContract
        | Reason::Inbound
        | Reason::Loopback
        | Reason::TokenEnded
        | Reason::SniMismatch
        | Reason::Quic
        | Reason::NameExpired => return None,
    })
}

const fn resolves(port: u16) -> bool {
    port == guard::DNS_PORT || guard::other_dns(port)
}

/// Why a name is another way's.
fn elsewhere(name: &HostName, facts: &HostFacts) -> Option<&'static str> {
    match suspect(name, facts)? {
        Suspect::Model => Some(MODEL),
        Suspect::Mcp => Some(MCP),
        Suspect::Resolver => Some("it answers DNS questions by HTTPS, past the DNS guard"),
        Suspect::LikelyModel | Suspect::LikelyMcp => None,
    }
}

fn host(what: &What, name: &HostName, facts: &HostFacts) -> Judged {
    if let Some(why) = elsewhere(name, facts) {
        return leave(why);
    }
    let mut review = Vec::new();
    match suspect(name, facts) {
        Some(Suspect::LikelyModel) => {
            review.push("by its name it serves a model, which belongs to the model proxy".into());
        }
        Some(Suspect::LikelyMcp) => {
            review.push("by its name it is an MCP server, which is reached through the MCP gateway".into());
        }
        _ => {}
    }
    if let What::Host { protocol, port, tls, shared, .. } = what {
        if *protocol == Protocol::Udp {
            review
                .push("no name is judged in what is sent by UDP: whatever shares its addresses is open with it".into());
        } else if !speaks_tls(*port, *tls) {
            review.push(
                "tls: false, because no TLS was seen there: whatever shares its addresses is open with it".into(),
            );
        }
        if *shared {
            review.push(
                "other names that were asked for lead to the same address: which of them was meant is not known".into(),
            );
        }
    }
    Judged::Write(Unit::Host(name.clone()), review)
}

/// Whether TLS is demanded where this was seen.
pub(super) const fn speaks_tls(port: u16, hello: bool) -> bool {
    port == 443 || hello
}

fn address(addr: IpAddr, protocol: Protocol, port: u16, facts: &HostFacts) -> Judged {
    let special = special::of(net::addr(addr));
    if special.is_some_and(|special| special.reason == Reason::Metadata) {
        return leave(METADATA);
    }
    let nobody = match addr {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    if nobody || addr.is_multicast() || addr.is_unspecified() {
        return leave("it is no one host's address: write a cidr entry by hand, if the agent must have it");
    }
    if protocol == Protocol::Tcp && special.is_some() && model_port(port).is_some() {
        return leave("a model that runs here is reached through the model proxy");
    }
    let at = |name: &HostName| facts.hosts.get(name).is_some_and(|addresses| addresses.contains(&addr));
    let model_place = facts.is_model_place(net::addr(addr), port);
    if model_place || facts.hosts.keys().any(|name| facts.is_model_host(name) && at(name)) {
        return leave(MODEL);
    }
    if facts.servers_at(net::addr(addr), port).next().is_some() {
        return leave(MCP);
    }
    let review = match special {
        Some(special) => format!("it lies in {}: on another network that is another host", special.range),
        None => "no name led there: whose address it is may change".into(),
    };
    Judged::Write(Unit::Address(addr), vec![review])
}
