#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Runs every example of the README and the man pages as a newcomer would type it, one block after the
other, in a network of their own where all ports are free, and against a fresh installation.

    test_examples.py [PART]...      only blocks that contain one of these

A block of commands is one between ``` and ``` (or of a man page, .EX and .EE). What cannot be run as it
stands (somebody's own server, a port of a system that is not there) is put in its place by STANDINS.
"""
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
BUILD = os.path.abspath(os.environ.get("BUILD", ROOT + "/build"))
LONGEST_S = 60
DOCUMENTS = ["README.md", "tools/man/bpctl.1", "tools/man/backpressure.7", "tools/man/libbackpressure.so.8"]
INSIDE = "BACKPRESSURE_EXAMPLES_HOME"

# Programs that readers have and we have not.
SERVER = "#!/bin/sh\nexec /usr/bin/python3 -m http.server --bind 127.0.0.1 {port}\n"
CLIENT = "#!/bin/sh\nexec curl -s -o /dev/null --retry 5 --retry-connrefused http://127.0.0.1/\n"
STANDINS = {
    "/opt/shop/bin/shopd": SERVER.format(port=8001),
    "/opt/wiki/bin/wikid": SERVER.format(port=8002),
    "./nightly-import": CLIENT,
    "./worker": CLIENT,
}
# Examples of one command of a man page are about a service that runs.
NEEDS_SERVICE = re.compile(r"^bpctl (show|set|pause|resume|drain|depth|events|top) (\w+)", re.M)


def blocks(document):
    """The blocks of commands of a document, with the line where each begins."""
    with open(os.path.join(ROOT, document), encoding="utf-8") as file:
        lines = file.read().split("\n")
    begins, ends = (r"^\.EX$", r"^\.EE$") if not document.endswith(".md") else (r"^```$", r"^```$")
    found, inside, language = [], None, False
    for number, line in enumerate(lines, 1):
        if inside is None and not language and document.endswith(".md") and re.match(r"^```\w", line):
            language = True  # what a program prints, or a file: not to be run
        elif language:
            language = not line.startswith("```")
        elif inside is None and re.match(begins, line):
            inside = (number + 1, [])
        elif inside is not None and re.match(ends, line):
            found.append((f"{document}:{inside[0]}", "\n".join(inside[1])))
            inside = None
        elif inside is not None:
            inside[1].append(line.replace("\\-", "-").replace("\\&", ""))
    return [(where, text) for where, text in found if not text.startswith("[Service]")]


# --- inside: a network, a mount and a process namespace of their own ---

def shell(script, seconds=LONGEST_S, **more):
    """Runs it in a process group of its own; what it started in the background goes on."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(["bash", "-c", "set -e\n" + script], stdout=output, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, start_new_session=True, **more)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = f"not done within {seconds} s"
        output.seek(0)
        return code, output.read().decode(errors="replace")


def services():
    listed = subprocess.run(["bpctl", "ls"], capture_output=True, text=True, check=False).stdout
    return [line.split()[0] for line in listed.split("\n")[1:] if line]


def transformed(line):
    """One command as the terminal of a reader would have it: servers in the foreground go to the background,
    what never ends is ended after a while."""
    if line.startswith("apt-get "):
        # No network in here: what would be installed is there already, under these very names.
        names = re.search(r"install -y ([\w -]+)", line).group(1).split()
        return "dpkg -s " + " ".join(names) + " > /dev/null"
    if line.startswith("make test"):
        return "make -n test > /dev/null"  # that is what runs just now
    if line.startswith("bpctl top"):
        return f"timeout -s INT 3 script -qec '{line}' /dev/null > /dev/null < /dev/null || [ $? = 124 ]"
    if "--follow" in line:
        return f"timeout -s INT 2 {line.split('#')[0]} || [ $? = 124 ]"
    if re.match(r"bpctl metrics --listen [\w.:]+$", line):
        return line + " &"
    if re.match(r"(bpctl run .*-- |LD_PRELOAD=)", line):
        name = re.search(r"(?:--name |name=)(\w+)", line).group(1)
        return (f"{{ {line.rstrip('& ')}; }} &\n"
                f"for i in $(seq 100); do bpctl ls | grep -q '^{name} ' && break; kill -0 $! 2> /dev/null || break; "
                f"sleep 0.1; done; bpctl ls | grep -q '^{name} ' || wait $!")
    return line


def run(where, text, home):
    for service in set(match.group(2) for match in NEEDS_SERVICE.finditer(text)):
        if f"--name {service}" not in text and service not in services():
            shell(transformed(f"bpctl run --name {service} -- /opt/shop/bin/shopd"), cwd=home)
    if "./" in text or "curl" in text:
        shell(transformed("bpctl run --name front -- /usr/bin/python3 -m http.server --bind 127.0.0.1 80"), cwd=home)
    if "bpctl probe" in text and os.system("bpctl probe start > /dev/null 2>&1 && bpctl probe stop") != 0:
        print(f"# the kernel lacks what the eBPF probe needs\n  skipped  {where}")
        return True
    joined = re.sub(r"\\\n\s*", "", text)
    code, output = shell("\n".join(map(transformed, joined.split("\n"))), seconds=180 if "make demo" in text else
                         LONGEST_S, cwd=ROOT if "make " in text else home)
    print(f"  {'ran     ' if code == 0 else 'FAILED  '} {where}: {joined.split(chr(10))[0]}", flush=True)
    if code != 0:
        print(f"    exit code {code}\n    " + output[-2000:].replace("\n", "\n    "))
    end_everything()
    return code == 0


def end_everything():
    """All but this process: in this namespace there is nothing else. Pid 1 is ours."""
    subprocess.run(["bpctl", "probe", "stop"], capture_output=True, check=False)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        others = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in (1, os.getpid())]
        others = [pid for pid in others if not stat_of(pid).startswith("Z")]
        if not others:
            break
        for pid in others:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break
        time.sleep(0.01)
    subprocess.run(["bpctl", "ls"], capture_output=True, check=False)


