#!/bin/sh
# Everything that make test, make demo and make bench need on a Debian machine: packages and the virtual environment.
# Run it again at will; what is there already is left alone. Usage: e2e/setup.sh [lab|test|e2e], each with all of the one before.
set -eu
cd "$(dirname "$0")/.."
for_what=${1:-lab}

missing=""
need() { # need PROGRAM-OR-FILE PACKAGE
    case $1 in /*) [ -e "$1" ] ;; *) command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] ;; esac || missing="$missing $2"
}
need runc runc
need mmdebstrap mmdebstrap
need ip iproute2
need setcap libcap2-bin
need nsenter util-linux
need mount mount
need nft nftables
need conntrack conntrack
need /usr/share/containers/seccomp.json golang-github-containers-common
need cc gcc
need /usr/include/stdio.h libc6-dev
need curl curl
need lua5.4 lua5.4
need python3 python3
python3 -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
[ "$(id -u)" = 0 ] || need newuidmap uidmap
if [ "$(id -u)" = 0 ]; then # the rings that need these need root, too, and are skipped visibly without it
    case $for_what in test | e2e)
        need buildah buildah
        need clang clang # compiles the programs of ebpf mode
        need /usr/include/bpf/bpf_helpers.h libbpf-dev
        need bpftool bpftool
        need ethtool ethtool
        need qemu-system-x86_64 qemu-system-x86 # boots other kernels, with
        need /usr/lib/qemu/virtiofsd qemu-system-common
        need busybox busybox-static
        need modprobe kmod
        need etcd etcd-server
        need java default-jre-headless # servers that ebpf mode is tested with; Go is that of ring 3
        need javac ecj # a compiler by this name that needs the runtime alone: half of the JDK's download
        need node nodejs
        need vsftpd vsftpd # names the address that it was reached at
        need redis-check-rdb redis-tools # the server by another name; the package redis-server would start a service
        need "$(ls /usr/lib/*/faketime/libfaketime.so.1 2>/dev/null || echo /none)" libfaketime # a clock that jumps
        ;;
    esac
    case $for_what in e2e)
        need containerd containerd
        need bpftool bpftool # tells whether a program of ebpf mode is left
        need /usr/lib/cni/bridge containernetworking-plugins
        ;;
    esac
fi

if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "missing on this machine:$missing" >&2
        echo "as root: apt-get install -y --no-install-recommends$missing" >&2
        exit 1
    fi
    echo "installing:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "python3 is $(python3 --version): srcip needs 3.11 or newer" >&2
    exit 1
}

stamp=.venv/.installed
if [ ! -e $stamp ] || [ requirements.lock -nt $stamp ] || [ pyproject.toml -nt $stamp ]; then
    python3 -m venv .venv
    .venv/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
    .venv/bin/pip install -q --disable-pip-version-check --no-deps -e .
    touch $stamp
fi
