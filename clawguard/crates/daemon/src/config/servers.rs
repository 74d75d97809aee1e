//! What the gateway is told of `[[mcp.server]]`, with the secrets that only names stand for in the configuration.

use std::{collections::BTreeMap, env, fs, path::Path};

use control::calls::{ServerRules, Upstream};
use policy::{net, tool::NamePattern};

use super::{Config, Server, Text};

/// Headers that HTTP itself, MCP or the gateway sets.
const NOT_A_HOSTS: [&str; 14] = [
    "accept",
    "connection",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// The value that the configuration names: `file:PATH`, `credential:NAME` (of systemd), or the value itself.
///
/// # Errors
///
/// If it cannot be read, or has control characters in it. Never says what it is.
pub fn secret(named: &str) -> Result<String, String> {
    let read = |path: &Path| {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok::<_, String>(text.trim_end_matches(['\r', '\n']).to_owned())
    };
    let value = if let Some(path) = named.strip_prefix("file:") {
        read(Path::new(path))?
    } else if let Some(name) = named.strip_prefix("credential:") {
        if name.is_empty() || name.contains('/') || name == ".." {
            return Err(format!("\"{name}\" is no credential's name"));
        }
        let directory = env::var_os("CREDENTIALS_DIRECTORY")
            .ok_or("systemd gave no credentials: LoadCredential= of the daemon's unit names them")?;
        read(&Path::new(&directory).join(name))?
    } else {
        named.to_owned()
    };
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err("the value has control characters in it".into());
    }
    Ok(value)
}

/// The values of a table of them, by name.
///
/// # Errors
///
/// As [`secret`], with the name of the first that fails.
pub fn secrets(named: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    named
        .iter()
        .map(|(name, value)| Ok((name.clone(), secret(value).map_err(|why| format!("{name}: {why}"))?)))
        .collect()
}

impl Server {
    /// What the gateway is told of it, with the secrets read.
    ///
    /// # Errors
    ///
    /// If a secret or certificate cannot be had. The server is then not to be reached at all.
    pub fn rules(&self, config: &Config) -> Result<ServerRules, String> {
        let patterns = |texts: &[Text<NamePattern>]| texts.iter().map(|text| text.0.to_string()).collect();
        Ok(ServerRules {
            name: self.name.clone(),
            upstream: self.upstream(config)?,
            risk: self.risk.to_string(),
            read: patterns(&self.tools.read),
            write: patterns(&self.tools.write),
            irreversible: patterns(&self.tools.irreversible),
            pins: 0,
        })
    }

    fn upstream(&self, config: &Config) -> Result<Upstream, String> {
        let Some(url) = &self.url else { return Ok(Upstream::Stdio) };
        let headers = secrets(&self.headers)?;
        for name in headers.keys() {
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if name.is_empty() || !name.bytes().all(token) {
                return Err(format!("\"{name}\" is no header's name"));
            }
            if NOT_A_HOSTS.contains(&name.to_ascii_lowercase().as_str()) {
                return Err(format!("the header {name} is the gateway's own to set"));
            }
        }
        let addresses = config.facts().places(&self.fact()).map(|(addr, _)| net::ip(addr)).collect();
        let ca = self
            .ca
            .as_deref()
            .map(|path| fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display())));
        Ok(Upstream::Http { url: url.clone(), addresses, ca: ca.transpose()?, headers, sse: self.sse })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(server: &str) -> Config {
        let text = format!("[hosts]\n\"crm.example\" = [\"203.0.113.10\"]\n[[mcp.server]]\nname = \"crm\"\n{server}");
        toml::from_str(&text).unwrap()
    }

    fn rules(server: &str) -> Result<ServerRules, String> {
        let config = config(server);
        config.mcp.server[0].rules(&config)
    }

    #[test]
    fn a_servers_secrets_are_read_and_its_addresses_are_the_hosts() {
        let file = env::temp_dir().join(format!("clawguard-secret-{}", std::process::id()));
        fs::write(&file, "Bearer s3cret\n").unwrap();
        let told = rules(&format!(
            "url = \"https://crm.example/mcp\"\nheaders = {{ Authorization = \"file:{}\", X-Plain = \"v\" }}",
            file.display()
        ));
        fs::remove_file(&file).unwrap();
        let Upstream::Http { addresses, headers, .. } = told.unwrap().upstream else { panic!("not HTTP") };
        assert_eq!(addresses, ["203.0.113.10".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(headers["Authorization"], "Bearer s3cret");
        assert_eq!(headers["X-Plain"], "v");
    }

    #[test]
    fn a_server_whose_secrets_cannot_be_had_is_none() {
        for (header, why) in [
            ("Authorization = \"file:/nowhere/secret\"", "Authorization: /nowhere/secret"),
            ("Authorization = \"credential:../x\"", "no credential's name"),
            ("X = \"a\\nb\"", "control characters"),
            ("\"a b\" = \"x\"", "no header's name"),
            ("Host = \"x\"", "the gateway's own"),
            ("MCP-Session-Id = \"x\"", "the gateway's own"),
        ] {
            let error = rules(&format!("url = \"https://crm.example/\"\nheaders = {{ {header} }}")).unwrap_err();
            assert!(error.contains(why), "{header}: {error}");
        }
        let error = rules("url = \"https://crm.example/\"\nca = \"/nowhere/ca.pem\"").unwrap_err();
        assert!(error.contains("/nowhere/ca.pem"), "{error}");
        assert_eq!(rules("command = [\"x\"]").unwrap().upstream, Upstream::Stdio);
    }
}
