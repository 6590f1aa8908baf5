//! The pools' file over time: read again when it is another one.

use crate::config::pools_error::PoolsError;
use crate::config::pools_file;
use crate::file_id::FileId;
use std::path::PathBuf;
use vfio_plugin_policy::pools::Pools;

/// A file to look at, at each look at the devices: one system call.
#[derive(Debug)]
pub(crate) struct PoolsFileWatch {
    path: PathBuf,
    /// None while it cannot be looked at.
    seen: Option<FileId>,
}

impl PoolsFileWatch {
    /// Not looked at yet: what it says now is the first news, so that no change is missed since it was read elsewhere.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, seen: None }
    }

    /// What it says, if it is another one than before. A mistake is told once, too.
    pub(crate) fn news(&mut self) -> Option<Result<Pools, PoolsError>> {
        let now = FileId::of(&self.path).ok();
        if now == self.seen {
            return None;
        }
        self.seen = now;
        Some(pools_file::read(&self.path))
    }

    /// How it is called in messages.
    pub(crate) fn name(&self) -> std::path::Display<'_> {
        self.path.display()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_that_is_swapped_is_news_and_a_mistake_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (version, text) in [
            ("1", "pools: [{select: [{}]}]"),
            ("2", "pools: [{select: [{vendor: 10de}]}]"),
            ("3", "pools: 3"),
        ] {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("pools.yaml"), text).unwrap();
        }
        // As the kubelet's atomic writer does: a file is a link through ..data, which is renamed over.
        let swap = |version: &str| {
            symlink(version, path("..data_tmp")).unwrap();
            fs::rename(path("..data_tmp"), path("..data")).unwrap();
        };
        swap("1");
        symlink("..data/pools.yaml", path("pools.yaml")).unwrap();
        let mut watched = PoolsFileWatch::new(path("pools.yaml"));
        assert_eq!(
            watched.news(),
            Some(pools_file::parse("pools: [{select: [{}]}]")),
            "nobody has looked yet"
        );
        assert_eq!(watched.news(), None);
        swap("2");
        assert_eq!(watched.news(), Some(pools_file::parse("pools: [{select: [{vendor: 10de}]}]")));
        assert_eq!(watched.news(), None);
        swap("3");
        assert!(watched.news().unwrap().unwrap_err().to_string().starts_with("line 1: "));
        assert_eq!(watched.news(), None);
        fs::remove_file(path("pools.yaml")).unwrap();
        assert!(watched.news().unwrap().unwrap_err().to_string().contains("No such file"));
        assert_eq!(watched.news(), None);
        fs::write(path("pools.yaml"), "pools: [{select: [{}]}]").unwrap();
        assert!(watched.news().unwrap().is_ok());
    }
}
