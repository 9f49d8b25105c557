#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The tables of limits in README.md and backpressure(7), made of what `bpctl help limits LIMIT` says.

    limit_tables.py [--write]

Compares what stands between their markers with what belongs there, and says what differs; --write puts it there.
"""
import os
import re
import subprocess
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
PAGES = "tools/man/"
BPCTL = os.path.abspath(os.environ.get("BUILD", ROOT + "/build")) + "/bpctl"


def said(*arguments):
    return subprocess.run([BPCTL, *arguments], capture_output=True, text=True, check=True).stdout


def rows():
    """One dictionary a limit: name, forms, text, allowed, default, words, scope, unit."""
    for line in said("help", "limits").splitlines():
        name = line.split()[0]
        head, text, rest = said("help", "limits", name).rstrip("\n").split("\n\n")
        fields = dict(field.split(": ", 1) if ": " in field else (field.rstrip(":"), "") for field in rest.split("\n"))
        yield {"name": name, "forms": head.split("=", 1)[1].split("|"), "text": text, **fields}


def listed(parts):
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " or " + parts[-1]


def markdown(chosen, ceiling):
    lines = [f"| limit | default | {'ceiling on' if ceiling else ''} |", "| --- | --- | --- |"]
    for row in chosen:
        forms = listed([f"`{row['name']}={row['forms'][0]}`"] + [f"`{form}`" for form in row["forms"][1:]])
        lines.append(f"| {forms} | `{row['default']}` | {row['text']} |")
    return "\n".join(lines) + "\n"


def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)


def form_in_roff(form):
    """Capitals stand for something, and are slanted; the rest is typed as it is."""
    parts = re.split(r"([A-Z]{2,}|\bN\b)", form)
    return "".join(f"\\fI{part}\\fR" if i % 2 else f"\\fB{roff(part)}\\fR" for i, part in enumerate(parts) if part)


def man(chosen):
    lines = []
    for row in chosen:
        forms = "|".join(form_in_roff(form) for form in row["forms"])
        lines += [".TP", f".B {roff(row['name'])}=\\fR{forms}", roff(row["text"]),
                  f"Allowed: {roff(row['allowed'])}.", f"Default: {roff(row['default'])}."]
    return "\n".join(lines) + "\n"


def places():
    every = list(rows())
    ceilings = [row for row in every if row["unit"] != "none"]
    choices = [row for row in every if row["unit"] == "none"]
    return [("README.md", "<!-- ceilings -->\n", markdown(ceilings, True), "<!-- end of ceilings -->\n"),
            ("README.md", "<!-- choices -->\n", markdown(choices, False), "<!-- end of choices -->\n"),
            (PAGES + "backpressure.7", '.\\" ceilings\n', man(ceilings), '.\\" end of ceilings\n'),
            (PAGES + "backpressure.7", '.\\" choices\n', man(choices), '.\\" end of choices\n')]


def replaced(wanted_places, source, script):
    """What stands at the places is what belongs there, or is put there with --write; else says so, and returns 1."""
    different = 0
    for path, begin, wanted, end in wanted_places:
        with open(f"{ROOT}/{path}", encoding="utf-8") as file:
            text = file.read()
        before, found = text.split(begin)
        found, after = found.split(end)
        if found == wanted:
            continue
        if "--write" in sys.argv:
            with open(f"{ROOT}/{path}", "w", encoding="utf-8") as file:
                file.write(before + begin + wanted + end + after)
            continue
        different = 1
        for line in sorted(set(found.splitlines()) ^ set(wanted.splitlines())):
            print(f"{path}: {line}")
    if different:
        print(f"FAILED: the tables differ from {source}; {script} --write makes them anew")
    return different


def main():
    return replaced(places(), "`bpctl help limits`", "tests/unit/limit_tables.py")


if __name__ == "__main__":
    sys.exit(main())
