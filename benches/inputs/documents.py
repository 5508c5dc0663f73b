"""Builds a document of many small objects, writes it as JSON, parses it and walks the result."""

import json
import random
import sys


def person(source, number):
    return {
        "id": number,
        "name": "person %d" % number,
        "mail": "p%d@example.org" % source.randrange(10**6),
        "score": source.random(),
        "tags": ["t%d" % source.randrange(1000) for _ in range(source.randrange(8))],
        "friends": [{"id": source.randrange(10**6), "since": 1970 + i} for i in range(source.randrange(6))],
    }


def total(value):
    if isinstance(value, dict):
        return sum(total(part) for part in value.values())
    if isinstance(value, list):
        return sum(total(part) for part in value)
    return len(value) if isinstance(value, str) else int(value)


def main():
    people = int(sys.argv[1])
    rounds = int(sys.argv[2])
    source = random.Random(1)
    for _ in range(rounds):
        text = json.dumps([person(source, number) for number in range(people)])
        parsed = json.loads(text)
        parsed.sort(key=lambda entry: entry["score"])
        checksum = total(parsed) + total(json.loads(json.dumps(parsed, indent=1)))
    print("checksum=%d" % checksum)


main()
