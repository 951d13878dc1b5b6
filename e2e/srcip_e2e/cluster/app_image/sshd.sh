#!/bin/sh
# OpenSSH on port 2222: it speaks first, and its log says who came.
set -eu
mkdir -p /run/sshd
ssh-keygen -q -t ed25519 -N '' -f /tmp/host_key
exec /usr/sbin/sshd -D -e -p 2222 -h /tmp/host_key -o LogLevel=VERBOSE -o PidFile=none
