#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The lists of metrics and events in backpressure-metrics(7), made of what `bpctl metrics` and `bpctl help events` say.

    metric_tables.py [--write]

Compares what stands between their markers with what belongs there, and says what differs; --write puts it there.
"""
import re
import sys

from limit_tables import PAGES, replaced, roff, said

PAGE = PAGES + "backpressure-metrics.7"


def families():
    """Name without prefix, type and help of each metric, as OpenMetrics has them."""
    text = said("metrics")
    helps = dict(re.findall(r"^# HELP backpressure_(\w+) (.*)$", text, re.M))
    return [(name, kind, helps[name]) for name, kind in re.findall(r"^# TYPE backpressure_(\w+) (\w+)$", text, re.M)]


def events():
    """Name and meaning of each."""
    return re.findall(r"^([a-z_]+) +(\S.*)$", said("help", "events").split("\n\n")[-1], re.M)


def listed(rows):
    return "".join(f".TP\n.B {roff(name)}{more}\n{roff(text)}\n" for name, more, text in rows)


def places():
    metrics = [(name.removesuffix("_total") if kind == "counter" else name, f"\\fR ({kind})", text)
               for name, kind, text in families()]
    return [(PAGE, '.\\" metrics\n', listed(metrics), '.\\" end of metrics\n'),
            (PAGE, '.\\" events\n', listed([(name, "", text) for name, text in events()]), '.\\" end of events\n')]


def main():
    return replaced(places(), "`bpctl metrics` and `bpctl help events`", "tests/unit/metric_tables.py")


if __name__ == "__main__":
    sys.exit(main())
