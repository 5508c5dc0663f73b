# OpenSSL: its own speed test, and TLS between its server and its client.
. ./prelude.sh
seconds=1 handshakes=20
blocks="-bytes 1024"
if nightly; then seconds=5 handshakes=1000 blocks=; fi
protected openssl speed -seconds "$seconds" $blocks -multi 2 sha256 aes-256-cbc > speed.log 2>&1
protected openssl speed -seconds "$seconds" rsa2048 ecdsap256 > speed-keys.log 2>&1
grep -c 'sha256' speed.log > /dev/null
protected openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out certificate.pem -days 2 -subj /CN=localhost 2> req.log
port=$(free_port)
start_server openssl s_server -accept "127.0.0.1:$port" -key key.pem -cert certificate.pem -www
await_port "$port"
for version in tls1_2 tls1_3; do
    for _ in $(seq "$handshakes"); do
        printf 'GET / HTTP/1.0\r\n\r\n' | protected openssl s_client -connect "127.0.0.1:$port" \
            -"$version" -CAfile certificate.pem -verify_return_error -quiet 2> client.log
    done | grep -c 'HTTP/1.0 200 ok'
done
kill -TERM "$server"
wait "$server" || true
server=
head -c 5000000 /dev/zero | protected openssl enc -aes-256-cbc -pbkdf2 -pass pass:x -nosalt | protected openssl dgst -sha256
