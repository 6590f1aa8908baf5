//! The cache of parts: a directory for each part and key. A part is built again when its key changes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use xtask::context::Context;
use xtask::process;

use crate::Result;
use crate::progress::{clock, say};

/// A part that no run has used for this time is removed when a part is built.
const UNUSED: Duration = Duration::from_secs(3 * 24 * 3600);
/// The file that says when a part was last used. A directory without it is incomplete.
const USED: &str = "used";

/// The directory of all parts.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
    builds: bool,
}

/// The error if a part is missing and must not be built: the part's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(pub String);

impl std::fmt::Display for Missing {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "the part {} is not in the cache", self.0)
    }
}

impl std::error::Error for Missing {}

/// What a part is built from: its versions, its files and the words of its commands.
#[derive(Clone, Debug)]
pub struct Key(u64);

impl Default for Key {
    fn default() -> Self {
        // FNV-1a: the same on every host and with every compiler, which std's hasher does not promise.
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Key {
    /// Adds a text.
    #[must_use]
    pub fn text(self, text: impl AsRef<[u8]>) -> Self {
        // The length keeps "ab", "c" and "a", "bc" apart.
        let text = text.as_ref();
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes();
        let bytes = length.iter().chain(text);
        Self(bytes.fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
    }

    /// Adds the names and the contents of the files of a directory, and of those below it.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be read.
    pub fn directory(mut self, directory: &Path) -> Result<Self> {
        for path in process::entries(directory) {
            self = if path.is_dir() { self.directory(&path)? } else { self.file(&path)? };
        }
        Ok(self)
    }

    /// Adds the name and the content of a file.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read.
    pub fn file(self, file: &Path) -> Result<Self> {
        let content =
            std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        Ok(self.text(process::file_name(file)).text(content))
    }

    /// Adds the source of a recipe, a module beside this one.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be read.
    pub fn recipe(self, context: &Context, module: &str) -> Result<Self> {
        self.file(&context.top.join("tests/cluster/src/parts").join(module))
    }

    /// Returns the key as 16 hexadecimal digits.
    #[must_use]
    pub fn digits(&self) -> String {
        format!("{:016x}", self.0)
    }
}

impl Cache {
    /// Opens the cache of this project.
    ///
    /// # Errors
    ///
    /// Fails if its directory cannot be created.
    pub fn new(context: &Context) -> Result<Self> {
        Self::at(context.cache.join("cluster"))
    }

    fn at(directory: PathBuf) -> Result<Self> {
        process::make_directory(&directory)?;
        Ok(Self { directory, builds: true })
    }

    /// Returns the same cache, which fails with [`Missing`] instead of building a part.
    #[must_use]
    pub fn only_complete(self) -> Self {
        Self { builds: false, ..self }
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the directory of a part if it is complete.
    #[must_use]
    pub fn complete(&self, name: &str, key: &Key) -> Option<PathBuf> {
        let directory = self.directory.join(format!("{name}-{}", key.digits()));
        directory.join(USED).exists().then_some(directory)
    }

    /// Returns the directory of a part. If it is missing, the function builds it in an empty directory, which is then moved. A second
    /// run that wants the same part waits for the first one.
    ///
    /// # Errors
    ///
    /// Fails if the function fails.
    pub fn part(&self, name: &str, key: &Key, build: impl FnOnce(&Path) -> Result) -> Result<PathBuf> {
        let lock = File::create(self.directory.join(format!("{name}.lock")))?;
        lock.lock()?;
        let directory = self.directory.join(format!("{name}-{}", key.digits()));
        if self.complete(name, key).is_none() {
            if !self.builds {
                return Err(Missing(name.into()).into());
            }
            self.remove_unused(name);
            say(format!("building {name}"));
            let start = Instant::now();
            let new = self.directory.join(format!(".{name}-new"));
            // The lock is held: what is there was left by a run that ended.
            for old in [&new, &directory] {
                if old.exists() {
                    std::fs::remove_dir_all(old)?;
                }
            }
            process::make_directory(&new)?;
            build(&new).map_err(|error| format!("cannot build {name}: {error}"))?;
            std::fs::rename(&new, &directory)?;
            say(format!("built {name} in {}", clock(start.elapsed())));
        }
        File::create(directory.join(USED))?.set_modified(SystemTime::now())?;
        Ok(directory)
    }

    /// Removes the directories of a part that no run has used for long. Others may belong to another checkout of the project.
    fn remove_unused(&self, name: &str) {
        for path in process::entries(&self.directory) {
            let is_part = process::file_name(&path).strip_prefix(name).is_some_and(is_key);
            let used = path.join(USED).metadata().and_then(|data| data.modified()).ok();
            let age = used.and_then(|used| used.elapsed().ok());
            if is_part && age.is_some_and(|age| age > UNUSED) {
                let _ = std::fs::remove_dir_all(path);
            }
        }
    }
}

/// Returns whether a text is a hyphen and the digits of a key.
fn is_key(text: &str) -> bool {
    text.strip_prefix('-')
        .is_some_and(|digits| digits.len() == 16 && digits.chars().all(|c| c.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask::scratch::Scratch;

    #[test]
    fn key_is_the_same_on_every_host() {
        assert_eq!(Key::default().digits(), "cbf29ce484222325");
        assert_eq!(Key::default().text("").digits(), "a8c7f832281a39c5");
    }

    #[test]
    fn key_depends_on_each_text_and_on_their_borders() {
        let key = |texts: &[&str]| texts.iter().fold(Key::default(), Key::text).digits();
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["ab", "c"]), key(&["c", "ab"]));
    }

    #[test]
    fn key_depends_on_names_and_contents_of_files() {
        let scratch = Scratch::new().unwrap();
        let key = || Key::default().directory(scratch.path()).unwrap().digits();
        std::fs::create_dir(scratch.join("sub")).unwrap();
        std::fs::write(scratch.join("sub/file"), "a").unwrap();
        let first = key();
        std::fs::write(scratch.join("sub/file"), "b").unwrap();
        let second = key();
        std::fs::rename(scratch.join("sub/file"), scratch.join("sub/other")).unwrap();
        assert!(first != second && second != key());
    }

    #[test]
    fn part_is_built_once_for_a_key_and_again_after_a_failure() {
        let scratch = Scratch::new().unwrap();
        let cache = Cache::at(scratch.join("cluster")).unwrap();
        let key = Key::default().text("1");
        let error = cache.part("etcd", &key, |_| Err("no network".into())).unwrap_err();
        assert_eq!(error.to_string(), "cannot build etcd: no network");
        assert!(cache.complete("etcd", &key).is_none());
        let build = |directory: &Path| process::write(&directory.join("program"), "1");
        let directory = cache.part("etcd", &key, build).unwrap();
        assert!(directory.join("program").exists());
        assert_eq!(cache.part("etcd", &key, |_| Err("built twice".into())).unwrap(), directory);
        let other = cache.part("etcd", &Key::default().text("2"), build).unwrap();
        assert_ne!(other, directory);
        assert!(directory.exists());
    }

    #[test]
    fn missing_part_is_an_error_of_its_own_without_builds() {
        let scratch = Scratch::new().unwrap();
        let cache = Cache::at(scratch.join("cluster")).unwrap().only_complete();
        let error = cache.part("etcd", &Key::default(), |_| Err("built".into())).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Missing("etcd".into())));
    }

    #[test]
    fn long_unused_part_is_removed_at_the_next_build() {
        let scratch = Scratch::new().unwrap();
        let cache = Cache::at(scratch.join("cluster")).unwrap();
        let old = cache.part("etcd", &Key::default().text("1"), |_| Ok(())).unwrap();
        let other = cache.part("etcd-x", &Key::default().text("1"), |_| Ok(())).unwrap();
        let long_ago = SystemTime::now() - UNUSED - Duration::from_secs(1);
        for part in [&old, &other] {
            File::create(part.join(USED)).unwrap().set_modified(long_ago).unwrap();
        }
        cache.part("etcd", &Key::default().text("2"), |_| Ok(())).unwrap();
        assert!(!old.exists());
        assert!(other.exists());
    }
}
