# The tasks of a contributor. `just` lists them; CONTRIBUTING.md explains them. Every recipe is one command that works without just
# as well.

# Lists the recipes.
default:
    @just --list

# Builds all crates.
build:
    cargo build --workspace --bins --tests

# Runs the tests of the Rust crates, with nextest if it is installed. Arguments select tests.
test *args:
    #!/bin/sh
    set -e
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace {{ args }}
        cargo test --workspace --doc
    else
        cargo test --workspace {{ args }}
    fi

# Runs the checks that need no test: format, lints, pages, language, imports, scripts.
lint:
    ./verify format imports pages language spelling "shell scripts" lints "API documentation"

# Runs all tests except the slow ones.
quick:
    ./verify --quick

# Runs all tests.
verify:
    ./verify

# Tests the C library with each compiler. Arguments select tests.
c *args:
    ffi/test {{ args }}

# Tests the Go package.
go:
    go/test

# Tests the Python module. The arguments are pytest's.
python *args:
    python/test {{ args }}

# Runs the tests in a VM with VFIO groups. Arguments select tests.
vm *args:
    tests/vm/run {{ args }}

# Runs the plugin against the device managers of two kubelets.
kubelets *args:
    tests/chaos/run {{ args }}

# Runs the plugin in a Kubernetes cluster. Arguments select stories.
cluster *args:
    tests/cluster/run {{ args }}

# Plays random steps with the DRA driver, a scheduler and its controllers: [STEPS [SEED [NODES]]].
dra-chaos *args:
    scripts/xtask dra-chaos {{ args }}

# Builds DRA drivers that break a promise, and checks that tests and random steps find them: [MUTANT...].
dra-mutants *args:
    scripts/xtask dra-mutants {{ args }}

# Measures the core, the calls of every language, and the program of the image.
bench:
    cargo bench -p vfio-probe
    cargo bench -p vfio-plugin-policy
    tests/conformance/cost
    tests/measure

# Checks licenses, advisories and sources of the dependencies, and rust-version.
deny:
    ./verify dependencies

# Fuzzes every parser of input from outside: 10 s for each target, or the minutes given for all of them.
fuzz *args:
    scripts/fuzz {{ args }}

# Runs the plugin under random moves for some minutes, and fails if it grows.
soak minutes="1":
    tests/soak/run {{ minutes }}

# Builds every artefact of a release of this commit in a directory, and lists them. Arguments after it are targets.
release directory="target/release-artefacts" *targets:
    scripts/xtask release {{ directory }} {{ targets }}

# Builds the Debian packages, the source distribution and the crate, and uses them in a clean Debian.
packages *args:
    scripts/xtask packages {{ args }}
