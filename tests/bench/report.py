"""What `make bench` has measured, as Markdown and as a picture (SVG, written here)."""

import os
import platform
import re
import subprocess
import time
from pathlib import Path
from statistics import median
from xml.sax.saxutils import escape

from goals import MISSED
from servers import NGINX, REPO, cpu_s_used

KEY = "deliveries_per_cpu_s"


def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def found(pattern, text):
    match = re.search(pattern, text)
    return match[1] if match else "?"


class Machine:
    """Facts, taken at the start; and how much of the CPU others had meanwhile."""

    def __init__(self):
        self.load = os.getloadavg()
        self.start = time.time()
        self.began = self.ticks()
        self.began_s = cpu_s_used()

    @staticmethod
    def ticks():
        """Of all cores: all, what programs here used, what other machines had."""
        user, nice, system, idle, wait, irq, softirq, steal = (
            int(n) for n in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
        )
        used = user + nice + system + irq + softirq
        return used + idle + wait + steal, used, steal

    def is_busy(self):
        return self.load[0] > os.cpu_count() / 2

    def of_others(self):
        """Percent of the CPU time since the start: of other programs, of other machines."""
        pairs = zip(self.ticks(), self.began, strict=True)
        total, used, steal = (now - then for now, then in pairs)
        mine = (cpu_s_used() - self.began_s) * os.sysconf("SC_CLK_TCK")
        return [max(0, n) / max(total, 1) * 100 for n in (used - mine, steal)]

    def lines(self):
        programs, machines = self.of_others()
        cpu = found(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        system = found('PRETTY_NAME="(.*)"', Path("/etc/os-release").read_text())
        versions = {
            "HAProxy": found(r"version (\S+)", output("/usr/sbin/haproxy", "-v")),
            "Redis": found(r"v=(\S+)", output(REPO / "shared/scripts/redis-server.sh", "-v")),
            "libwebsockets": output("pkg-config", "--modversion", "libwebsockets").strip("-\n"),
            "gcc": output("gcc", "-dumpfullversion").strip(),
            "nchan": found(r"nchan_(?:\d%3a)?([^_]+)", " ".join(map(str, NGINX.glob("*.deb")))),
        }
        commit = output("git", "-C", REPO, "describe", "--always", "--dirty").strip() or "?"
        memory = int(found(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())) / (1 << 20)
        return [
            f"hlchat {(REPO / 'VERSION').read_text().strip()}, commit {commit}",
            f"{os.cpu_count()} cores, {cpu}; {memory:.0f} GiB; "
            f"Linux {platform.release()}, {system}",
            ", ".join(f"{name} {version}" for name, version in versions.items()),
            f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(self.start))}, "
            f"{(time.time() - self.start) / 60:.0f} minutes; load average at the start "
            + ", ".join(f"{load:.1f}" for load in self.load)
            + (" (**busy**: figures near a goal say little)" if self.is_busy() else "")
            + f"; of the CPU time since then {programs:.1f} % went to other programs and "
            f"{machines:.1f} % to other machines",
        ]


def short(number):
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if number >= limit:
            value = number / limit
            return f"{value:.0f}{unit}" if value >= 100 else f"{value:.3g}{unit}"
    return f"{number:.0f}"


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in lines) + "\n"


def goals_text(goals):
    return "\n".join(f"{g.verdict:20} {g.what}: {g.measured} (goal {g.goal})" for g in goals)


def goals_table(goals):
    rows = [[g.what, g.goal, g.measured, g.verdict.replace(MISSED, f"**{MISSED}**")] for g in goals]
    return table(["what", "goal", "measured", ""], rows)


def fanout_table(runs, show):
    servers = list(dict.fromkeys(name for case in runs.values() for name in case))
    rows = []
    for server in servers:
        cells = [show(runs[case][server]) if server in runs[case] else "" for case in runs]
        rows.append([server, *cells])
    return table(["server", *runs], rows)


def deliveries(results):
    values = [result[KEY] for result in results]
    middle = f"**{short(median(values))}**"
    return f"{middle} ({short(min(values))} – {short(max(values))})" if len(values) > 1 else middle


def latency(results):
    p50, p99 = (median(r["latency_ms"][key] for r in results) for key in ("p50", "p99"))
    return f"{p50:.1f} / {p99:.1f}"


