# nginx: static files to many clients, while its workers are replaced by reloads.
. ./prelude.sh
port=$(free_port)
mkdir -p logs files
head -c 300000 /dev/zero | tr '\0' n > files/large
echo "a page" > files/page
cat > nginx.conf <<END
daemon off;
worker_processes 2;
pid logs/pid;
error_log logs/error.log notice;
events { worker_connections 256; }
http {
    access_log logs/access.log;
    client_body_temp_path logs/body; proxy_temp_path logs/proxy; fastcgi_temp_path logs/fastcgi;
    uwsgi_temp_path logs/uwsgi; scgi_temp_path logs/scgi;
    gzip on; gzip_types application/octet-stream; gzip_min_length 100;
    server { listen 127.0.0.1:$port; root $PWD/files; default_type application/octet-stream; }
}
END
start_server /usr/sbin/nginx -p "$PWD" -c nginx.conf -e logs/start.log
await_port "$port"
# It listens before it has handlers for signals: until then the signal for a reload would end it.
until [ -s logs/pid ]; do sleep 0.1; done
seconds=3 reloads=3
if nightly; then seconds=60 reloads=100; fi
wrk -t2 -c40 -d"${seconds}s" -H 'Accept-Encoding: gzip' "http://127.0.0.1:$port/large" > wrk-large.log &
clients=$!
wrk -t1 -c20 -d"${seconds}s" "http://127.0.0.1:$port/page" > wrk-page.log &
clients="$clients $!"
for _ in $(seq "$reloads"); do
    sleep 0.5
    kill -HUP "$server"
done
wait $clients
for log in wrk-large.log wrk-page.log; do
    grep -q 'requests in' "$log"
    if grep 'Non-2xx' "$log"; then exit 1; fi
done
await_port "$port"
exec 3<>"/dev/tcp/127.0.0.1/$port"
printf 'GET /page HTTP/1.0\r\n\r\n' >&3
tail -n 1 <&3
exec 3>&-
end_server QUIT
if grep -E 'exited on signal|\[(alert|emerg|crit)\]' logs/error.log; then exit 1; fi
