//! What a release consists of: how each artefact is built, and the task that builds all of them.

pub mod licenses;
pub mod target;
pub mod versions;
