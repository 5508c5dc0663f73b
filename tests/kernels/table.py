"""Prints what came of the tests in the folder of results that tests/kernels/run left, and fails where one failed."""

import pathlib
import re
import sys

folder = pathlib.Path(sys.argv[1])
names = [line.split("\t")[0] for line in (folder / "list").read_text().splitlines()]
total = [0, 0, 0, 0]
wrong = []
print((folder / "version").read_text())
print("| tests | passed | failed | ignored | skipped for want of something | seconds |\n|---|---|---|---|---|---|")
for name in names:
    text = (folder / f"{name}.out").read_text(errors="replace")
    status, seconds = (folder / f"{name}.status").read_text().split()
    result = re.search(r"^test result: .*? (\d+) passed; (\d+) failed; (\d+) ignored", text, re.MULTILINE)
    counts = [int(count) for count in result.groups()] if result else [0, 0, 0]
    # The test harness hides what passing tests print, but not what they write to standard error themselves.
    counts.append(len(re.findall(r"^skipped ", text, re.MULTILINE)))
    total = [sum(pair) for pair in zip(total, counts)]
    print(f"| {name} | {' | '.join(map(str, counts))} | {seconds} |")
    if status != "0" or not result:
        failed = sorted(set(re.findall(r"^    (\S+)$", text.partition("\nfailures:\n")[2], re.MULTILINE)))
        wrong.append(f"{name}: exit status {status}: {', '.join(failed) or 'no test named'}")
print(f"| all | {' | '.join(map(str, total))} | |")
for line in wrong:
    print(f"FAILED {line}")
sys.exit(bool(wrong))
