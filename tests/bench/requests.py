#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""Unmodified servers at up to ten times their capacity, asked over connections that stay, by 500 clients that give
up after a second; databases by transactions of three statements.

    requests.py [--variants V,...] [--loads L,...] [--seconds S] [--lead S] [--rounds N] [--clients N]
                [--calm N] [--short] [SERVER]...

Bare, behind HAProxy, and under the shim: a ceiling of 8 and a delay (fixed), the delay alone, ceilings found by
themselves with and without the delay, and the ceiling on connections for comparison (conns). Each variant starts the
server anew; before and after each load its own best is measured, with 4 connections that are never idle: other
work on the machine weighs on both alike. `worth` is the same by the second of processor time that the server took,
whatever else ran. Medians of the rounds. Answers count that came within the clients'
patience; a transaction counts once it is committed, and is broken where it is refused or cut off after its BEGIN.

Prints a table for each server and what of it should hold, and leaves build/requests.json and build/requests.svg.
--calm offers N requests at 0.8 of the capacity instead, none of which should be refused. --short is what
`make bench` runs. The server has one half of the processors, the clients the other (overload.py).
"""
import argparse
import json
import re
import shutil
import statistics
import subprocess
import time

import overload
from kept_servers import SERVERS
from overload import BUILD, CORES, HALF, NotStarted, Running, on_cores

PATIENCE_MS = 1000
QUEUE_DELAY_MS = overload.QUEUE_DELAY_MS
BUSY = f"queue-delay={QUEUE_DELAY_MS}ms when-full=busy"
# Name, and the shim's limits (None: without it); {ceiling} is the server's.
VARIANTS = {
    "bare": None,
    "haproxy": None,
    "fixed": f"total-requests={{ceiling}} {BUSY}",
    "delay": f"{BUSY}",
    "auto": "total-requests=auto",
    "auto-delay": f"total-requests=auto {BUSY}",
    "conns": f"total-conns={{ceiling}} {BUSY}",
}
STANDARD = ["bare", "haproxy", "fixed", "delay", "auto", "auto-delay"]
SHORT = {"variants": ["bare", "haproxy", "fixed", "auto"], "loads": [2, 10], "seconds": 10, "lead": 5, "rounds": 1}
# Enough kept connections for a server to be at its best, never so many that it is overloaded.
FEW = 4
COLUMNS = ("load", "best/s", "goodput/s", "share", "worth", "p50 ms", "p99 ms", "refused/s", "after ms", "gave up", "lost",
           "broken", "never", "Jain")


def get_ahead(pid, nice):
    """Its session before others, sched(7): whose machine this is must not wait for whoever else is at work."""
    if nice:
        with open(f"/proc/{pid}/autogroup", "w", encoding="ascii") as file:
            file.write(str(nice))


def offer(running, server, clients, rate, seconds, lead=0.0, front=False):
    """What came of it that so many clients asked at this rate in all (0: each again at once) for that long; directly,
    or through what stands in front."""
    command = [BUILD + "/tests/keptloop", "-c", str(clients), "-r", f"{rate:.3f}", "-s", str(seconds), "-l", str(lead),
               "-p", str(PATIENCE_MS), str(running.front if front else running.port), server.dialect, *server.questions()]
    before = running.cpu_seconds()
    said = subprocess.run(on_cores(CORES[HALF:], command), check=True, stdout=subprocess.PIPE)
    took = running.cpu_seconds() - before
    result = json.loads(said.stdout)
    result["per_cpu_second"] = sum(result["series"]) / took if took else 0
    return result


def best_now(running, server, seconds=1.5):
    """The server's own best, directly, once what clients that gave up left behind is worked off."""
    until = time.monotonic() + 60
    while offer(running, server, 1, 0, 0.3)["served"] < 0.1 * 300 / overload.WORK_MS:
        if time.monotonic() > until:
            break
    return offer(running, server, FEW, 0, seconds, 0.3)


