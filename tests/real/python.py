"""JSON, regular expressions, threads and forked workers: what a Python service does all day."""

import hashlib
import json
import multiprocessing
import os
import pickle
import re
import threading
import zlib


def numbers(seed):
    """The same numbers in every run, on every machine."""
    state = seed
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield state >> 33


def document(seed, records):
    source = numbers(seed)
    return [
        {
            "id": index,
            "name": "n%x" % next(source),
            "tags": ["t%d" % (next(source) % 50) for _ in range(next(source) % 6)],
            "nested": {"score": next(source) / 7, "text": "é" * (next(source) % 40)},
        }
        for index in range(records)
    ]


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def json_round_trips():
    value = document(1, 8000)
    for _ in range(4):
        text = json.dumps(value, sort_keys=True, ensure_ascii=False)
        value = json.loads(text)
    print("json", len(text), digest(text))
    print("pickle", pickle.loads(pickle.dumps(value)) == value)
    print("zlib", len(zlib.decompress(zlib.compress(text.encode()))))


def regular_expressions():
    source = numbers(2)
    text = " ".join("%x-%d" % (next(source), next(source) % 1000) for _ in range(40000))
    pairs = re.findall(r"\b([0-9a-f]+)-(\d{3})\b", text)
    turned = re.sub(r"([0-9a-f]+)-(\d+)", lambda found: found[2] + "_" + found[1], text)
    print("regex", len(pairs), digest(turned), len(re.split(r"[a-f]+", text)))


def threads():
    results = [None] * 8

    def work(place):
        table = {}
        for number, _ in zip(numbers(place), range(20000)):
            table.setdefault(number % 997, []).append(str(number))
        results[place] = digest("".join(sorted(map("".join, table.values()))))

    crew = [threading.Thread(target=work, args=(place,)) for place in range(8)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    print("threads", results)


def in_a_worker(seed):
    return digest(json.dumps(document(seed, 300)))


def forked_workers():
    with multiprocessing.get_context("fork").Pool(4) as pool:
        print("pool", digest("".join(pool.map(in_a_worker, range(40)))))
    codes = []
    for number in range(60):
        child = os.fork()
        if child == 0:
            os._exit(len(document(number, number)))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print("forks", codes == list(range(60)))


json_round_trips()
regular_expressions()
threads()
forked_workers()
