# shellcheck shell=bash
# What tests/vm's scripts share: the cache, missing tools, Debian's packages. To be sourced.

# shellcheck disable=SC2034  # the sourcing scripts use it
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vfio-probe/vm
# modprobe and depmod are there, which a user's PATH on Debian lacks.
PATH=$PATH:/usr/sbin:/sbin

say() { echo "vm: $*" >&2; }
die() { say "$@"; exit 2; }
have() { command -v "$1" >/dev/null; }

missing=() packages=()
# tool COMMAND PACKAGE, file_of FILE PACKAGE: remember what is missing.
tool() { have "$1" || { missing+=("$1"); packages+=("$2"); }; }
file_of() { [ -e "$1" ] || { missing+=("$1"); packages+=("$2"); }; }

# Installs what is missing, as root on Debian, or says what to install.
install_missing() {
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ] || ! have apt-get; then
        die "missing: ${missing[*]}. On Debian, as root: apt-get install --no-install-recommends ${packages[*]}"
    fi
    apt_lists
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}" >&2
}

# Brings apt's package lists, once in a run, and only where nothing can be found without them.
apt_lists() {
    [ -n "${lists_done:-}" ] && return
    lists_done=1
    if [ "$(id -u)" -eq 0 ]; then apt-get update -qq >&2 || say "apt-get update failed"; fi
}

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
