"""Builds all test binaries and prints name, folder and file of those that are named, or of all, one a line."""

import json
import os
import subprocess
import sys

built = subprocess.run(
    ["cargo", "test", "--release", "--workspace", "--no-run", "--message-format=json-render-diagnostics"],
    stdout=subprocess.PIPE, check=True, text=True)
# The tests look for the library and the command; there is no cargo to build them in the virtual machine.
subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "testudo-preload"], check=True)

binaries = {}
for line in built.stdout.splitlines():
    message = json.loads(line)
    if message.get("reason") != "compiler-artifact" or not message.get("executable") or not message["profile"]["test"]:
        continue
    kind, name = message["target"]["kind"][0], message["target"]["name"]
    # Unit tests go by their kind too: a library and a command have the same name.
    if kind != "test":
        name = f"{'bin' if kind == 'bin' else 'example' if kind == 'example' else 'lib'}:{name}"
    binaries[name] = (os.path.dirname(message["manifest_path"]), message["executable"])

wanted = sys.argv[1:] or sorted(binaries)
unknown = [name for name in wanted if name not in binaries]
if unknown:
    sys.exit(f"no test binary {', '.join(unknown)}; there are {', '.join(sorted(binaries))}")
for name in wanted:
    print("\t".join((name, *binaries[name])))
