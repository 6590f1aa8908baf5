//! Runs one task: `scripts/xtask TASK [ARGUMENT]...`. `./verify` is the task of the same name.

use std::process::ExitCode;

use xtask::context::Context;
use xtask::release::{self, artefacts, versions};
use xtask::suites::{
    artefacts as published, cargo, cdi, chart, ci, cluster, command_line_files, conformance, dependencies,
    dra, dra_kubelet, fuzz, go, go_objects, image, kubelet_build, kubelets, lints, monitoring, packages,
    python, readme, rust_api, third_party,
};
use xtask::{Result, process, verify, vm};

/// How a task ends.
enum Task {
    /// With success or failure.
    Suite(fn(&mut Context, &[String]) -> Result<bool>),
    /// With an exit status.
    Program(fn(&mut Context, &[String]) -> Result<u8>),
}

/// Name, what it does, and the function.
const TASKS: &[(&str, &str, Task)] = &[
    ("verify", "run every test of the project (./verify)", Task::Program(verify::verify)),
    ("ci", "run ./verify, and the VM tests on a built kernel (.ci/run)", Task::Suite(ci::ci)),
    ("c", "test the C library (ffi/test)", Task::Suite(cargo::c)),
    ("go", "test the Go package (go/test)", Task::Suite(go::go)),
    ("go-objects", "build the objects of the Go package [TARGET]...", Task::Suite(go_objects::build)),
    ("python", "test the Python module (python/test)", Task::Suite(python::python)),
    ("conformance", "compare the languages (tests/conformance/run)", Task::Suite(conformance::conformance)),
    ("cost", "measure calls in all languages (tests/conformance/cost)", Task::Suite(conformance::cost)),
    ("readme", "run the README's examples (tests/readme)", Task::Suite(readme::readme)),
    ("cdi", "check CDI specs with the runtimes' library (tests/cdi/run)", Task::Suite(cdi::cdi)),
    ("dra-allocator", "check ResourceSlices (tests/dra/allocator/run)", Task::Suite(dra::allocator)),
    ("image", "check the image (deploy/test)", Task::Suite(image::image)),
    ("chart", "check the Helm chart and the manifests", Task::Suite(chart::chart)),
    ("manifests", "render deploy/*.yaml from the Helm chart", Task::Suite(chart::manifests)),
    ("kubelets", "run the plugin with two kubelets (tests/chaos/run)", Task::Suite(kubelets::kubelets)),
    ("upgrades", "replace the plugin in every way with two kubelets", Task::Suite(kubelets::upgrades)),
    ("kubelet-build", "build the kubelets (tests/kubelet/build)", Task::Suite(kubelet_build::kubelet_build)),
    ("kubelet-go", "run Go for the kubelets (tests/kubelet/go)", Task::Suite(kubelet_build::kubelet_go)),
    (
        "kubelet-lint",
        "check the kubelets' Go code (tests/kubelet/lint)",
        Task::Suite(kubelet_build::kubelet_lint),
    ),
    (
        "dra-kubelet",
        "run the DRA driver with a kubelet (tests/dra/kubelet/run)",
        Task::Suite(dra_kubelet::run),
    ),
    (
        "dra-chaos",
        "play random steps with the DRA driver [STEPS [SEED [NODES]]]",
        Task::Suite(dra_kubelet::chaos),
    ),
    ("dra-mutants", "find DRA drivers that break a promise [MUTANT]...", Task::Suite(dra_kubelet::mutants)),
    (
        "dra-numbers",
        "measure the DRA driver beside one on the Go helper library [SIZES [IDLE]]",
        Task::Suite(dra_kubelet::numbers),
    ),
    ("monitoring", "run the alerts and the dashboard on a Prometheus", Task::Suite(monitoring::monitoring)),
    ("fuzz", "fuzz every parser of input [MINUTES] [TARGET]...", Task::Suite(fuzz::fuzz)),
    ("soak", "run the plugin under random moves (tests/soak/run)", Task::Suite(fuzz::soak)),
    (
        "rust-api",
        "compare the public items of the crate vfio-probe with core/public-api.txt",
        Task::Suite(rust_api::rust_api),
    ),
    ("dependencies", "check licenses, advisories and rust-version", Task::Suite(dependencies::dependencies)),
    ("cluster", "run the plugin in a Kubernetes cluster (tests/cluster/run)", Task::Suite(cluster::cluster)),
    ("cluster-lint", "check the Go code of the cluster's parts", Task::Suite(cluster::cluster_lint)),
    ("vm", "run tests or a command in a VM (tests/vm/run)", Task::Program(vm::vm)),
    ("model", "run the model's tests", Task::Suite(cargo::model)),
    ("rust-tests", "run the tests of all crates without the model's", Task::Suite(cargo::rust_tests)),
    ("man", "write the man pages into a directory", Task::Suite(command_line_files::man)),
    (
        "completions",
        "write the shell completion scripts into a directory",
        Task::Suite(command_line_files::completions),
    ),
    ("command-line-files", "check man pages and completions", Task::Suite(command_line_files::check)),
    ("packages", "install and use what users install [DIRECTORY]", Task::Suite(packages::packages)),
    (
        "artefacts",
        "use what each language publishes in a clean Debian [LANGUAGE]...",
        Task::Suite(published::artefacts),
    ),
    ("deb", "build the Debian packages DIRECTORY [TARGET [PROGRAM]]", Task::Suite(release::build_packages)),
    (
        "third-party",
        "check the notices of other authors' software [--update]",
        Task::Suite(third_party::third_party),
    ),
    ("licenses", "print THIRD-PARTY of PACKAGE for TARGET", Task::Suite(release::print_licenses)),
    ("versions", "check that all files name one version", Task::Suite(versions::versions)),
    ("release", "build every artefact in DIRECTORY [TARGET]...", Task::Suite(artefacts::release)),
    ("help-texts", "check the words of the programs' help texts", Task::Suite(lints::help_texts)),
    ("spelling", "check the spelling", Task::Suite(lints::spelling)),
    ("shell-scripts", "check the shell scripts", Task::Suite(lints::shell_scripts)),
];

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let Some((name, arguments)) = arguments.split_first() else {
        process::print_line("usage: scripts/xtask TASK [ARGUMENT]...\n");
        TASKS.iter().for_each(|(name, about, _)| process::print_line(format!("  {name:18}  {about}")));
        return ExitCode::SUCCESS;
    };
    let Some((_, _, task)) = TASKS.iter().find(|(known, ..)| known == name) else {
        eprintln!("xtask: unknown task {name}; scripts/xtask prints the list");
        return ExitCode::from(2);
    };
    let status = Context::new().and_then(|mut context| match task {
        Task::Suite(run) => run(&mut context, arguments).map(|passed| u8::from(!passed)),
        Task::Program(run) => run(&mut context, arguments),
    });
    status.map_or_else(
        |error| {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        },
        ExitCode::from,
    )
}
