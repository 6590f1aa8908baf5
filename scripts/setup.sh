# shellcheck shell=bash
# Finds the tools that the scripts need. As root on Debian and its derivatives, installs missing ones with apt; otherwise names
# them. To be sourced before any cd.

# modprobe and other tools are there; Debian leaves these directories out of a user's PATH.
PATH=$PATH:/usr/sbin:/sbin
# A relative CARGO_TARGET_DIR is relative to the caller's directory.
case ${CARGO_TARGET_DIR:-/} in /*) ;; *) export CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR ;; esac
# shellcheck disable=SC2034  # the sourcing scripts use it
target=${CARGO_TARGET_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/target}

# die TEXT: prints an error and ends the script.
die() {
    echo "error: $*" >&2
    exit 1
}

need_cargo() {
    # A login shell has rustup's directory on its PATH.
    [ -d "$HOME/.cargo/bin" ] && PATH=$HOME/.cargo/bin:$PATH
    command -v cargo >/dev/null || die "cargo is missing; install Rust from your distribution or with rustup (https://rustup.rs)"
}

apt_is_fresh=
# apt_lists: updates apt's package lists, as root and once in a run. The old lists may do if this fails.
apt_lists() {
    [ -z "$apt_is_fresh" ] && [ "$(id -u)" -eq 0 ] || return 0
    apt_is_fresh=yes
    apt-get update -qq >&2 || echo "apt-get update failed" >&2
}
# install PACKAGE...
install() {
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        die "missing: $*; install it (on Debian: apt-get install $*) and run this again"
    fi
    echo "installing with apt: $*" >&2
    apt_lists
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2 ||
        die "apt-get could not install: $*"
}

# need COMMAND PACKAGE: installs the package if the command is missing.
need() {
    command -v "$1" >/dev/null || install "$2"
}
# need_file FILE PACKAGE
need_file() {
    [ -e "$1" ] || install "$2"
}

can_link() { printf '#include <stdio.h>\nint main(void) { return 0; }\n' | cc -x c -o /dev/null - 2>/dev/null; }
# need_cc: a C compiler that can link a program. Debian's gcc does not bring a C library to link with.
need_cc() {
    need cc gcc
    can_link || install libc6-dev
}

# has_std TARGET: whether Rust's standard library for the target is installed.
has_std() { [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ]; }

# need_cross_cc TARGET: the C compiler of another architecture, as cargo's linker for that target. Debian's names are GNU's.
need_cross_cc() {
    case $1 in
        aarch64-*) need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu && need_file /usr/aarch64-linux-gnu/lib/libc.a libc6-dev-arm64-cross ;;
        x86_64-*) need x86_64-linux-gnu-gcc gcc-x86-64-linux-gnu && need_file /usr/x86_64-linux-gnu/lib/libc.a libc6-dev-amd64-cross ;;
        *) die "there is no recipe for a linker of $1; deploy/build-static knows aarch64 and x86_64" ;;
    esac
    local variable=CARGO_TARGET_${1^^}_LINKER
    variable=${variable//-/_}
    export "$variable=${!variable:-${1%%-*}-linux-gnu-gcc}"
}
