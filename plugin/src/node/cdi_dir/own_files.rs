//! The names of the spec files that belong to the plugin, saved for its next process.

use crate::run_dir::RunDir;
use crate::state_file::StateFile;
use serde::{Deserialize, Serialize};
use vfio_plugin_policy::cdi::names::is_ours;

/// The state file.
pub(super) const FILE: &str = "cdi.json";
/// The version of the state file's content.
const VERSION: u32 = 1;

/// The plugin's files in the directory of CDI specs. All others belong to other programs, or to another plugin beside this one.
#[derive(Debug)]
pub(super) struct OwnFiles {
    files: Vec<OwnFile>,
    /// Whether the state file was read. Until then the plugin's files are unknown, so none is added or removed.
    is_read: bool,
    state_file: StateFile,
}

/// One spec file.
#[derive(Debug)]
struct OwnFile {
    name: String,
    /// None if it is not known what the file contains, or whether it exists.
    content: Option<Content>,
}

/// The content that this process wrote.
#[derive(Clone, Debug)]
pub(super) struct Content {
    /// The whole text.
    pub(super) text: String,
    /// The number of the write.
    pub(super) written: u64,
}

/// The content of the state file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct SavedFiles {
    files: Vec<String>,
}

impl OwnFiles {
    /// Returns no files yet. Those of the previous process with the same run directory come with [`read`](Self::read).
    pub(super) fn new(run_dir: &RunDir) -> Self {
        let state_file = StateFile::new(run_dir, FILE);
        Self { files: Vec::new(), is_read: false, state_file }
    }

    /// Reads the files of the previous process, unless they were read before.
    ///
    /// # Errors
    /// The state file could not be read. No file may be added or removed then, because that writes the state file.
    pub(super) fn read(&mut self) -> std::io::Result<()> {
        if !self.is_read {
            let saved: SavedFiles = self.state_file.read_versioned(VERSION)?.unwrap_or_default();
            // Whatever the state file says, only a file that can be the plugin's is ever removed.
            let names = saved.files.into_iter().filter(|name| is_ours(name));
            self.files = names.map(|name| OwnFile { name, content: None }).collect();
            self.is_read = true;
        }
        Ok(())
    }

    /// Returns whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Returns the names of all files that are not in `wanted`.
    pub(super) fn others_than(&self, wanted: &[String]) -> Vec<String> {
        let names = self.files.iter().map(|file| &file.name);
        names.filter(|name| !wanted.contains(name)).cloned().collect()
    }

    /// Returns the numbers of the writes of all files.
    pub(super) fn writes(&self) -> impl Iterator<Item = u64> {
        self.files.iter().filter_map(|file| file.content.as_ref()).map(|content| content.written)
    }

    /// Takes what is known of a file's content. It is unknown after that, also if the file cannot be written.
    pub(super) fn take_content(&mut self, name: &str) -> Option<Content> {
        self.files.iter_mut().find(|file| file.name == name)?.content.take()
    }

    /// Sets a file's content.
    pub(super) fn set_content(&mut self, name: &str, content: Content) {
        if let Some(file) = self.files.iter_mut().find(|file| file.name == name) {
            file.content = Some(content);
        }
    }

    /// Adds a file, and saves the names. To be called before the file exists, so that none is forgotten.
    pub(super) fn add(&mut self, name: &str) {
        if !self.files.iter().any(|file| file.name == name) {
            self.files.push(OwnFile { name: name.to_owned(), content: None });
            self.save();
        }
    }

    /// Removes a file, and saves the names.
    pub(super) fn remove(&mut self, name: &str) {
        self.files.retain(|file| file.name != name);
        self.save();
    }

    fn save(&mut self) {
        let files = self.files.iter().map(|file| file.name.clone()).collect();
        self.state_file.write_versioned(VERSION, &SavedFiles { files });
    }
}
