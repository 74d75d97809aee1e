//! The way out: takes an instance's programs off this host, also when its daemon cannot start.

use std::{fs, io};

use crate::{Places, links::detach_all};

/// What was taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Links that were detached.
    pub links: usize,
    /// Maps that were unpinned.
    pub maps: usize,
}

/// Detaches and unpins everything of an instance, of whatever ABI. Needs no daemon and no working build.
///
/// # Errors
///
/// If a link cannot be detached; the others are detached all the same.
pub fn remove(places: &Places) -> io::Result<Removed> {
    let mut removed = Removed::default();
    let versions = match fs::read_dir(&places.pins) {
        Ok(versions) => versions,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(removed),
        Err(error) => return Err(error),
    };
    for version in versions {
        let version = version?.path();
        match detach_all(&version.join("links")) {
            Ok(links) => removed.links += links,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if let Ok(maps) = fs::read_dir(version.join("maps")) {
            removed.maps += maps.count();
        }
        fs::remove_dir_all(&version)?;
    }
    fs::remove_dir(&places.pins)?;
    // Empty slices go; one in which something still runs stays, like what runs in it.
    if let Some(slice) = places.agents.parent() {
        let _ = sys::cgroup::remove(slice);
    }
    Ok(removed)
}
