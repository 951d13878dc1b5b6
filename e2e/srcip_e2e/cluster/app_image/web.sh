#!/bin/sh
# Every kind of HTTP server in one container: nginx on 8080 and 8090, ours on 8081 (HTTP), 8082 (WebSocket), 8083 (gRPC).
here=$(dirname "$0")
nginx -c "$here/headers.conf" &
exec python3 "$here/web.py"
