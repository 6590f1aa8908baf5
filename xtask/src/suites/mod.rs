//! The test suites and checks that are no cargo tests: each is a step of `./verify` and a command of its own.

pub mod artefacts;
pub mod cargo;
pub mod cdi;
pub mod chart;
pub(crate) mod chroot;
pub mod ci;
pub mod cluster;
pub mod command_line_files;
pub mod conformance;
pub mod dependencies;
pub mod dra;
pub mod dra_kubelet;
mod dra_mutants;
pub mod fuzz;
pub mod go;
pub mod go_objects;
pub mod image;
pub mod kubelet_build;
pub mod kubelets;
pub mod lints;
pub mod monitoring;
pub mod packages;
pub mod python;
pub mod readme;
mod release_files;
pub mod rust_api;
pub mod third_party;
