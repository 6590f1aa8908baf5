//! Reads the pools file again when it changes.

use crate::config::pools_error::PoolsError;
use crate::config::pools_file;
use crate::file_id::FileId;
use std::path::PathBuf;
use vfio_plugin_policy::pools::Pools;

/// A pools file that is watched by one `stat` for each check of the devices.
#[derive(Debug)]
pub(crate) struct PoolsFileWatch {
    path: PathBuf,
    /// The version that was read last; none if there was no file.
    read: Option<FileId>,
}

impl PoolsFileWatch {
    /// Returns a watch that has read nothing yet. Its first result is the file as it is then, so no change since the start of the
    /// program is missed.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, read: None }
    }

    /// Returns the pools, or the file's error, if the file has changed since the last call. A missing file is an error once.
    pub(crate) fn changed(&mut self) -> Option<Result<Pools, PoolsError>> {
        let now = FileId::of(&self.path).ok();
        if now == self.read {
            return None;
        }
        self.read = now;
        Some(pools_file::read(&self.path))
    }

    /// Returns the path, for messages.
    pub(crate) fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn swapped_link_is_a_change_and_an_error_comes_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for (version, text) in [
            ("1", "pools: [{select: [{}]}]"),
            ("2", "pools: [{select: [{vendor: 10de}]}]"),
            ("3", "pools: 3"),
        ] {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("pools.yaml"), text).unwrap();
        }
        // As the kubelet's atomic writer does: the file is a link through ..data, and a rename replaces that.
        let swap = |version: &str| {
            symlink(version, path("..data_tmp")).unwrap();
            fs::rename(path("..data_tmp"), path("..data")).unwrap();
        };
        swap("1");
        symlink("..data/pools.yaml", path("pools.yaml")).unwrap();
        let mut watched = PoolsFileWatch::new(path("pools.yaml"));
        assert_eq!(
            watched.changed(),
            Some(pools_file::parse("pools: [{select: [{}]}]")),
            "the first call reads the file"
        );
        assert_eq!(watched.changed(), None);
        swap("2");
        assert_eq!(watched.changed(), Some(pools_file::parse("pools: [{select: [{vendor: 10de}]}]")));
        assert_eq!(watched.changed(), None);
        swap("3");
        assert!(watched.changed().unwrap().unwrap_err().to_string().starts_with("line 1: "));
        assert_eq!(watched.changed(), None);
        fs::remove_file(path("pools.yaml")).unwrap();
        assert!(watched.changed().unwrap().unwrap_err().to_string().contains("No such file"));
        assert_eq!(watched.changed(), None);
        fs::write(path("pools.yaml"), "pools: [{select: [{}]}]").unwrap();
        assert!(watched.changed().unwrap().is_ok());
    }
}
