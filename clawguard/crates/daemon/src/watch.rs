//! Hears when a cgroup becomes empty (`cgroup.events`, by inotify).

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use fence::JobId;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// Watches jobs' cgroups.
pub(crate) struct Watch {
    inotify: Inotify,
    jobs: HashMap<WatchDescriptor, JobId>,
}

impl Watch {
    pub(crate) fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self { inotify, jobs: HashMap::new() })
    }

    /// Watches a job's cgroup from here on.
    pub(crate) fn add(&mut self, job: &JobId, directory: &Path) -> io::Result<()> {
        let watch = self.inotify.add_watch(&directory.join("cgroup.events"), AddWatchFlags::IN_MODIFY)?;
        self.jobs.insert(watch, job.clone());
        Ok(())
    }

    /// Stops watching it.
    pub(crate) fn remove(&mut self, job: &JobId) {
        let found = self.jobs.iter().find(|(_, id)| *id == job).map(|(watch, _)| *watch);
        if let Some(watch) = found {
            self.jobs.remove(&watch);
            // The kernel takes the watch away itself when the file goes.
            let _ = self.inotify.rm_watch(watch);
        }
    }

    /// The jobs whose cgroups changed.
    pub(crate) fn changed(&self) -> Vec<JobId> {
        let mut found = Vec::new();
        while let Ok(events) = self.inotify.read_events() {
            found.extend(events.iter().filter_map(|event| self.jobs.get(&event.wd).cloned()));
        }
        found
    }
}

/// Readable when there is news.
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
