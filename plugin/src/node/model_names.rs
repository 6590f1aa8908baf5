//! Names of PCI models, each looked up once: from the table in the library, or from a pci.ids file.

use crate::file_id::FileId;
use crate::node::retry::Retry;
use crate::problems::{ProblemCode, Problems};
use std::collections::HashMap;
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
/// With a configured file, all names come from it. Otherwise they come from the table in the library, so that a resource has the
/// same name on every node, and the host's pci.ids names only the models that the table lacks.
///
/// A name from a file that was read stays for the life of the process, also if the file changes: an update of pci.ids must not
/// rename resources under running pods. A file that could not be read is read again, so a file that is mounted late still names
/// the models.
#[derive(Debug)]
pub(crate) struct ModelNames {
    /// The configured file.
    file: Option<PathBuf>,
    names: HashMap<ModelId, String>,
    retry: Retry,
    /// The files' versions at the latest failure.
    failed_versions: Vec<Option<FileId>>,
    problems: Problems,
}

impl ModelNames {
    /// Returns no names yet. `file` is the pci.ids file that all names come from; without it, they come from the table in the
    /// library, and for models that the table lacks from the first of [`names::PLACES`] that exists.
    pub(crate) fn new(file: Option<PathBuf>, problems: Problems) -> Self {
        Self {
            file,
            names: HashMap::new(),
            retry: Retry::new(RETRY.0, RETRY.1),
            failed_versions: Vec::new(),
            problems,
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

    /// Learns the names of the models, in one pass over the file if a file is needed. `models` are all models of the node that need
    /// a name. Models with a name are skipped, and so are all until a failed read is to be repeated. The retry ends when no model
    /// needs it any more.
    pub(crate) fn learn(&mut self, models: impl IntoIterator<Item = ModelId>, now: Instant) {
        let mut unknown: Vec<ModelId> =
            models.into_iter().filter(|model| !self.names.contains_key(model)).collect();
        if self.file.is_none() {
            unknown.retain(|model| !self.learn_built_in(*model));
        }
        if unknown.is_empty() {
            self.retry.succeeded();
            self.end_problem();
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
                self.log_not_built_in(&unknown);
                self.retry.succeeded();
                self.end_problem();
            }
            Err(error) => {
                self.failed_versions = versions;
                self.retry.failed(now);
                let file = self.file.as_deref().unwrap_or(Path::new(names::PLACES[0])).display();
                let text = format_args!("cannot be read: {error}; resources are named by hex id");
                if !self.is_unwanted() && self.problems.begin(ProblemCode::PciIdsUnreadable, &file, text) {
                    self.log_failure(&error, &unknown);
                }
            }
        }
    }

    /// Names a model from the table in the library. Returns false if the table lacks it.
    fn learn_built_in(&mut self, model: ModelId) -> bool {
        let (vendor, device) = model;
        let Some(name) = names::built_in(vendor, device) else { return false };
        self.names.insert(model, model_name(device, Some(name.as_str())));
        true
    }

    /// Logs that this host's file decides on the names of these models.
    fn log_not_built_in(&self, models: &[ModelId]) {
        if self.file.is_some() {
            return;
        }
        for model in models {
            let name = self.name(*model);
            tracing::warn!(
                model = %text(*model), name,
                "model is not in the built-in table; this host's pci.ids names its resource, or its hex id; an alias in the pools file makes the name certain"
            );
        }
    }

    fn log_failure(&self, error: &std::io::Error, models: &[ModelId]) {
        match &self.file {
            Some(file) => tracing::warn!(
                file = %file.display(), %error,
                "pci.ids could not be read; resources are named by hex id until it can; correct --pci-ids"
            ),
            None => tracing::warn!(
                models = %models.iter().map(|model| text(*model)).collect::<Vec<_>>().join(" "), %error,
                "models are not in the built-in table, and this host's pci.ids could not be read; their resources are named by hex id until it can; install it, set --pci-ids or give an alias"
            ),
        }
    }

    /// Returns whether the configuration says that models have no names, so that a failed read is no problem.
    fn is_unwanted(&self) -> bool {
        self.file.as_deref() == Some(Path::new("/dev/null"))
    }

    fn end_problem(&self) {
        self.problems.keep(ProblemCode::PciIdsUnreadable, |_| false);
    }

    /// Returns the versions of the files that the name could come from. Allocates nothing: it is called in each pass while the read
    /// fails.
    fn versions(&self) -> impl Iterator<Item = Option<FileId>> {
        let places = if self.file.is_some() { &[][..] } else { &names::PLACES[..] };
        let paths = self.file.iter().map(PathBuf::as_path).chain(places.iter().map(Path::new));
        paths.map(|path| FileId::of(path).ok())
    }
}

/// Returns a model as `lspci -n` prints it.
fn text((vendor, device): ModelId) -> String {
    format!("{vendor:04x}:{device:04x}")
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
    fn built_in_names_need_no_file() {
        let mut names = ModelNames::new(None, Problems::default());
        names.learn([H100], Instant::now());
        assert_eq!(names.name(H100), Some("GH100_H100_SXM5_80GB"));
        assert!(!names.is_failing());
    }

    #[test]
    fn model_outside_the_table_depends_on_the_host() {
        let unknown = (0x10de, 0xffff);
        let mut names = ModelNames::new(None, Problems::default());
        names.learn([H100, unknown], Instant::now());
        assert_eq!(names.name(H100), Some("GH100_H100_SXM5_80GB"));
        // Without a file on this host the name is unknown, and with one the hex id is final.
        assert_eq!(names.name(unknown), (!names.is_failing()).then_some("ffff"));
    }

    #[test]
    fn configured_file_overrides_the_table() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pci.ids");
        std::fs::write(&path, "10de  NVIDIA Corporation\n\t2330  GH100[H100 SXM5 80GB]\n").unwrap();
        let mut names = ModelNames::new(Some(path), Problems::default());
        names.learn([H100, (0x10de, 0x20b0)], Instant::now());
        assert_eq!(names.name(H100), Some("GH100H100_SXM5_80GB"));
        assert_eq!(names.name((0x10de, 0x20b0)), Some("20b0"), "the file lacks it");
    }

    #[test]
    fn file_that_appears_late_is_read_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pci.ids");
        let now = Instant::now();
        let mut names = ModelNames::new(Some(path.clone()), Problems::default());
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
        let mut names = ModelNames::new(Some(directory.path().to_owned()), Problems::default());
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
        let mut names = ModelNames::new(Some(path.clone()), Problems::default());
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
        let mut names = ModelNames::new(Some(path.clone()), Problems::default());
        names.learn([H100], now);
        std::fs::remove_file(&path).unwrap();
        names.learn([H100], now);
        assert_eq!(names.name(H100), Some("GH100_H100_SXM5_80GB"));
        assert!(!names.is_failing());
        names.learn([H100, OTHER], now);
        assert!(names.is_failing() && names.name(H100).is_some());
    }
}
