# Redis: its own benchmark's matrix of commands, sizes and pipelining, while it saves in the background by forking.
. ./prelude.sh
port=$(free_port)
start_server redis-server --bind 127.0.0.1 --port "$port" --dir "$PWD" --appendonly yes --save ''
await_port "$port"
requests=400 sizes="3 5000"
if nightly; then requests=100000 sizes="3 100 5000 70000 300000"; fi
saves=0
for size in $sizes; do
    for pipeline in 1 16; do
        redis-benchmark -h 127.0.0.1 -p "$port" -q -n $((size > 9999 ? requests / 50 : requests)) -r 1000 -d "$size" -P "$pipeline" \
            -t ping,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset > bench.log 2>&1
        if grep -i 'error' bench.log; then exit 1; fi
        redis-cli -h 127.0.0.1 -p "$port" BGSAVE > /dev/null
        until redis-cli -h 127.0.0.1 -p "$port" INFO persistence | grep -q 'rdb_bgsave_in_progress:0'; do sleep 0.1; done
        redis-cli -h 127.0.0.1 -p "$port" INFO persistence | grep -o 'rdb_last_bgsave_status:[a-z]*'
        saves=$((saves + 1))
    done
    redis-cli -h 127.0.0.1 -p "$port" BGREWRITEAOF > /dev/null
    until redis-cli -h 127.0.0.1 -p "$port" INFO persistence | grep -q 'aof_rewrite_in_progress:0'; do sleep 0.1; done
    redis-cli -h 127.0.0.1 -p "$port" INFO persistence | grep -o 'aof_last_bgrewrite_status:[a-z]*'
    redis-cli -h 127.0.0.1 -p "$port" FLUSHALL > /dev/null
done
echo "$saves saves"
end_server TERM
