//! `[names]`: how names become addresses.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

use clawguard_common::guard::DNS_PORT;
use serde::Deserialize;

/// `[names]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Names {
    /// Who is asked; the host's own resolvers unless some are named.
    pub resolvers: Option<Vec<Resolver>>,
    /// How many questions a second a job may ask.
    pub per_second: u32,
    /// How many names below a wildcard a job may ask for in a minute.
    pub new_names_per_minute: u32,
    /// The shortest that an answer is good, in seconds, whatever its resolver says.
    pub ttl_floor_seconds: u32,
}

impl Default for Names {
    fn default() -> Self {
        Self { resolvers: None, per_second: 100, new_names_per_minute: 60, ttl_floor_seconds: 30 }
    }
}

/// A resolver's address, with its port if that is another than 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Resolver {
    /// With a port.
    At(SocketAddr),
    /// At port 53.
    Usual(IpAddr),
}

impl Resolver {
    const fn at(self) -> SocketAddr {
        match self {
            Self::At(at) => at,
            Self::Usual(ip) => SocketAddr::new(ip, DNS_PORT),
        }
    }
}

impl Names {
    /// Who is asked.
    #[must_use]
    pub fn resolvers(&self) -> Vec<SocketAddr> {
        match &self.resolvers {
            Some(named) => named.iter().map(|resolver| resolver.at()).collect(),
            None => of_host(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
        }
    }

    /// What the guard is told.
    #[must_use]
    pub fn for_guard(&self) -> control::channel::Names {
        control::channel::Names {
            resolvers: self.resolvers(),
            per_second: self.per_second,
            new_names_per_minute: self.new_names_per_minute,
            ttl_floor_seconds: self.ttl_floor_seconds.max(1),
        }
    }
}

/// The host's resolvers (resolv.conf(5)).
fn of_host(text: &str) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok());
    named.map(|ip| SocketAddr::new(ip, DNS_PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_resolvers_are_those_of_resolv_conf() {
        let text = "search example\nnameserver 203.0.113.53\n nameserver 2001:db8::53 \nnameserver nonsense\n";
        let found: Vec<String> = of_host(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["203.0.113.53:53", "[2001:db8::53]:53"]);
    }

    #[test]
    fn a_resolver_may_be_named_with_or_without_its_port() {
        let names: Names = toml::from_str("resolvers = [\"203.0.113.53\", \"[2001:db8::1]:5353\"]").unwrap();
        assert_eq!(names.resolvers(), ["203.0.113.53:53".parse().unwrap(), "[2001:db8::1]:5353".parse().unwrap()]);
    }
}
