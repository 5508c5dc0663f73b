"""Installs the Debian package in a Debian 12 of its own, with systemd as its first process, and uses it as docs/install.md says.

    python3 tests/install/system.py PACKAGE.deb      # of packaging/build-deb

Prints a table of what was seen and fails where it was not what the documents say: docs/tested-installations.md. Needs root and
Debian's packages systemd-container, mmdebstrap and util-linux, and fetches packages for the system once, into cargo's target
folder. The system is a container: it shares this kernel, has no network, and is thrown away afterwards. By hand or at night:
it takes some minutes.
"""

import os
import pathlib
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

PACKAGES = "systemd,systemd-sysv,dbus,login,passwd,procps,nginx-light,openssh-server,openssh-client,gcc,libc6-dev"
HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "install"
LIBRARY = "/usr/lib/x86_64-linux-gnu/libtestudo.so"
PRELOAD = "/etc/ld.so.preload"
DEADLINE = 300

# Writes behind a chunk and gives it back; without testudo nothing is noticed.
FAULTY = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static void *(*volatile copy)(void *, const void *, size_t) = memcpy;
int main(void) {
    char *name = malloc(20);
    copy(name, "a name of 23 characters", 24);
    free(name);
    puts("nothing was noticed");
    return 0;
}
"""
UNIT = "[Service]\nType=exec\nExecStart=/usr/local/bin/faulty\n"
CONFINED = UNIT + """DynamicUser=yes
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectProc=invisible
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
LockPersonality=yes
SystemCallFilter=@system-service
"""

failures = []


def say(what, seen, holds, *ended):
    """A line of the table; where it does not hold, also what the commands said."""
    print(f"| {what} | {seen if holds else '**NOT SO**: ' + seen} |", flush=True)
    if not holds:
        failures.append(f"{what} {[(one.returncode, one.stdout[-300:], one.stderr[-300:]) for one in ended]}")


def base():
    """The system as an archive, made once."""
    archive = WORK / "bookworm.tar"
    if not archive.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        part = archive.with_suffix(".part.tar")
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", part], check=True)
        part.rename(archive)
    return archive


class Machine:
    """A booted system below a folder."""

    def __init__(self, root):
        self.root = root
        self.process = None

    def boot(self):
        """Starts it and waits until systemd has started all that it starts; returns what systemd says then."""
        terminal, its_end = pty.openpty()
        self.process = subprocess.Popen(
            ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", "--console=interactive",
             "--directory", self.root, "--boot"],
            stdin=its_end, stdout=its_end, stderr=its_end, start_new_session=True)
        os.close(its_end)
        self.terminal, self.shown = terminal, ""
        threading.Thread(target=self.read_terminal, args=(terminal,), daemon=True).start()
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            self.leader = self.find_leader()
            if self.leader and (state := self.run("systemctl is-system-running").stdout.strip()) in ("running", "degraded"):
                return state
            time.sleep(0.5)
        sys.exit(f"the system does not start:\n{self.shown}")

    def read_terminal(self, terminal):
        try:
            while data := os.read(terminal, 4096):
                self.shown += data.decode(errors="replace")
        except OSError:
            pass

    def find_leader(self):
        """The number, seen from outside, of the process that is the first one inside."""
        todo = [self.process.pid]
        for number in todo:
            try:
                status = pathlib.Path(f"/proc/{number}/status").read_text()
                todo += map(int, pathlib.Path(f"/proc/{number}/task/{number}/children").read_text().split())
            except OSError:
                continue
            inside = re.search(r"^NSpid:\s+(.*)$", status, re.MULTILINE).group(1).split()
            if len(inside) > 1 and inside[-1] == "1" and "systemd" in status.split("\n", 1)[0]:
                return number
        return None

    def run(self, command):
        """Runs a shell command inside, as root."""
        return subprocess.run(
            ["nsenter", "--target", str(self.leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--root",
             "/usr/bin/env", "--ignore-environment", "--chdir=/", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "/bin/bash", "-c", command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=DEADLINE)

    def power_off(self):
        self.run("systemctl poweroff")
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait()
        os.close(self.terminal)

    def reboot(self):
        self.power_off()
        return self.boot()

    def expect(self, text, start):
        """Waits for text on the console."""
        end = time.monotonic() + DEADLINE
        while text not in self.shown[start:]:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def log_in(self, name, password, command, answer):
        """Logs in at the console and runs a command; returns whether it answers."""
        for wanted, typed in ("login: ", name), ("Password: ", password), ("$ ", command):
            start = self.shown.rfind("login: ") if wanted == "login: " else len(self.shown)
            if not self.expect(wanted, max(start, 0)):
                return False
            start = len(self.shown)
            os.write(self.terminal, f"{typed}\n".encode())
        return self.expect(answer, start)

    def mapped_by(self, pids):
        """Of these processes, the names of those that have the library, and of those that do not."""
        listed = self.run(
            f"for p in {pids}; do read -r name < /proc/$p/comm || continue; "
            f"grep -q {LIBRARY} /proc/$p/maps && echo with $name || echo without $name; done 2> /dev/null").stdout
        names = {"with": [], "without": []}
        for line in listed.splitlines():
            which, _, name = line.partition(" ")
            names[which].append(name)
        return names["with"], names["without"]


def counted(names):
    return ", ".join(f"{name} × {names.count(name)}" for name in sorted(set(names)))


def prepare(root, package):
    subprocess.run(["tar", "--extract", "--file", base(), "--directory", root], check=True)
    (root / "usr/local/src/faulty.c").write_text(FAULTY)
    shutil.copy(package, root / "root/testudo.deb")
    for name, unit in ("faulty", UNIT), ("confined", CONFINED):
        (root / f"etc/systemd/system/{name}.service").write_text(unit)
    setup = """
        gcc -O1 -w /usr/local/src/faulty.c -o /usr/local/bin/faulty &&
        useradd --create-home --shell /bin/bash tester && echo tester:an-apple-a-day | chpasswd &&
        mkdir -p -m 700 /home/tester/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519 &&
        cp /root/.ssh/id_ed25519.pub /home/tester/.ssh/authorized_keys && chown -R tester: /home/tester/.ssh &&
        cp /bin/cat /usr/local/bin/setuid-cat && chmod 4755 /usr/local/bin/setuid-cat"""
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    subprocess.run(["chroot", root, "/bin/bash", "-c", setup], check=True)


def the_package(machine):
    installed = machine.run("dpkg --install /root/testudo.deb")
    say("`dpkg --install`", "installed without a warning", installed.returncode == 0 and "warning" not in installed.stderr)
    cached = machine.run("ldconfig -p | grep libtestudo.so").stdout
    say("the loader's cache", "has `libtestudo.so`", "libtestudo.so" in cached)
    check = machine.run("testudo check")
    held = re.search(r"\d+ of \d+ promises held", check.stdout)
    say("`testudo check`", held.group() if held else check.stdout[-200:], check.returncode == 0 and bool(held))


def a_service(machine):
    request = r"exec 3<> /dev/tcp/127.0.0.1/80; printf 'GET / HTTP/1.0\r\n\r\n' >&3; grep -q 'Welcome to nginx' <&3 && echo page"
    pids = "$(pgrep -x nginx)"
    with_it, without = machine.mapped_by(pids)
    say("nginx before", "runs without the library", not with_it and bool(without) and machine.run(request).stdout == "page\n")

    def drop_in(name):
        return f"/etc/systemd/system/{name}.service.d"

    def under_testudo(name):
        example = "/usr/share/doc/testudo/examples/testudo.service.d.conf"
        return machine.run(f"mkdir -p {drop_in(name)} && cp {example} {drop_in(name)}/testudo.conf && "
                           f"systemctl daemon-reload && systemctl restart {name}")

    restarted = under_testudo("nginx")
    with_it, without = machine.mapped_by(pids)
    say("nginx with the drop-in, restarted", f"in `/proc/PID/maps` of {counted(with_it)}",
        restarted.returncode == 0 and len(with_it) > 1 and not without)
    served = [machine.run(request).stdout for _ in range(20)]
    say("20 requests to it", "20 pages", served == ["page\n"] * 20)
    for name in "faulty", "confined":
        plain = machine.run(f"systemctl start {name}; sleep 1; journalctl --no-pager -o cat -u {name}").stdout
        say(f"a service with an overflow (`{name}`), before", "ends well, nothing noticed", "nothing was noticed" in plain)
        under_testudo(name)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            result = machine.run(f"systemctl show -p Result --value {name}").stdout.strip()
            journal = machine.run(f"journalctl --no-pager -o cat -u {name}").stdout
            if result != "success" and "testudo:" in journal:
                break
            time.sleep(1)
        report = next((line for line in journal.splitlines() if line.startswith("testudo: ")), "no report")
        report = re.sub(r"0x[0-9a-f]+", "0x…", report)
        say(f"the same with the drop-in, by `journalctl -u {name}`", f"`{report}`, result `{result}`",
            report.startswith("testudo: buffer overflow") and result in ("core-dump", "signal"))
    machine.run(f"rm {drop_in('nginx')}/testudo.conf && systemctl daemon-reload && systemctl restart nginx")
    with_it, without = machine.mapped_by(pids)
    say("nginx after the drop-in was deleted, restarted", "runs without the library", not with_it and bool(without))
    machine.run(f"rm -r {drop_in('faulty')} {drop_in('confined')}; systemctl daemon-reload; systemctl reset-failed")


def every_program(machine):
    copied = machine.run(f"testudo check > /dev/null && cp /usr/share/doc/testudo/examples/ld.so.preload {PRELOAD}")
    said = machine.run("faulty")
    say(f"`{PRELOAD}` by the documented steps, then a program with an overflow", "ended with a report",
        copied.returncode == 0 and said.returncode in (134, -6) and "testudo: buffer overflow" in said.stderr, copied, said)
    maps = "setuid-cat /proc/self/maps"
    as_tester = f"setpriv --reuid tester --regid tester --init-groups {{}}{maps}"
    usual = machine.run(as_tester.format(""))
    say("a set-user-id program of another user", "has the library", LIBRARY in usual.stdout, usual)
    wrong = machine.run(as_tester.format("env TESTUDO_OPTIONS=nonsense=1 "))
    refused = machine.run("TESTUDO_OPTIONS=nonsense=1 cat /dev/null")
    say("a wrong option in its environment", "ignored; refused by programs that are not set-user-id",
        LIBRARY in wrong.stdout and refused.returncode == 1 and "nonsense" in refused.stderr, wrong, refused)
    state = machine.reboot()
    say("reboot", f"systemd says `{state}`", state == "running")
    with_it, without = machine.mapped_by("$(cd /proc && echo [0-9]*)")
    say("processes after it", f"the library is in {counted(with_it)}", "systemd" in with_it and without == [])
    say("login at the console, with a password", "logged in, with the library",
        machine.log_in("tester", "an-apple-a-day", f"echo $(grep -c {LIBRARY} /proc/self/maps) lines", "4 lines"))
    ssh = "ssh -o StrictHostKeyChecking=no -o BatchMode=yes tester@127.0.0.1 'grep -c libtestudo.so /proc/self/maps'"
    say("login by ssh, with a key", "logged in, with the library", machine.run(ssh).stdout.strip() == "4")
    again = machine.run("dpkg --install /root/testudo.deb")
    say("the package installed again, meanwhile", "installed; nginx runs on",
        again.returncode == 0 and machine.run("systemctl is-active nginx").stdout.strip() == "active")
    machine.run(f"rm {PRELOAD}")
    free = machine.run("cat /proc/self/maps")
    say(f"`rm {PRELOAD}`", "programs start without the library", LIBRARY not in free.stdout and free.stderr == "", free)
    state = machine.reboot()
    with_it, without = machine.mapped_by("$(cd /proc && echo [0-9]*)")
    say("reboot", f"systemd says `{state}`, the library is in no process", state == "running" and not with_it and bool(without))


def the_removal(machine):
    machine.run(f"cp /usr/share/doc/testudo/examples/ld.so.preload {PRELOAD}")
    removed = machine.run("dpkg --remove testudo")
    warned = "testudo: /etc/ld.so.preload still names libtestudo.so" in removed.stderr
    say(f"`dpkg --remove` while `{PRELOAD}` names the library", "removed, with a warning", removed.returncode == 0 and warned)
    after = machine.run("id -u")
    say("programs after that", "run, and print `cannot be preloaded … ignored`",
        after.stdout == "0\n" and "cannot be preloaded" in after.stderr)
    state = machine.reboot()
    say("reboot", f"systemd says `{state}`", state == "running")
    say("login at the console", "logged in", machine.log_in("tester", "an-apple-a-day", "echo $((20 + 3)) here", "23 here"))
    machine.run(f"rm {PRELOAD}")
    after = machine.run("id -u")
    say(f"`rm {PRELOAD}`", "programs print nothing more", after.stdout == "0\n" and after.stderr == "", after)
    removed = machine.run("dpkg --install /root/testudo.deb && dpkg --purge testudo")
    left = machine.run("dpkg -l testudo | grep ^ii; find / -xdev -name '*testudo*' -not -path '/proc/*' -not -path '/root/*'").stdout
    say("installed again and purged, with no such file", "removed without a warning, no file left",
        removed.returncode == 0 and "still names" not in removed.stderr and "libtestudo" not in left and "bin/testudo" not in left)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    package = pathlib.Path(sys.argv[1]).resolve()
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        root = pathlib.Path(folder) / "root"
        root.mkdir()
        prepare(root, package)
        machine = Machine(root)
        try:
            state = machine.boot()
            versions = machine.run("cat /etc/debian_version; uname -r; dpkg-query -W -f '${Package} ${Version}\n' systemd nginx-light libc6 openssh-server")
            print("; ".join(versions.stdout.splitlines()), flush=True)
            print("\n| what | seen |\n|---|---|")
            say("boot, before anything", f"systemd says `{state}`", state == "running")
            for part in the_package, a_service, every_program, the_removal:
                part(machine)
        finally:
            if machine.process and machine.process.poll() is None:
                machine.power_off()
    if failures:
        sys.exit("not as the documents say: " + "; ".join(failures))


if __name__ == "__main__":
    main()
