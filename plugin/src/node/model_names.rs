//! Names of PCI models from a pci.ids file, each looked up once.

use crate::file_id::FileId;
use crate::log_once::LogOnce;
use crate::node::retry::Retry;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vfio_plugin_policy::pools::resource_name::model_name;
use vfio_probe::names;

/// The first and the longest pause before a file that could not be read is read again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A model: its PCI vendor and device id.
pub(crate) type ModelId = (u16, u16);

/// The names of the models that were asked for.
///
/// A name from a file that was read stays for the life of the process, also if the file changes: an update of pci.ids must not
/// rename resources under running pods. A file that could not be read is read again, so a file that is mounted late still names
/// the models.
#[derive(Debug)]
pub(crate) struct ModelNames {
    /// The configured file; none stands for [`names::PLACES`].
    file: Option<PathBuf>,
    names: HashMap<ModelId, String>,
    retry: Retry,
    /// The files' versions at the latest failure.
    failed_versions: Vec<Option<FileId>>,
    failures: LogOnce<ErrorKind>,
}

impl ModelNames {
    /// Returns no names yet. `file` is the pci.ids file; without it, the first of [`names::PLACES`] that exists is read.
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            names: HashMap::new(),
            retry: Retry::new(RETRY.0, RETRY.1),
            failed_versions: Vec::new(),
            failures: LogOnce::default(),
        }
    }

    /// Returns a model's name as part of a resource: the hex id if the file does not name the model. Returns none if no file could
    /// be read since the model was asked for.
    pub(crate) fn name(&self, model: ModelId) -> Option<&str> {
        self.names.get(&model).map(String::as_str)
    }

    /// Returns whether the latest read failed, so that some model has no name yet.
    pub(crate) fn is_failing(&self) -> bool {
        self.retry.is_failing()
    }

    /// Returns whether a failed read is to be repeated: its pause is over, or a file has changed. Costs one `stat` for each file
    /// while the read fails, and nothing otherwise.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.retry.is_due(now)
            || self.retry.is_failing() && !self.versions().eq(self.failed_versions.iter().copied())
    }

    /// Reads the names of the models in one pass over the file. `models` are all models of the node that need a name. Models with
    /// a name are skipped, and so are all until a failed read is to be repeated. The retry ends when no model needs it any more.
    pub(crate) fn learn(&mut self, models: impl IntoIterator<Item = ModelId>, now: Instant) {
        let unknown: Vec<ModelId> =
            models.into_iter().filter(|model| !self.names.contains_key(model)).collect();
        if unknown.is_empty() {
            self.retry.succeeded();
            self.failures.clear();
            return;
        }
        if self.is_failing() && !self.is_due(now) {
            return;
        }
        // Before the read, so that no change is missed.
        let versions = self.versions().collect();
        match find(self.file.as_deref(), &unknown) {
            Ok(names) => {
                if self.is_failing() {
                    tracing::info!(
                        "pci.ids could be read; unassigned devices move to the resources of their models' names"
                    );
                }
                self.names.extend(names);
                self.retry.succeeded();
                self.failures.clear();
            }
            Err(error) => {
                self.failed_versions = versions;
                self.retry.failed(now);
                if self.failures.is_new(error.kind()) {
                    let file = self.file.as_deref().unwrap_or(Path::new(names::PLACES[0])).display();
                    tracing::warn!(
                        %file, %error,
                        "pci.ids could not be read; resources are named by hex id until it can; install it or set --pci-ids"
                    );
                }
            }
        }
    }

    /// Returns the versions of the files that the name could come from. Allocates nothing: it is called in each pass while the read
    /// fails.
    fn versions(&self) -> impl Iterator<Item = Option<FileId>> {
        let places = if self.file.is_some() { &[][..] } else { &names::PLACES[..] };
        let paths = self.file.iter().map(PathBuf::as_path).chain(places.iter().map(Path::new));
        paths.map(|path| FileId::of(path).ok())
    }
}

/// Returns the names of all `models`, each with its model.
fn find(file: Option<&Path>, models: &[ModelId]) -> std::io::Result<Vec<(ModelId, String)>> {
    let mut found: Vec<Option<String>> = vec![None; models.len()];
    let mut file = names::open(file)?;
    names::find(&mut file, models, &mut |index, name| {
        if let Some(slot) = found.get_mut(index) {
            *slot = Some(name.to_owned());
        }
    })?;
    let named = |(model, name): (&ModelId, Option<String>)| (*model, model_name(model.1, name.as_deref()));
    Ok(models.iter().zip(found).map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: ModelId = (0x10de, 0x2330);
    const OTHER: ModelId = (0x10de, 0x2331);
    const TEXT: &str = "10de  NVIDIA Corporation\n\t2330  GH100 [H100 SXM5 80GB]\n";

    #[test]
    fn file_that_appears_late_is_read_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pci.ids");
        let now = Instant::now();
        let mut names = ModelNames::new(Some(path.clone()));
        names.learn([H100], now);
        assert_eq!(names.name(H100), None);
        assert!(names.is_failing() && !names.is_due(now));
        std::fs::write(&path, TEXT).unwrap();
        assert!(names.is_due(now), "the file is another one");
        names.learn([H100, OTHER], now);
        assert_eq!(names.name(H100), Some("GH100_H100_SXM5_80GB"));
        assert_eq!(names.name(OTHER), Some("2331"), "the file was read and does not name it");
        assert!(!names.is_failing() && !names.is_due(now + RETRY.1));
    }

    #[test]
    fn failed_read_of_an_unchanged_file_is_repeated_later() {
        let directory = tempfile::tempdir().unwrap();
        // A directory, which is no regular file.
        let now = Instant::now();
        let mut names = ModelNames::new(Some(directory.path().to_owned()));
        names.learn([H100], now);
        assert!(!names.is_due(now));
        names.learn([H100], now);
        assert!(names.is_due(now + RETRY.0), "an attempt before its time does not count");
        names.learn([H100], now + RETRY.0);
        assert!(!names.is_due(now + RETRY.0 * 2) && names.is_due(now + RETRY.0 * 3), "each pause is longer");
    }

    #[test]
    fn retry_ends_when_the_only_unnamed_model_leaves() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pci.ids");
        let now = Instant::now();
        let mut names = ModelNames::new(Some(path.clone()));
        names.learn([H100], now);
        assert!(names.is_due(now + RETRY.0));
        names.learn([], now + RETRY.0);
        std::fs::write(&path, TEXT).unwrap();
        assert!(!names.is_failing() && !names.is_due(now + RETRY.1), "no model needs the file");
        names.learn([H100], now + RETRY.0);
        assert!(names.name(H100).is_some(), "the model is back");
    }

    #[test]
    fn name_stays_when_the_file_changes_or_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pci.ids");
        std::fs::write(&path, TEXT).unwrap();
        let now = Instant::now();
        let mut names = ModelNames::new(Some(path.clone()));
        names.learn([H100], now);
        std::fs::remove_file(&path).unwrap();
        names.learn([H100], now);
        assert_eq!(names.name(H100), Some("GH100_H100_SXM5_80GB"));
        assert!(!names.is_failing());
        names.learn([H100, OTHER], now);
        assert!(names.is_failing() && names.name(H100).is_some());
    }
}
