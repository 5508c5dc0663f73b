# memcached: values of changing sizes, evictions, and clients that come and go.
. ./prelude.sh
port=$(free_port)
start_server memcached -u root -l 127.0.0.1 -p "$port" -U 0 -m 64 -t 4
await_port "$port"
rounds=3
if nightly; then rounds=200; fi
python3 memcached.py "$port" "$rounds"
end_server TERM
