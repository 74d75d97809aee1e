//! The typed channel between the daemon and the unprivileged gateway: one JSON value a line, each way.

use serde::{Deserialize, Serialize};

/// What the gateway may ask. It can neither change nor learn anything that is not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// The metrics, as Prometheus text.
    Metrics,
    /// Where to listen.
    Settings,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Told {
    /// The metrics, as Prometheus text.
    Metrics(String),
    /// Where to listen.
    Settings {
        /// `[metrics] listen`
        metrics: std::net::SocketAddr,
    },
}

/// The longest line either side takes.
pub const LONGEST: usize = 4 << 20;
