//! Sockets that a job holds but did not make: older than its enrolment, or handed in from outside.
//!
//! No hook sees a descriptor arrive over a unix socket, so they are looked for: the sockets in `/proc/PID/fd` of the job's
//! processes against the stamps. What is found is ended.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
};

use sys::{
    cgroup,
    diag::{Diag, Listed, Protocol, States},
    netns::NetNs,
};

use crate::{Enrolled, Error, Fence};

/// A socket that does not belong to the job that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// A process that holds it.
    pub pid: i32,
    /// What it is: its protocol and both ends, or its line in `/proc/net` where it is neither TCP nor UDP.
    pub what: String,
    /// Whether it was ended. Raw and packet sockets cannot be.
    pub destroyed: bool,
}

impl Fence {
    /// Looks through a job's processes for sockets that are not its own, and ends them if `destroy` says so.
    ///
    /// # Errors
    ///
    /// If the job's processes or the sockets cannot be listed. A process that ends meanwhile is no error.
    pub fn imported(&self, job: &Enrolled, directory: &Path, destroy: bool) -> Result<Vec<Imported>, Error> {
        let failed = || Error::system("look for sockets from outside");
        // Inodes of sockets by network namespace, with a process that holds each.
        let mut held: HashMap<u64, (NetNs, HashMap<u32, i32>)> = HashMap::new();
        for pid in cgroup::processes(directory).map_err(failed())? {
            let Ok(namespace) = NetNs::of_process(pid) else { continue };
            let Ok(id) = namespace.id() else { continue };
            let (_, inodes) = held.entry(id).or_insert_with(|| (namespace, HashMap::new()));
            for inode in sockets_of(pid) {
                inodes.entry(inode).or_insert(pid);
            }
        }
        held.retain(|_, (_, inodes)| !inodes.is_empty());
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let own: HashSet<u64> = self
            .stamped()
            .map_err(failed())?
            .into_iter()
            .filter(|socket| socket.stamp.key == job.key)
            .map(|socket| socket.cookie)
            .collect();
        let mut found = Vec::new();
        for (namespace, inodes) in held.values() {
            found.extend(namespace.run(|| foreign(inodes, &own, destroy)).map_err(failed())?);
        }
        Ok(found)
    }
}

/// Inodes of the sockets that a process holds.
fn sockets_of(pid: i32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// In one namespace: the held sockets that are not the job's own, ended where that is wanted and possible.
fn foreign(inodes: &HashMap<u32, i32>, own: &HashSet<u64>, destroy: bool) -> io::Result<Vec<Imported>> {
    let mut diag = Diag::open()?;
    let mut found = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let strangers: Vec<Listed> = diag
            .list(protocol, States::ALL)?
            .into_iter()
            .filter(|socket| inodes.contains_key(&socket.inode) && !own.contains(&socket.cookie))
            .collect();
        for stranger in strangers {
            let destroyed = destroy && diag.destroy(std::slice::from_ref(&stranger))? == 1;
            let name = if protocol == Protocol::Tcp { "tcp" } else { "udp" };
            found.push(Imported {
                pid: inodes.get(&stranger.inode).copied().unwrap_or(0),
                what: format!("{name} {} to {}", stranger.local(), stranger.remote()),
                destroyed,
            });
        }
    }
    // What has no diagnostics by which it could be ended is told all the same.
    // The inode's column, counted from 0 (net/ipv4/raw.c, net/packet/af_packet.c).
    for (table, column) in [("raw", 9), ("raw6", 9), ("icmp", 9), ("icmp6", 9), ("packet", 8)] {
        let Ok(text) = fs::read_to_string(format!("/proc/thread-self/net/{table}")) else { continue };
        for line in text.lines().skip(1) {
            let inode = line.split_whitespace().nth(column).and_then(|inode| inode.parse::<u32>().ok());
            if let Some(pid) = inode.and_then(|inode| inodes.get(&inode)) {
                found.push(Imported { pid: *pid, what: format!("{table} socket"), destroyed: false });
            }
        }
    }
    Ok(found)
}
