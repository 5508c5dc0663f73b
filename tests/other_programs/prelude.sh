# Read by every script of this folder. They are given the library's path (or nothing, for a run without it) as
# LIBRARY, its options as OPTIONS, and LENGTH, ci or nightly. What they print must not depend on any of these.
set -euo pipefail

# Runs a program, which the library is put under, if there is one.
protected() {
    if [ -n "${LIBRARY:-}" ]; then
        env LD_PRELOAD="$LIBRARY" TESTUDO_OPTIONS="$OPTIONS" "$@"
    else
        "$@"
    fi
}

# The same in the background, as `server`.
start_server() {
    if [ -n "${LIBRARY:-}" ]; then
        env LD_PRELOAD="$LIBRARY" TESTUDO_OPTIONS="$OPTIONS" "$@" > server.log 2>&1 &
    else
        "$@" > server.log 2>&1 &
    fi
    server=$!
}

nightly() {
    [ "$LENGTH" = nightly ]
}

# A loopback port that nobody listens on. Where the search begins follows from the script's process number, which no two have at
# once: by chance, two scripts would choose the same port now and then, and each find that nobody listens there yet.
free_port() {
    local port attempt
    for attempt in $(seq 0 99); do
        port=$((20000 + ($$ + attempt * 97) % 10000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    echo "no port is free" >&2
    return 1
}

# Waits until somebody listens on a port of 127.0.0.1: ten minutes, for a slow machine must not fail a test.
await_port() {
    for _ in $(seq 6000); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then
            return
        fi
        sleep 0.1
    done
    echo "nobody listens on port $1" >&2
    return 1
}

# The server that is running is ended with the script, however that ends.
server=
stop_server() {
    if [ -n "$server" ]; then
        kill -KILL "$server" 2>/dev/null || true
    fi
}
trap stop_server EXIT

# Asks the server to end by a signal; prints its exit status.
end_server() {
    local status=0
    kill -"$1" "$server"
    wait "$server" || status=$?
    server=
    echo "the server ended with status $status"
}
