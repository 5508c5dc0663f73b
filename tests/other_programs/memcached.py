"""Sets, reads, appends to and deletes values of all sizes through several connections, and checks each answer."""
import random
import socket
import sys

port, rounds = int(sys.argv[1]), int(sys.argv[2])
draw = random.Random(7)


class Client:
    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.file = self.socket.makefile("rwb")

    def ask(self, line, body=None):
        self.file.write(line.encode() + b"\r\n" + (b"" if body is None else body + b"\r\n"))
        self.file.flush()
        return self.file.readline().rstrip()

    def get(self, key):
        head = self.ask(f"get {key}").split()
        if head == [b"END"]:
            return None
        body = self.file.read(int(head[3]) + 2)[:-2]
        assert self.file.readline() == b"END\r\n"
        return body


answers = 0
for round in range(rounds):
    clients = [Client() for _ in range(20)]
    known = {}
    for number in range(6000):
        client = clients[draw.randrange(20)]
        key = f"key{draw.randrange(2000)}"
        value = bytes([draw.randrange(33, 127)]) * int(2 ** draw.uniform(0, 17))
        what = draw.randrange(10)
        if what < 6:
            assert client.ask(f"set {key} 0 0 {len(value)}", value) == b"STORED"
            known[key] = value
        elif what < 8:
            found = client.get(key)
            assert found is None or round > 0 and key not in known or found == known.get(key), key
        elif what < 9:
            if client.ask(f"append {key} 0 0 3", b"end") == b"STORED" and key in known:
                known[key] += b"end"
        else:
            assert client.ask(f"delete {key}") in (b"DELETED", b"NOT_FOUND")
            known.pop(key, None)
        answers += 1
    for client in clients:
        client.socket.close()
print(f"{answers} answers were right")
