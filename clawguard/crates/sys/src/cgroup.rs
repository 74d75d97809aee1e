//! The cgroup v2 tree: where it is, its ids, who is in it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The mount point of the cgroup v2 hierarchy, found in `/proc/self/mountinfo`: `/sys/fs/cgroup` on most hosts, but
/// `/sys/fs/cgroup/unified` where v1 is mounted beside it.
///
/// # Errors
///
/// If there is none.
pub fn mount_point() -> io::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    mounts_of(&text, &["cgroup2"])
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup v2 hierarchy is mounted on this host"))
}

/// Mount points of the given file system types, in the text of a mountinfo file (proc_pid_mountinfo(5)).
pub fn mounts_of<'a>(mountinfo: &'a str, types: &'a [&'a str]) -> impl Iterator<Item = PathBuf> + 'a {
    mountinfo.lines().filter_map(move |line| {
        let (before, after) = line.split_once(" - ")?;
        let kind = after.split(' ').next()?;
        types.contains(&kind).then(|| PathBuf::from(unescape(before.split(' ').nth(4).unwrap_or("/"))))
    })
}

/// Undoes mountinfo's octal escapes.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// The id of a cgroup, as `bpf_get_current_cgroup_id` has it: its directory's inode number.
///
/// # Errors
///
/// If the directory cannot be read.
pub fn id(directory: &Path) -> io::Result<u64> {
    Ok(fs::metadata(directory)?.ino())
}

/// The cgroup v2 path of a process, relative to the mount point and starting with `/`.
///
/// # Errors
///
/// If the process is gone.
pub fn of_process(pid: i32) -> io::Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(|path| path.trim_end_matches(" (deleted)").to_owned())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("process {pid} is in no cgroup v2 hierarchy")))
}

/// How many levels a cgroup lies below the root: 0 for the root itself.
///
/// # Errors
///
/// If the directory does not lie below the mount point.
pub fn level(mount_point: &Path, directory: &Path) -> io::Result<u32> {
    let below = directory
        .strip_prefix(mount_point)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no cgroup", directory.display())))?;
    Ok(below.components().count() as u32)
}

/// The processes in a cgroup and all below it.
///
/// # Errors
///
/// If the tree cannot be read. A child that vanishes meanwhile is no error.
pub fn processes(directory: &Path) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for directory in tree(directory)? {
        match fs::read_to_string(directory.join("cgroup.procs")) {
            Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
            Err(error) if gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// A cgroup and all below it, parents first.
///
/// # Errors
///
/// If the directory cannot be read.
pub fn tree(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![directory.to_owned()];
    let mut next = 0;
    while let Some(directory) = found.get(next).cloned() {
        next += 1;
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if next > 1 && gone(&error) => continue,
            Err(error) => return Err(error),
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Whether any process is in the cgroup or below it (`populated` of `cgroup.events`). Gone is empty.
///
/// # Errors
///
/// If `cgroup.events` cannot be read.
pub fn populated(directory: &Path) -> io::Result<bool> {
    match fs::read_to_string(directory.join("cgroup.events")) {
        Ok(text) => Ok(text.lines().any(|line| line == "populated 1")),
        Err(error) if gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Bounds what all processes of a cgroup may take together: bytes of memory, and processes and threads. Answers which of the two
/// holds: a controller that this hierarchy does not have, or whoever manages it keeps to itself, bounds nothing.
#[must_use]
pub fn limit(root: &Path, directory: &Path, memory: u64, processes: u64) -> (bool, bool) {
    let mut above: Vec<&Path> = directory.ancestors().skip(1).take_while(|above| above.starts_with(root)).collect();
    above.reverse();
    for controller in ["+memory", "+pids"] {
        for place in &above {
            // Where it cannot be had, the bounds below cannot be written.
            let _ = fs::write(place.join("cgroup.subtree_control"), controller);
        }
    }
    let memory = fs::write(directory.join("memory.max"), memory.to_string()).is_ok();
    // What is over its bound goes whole: half a server is none.
    let _ = fs::write(directory.join("memory.oom.group"), "1");
    (memory, fs::write(directory.join("pids.max"), processes.to_string()).is_ok())
}

/// Removes an empty cgroup with everything below it.
///
/// # Errors
///
/// If processes are left in it (EBUSY).
pub fn remove(directory: &Path) -> io::Result<()> {
    let mut all = match tree(directory) {
        Ok(all) => all,
        Err(error) if gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    all.reverse();
    for directory in all {
        match fs::remove_dir(&directory) {
            Ok(()) => {}
            Err(error) if gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_hosts_mount_point_is_found_in_mountinfo() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                    41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:3 - cgroup2 cgroup2 rw\n";
        let found: Vec<_> = mounts_of(text, &["cgroup2"]).collect();
        assert_eq!(found, [PathBuf::from("/sys/fs/cgroup/uni fied")]);
    }

    #[test]
    fn levels_count_from_the_root() {
        let root = Path::new("/sys/fs/cgroup");
        assert_eq!(level(root, root).unwrap(), 0);
        assert_eq!(level(root, Path::new("/sys/fs/cgroup/a.slice/b.service")).unwrap(), 2);
        assert!(level(root, Path::new("/tmp")).is_err());
    }
}
