//! Where an instance keeps its pins and its cgroups.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use clawguard_common::ABI;
use serde::{Deserialize, Serialize};

/// Where the bpf file system belongs (what systemd mounts there).
pub const BPFFS: &str = "/sys/fs/bpf";

/// The name of one of several instances on a host; the default one has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance(Option<String>);

impl Instance {
    /// The instance whose files lie under a directory. Its name follows from the directory's.
    #[must_use]
    pub fn under(root: &Path) -> Self {
        Self(Some(
            claw::Hash::of(root.as_os_str().as_encoded_bytes()).0[..5].iter().map(|b| format!("{b:02x}")).collect(),
        ))
    }

    /// `clawguard`, or `clawguard_` and the instance's name.
    #[must_use]
    pub fn prefix(&self) -> String {
        match &self.0 {
            None => "clawguard".into(),
            Some(name) => format!("clawguard_{name}"),
        }
    }
}

/// The paths of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The mount point of the cgroup v2 hierarchy.
    pub cgroup_root: PathBuf,
    /// The slice that all agents lie below; the packet hooks are attached here.
    pub agents: PathBuf,
    /// The instance's directory on the bpffs, over all ABIs.
    pub pins: PathBuf,
    prefix: String,
}

impl Places {
    /// The paths of an instance on this host.
    ///
    /// # Errors
    ///
    /// If no cgroup v2 hierarchy is mounted.
    pub fn of(instance: &Instance) -> std::io::Result<Self> {
        let cgroup_root = sys::cgroup::mount_point()?;
        let prefix = instance.prefix();
        let agents = cgroup_root.join(format!("{prefix}.slice/{prefix}-agents.slice"));
        Ok(Self { cgroup_root, agents, pins: Path::new(BPFFS).join(&prefix), prefix })
    }

    /// The directory of this ABI's pins.
    #[must_use]
    pub fn abi(&self) -> PathBuf {
        self.pins.join(format!("v{ABI}"))
    }

    /// The directories of other ABIs' pins: what a build before or after this one left in force.
    #[must_use]
    pub fn other_abis(&self) -> Vec<PathBuf> {
        let own = self.abi();
        let all = std::fs::read_dir(&self.pins).into_iter().flatten().flatten().map(|entry| entry.path());
        all.filter(|path| *path != own).collect()
    }

    /// The slice of one agent. Its name nests as systemd's do, so that a unit can be put into it.
    #[must_use]
    pub fn agent_slice_name(&self, agent: &AgentName) -> String {
        // systemd.unit(5): a dash in a slice's name is a level.
        format!("{}-agents-{}.slice", self.prefix, agent.as_str().replace('-', "\\x2d"))
    }

    /// The directory of one agent's slice.
    #[must_use]
    pub fn agent(&self, agent: &AgentName) -> PathBuf {
        self.agents.join(self.agent_slice_name(agent))
    }

    /// The directory of one job.
    #[must_use]
    pub fn job(&self, agent: &AgentName, job: &JobId) -> PathBuf {
        self.agent(agent).join(format!("{job}.job"))
    }

    /// The directory of a cgroup whose path below the root is known.
    #[must_use]
    pub fn cgroup(&self, path: &str) -> PathBuf {
        self.cgroup_root.join(path.trim_start_matches('/'))
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $most:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NotAName;

            fn from_str(text: &str) -> Result<Self, NotAName> {
                let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
                let plain = !text.is_empty() && text.len() <= $most && text.bytes().all(fit) && !text.starts_with('-');
                if plain {
                    Ok(Self(text.into()))
                } else {
                    Err(NotAName { what: $what, most: $most, text: text.chars().take(80).collect() })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NotAName;

            fn try_from(text: String) -> Result<Self, NotAName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of an agent.
    AgentName, "agent", 48
}
name! {
    /// The id of a job.
    JobId, "job", 64
}

/// A text that cannot name an agent or a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" cannot name {what}: 1 to {most} letters, digits, \"-\" and \"_\", not starting with \"-\", are expected", what = match *.what { "agent" => "an agent", _ => "a job" })]
pub struct NotAName {
    what: &'static str,
    most: usize,
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_do_not_share_pins_or_cgroups() {
        let one = Instance::under(Path::new("/tmp/a")).prefix();
        let two = Instance::under(Path::new("/tmp/b")).prefix();
        assert_ne!(one, two);
        assert_eq!(Instance::default().prefix(), "clawguard");
        // The kernel's bpffs takes no dots, systemd's slices no dashes that mean no level.
        assert!(one.strip_prefix("clawguard_").unwrap().bytes().all(|b| b.is_ascii_hexdigit()));
    }

    #[test]
    fn names_stay_inside_their_directory() {
        for wrong in ["", ".", "..", "a/b", "a.b", "-a", "a b", "é", &"a".repeat(65)] {
            assert!(wrong.parse::<JobId>().is_err(), "{wrong:?}");
        }
        assert_eq!(
            "..".parse::<AgentName>().unwrap_err().to_string(),
            "\"..\" cannot name an agent: 1 to 48 letters, digits, \"-\" and \"_\", not starting with \"-\", are expected"
        );
        assert!("Job_7-a".parse::<JobId>().is_ok());
    }
}
