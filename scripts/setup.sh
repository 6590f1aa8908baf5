# shellcheck shell=bash
# What ./run and ./verify need on the machine: installed through apt as root on Debian and its kin, else named.
# To be sourced before any cd.

# modprobe and its kin are there, which a user's PATH on Debian lacks.
PATH=$PATH:/usr/sbin:/sbin
# Means the caller's folder to all that runs later, wherever that runs.
case ${CARGO_TARGET_DIR:-/} in /*) ;; *) export CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR ;; esac

# die TEXT: an error and what to do about it.
die() {
    echo "error: $*" >&2
    exit 1
}

need_cargo() {
    # rustup's place, which a login shell would have on its PATH.
    [ -d "$HOME/.cargo/bin" ] && PATH=$HOME/.cargo/bin:$PATH
    command -v cargo >/dev/null || die "cargo is missing; get Rust from your distribution or with rustup"
}

apt_is_fresh=
# apt_lists: brings apt's package lists, as root and once in a run; what is there may do without.
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
    apt_lists
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2 ||
        die "apt-get could not install: $*"
}

# need COMMAND PACKAGE: installs the package if there is no such command.
need() {
    command -v "$1" >/dev/null || install "$2"
}

wanted=()
# want COMMAND PACKAGE: the same, but only install_wanted installs it, with all others and in one go.
want() {
    command -v "$1" >/dev/null || wanted+=("$2")
}
# want_file FILE PACKAGE
want_file() {
    [ -e "$1" ] || wanted+=("$2")
}
install_wanted() {
    [ ${#wanted[@]} -eq 0 ] || install "${wanted[@]}"
    wanted=()
}

# need_cc: a C compiler that can link a program; Debian's gcc alone has no libc to link with.
need_cc() {
    need cc gcc
    printf '#include <stdio.h>\nint main(void) { return 0; }\n' | cc -x c -o /dev/null - 2>/dev/null || install libc6-dev
}

# need_file FILE PACKAGE
need_file() {
    [ -e "$1" ] || install "$2"
}
