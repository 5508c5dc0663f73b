# PostgreSQL: a cluster is made, a server runs on a socket of its own, and pgbench works on it.
. ./prelude.sh
programs=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
run() {
    # The server refuses to run as root.
    if [ "$(id -u)" -eq 0 ]; then
        setpriv --reuid=postgres --regid=postgres --clear-groups "$@"
    else
        "$@"
    fi
}
run_protected() {
    if [ -n "${LIBRARY:-}" ]; then
        run env LD_PRELOAD="$LIBRARY" TESTUDO_OPTIONS="$OPTIONS" "$@"
    else
        run "$@"
    fi
}
if [ "$(id -u)" -eq 0 ]; then chown postgres . ; fi
run_protected "$programs/initdb" -D data -A trust -U bench --locale=C > initdb.log 2>&1
seconds=3
if nightly; then seconds=60; fi
run_protected "$programs/pg_ctl" -D data -w -l log -o "-c listen_addresses='' -c unix_socket_directories=$PWD" start > start.log
stop() {
    run "$programs/pg_ctl" -D data -m fast -w stop > stop.log
}
trap stop EXIT
run createdb -h "$PWD" -U bench bench
run "$programs/pgbench" -h "$PWD" -U bench -i -s 2 -q bench 2> fill.log
run "$programs/pgbench" -h "$PWD" -U bench -c 8 -j 2 -T "$seconds" bench > bench.log 2>&1
grep 'number of failed transactions' bench.log
run psql -h "$PWD" -U bench -At bench -c "select count(*), sum(length(md5(i::text) || repeat('x', i % 5000))) from generate_series(1, 50000) i"
run psql -h "$PWD" -U bench -At bench -c "select count(*) from (select aid, array_agg(abalance) from pgbench_accounts group by aid order by aid desc) x"
trap - EXIT
stop
if grep -E 'PANIC|terminated by signal' log; then exit 1; fi
echo "the server has stopped"