def stat_of(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].strip()
    except OSError:
        return "Z"


def mount_over(path, mode="0755"):
    os.makedirs(path, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode={mode}", "tmpfs", path], check=True)


def overlay(path, scratch):
    """What is written below `path` from now on goes with this namespace."""
    upper, work = (scratch + path + suffix for suffix in (".upper", ".work"))
    os.makedirs(upper)
    os.makedirs(work)
    subprocess.run(["mount", "-t", "overlay", "-o", f"lowerdir={path},upperdir={upper},workdir={work}", "overlay",
                    path], check=True)


def prepare(home):
    """A machine on which nothing runs, and on which this has just been installed."""
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    scratch = home + "/overlay"
    mount_over(scratch)
    for path in ("/usr", "/etc", "/var"):
        overlay(path, scratch)
    for path in ("/opt", "/run"):
        mount_over(path)
    mount_over("/dev/shm", "1777")
    os.makedirs("/run/vsftpd/empty")
    for path, text in STANDINS.items():
        path = os.path.join(home, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(path, 0o755)
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    subprocess.run(["make", "-s", "install", "BUILD=" + BUILD], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    subprocess.run(["ldconfig"], check=True)


def inside(parts):
    failed = ran = 0
    home = os.environ[INSIDE]
    prepare(home)
    for document in DOCUMENTS:
        for where, text in blocks(document):
            if not parts or any(part in text for part in parts):
                ran += 1
                failed += not run(where, text, home)
    print(f"{ran - failed} examples passed, {failed} failed")
    return 1 if failed or not ran else 0


def main():
    if os.environ.get(INSIDE):
        sys.exit(inside(sys.argv[1:]))
    if os.geteuid() != 0:
        print("  skipped  examples: they are installed and run as root, in namespaces of their own")
        sys.exit(0)
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", sys.executable, *sys.argv]
    with tempfile.TemporaryDirectory(prefix="backpressure-examples-") as home:
        sys.exit(subprocess.run(command, env={**os.environ, INSIDE: home}, check=False).returncode)


if __name__ == "__main__":
    main()