def calibrate(server, options):
    """Finds the turns that make WORK_MS; returns the p99 in ms that a client has which is alone."""
    with Running(server) as running:
        get_ahead(running.process.pid, options.nice)
        server.populate(running.port)
        for _ in range(4):
            offer(running, server, FEW, 0, 1)
            alone = offer(running, server, 1, 0, 1)
            if not alone["served"]:
                raise SystemExit(f"requests.py: {server.name} serves nobody; it says: {alone['last_refusal']}")
            server.turns = max(1, int(server.turns * overload.WORK_MS / alone["p50_ms"]))
        return offer(running, server, 1, 0, 3)["p99_ms"]


def measure(server, variant, options, round_number, results):
    """One variant at all loads: `results[variant, load]` gets what came of each."""
    limits = VARIANTS[variant]
    with Running(server, limits and limits.format(ceiling=server.ceiling)) as running:
        get_ahead(running.process.pid, options.nice)
        server.populate(running.port)
        offer(running, server, FEW, 0, 2)
        if variant == "haproxy":
            overload.behind_haproxy(running, "http-reuse always")
            get_ahead(running.helpers[0].pid, options.nice)
        before = best_now(running, server)
        for load in options.loads:
            result = offer(running, server, options.clients, load * before["goodput"], options.seconds, options.lead,
                           front=True)
            after = best_now(running, server)
            bests = {key: (before[key] + after[key]) / 2 for key in ("goodput", "per_cpu_second")}
            result["best"] = bests["goodput"]
            result["share"] = result["goodput"] / (bests["goodput"] or 1)
            result["worth"] = result["per_cpu_second"] / (bests["per_cpu_second"] or 1)
            result["refusals"] = result["refused"] / options.seconds
            result["round"] = round_number
            results.setdefault((variant, load), []).append(result)
            print_row(f"{variant} {round_number + 1}" if options.rounds > 1 else variant, load, medians([result]))
            before = after if after["served"] else before


def medians(outcomes):
    """Of what each round measured. The worst round speaks for what must never happen."""
    row = {key: statistics.median(each[key] for each in outcomes) for key in
           ("best", "goodput", "share", "worth", "p50_ms", "p99_ms", "refusals", "refusal_p50_ms", "gave_up", "lost", "jain",
            "never_served")}
    row["broken"] = max(each["broken"] for each in outcomes)
    return row


def print_row(name, load, row):
    print(f"  {name:<12} {load:>5g} {row['best']:>9.1f} {row['goodput']:>9.1f} {row['share']:>9.2f} {row['worth']:>9.2f} "
          f"{row['p50_ms']:>9.1f} {row['p99_ms']:>9.1f} {row['refusals']:>9.0f} {row['refusal_p50_ms']:>9.1f} {row['gave_up']:>9.0f} "
          f"{row['lost']:>9.0f} {row['broken']:>9} {row['never_served']:>9.0f} {row['jain']:>9.2f}", flush=True)


def print_head():
    widths = (5,) + (9,) * (len(COLUMNS) - 1)
    print(f"  {'':<12} " + " ".join(f"{word:>{width}}" for word, width in zip(COLUMNS, widths)), flush=True)


def expectations(rows, alone_p99, options):
    """What is said of it, what was measured, and what that should be compared with: (text, value, bound, holds)."""
    for name in ("fixed", "auto-delay"):
        row = rows.get((name, 10))
        if row:
            bound = 3 * alone_p99 + QUEUE_DELAY_MS
            yield f"{name}, 10x: goodput of best", row["share"], 0.95, row["share"] >= 0.95
            yield f"{name}, 10x: p99 in ms", row["p99_ms"], bound, row["p99_ms"] <= bound
            bound = QUEUE_DELAY_MS + 10
            yield f"{name}, 10x: refusals after ms", row["refusal_p50_ms"], bound, row["refusal_p50_ms"] <= bound
            proxy = rows.get(("haproxy", 10))
            if proxy:
                yield f"{name}, 10x: goodput/best above HAProxy's", row["share"], proxy["share"], row["share"] > proxy["share"]
                bound = proxy["p99_ms"] / 4
                yield f"{name}, 10x: p99 below a quarter of HAProxy's", row["p99_ms"], bound, row["p99_ms"] < bound
        row = rows.get((name, 2))
        if row and options.seconds >= 10:
            yield f"{name}, 2x: never served within {options.seconds:g} s", row["never_served"], 0, not row["never_served"]
            yield f"{name}, 2x: Jain's index", row["jain"], 0.9, row["jain"] >= 0.9
    row = rows.get(("auto", 10))
    if row:
        yield f"auto alone, 10x, after {options.lead:g} s: goodput of best", row["share"], 0.9, row["share"] >= 0.9
    for (name, load), row in rows.items():
        if name not in ("bare", "haproxy", "conns") and row["broken"]:
            yield f"{name}, {load:g}x: transactions broken half way", row["broken"], 0, False


