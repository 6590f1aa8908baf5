//! Reads the pools file again when it changes.

use crate::config::pools_error::PoolsError;
use crate::config::pools_file;
use crate::file_id::FileId;
use std::path::PathBuf;
use vfio_plugin_policy::pools::Pools;
use vfio_plugin_policy::pools::terms::OfferBy;

/// A pools file that is watched by one `stat` for each check of the devices.
#[derive(Debug)]
pub(crate) struct PoolsFileWatch {
    path: PathBuf,
    /// How pools without the key `offer` offer their devices.
    offer: OfferBy,
    /// Whether the DRA driver runs.
    has_driver: bool,
    /// The version that was read last; none if there was no file.
    read: Option<FileId>,
}

impl PoolsFileWatch {
    /// Returns a watch that has read nothing yet. Its first result is the file as it is then, so no change since the start of the
    /// program is missed. Without `has_driver` a pool that offers its devices by DRA is an error.
    pub(crate) fn new(path: PathBuf, offer: OfferBy, has_driver: bool) -> Self {
        Self { path, offer, has_driver, read: None }
    }

    /// Returns the pools, or the file's error, if the file has changed since the last call. A missing file is an error once.
    pub(crate) fn changed(&mut self) -> Option<Result<Pools, PoolsError>> {
        let now = FileId::of(&self.path).ok();
        if now == self.read {
            return None;
        }
        self.read = now;
        let pools = pools_file::read(&self.path, self.offer);
        Some(pools.and_then(|pools| {
            if !self.has_driver && pools.offer_by(OfferBy::Dra) {
                let text =
                    "a pool has `offer: dra`, and serve was started without such a pool; restart serve";
                return Err(PoolsError::of_file(text));
            }
            Ok(pools)
        }))
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
        let mut watched = PoolsFileWatch::new(path("pools.yaml"), OfferBy::default(), false);
        assert_eq!(
            watched.changed(),
            Some(pools_file::parse("pools: [{select: [{}]}]", OfferBy::default())),
            "the first call reads the file"
        );
        assert_eq!(watched.changed(), None);
        swap("2");
        let expected = pools_file::parse("pools: [{select: [{vendor: 10de}]}]", OfferBy::default());
        assert_eq!(watched.changed(), Some(expected));
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

    #[test]
    fn pool_for_claims_needs_the_driver_from_the_start() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "pools: [{select: [{}], offer: dra}]").unwrap();
        let changed = |has_driver| {
            PoolsFileWatch::new(file.path().into(), OfferBy::default(), has_driver).changed().unwrap()
        };
        assert_eq!(changed(true).is_ok(), cfg!(feature = "dra"));
        assert!(changed(false).unwrap_err().to_string().contains("dra"));
    }
}
