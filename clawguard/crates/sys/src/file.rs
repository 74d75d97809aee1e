//! Files that are whole or not there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Replaces a file's content: after this returns the new content is on disk, and at no moment is there half of it.
///
/// # Errors
///
/// If the disk is full or refuses; the old content is then still there.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let written = (|| {
        // What lies there already, from an earlier try or put there by somebody who may write in this directory, is neither followed
        // nor written into: the new file is one of our own.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

/// Makes a directory with its parents, if it is not there.
///
/// # Errors
///
/// If the system refuses.
pub fn directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().recursive(true).mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
///
/// If it cannot be read or is longer.
pub fn read_limited(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut content = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {limit} bytes")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_has_the_new_content_and_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("clawguard-replace-{}", std::process::id()));
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read_limited(&path, 2).is_err());
        assert_eq!(read_limited(&path, 3).unwrap(), b"two");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn nobody_elses_link_is_followed_and_nobody_elses_file_is_written() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let directory = std::env::temp_dir().join(format!("clawguard-link-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (path, other) = (directory.join("a.json"), directory.join("other"));
        fs::write(&other, b"mine").unwrap();
        symlink(&other, directory.join("a.json.new")).unwrap();
        symlink(&other, &path).unwrap();
        replace(&path, b"new", 0o600).unwrap();
        assert_eq!((fs::read(&other).unwrap(), fs::read(&path).unwrap()), (b"mine".to_vec(), b"new".to_vec()));
        fs::write(directory.join("a.json.new"), b"").unwrap();
        fs::set_permissions(directory.join("a.json.new"), fs::Permissions::from_mode(0o666)).unwrap();
        replace(&path, b"newer", 0o600).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_content() {
        // A directory stands where the temporary file would.
        let path = std::env::temp_dir().join(format!("clawguard-kept-{}", std::process::id()));
        fs::write(&path, b"old").unwrap();
        let blocker = path.with_extension("new");
        fs::create_dir_all(blocker.join("full")).unwrap();
        assert!(replace(&path, b"new", 0o600).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        fs::remove_dir_all(blocker).unwrap();
        fs::remove_file(path).unwrap();
    }
}
