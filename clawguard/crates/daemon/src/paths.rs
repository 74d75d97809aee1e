//! Where an instance keeps its files.

use std::path::{Path, PathBuf};

use fence::Instance;

/// The files of an instance. With a root, all of them lie under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
    instance: Instance,
}

impl Paths {
    /// The host's own instance, or the one under a directory.
    ///
    /// # Errors
    ///
    /// If the directory does not exist.
    pub fn new(root: Option<&Path>) -> std::io::Result<Self> {
        match root {
            None => Ok(Self { root: PathBuf::from("/"), instance: Instance::default() }),
            Some(root) => {
                let root = root.canonicalize()?;
                let instance = if root == Path::new("/") { Instance::default() } else { Instance::under(&root) };
                Ok(Self { root, instance })
            }
        }
    }

    /// Which instance it is, for pins and cgroups.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("etc/clawguard/clawguard.toml")
    }

    /// Contracts that an operator puts in place, by hash.
    #[must_use]
    pub fn offered_contracts(&self) -> PathBuf {
        self.root.join("etc/clawguard/wpc")
    }

    /// What lasts until the next boot.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.root.join("run/clawguard")
    }

    /// The control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.run().join("control.sock")
    }

    /// The gateway's channel.
    #[must_use]
    pub fn gateway_socket(&self) -> PathBuf {
        self.run().join("gateway.sock")
    }

    /// The jobs, for a daemon that starts anew.
    #[must_use]
    pub fn jobs(&self) -> PathBuf {
        self.run().join("jobs.json")
    }

    /// What a job may read of its denials.
    #[must_use]
    pub fn denials(&self, job: &fence::JobId) -> PathBuf {
        self.run().join("jobs").join(job.as_str()).join("denials.jsonl")
    }

    /// What lasts.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.root.join("var/lib/clawguard")
    }

    /// The switch.
    #[must_use]
    pub fn switch(&self) -> PathBuf {
        self.state().join("switch.json")
    }

    /// What was accepted: agents, contracts in force, sequences, numbers.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.state().join("ledger.json")
    }

    /// The contracts that were accepted, by hash.
    #[must_use]
    pub fn contracts(&self) -> PathBuf {
        self.state().join("contracts")
    }

    /// The audit chain.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.state().join("audit")
    }

    /// What agents in observe mode were seen to do, by agent.
    #[must_use]
    pub fn observed(&self) -> PathBuf {
        self.state().join("observed")
    }

    /// The calls that wait for a person, a file each.
    #[must_use]
    pub fn approvals(&self) -> PathBuf {
        self.state().join("approvals")
    }

    /// What was accepted of MCP servers' definitions, a file a server.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.state().join("pins")
    }

    /// The host's own key.
    #[must_use]
    pub fn host_key(&self) -> PathBuf {
        self.state().join("keys/host.jwk")
    }

    /// The key that signs the receipts of model calls.
    #[must_use]
    pub fn receipt_key(&self) -> PathBuf {
        self.state().join("keys/receipts.jwk")
    }

    /// The key that signs what this host saw of jobs.
    #[must_use]
    pub fn sentinel_key(&self) -> PathBuf {
        self.state().join("keys/sentinel.jwk")
    }

    /// The key that this host minted for a job's agent.
    #[must_use]
    pub fn job_key(&self, job: &fence::JobId) -> PathBuf {
        self.state().join("keys/jobs").join(format!("{job}.jwk"))
    }

    /// Room on the disk that is given up when there is no other, so that a kill can still be written down.
    #[must_use]
    pub fn reserve(&self) -> PathBuf {
        self.state().join("reserve")
    }
}