def compare(server, options):
    """Every variant at every load, in rounds; returns what came of them by variant and load."""
    alone_p99 = calibrate(server, options)
    results, absent = {}, {}
    print(f"\n{server.name}: {options.clients} clients, p99 alone {alone_p99:.1f} ms", flush=True)
    print_head()
    for round_number in range(options.rounds):
        for variant in options.variants:
            if variant in absent or variant == "haproxy" and (server.dialect != "http" or not shutil.which("haproxy")):
                continue
            try:
                measure(server, variant, options, round_number, results)
            except NotStarted as why:
                absent[variant] = str(why)
    rows = {key: medians(outcomes) for key, outcomes in results.items()}
    if options.rounds > 1:
        print(f"  medians of {options.rounds} rounds", flush=True)
        for (variant, load), row in sorted(rows.items(), key=lambda each: (options.variants.index(each[0][0]), each[0][1])):
            print_row(variant, load, row)
    for variant, why in absent.items():
        print(f"  {variant:<12} (does not start: {why})")
    for text, value, bound, holds in expectations(rows, alone_p99, options):
        print(f"  {'holds' if holds else 'DOES NOT HOLD':<14} {text}: {value:.2f} ({bound:.2f})", flush=True)
    return results


PGBENCH_SCRIPT = """\\set id random(0, 19)
BEGIN;
SELECT n FROM counts WHERE id = :id;
{work};
UPDATE counts SET n = n + 1 WHERE id = :id;
COMMIT;
"""


def pgbench(server, options):
    """What pgbench makes of it, which goes on after an error that it knows, and ends a client after any other."""
    with Running(server, VARIANTS["fixed"].format(ceiling=server.ceiling)) as running:
        server.populate(running.port)
        script = running.directory + "/script"
        with open(script, "w", encoding="ascii") as file:
            file.write(PGBENCH_SCRIPT.format(work=server.work % server.turns))
        best = offer(running, server, FEW, 0, 3, 1)["goodput"]
        said = subprocess.run(on_cores(CORES[HALF:], [
            "pgbench", "-n", "-c", "100", "-T", f"{options.seconds:.0f}", "-f", script, "--max-tries=1000",
            "--failures-detailed", "-h", "127.0.0.1", "-p", str(running.port), "-U", "postgres", "postgres"]),
            check=False, capture_output=True, text=True)
    found = {word: re.search(word + r".*?([\d.]+)", said.stdout) for word in
             ("tps =", "number of failed transactions:", "transactions retried:", "total number of retries:")}
    print(f"  pgbench, 100 clients, best {best:.0f}/s: " + ", ".join(
        f"{word.rstrip('=: ')} {match.group(1) if match else '?'}" for word, match in found.items()) +
        f", clients aborted {said.stderr.count(' aborted ')}", flush=True)
    if said.stderr:
        print("    " + said.stderr.strip().splitlines()[0])


