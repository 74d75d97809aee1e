//! rustls, whose client is asked for its first bytes.

use std::sync::Arc;

use rustls::{
    ClientConfig, ClientConnection, Error, NamedGroup, RootCertStore,
    crypto::{ActiveKeyExchange, SharedSecret, SupportedKxGroup, ring},
    version::{TLS12, TLS13},
};

use crate::ear::{Random, Tally};

/// A share as long as that of a group which withstands quantum computers, and no more than that: ring has no such group.
#[derive(Debug)]
struct Long;

/// Bytes of a share of `X25519MLKEM768`.
const SHARE: usize = 1216;

impl SupportedKxGroup for Long {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Share([0x5a; SHARE])))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

struct Share([u8; SHARE]);

impl ActiveKeyExchange for Share {
    fn complete(self: Box<Self>, _: &[u8]) -> Result<SharedSecret, Error> {
        Err(Error::General("nobody answers".to_owned()))
    }

    fn pub_key(&self) -> &[u8] {
        &self.0
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

fn client(random: &mut Random, name: Option<&str>) -> ClientConnection {
    let mut provider = ring::default_provider();
    // One for each version stays.
    let mut versions = Vec::new();
    provider.cipher_suites.retain(|suite| {
        let first = !versions.contains(&suite.version().version);
        versions.push(suite.version().version);
        first || random.below(2) == 0
    });
    provider.kx_groups = random.some(&provider.kx_groups);
    if random.below(3) == 0 {
        provider.kx_groups.insert(0, &Long);
    }
    let versions = random.some(&[&TLS12, &TLS13]);
    let config = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&versions).unwrap();
    let mut config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.enable_sni = name.is_some();
    if random.below(2) == 0 {
        config.alpn_protocols = random.protocols().split(',').map(|name| name.as_bytes().to_vec()).collect();
    }
    let host = name.unwrap_or("crm.example").to_owned();
    ClientConnection::new(Arc::new(config), host.try_into().unwrap()).unwrap()
}

#[test]
fn hellos_of_rustls_are_read_with_their_names() {
    let (mut random, mut tally) = (Random::new(), Tally::default());
    for _ in 0..300 {
        let name = random.name();
        let mut hello = Vec::new();
        client(&mut random, name.as_deref()).write_tls(&mut hello).unwrap();
        tally.check(&hello, name.as_deref(), "rustls");
    }
    tally.is(300);
    assert!(tally.longer_than_a_segment > 20);
}
