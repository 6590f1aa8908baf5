# shellcheck shell=bash
# The cache and Debian's packages, for the scripts of tests/vm. To be sourced.

# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/setup.sh"

# shellcheck disable=SC2034  # the sourcing scripts use it
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vfio-probe/vm

say() { echo "vm: $*" >&2; }
# Replaces the function of setup.sh. The exit status is 2 if there is no VM, 1 if something fails in the VM.
die() { say "$@"; exit 2; }
have() { command -v "$1" >/dev/null; }

# newest REGEX: prints the newest package with such a name. Signed and unsigned images have the same kernel.
newest() {
    have apt-cache || return 0
    apt-cache search --names-only "$1" | awk '{print $1}' | sort -V | tail -1
}

# unpack PACKAGE DIRECTORY: downloads and unpacks a Debian package; it does not install it.
unpack() {
    local new
    [ -d "$2" ] && return
    say "downloading $1"
    mkdir -p "$(dirname "$2")"
    new=$(mktemp -d "$2.XXXXXX")
    # apt warns that its sandbox user cannot write here.
    (cd "$new" && apt-get download -q "$1" >&2) || { rm -rf "$new"; die "cannot download $1 with apt-get"; }
    dpkg -x "$new"/*.deb "$new"
    rm "$new"/*.deb
    mv -T "$new" "$2"
}