def calm(server, options):
    """Offers so many at 0.8 of the capacity, and says how many were refused."""
    calibrate(server, options)
    for variant in options.variants:
        if not VARIANTS[variant]:
            continue
        try:
            with Running(server, VARIANTS[variant].format(ceiling=server.ceiling)) as running:
                server.populate(running.port)
                offer(running, server, FEW, 0, 2)
                rate = 0.8 * best_now(running, server, 5)["goodput"]
                result = offer(running, server, options.clients, rate, options.calm / rate)
        except NotStarted as why:
            print(f"{server.name}, {variant}: does not start: {why}")
            continue
        print(f"{server.name}, {variant}: {result['asked']} asked at {rate:.0f}/s, {result['refused']} refused, "
              f"{result['gave_up']} gave up, p99 {result['p99_ms']:.1f} ms", flush=True)


PANELS = (("goodput / best", "share", "set yrange [0:1.15]"),
          ("p99 of what was served, ms", "p99_ms", "set logscale y; set yrange [1:2000]"),
          ("Jain's index of fairness", "jain", "set yrange [0:1.05]"))


def draw(everything):
    """A column for each server; against the load offered: goodput, p99, fairness."""
    if not shutil.which("gnuplot"):
        print("gnuplot is missing: no picture")
        return
    path = BUILD + "/requests.svg"
    lines = [f"set terminal svg size {420 * len(everything)},{320 * len(PANELS)} background 'white'",
             f"set output '{path}'", f"set multiplot layout {len(PANELS)},{len(everything)}",
             f"set xrange [0:{max(load for results in everything.values() for _, load in results) * 1.05}]",
             "set xlabel 'offered load / best'", "set grid", "set key bottom left"]
    for panel, (label, key, scale) in enumerate(PANELS):
        lines += ["unset logscale y", scale, f"set ylabel \"{label}\""]
        for column, (name, results) in enumerate(everything.items()):
            lines.append(f"set title '{name if panel == 0 else ''}'")
            variants = list(dict.fromkeys(variant for variant, _ in results))
            for index, variant in enumerate(variants):
                lines.append(f"$d{panel}_{column}_{index} << EOD")
                lines += [f"{load} {max(medians(outcomes)[key], 0.001):.3f}"
                          for (of, load), outcomes in results.items() if of == variant]
                lines.append("EOD")
            lines.append("plot " + ", ".join(f"$d{panel}_{column}_{index} with linespoints title '{variant}'"
                                             for index, variant in enumerate(variants)))
    subprocess.run(["gnuplot"], input="\n".join(lines).encode(), check=True)
    print(f"\npicture: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--variants", type=lambda text: text.split(","), default=STANDARD,
                        help=", ".join(VARIANTS))
    parser.add_argument("--loads", type=lambda text: [float(each) for each in text.split(",")],
                        default=[0.5, 0.8, 1, 2, 4, 10], help="times the server's own best")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--lead", type=float, default=5, help="seconds before that count for nothing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--calm", type=int, default=0, metavar="N")
    parser.add_argument("--nice", type=int, default=0, help="of the sessions that are measured, where other work goes on")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("server", nargs="*", choices=[*SERVERS, []], default=[])
    options = parser.parse_args()
    if options.short:
        vars(options).update(SHORT)
    unknown = [each for each in options.variants if each not in VARIANTS]
    if unknown:
        parser.error(f"variants are {', '.join(VARIANTS)}, not {', '.join(unknown)}")
    everything = {}
    get_ahead("self", options.nice)
    for name in options.server or SERVERS:
        server = SERVERS[name]()
        if not server.installed():
            print(f"{name}: not installed")
            continue
        try:
            if options.calm:
                calm(server, options)
            else:
                everything[name] = compare(server, options)
                if name == "postgres" and "fixed" in options.variants and shutil.which("pgbench"):
                    pgbench(server, options)
        finally:
            server.drop()
    if everything:
        with open(BUILD + "/requests.json", "w", encoding="ascii") as file:
            json.dump({name: [{"variant": variant, "load": load, **each} for (variant, load), outcomes in results.items()
                              for each in outcomes] for name, results in everything.items()}, file)
        draw(everything)


if __name__ == "__main__":
    main()
