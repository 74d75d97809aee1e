//! ClientHellos made by hand: well-formed ones, and ones that no library would send (RFC 8446 section 4.1.2).

const SERVER_NAME: u16 = 0;
const SUPPORTED_GROUPS: u16 = 10;
const SIGNATURES: u16 = 13;
const PADDING: u16 = 21;
const EARLY_DATA: u16 = 42;
const VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;
const ECH: u16 = 0xfe0d;

/// What a ClientHello is made of.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    /// Of the record.
    version: u16,
    /// One list of types and names for each `server_name` extension.
    names: Vec<Vec<(u8, Vec<u8>)>>,
    /// What else stands there.
    more: Vec<(u16, Vec<u8>)>,
}

fn counted(size: usize, bytes: &[u8]) -> Vec<u8> {
    let mut all = bytes.len().to_be_bytes()[8 - size..].to_vec();
    all.extend_from_slice(bytes);
    all
}

impl Hello {
    /// One without a name.
    pub(crate) const fn nameless() -> Self {
        Self { version: 0x0301, names: Vec::new(), more: Vec::new() }
    }

    /// What a client sends to a host of this name.
    pub(crate) fn to(name: impl AsRef<[u8]>) -> Self {
        Self::nameless().list(&[name.as_ref()])
    }

    /// One more list of names.
    pub(crate) fn list(self, names: &[&[u8]]) -> Self {
        self.typed(names.iter().map(|name| (0, name.to_vec())).collect())
    }

    /// The same, of names of given types.
    pub(crate) fn typed(mut self, names: Vec<(u8, Vec<u8>)>) -> Self {
        self.names.push(names);
        self
    }

    /// The version that the record says it has.
    pub(crate) const fn record_version(mut self, version: u16) -> Self {
        self.version = version;
        self
    }

    /// One more extension.
    fn extension(mut self, kind: u16, data: Vec<u8>) -> Self {
        self.more.push((kind, data));
        self
    }

    /// Bytes at its end that mean nothing.
    pub(crate) fn padded(self, with: &[u8]) -> Self {
        self.extension(PADDING, with.to_vec())
    }

    /// Makes it as long as those with a post-quantum key share: X25519MLKEM768 has 1216 bytes.
    pub(crate) fn post_quantum(self) -> Self {
        let mut share = vec![0x11, 0xec];
        share.extend(counted(2, &[0x5a; 1216]));
        self.extension(KEY_SHARE, counted(2, &share)).padded(&[0; 256])
    }

    /// Announces data that come before the server's answer.
    pub(crate) fn early_data(self) -> Self {
        self.extension(EARLY_DATA, Vec::new())
    }

    /// With an encrypted ClientHello that holds this (draft-ietf-tls-esni: outer, suite, config, key, payload).
    pub(crate) fn ech(self, payload: &[u8]) -> Self {
        let mut data = vec![0, 0, 1, 0, 1, 7];
        data.extend(counted(2, &[0x33; 32]));
        data.extend(counted(2, payload));
        self.extension(ECH, data)
    }

    /// The handshake message.
    pub(crate) fn message(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        let mut put = |kind: u16, data: &[u8]| {
            extensions.extend_from_slice(&kind.to_be_bytes());
            extensions.extend(counted(2, data));
        };
        for names in &self.names {
            let list: Vec<u8> =
                names.iter().flat_map(|(kind, name)| std::iter::once(*kind).chain(counted(2, name))).collect();
            put(SERVER_NAME, &counted(2, &list));
        }
        put(SUPPORTED_GROUPS, &counted(2, &[0, 29, 0, 23]));
        put(SIGNATURES, &counted(2, &[4, 3, 8, 4, 8, 7]));
        put(VERSIONS, &counted(1, &[3, 4, 3, 3]));
        if self.more.iter().all(|(kind, _)| *kind != KEY_SHARE) {
            let mut share = vec![0, 29];
            share.extend(counted(2, &[9; 32]));
            put(KEY_SHARE, &counted(2, &share));
        }
        for (kind, data) in &self.more {
            put(*kind, data);
        }
        let mut body = vec![3, 3];
        body.extend_from_slice(&[0x77; 32]);
        body.extend(counted(1, &[0x66; 32]));
        // TLS_AES_128_GCM_SHA256 and TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, without compression.
        body.extend(counted(2, &[0x13, 0x01, 0xc0, 0x2b]));
        body.extend(counted(1, &[0]));
        body.extend(counted(2, &extensions));
        let mut message = vec![1];
        message.extend(counted(3, &body));
        message
    }

    /// The message in one record.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        record(self.version, &self.message())
    }

    /// The message in records of so many bytes.
    pub(crate) fn in_records(&self, size: usize) -> Vec<u8> {
        self.message().chunks(size).flat_map(|part| record(self.version, part)).collect()
    }
}

fn record(version: u16, data: &[u8]) -> Vec<u8> {
    let mut all = vec![22];
    all.extend_from_slice(&version.to_be_bytes());
    all.extend(counted(2, data));
    all
}