def generator(results):
    """Of chatload: the share of a core that it used / how late it sent, p99 ms, if it was due."""
    cores = f"{median(r['own_cpu_s'] / r['seconds'] for r in results):.2f}"
    late = [r["sent_late_ms"]["p99"] for r in results if "sent_late_ms" in r]
    return f"{cores} / {median(late):.1f}" if late else cores


def write(place, bench, machine, absent, command, commands, more_options):
    place.mkdir(parents=True, exist_ok=True)
    parts = [
        "# Benchmarks: results\n",
        f"Written by `{command}`. [README.md](README.md) tells what the words mean.\n",
        "\n".join(f"- {line}" for line in machine.lines()) + "\n",
    ]
    if bench.quick:
        parts.append("**A quick run**: small and short, so it says nothing about the goals.\n")
    if bench.goals:
        note = f"{bench.how} (least – most); *within noise*: not all rounds agree.\n"
        parts += ["## Goals\n", note, goals_table(bench.goals)]
    if bench.runs:
        parts += [
            "## Deliveries per second of server CPU\n",
            f"{bench.how} (least – most).\n",
            fanout_table(bench.runs, deliveries),
            "![deliveries per second of server CPU](fanout.svg)\n",
            "## Latency, p50 / p99 ms\n",
            "From when a message was due to each delivery. Client and server share the cores, so "
            "a part of it is the client's.\n",
            fanout_table(bench.runs, latency),
            "## The load generator\n",
            "The share of a core that chatload used, of which it cannot have more than 1 / how "
            "late it sent what was due, p99 ms (in the open loop).\n",
            fanout_table(bench.runs, generator),
        ]
        (place / "fanout.svg").write_text(picture(bench.runs))
    for title, note, header, rows in bench.tables:
        parts += [f"## {title}\n", *([note + "\n"] if note else []), table(header, rows)]
    if commands:
        parts += [
            "## What chatload was called with\n",
            "\n".join(["```", *commands, "```"]) + "\n",
        ]
    if more_options:
        lines = [f"{name}: {options}" for name, options in more_options.items()]
        parts += ["For these servers in addition:\n", "\n".join(["```", *lines, "```"]) + "\n"]
    if absent:
        rows = "\n".join(f"- {name}: {why}" for name, why in absent.items())
        parts += ["## Absent\n", rows + "\n"]
    if bench.found:
        parts += ["## What went wrong\n", "\n".join(f"- {line}" for line in bench.found) + "\n"]
    (place / "results.md").write_text("\n".join(parts))


# the picture ------------------------------------------------------------------------------------

ROW, LABEL, BAR, GAP = 22, 190, 420, 46
OURS_COLOUR, LIMIT_COLOUR, PEER_COLOUR = "#2f6fab", "#9aa5b1", "#d08a3c"


def colour(server):
    if "hlchat" in server:
        return OURS_COLOUR
    return LIMIT_COLOUR if server.startswith("send()") else PEER_COLOUR


def picture(runs):
    """Bars, longer is better; each panel from 0, as a ratio is what one wants to see."""
    parts, y = [], 10
    for case, servers in runs.items():
        values = {name: median(r[KEY] for r in results) for name, results in servers.items()}
        most = max(values.values())
        parts.append(f'<text x="10" y="{y + 14}" class="title">{escape(case)}</text>')
        y += 24
        for name, value in sorted(values.items(), key=lambda item: -item[1]):
            width = max(1, value / most * BAR)
            parts.append(
                f'<text x="{LABEL}" y="{y + 15}" class="name">{escape(name)}</text>'
                f'<rect x="{LABEL + 8}" y="{y + 3}" width="{width:.1f}" height="{ROW - 6}" '
                f'fill="{colour(name)}"/>'
                f'<text x="{LABEL + 14 + width:.1f}" y="{y + 15}">{short(value)}</text>'
            )
            y += ROW
        y += GAP - ROW
    width = LABEL + BAR + 80
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" '
        f'viewBox="0 0 {width} {y}">\n'
        "<style>text{font:12px sans-serif;fill:#333}.name{text-anchor:end}"
        ".title{font-weight:bold}</style>\n"
        '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
