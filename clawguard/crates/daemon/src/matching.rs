//! `[[agent]] match`: what already runs is found and fenced in place.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fence::{AgentName, JobId};
use serde_json::json;
use sys::cgroup;

use crate::{
    config::Match,
    core::Core,
    jobs::{NewJob, Origin},
};

impl Core {
    /// Fences what the configured matches stand for now and that is not fenced yet.
    pub(crate) fn match_agents(&mut self) {
        let wanted: Vec<(AgentName, Match)> =
            self.agents.iter().filter_map(|(name, agent)| Some((name.clone(), agent.matches.clone()?))).collect();
        for (agent, matches) in wanted {
            let known =
                |job: &&crate::jobs::Job| job.agent == agent && matches!(job.origin, Origin::Match | Origin::Unit);
            let fenced: Vec<u64> = self.jobs.values().filter(known).map(|job| job.enrolled.cgroup).collect();
            let Some(directory) = find(&self.fence.places().cgroup_root, &matches) else { continue };
            // A unit that was started again has another cgroup under the same name.
            if cgroup::id(&directory).is_ok_and(|id| fenced.contains(&id)) {
                continue;
            }
            self.fence_in_place(&agent, &matches, directory);
        }
    }

    fn fence_in_place(&mut self, agent: &AgentName, matches: &Match, directory: PathBuf) {
        let Ok(id) = crate::unique(agent.as_str()).parse::<JobId>() else { return };
        let actor = json!({ "match": matches.to_string() });
        let new = NewJob {
            id: id.clone(),
            agent: agent.clone(),
            wpc: None,
            directory,
            origin: Origin::Match,
            token: None,
            actor,
        };
        match self.make_job(new) {
            Ok(ticket) => {
                if let Err(error) = ticket.wait() {
                    tracing::error!(%error, "the record of a match is not on disk");
                }
                if let Some(entry) = self.agents.get_mut(agent) {
                    entry.problem = None;
                }
                tracing::info!(%agent, job = %id, %matches, "fenced in place");
            }
            Err(error) => {
                if let Some(entry) = self.agents.get_mut(agent)
                    && entry.problem.as_deref() != Some(&error.message)
                {
                    tracing::error!(%agent, %matches, message = error.message, "cannot be fenced in place");
                    entry.problem = Some(error.message);
                }
            }
        }
    }
}

/// The cgroup that a match stands for, if it is there.
fn find(root: &Path, matches: &Match) -> Option<PathBuf> {
    let directory = match matches {
        Match::Cgroup(path) => root.join(path.trim_start_matches('/')),
        Match::Unit(unit) => return find_unit(root, unit),
        Match::User(user) => {
            let uid = user
                .parse::<u32>()
                .ok()
                .or_else(|| nix::unistd::User::from_name(user).ok().flatten().map(|user| user.uid.as_raw()))?;
            root.join(format!("user.slice/user-{uid}.slice"))
        }
    };
    directory.is_dir().then_some(directory)
}

/// A system unit's cgroup: below `system.slice`, or below whatever slice it was given.
fn find_unit(root: &Path, unit: &str) -> Option<PathBuf> {
    let usual = root.join("system.slice").join(unit);
    if usual.is_dir() {
        return Some(usual);
    }
    let mut slices = vec![root.to_owned()];
    while let Some(slice) = slices.pop() {
        for entry in fs::read_dir(slice).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name == unit && entry.path().is_dir() {
                return Some(entry.path());
            }
            // Users' own units are not what a system administrator named.
            if name.ends_with(".slice") && name != "user.slice" {
                slices.push(entry.path());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_found_in_whatever_slice_but_not_among_users() {
        let root = std::env::temp_dir().join(format!("clawguard-match-{}", std::process::id()));
        fs::create_dir_all(root.join("user.slice/user-1000.slice/a.service")).unwrap();
        assert_eq!(find_unit(&root, "a.service"), None);
        fs::create_dir_all(root.join("custom.slice/custom-deep.slice/a.service")).unwrap();
        assert_eq!(find_unit(&root, "a.service"), Some(root.join("custom.slice/custom-deep.slice/a.service")));
        fs::create_dir_all(root.join("system.slice/a.service")).unwrap();
        assert_eq!(find_unit(&root, "a.service"), Some(root.join("system.slice/a.service")));
        assert_eq!(find(&root, &Match::User("1000".into())), Some(root.join("user.slice/user-1000.slice")));
        assert_eq!(find(&root, &Match::Cgroup("/gone".into())), None);
        fs::remove_dir_all(root).unwrap();
    }
}
