# shellcheck shell=bash
# What tests/vm's scripts share: the cache, missing tools, Debian's packages. To be sourced.

# shellcheck source=scripts/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/setup.sh"

# shellcheck disable=SC2034  # the sourcing scripts use it
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vfio-probe/vm

say() { echo "vm: $*" >&2; }
# In place of setup.sh's: a VM that cannot be had is 2, what fails in it is 1.
die() { say "$@"; exit 2; }
have() { command -v "$1" >/dev/null; }

# Prints the newest package whose name matches; signed and unsigned images hold the same kernel.
newest() {
    have apt-cache || return 0
    apt-cache search --names-only "$1" | awk '{print $1}' | sort -V | tail -1
}

# unpack PACKAGE DIR: download and unpack a Debian package, never install it.
unpack() {
    local new
    [ -d "$2" ] && return
    say "downloading $1"
    mkdir -p "$(dirname "$2")"
    new=$(mktemp -d "$2.XXXXXX")
    # apt's sandbox user cannot write here; that is only a warning.
    (cd "$new" && apt-get download -q "$1" >&2) || { rm -rf "$new"; die "cannot download $1 with apt-get"; }
    dpkg -x "$new"/*.deb "$new"
    rm "$new"/*.deb
    mv -T "$new" "$2"
}
