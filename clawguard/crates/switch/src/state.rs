//! What is killed, for whom, by whom and why.

use std::{fmt, str::FromStr};

use clawguard_common::{Groups, group};
use fence::{AgentName, JobId, Numbering};
use policy::Group;
use serde::{Deserialize, Serialize};

/// Whose switch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Whose {
    /// Everybody's on this host.
    Host,
    /// One agent's.
    Agent(AgentName),
    /// One job's.
    Job(JobId),
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Agent(name) => write!(f, "agent {name}"),
            Self::Job(id) => write!(f, "job {id}"),
        }
    }
}

/// Who flipped a switch, as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The way it came: `control` or `on_bypass`.
    pub channel: String,
    /// The user; `None` for the daemon itself.
    pub uid: Option<u32>,
    /// The process.
    pub pid: Option<i32>,
    /// What it ran.
    pub executable: Option<String>,
    /// Its cgroup.
    pub cgroup: Option<String>,
}

/// A named state between full operation and none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// What the contracts allow.
    #[default]
    Normal,
    /// Without `class:write` and `class:irreversible`.
    ReadOnly,
    /// Without `mcp:*` and whatever is neither `channel` nor `model`.
    ToolsOff,
    /// Without anything.
    Lockdown,
}

impl Mode {
    /// The groups that the mode kills for the whole host.
    #[must_use]
    pub fn groups(self) -> Groups {
        let mut groups = Groups::default();
        match self {
            Self::Normal => {}
            Self::ReadOnly => {
                groups.insert(group::CLASS_WRITE);
                groups.insert(group::CLASS_IRREVERSIBLE);
            }
            Self::ToolsOff => groups.insert(group::TOOLS),
            Self::Lockdown => groups.insert(group::ALL),
        }
        groups
    }

    /// A group that tells whether the mode holds: it is killed while it does.
    #[must_use]
    pub fn telling_group(self) -> Option<Group> {
        match self {
            Self::Normal => None,
            Self::ReadOnly => Some(Group::class(policy::group::Class::Write)),
            Self::ToolsOff => Some(Group::tools()),
            Self::Lockdown => Some(Group::all()),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "normal",
            Self::ReadOnly => "read-only",
            Self::ToolsOff => "tools-off",
            Self::Lockdown => "lockdown",
        })
    }
}

/// A text that names no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no mode: normal, read-only, tools-off or lockdown is expected")]
pub struct NoMode(String);

impl FromStr for Mode {
    type Err = NoMode;

    fn from_str(text: &str) -> Result<Self, NoMode> {
        match text {
            "normal" => Ok(Self::Normal),
            "read-only" => Ok(Self::ReadOnly),
            "tools-off" => Ok(Self::ToolsOff),
            "lockdown" => Ok(Self::Lockdown),
            other => Err(NoMode(other.chars().take(40).collect())),
        }
    }
}

/// A group that is killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// Which group.
    pub group: Group,
    /// For whom.
    pub whose: Whose,
    /// Why.
    pub reason: String,
    /// By whom.
    pub actor: Actor,
    /// When (RFC 3339).
    pub at: String,
    /// The flip's id, as in the audit chain.
    pub flip_id: String,
}

/// A change of the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Takes a group away.
    Kill(Kill),
    /// Gives it back.
    Restore {
        /// Which group.
        group: Group,
        /// To whom.
        whose: Whose,
    },
    /// Takes another mode.
    Mode(Mode),
}

/// The whole switch. On disk before it is in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The mode in force.
    #[serde(default)]
    pub mode: Mode,
    /// What is killed.
    #[serde(default)]
    pub kills: Vec<Kill>,
}

impl State {
    /// Whether a group is killed by name (not by a mode).
    #[must_use]
    pub fn killed(&self, group: &Group, whose: &Whose) -> Option<&Kill> {
        self.kills.iter().find(|kill| kill.group == *group && kill.whose == *whose)
    }

    /// The state after a change. Killing what is killed, or restoring what is not, changes nothing.
    #[must_use]
    pub fn after(&self, change: &Change) -> Self {
        let mut next = self.clone();
        match change {
            Change::Kill(kill) => {
                if next.killed(&kill.group, &kill.whose).is_none() {
                    next.kills.push(kill.clone());
                }
            }
            Change::Restore { group, whose } => {
                next.kills.retain(|kill| kill.group != *group || kill.whose != *whose);
            }
            Change::Mode(mode) => next.mode = *mode,
        }
        next
    }

    /// The groups that are killed for somebody, by the kernel's numbers.
    #[must_use]
    pub fn groups(&self, whose: &Whose, numbering: &dyn Numbering) -> Groups {
        let mut groups = if *whose == Whose::Host { self.mode.groups() } else { Groups::default() };
        for kill in self.kills.iter().filter(|kill| kill.whose == *whose) {
            if let Some(number) = numbering.number(&kill.group) {
                groups.insert(number);
            }
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Numbers;

    fn kill(group: &str, whose: Whose) -> Kill {
        let actor = Actor { channel: "control".into(), uid: Some(0), pid: None, executable: None, cgroup: None };
        let group = group.parse().unwrap();
        Kill { group, whose, reason: "test".into(), actor, at: String::new(), flip_id: String::new() }
    }

    #[test]
    fn a_kill_concerns_only_those_it_names() {
        let agent = Whose::Agent("a".parse().unwrap());
        let state = State::default().after(&Change::Kill(kill("model", agent.clone())));
        let numbers = Numbers::default();
        assert!(state.groups(&agent, &numbers).contains(group::MODEL));
        assert_eq!(state.groups(&Whose::Host, &numbers), Groups::default());
        assert_eq!(state.groups(&Whose::Agent("b".parse().unwrap()), &numbers), Groups::default());
    }

    #[test]
    fn killing_twice_is_killing_once_and_restoring_undoes_it() {
        let once = State::default().after(&Change::Kill(kill("model", Whose::Host)));
        assert_eq!(once.after(&Change::Kill(kill("model", Whose::Host))), once);
        let restore = Change::Restore { group: "model".parse().unwrap(), whose: Whose::Host };
        assert_eq!(once.after(&restore), State::default());
        assert_eq!(State::default().after(&restore), State::default());
    }

    #[test]
    fn modes_leave_chat_alone_until_lockdown() {
        for mode in [Mode::Normal, Mode::ReadOnly, Mode::ToolsOff] {
            assert!(!mode.groups().contains(group::CHANNEL) && !mode.groups().contains(group::ALL), "{mode}");
        }
        assert!(Mode::Lockdown.groups().contains(group::ALL));
        for mode in [Mode::Normal, Mode::ReadOnly, Mode::ToolsOff, Mode::Lockdown] {
            assert_eq!(mode.to_string().parse::<Mode>().unwrap(), mode);
        }
    }

    #[test]
    fn the_state_survives_its_file() {
        let state = State::default()
            .after(&Change::Kill(kill("crm", Whose::Job("j".parse().unwrap()))))
            .after(&Change::Mode(Mode::ToolsOff));
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        assert!(serde_json::from_str::<State>(r#"{"mode":"normal","kils":[]}"#).is_err());
    }
}
