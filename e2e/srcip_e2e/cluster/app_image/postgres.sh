#!/bin/sh
# PostgreSQL on port 5432 as anybody would run it: connections are logged, and hosts are told apart by their address.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
"$bin/initdb" --no-sync --auth=trust --username=postgres -D /tmp/data >/dev/null
# only the documentation networks may log in: who shows up with another address is refused by PostgreSQL itself
printf 'local all all trust\nhost all all 203.0.113.0/24 trust\nhost all all 2001:db8::/64 trust\n' >/tmp/data/pg_hba.conf
exec "$bin/postgres" -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp -c log_connections=on -c fsync=off
