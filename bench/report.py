"""From the results of `bench/run` to `bench/RESULTS.md` and its plots."""
import json
import os
import re
import string
from dataclasses import dataclass

import bed
import counts
import encrypted
import plot
import rounds

FOLDER = os.path.join(bed.ROOT, "bench/results")
PAGE = os.path.join(bed.ROOT, "bench/RESULTS.md")
FIGURES = os.path.join(FOLDER, "results.json")
# What people say of the figures; stands behind the tables, with $names of `facts` filled in.
NOTES = os.path.join(FOLDER, "notes.md")
QUANTILES = ("p50", "p99", "p99.9")


def processor():
    return re.search(r"model name\s*: (.*)", open("/proc/cpuinfo").read())[1]


def keep(results):
    os.makedirs(FOLDER, exist_ok=True)
    with open(FIGURES, "w") as file:
        json.dump(results, file, indent=1)


def kept():
    with open(FIGURES) as file:
        return json.load(file)


def title(results, name):
    return results["titles"].get(name, name)


def over_tls(results):
    """The same shape as the results in clear have, of what TLS costs."""
    return {**results, **results["encrypted"]}


def samples_of(results, scenario, name):
    """As in `rounds`: None is a spoilt round, or the name didn't take part."""
    return [rounds.Sample(**sample) if sample else None for sample in results["costs"][scenario].get(name, [])]


def cost_ratios(results, scenario, name, reference="haproxy", what=lambda sample: sample.cost_us):
    return rounds.ratios(samples_of(results, scenario, name), samples_of(results, scenario, reference), what)


def per_second_ratios(results, scenario, name):
    return cost_ratios(results, scenario, name, what=lambda sample: sample.per_second)


def latency_ratios(load, name, quantile, reference):
    return rounds.ratios(load["of"].get(name, []), load["of"].get(reference, []), lambda figures: figures[quantile])


def latency(load, name, quantile):
    return rounds.median([figures[quantile] for figures in load["of"][name] if figures])


def memory_ratios(results, name, what):
    return rounds.ratios(results["memory"][name], results["memory"]["haproxy"], lambda figures: figures[what])


def memory_of(results, name, what):
    return [figures[what] for figures in results["memory"][name] if figures]


def number(value, digits=2):
    return "–" if value != value else f"{value:.{digits}f}"


def spread(values, digits=2):
    """The median, and the least and the most where there is more than one."""
    if len(values) < 2:
        return number(rounds.median(values), digits)
    return f"{number(rounds.median(values), digits)} ({number(min(values), digits)}–{number(max(values), digits)})"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def cost_rows(results, scenario):
    for name in results["costs"][scenario]:
        good = [sample for sample in samples_of(results, scenario, name) if sample]
        yield [
            title(results, name),
            spread([sample.cost_us for sample in good], 1),
            number(rounds.median([sample.user_us for sample in good]), 1),
            number(rounds.median([sample.system_us for sample in good]), 1),
            spread(cost_ratios(results, scenario, name)),
            number(rounds.median([sample.per_second for sample in good]), 0),
            spread(per_second_ratios(results, scenario, name)),
            number(rounds.median([sample.cores for sample in good])),
        ]


def latency_rows(results, load):
    for name in load["of"]:
        row = [title(results, name)]
        for quantile in QUANTILES:
            row += [number(latency(load, name, quantile), 0), spread(latency_ratios(load, name, quantile, "haproxy"))]
        yield row
    for name in load["overloaded"]:
        yield [title(results, name), "overloaded", *[""] * (2 * len(QUANTILES) - 1)]


def memory_rows(results):
    for name in results["memory"]:
        starts_mib = [kib / 1024 for kib in memory_of(results, name, "start_kib")]
        yield [
            title(results, name), spread(starts_mib, 1), spread(memory_ratios(results, name, "start_kib")),
            spread(memory_of(results, name, "idle_kib")), spread(memory_ratios(results, name, "idle_kib")),
        ]


def count_rows(results):
    for pace, counted in results["counted"]["maypole"].items():
        moved = {name: of[pace] for name, of in results["counted"]["migrations"].items()}
        calls = ", ".join(f"{each:g} {name}" for name, each in counted["syscalls"].items())
        yield [
            pace, str(counted["instructions"]), f"{counted['allocations']:g}", number(moved["maypole"]),
            number(moved.get("hyper", float("nan"))), calls,
        ]


@dataclass
class Goal:
    """One that the project has set itself: figures of the rounds, and the bound for their median."""

    title: str
    figures: list
    bound: float
    at_least: bool = False
    blur: float = 0.0  # What the figure can't tell from the bound.

    def row(self):
        figure = rounds.median(self.figures)
        short = (self.bound - figure if self.at_least else figure - self.bound) - self.blur
        if figure != figure:
            verdict = "not measured"
        elif short <= 0:
            verdict = "yes"
        else:
            verdict = f"no, by {short / self.bound:.0%}" if self.bound else f"no, by {short:.2f}"
        return [self.title, spread(self.figures), f"{'≥' if self.at_least else '≤'} {self.bound:g}", verdict]


def goals(results):
    """Ratios are to HAProxy unless the row says otherwise."""
    costs = "CPU per request"
    yield Goal(f"{costs}, 16 bytes, 64 connections", cost_ratios(results, "small64", "maypole"), 0.60)
    for name, bound in (("nginx", 0.72), ("hyper", 0.52), ("pingora", 0.35)):
        yield Goal(f"the same, to {title(results, name)}", cost_ratios(results, "small64", "maypole", name), bound)
    for scenario, bound in (
        ("small8", 0.62), ("two256", 0.56), ("body64k", 0.75), ("body1m", 0.65), ("post16k", 0.45), ("newconn", 0.80)
    ):
        yield Goal(f"{costs}, {rounds.SCENARIOS[scenario].title}", cost_ratios(results, scenario, "maypole"), bound)
    yield Goal("new connections a second", per_second_ratios(results, "newconn", "maypole"), 1.0, at_least=True)
    [half] = [load for load in results["latencies"] if load["share"] == 0.5]
    peers = [name for name in half["of"] if name not in ("maypole", "floor") and any(half["of"][name])]
    best = min(peers, key=lambda name: latency(half, name, "p99.9"), default="haproxy")
    tails = latency_ratios(half, "maypole", "p99.9", best)
    yield Goal(f"p99.9 at half of HAProxy's capacity, to the best peer ({title(results, best)})", tails, 1.0)
    yield Goal("user memory for each idle connection, KiB", memory_of(results, "maypole", "idle_kib"), 0.5)
    scale = results["scale"]
    yield Goal(f"{costs}, 1,000 backends to 2", scale["backends"], 1.05)
    yield Goal(f"{costs}, 6,000 busy connections to 64", scale["busy"], 1.25)
    throughputs = [2 / ratio for ratio in scale["workers"]]
    yield Goal("throughput of 2 workers to 1, by CPU per request", throughputs, 1.9, at_least=True)
    for pace, counted in results["counted"]["maypole"].items():
        moved = results["counted"]["migrations"]["maypole"][pace]
        yield Goal(f"allocations a request, {pace}", [counted["allocations"]], 0, blur=counts.ALLOCATIONS_SLACK)
        yield Goal(f"migrations a request, {pace}", [moved], 0)
    static_mb = [results["static"]["bytes"] / 1e6] if "static" in results else []
    yield Goal("static binary without symbols, MB", static_mb, 6)
    starts_mib = [kib / 1024 for kib in memory_of(results, "maypole", "start_kib")]
    yield Goal("resident memory at the start, MiB", starts_mib, 8)


def tables(results):
    parts = [table(["maypole", "figure", "goal", "reached"], [goal.row() for goal in goals(results)])]
    for key, scenario in rounds.SCENARIOS.items():
        head = ["", "µs/request", "user", "system", "to HAProxy", "requests/s", "to HAProxy", "cores used"]
        parts += [f"## CPU per request: {scenario.title}", table(head, cost_rows(results, key)), picture(key)]
    for at, load in enumerate(results["latencies"]):
        head = [f"{load['rate']:.0f} requests/s", *(word for one in QUANTILES for word in (f"{one} µs", "to HAProxy"))]
        heading = f"## Latency at {load['share']:.0%} of HAProxy's capacity"
        parts += [heading, table(head, latency_rows(results, load)), picture(f"latency{at}")]
    head = ["", "MiB at the start", "to HAProxy", "KiB for each idle connection", "to HAProxy"]
    parts += ["## Memory", table(head, memory_rows(results)), picture("memory")]
    head = ["maypole with", "to", "CPU per request"]
    scale = results["scale"]
    parts += ["## Scale", table(head, [
        ["1,000 backends", "2 backends", spread(scale["backends"])],
        ["6,000 busy connections", "64", spread(scale["busy"])],
        ["15,000 idle connections beside 64 busy ones", "64 alone", spread(scale["idle"])],
        ["2 workers", "1 worker", spread(scale["workers"])],
    ])]
    head = ["requests come", "instructions", "allocations", "migrations", "of hyper + tokio", "system calls"]
    parts += ["## Counts, a request", table(head, count_rows(results))]
    if "encrypted" in results:
        parts += encrypted_tables(over_tls(results))
    return "\n\n".join(parts)


def encrypted_tables(results):
    head = ["", "µs each", "user", "system", "to HAProxy", "a second", "to HAProxy", "cores used"]
    for key in results["costs"]:
        heading = encrypted.SHAKEN[key][0] if key in encrypted.SHAKEN else rounds.SCENARIOS[key].title
        yield from (f"## Over TLS: {heading}", table(head, cost_rows(results, key)))
    rows = [[title(results, name), number(kib)] for name, kib in results["idle_kib"].items()]
    yield from ("## Over TLS: idle connections", table(["", "KiB each"], rows))
    rows = [[f"TLS on {side} side", number(each["instructions"], 0), number(each["allocations"])]
            for side, each in results["counted"].items()]
    yield from ("## Over TLS: counts, a request", table(["", "instructions", "allocations"], rows))
    beside = results["bystander"]
    rows = [[how, *(number(beside[how][quantile], 0) for quantile in QUANTILES)] for how in ("alone", "beside")]
    yield from ("## Requests in clear, alone and beside full handshakes, RSA 2048", table(["µs", *QUANTILES], rows))


def picture(name):
    return f"![{name}](results/{name}.svg)"


def draw(results):
    """A picture for every table of costs, latencies and memory."""

    def bars(file, heading, unit, values):
        rows = [(title(results, name), min(of), rounds.median(of), max(of)) for name, of in values if of]
        if rows:
            plot.bars(os.path.join(FOLDER, f"{file}.svg"), heading, unit, rows, "maypole")

    for key, scenario in rounds.SCENARIOS.items():
        values = [(name, cost_ratios(results, key, name)) for name in results["costs"][key]]
        bars(key, f"CPU per request: {scenario.title}", "ratio to HAProxy", values)
    for at, load in enumerate(results["latencies"]):
        values = [(name, [figures["p99.9"] / 1000 for figures in of if figures]) for name, of in load["of"].items()]
        bars(f"latency{at}", f"p99.9 at {load['rate']:.0f} requests/s", "milliseconds", values)
    values = [(name, memory_of(results, name, "idle_kib")) for name in results["memory"]]
    bars("memory", "User memory for each idle connection", "KiB", values)


def facts(results):
    """What the notes name as $name."""
    scale, at_once = results["scale"], results["counted"]["maypole"]["at once"]

    def sample(name, part, scenario="small64"):
        return rounds.median([getattr(one, part) for one in samples_of(results, scenario, name) if one])

    return {
        "maypole_us": number(sample("maypole", "cost_us"), 1),
        "maypole_user_us": number(sample("maypole", "user_us"), 1),
        "maypole_system_us": number(sample("maypole", "system_us"), 1),
        "haproxy_us": number(sample("haproxy", "cost_us"), 1),
        "haproxy_crowd_us": number(sample("haproxy", "cost_us", "crowd"), 1),
        "crowd": spread(cost_ratios(results, "crowd", "maypole")),
        "haproxy_user_us": number(sample("haproxy", "user_us"), 1),
        "haproxy_system_us": number(sample("haproxy", "system_us"), 1),
        "floor_us": number(sample("floor", "cost_us"), 1),
        "floor_ratio": spread(cost_ratios(results, "small64", "floor")),
        "maypole_to_floor": spread(cost_ratios(results, "small64", "maypole", "floor")),
        "syscalls": ", ".join(f"{each:g} {name}" for name, each in at_once["syscalls"].items()),
        "busy": spread(scale["busy"]),
        "idle_kib": number(scale["idle_kib"]),
        "idle_kernel_kib": number(scale["idle_kernel_kib"]),
        "million_user_gib": number(scale["idle_kib"] * 1e6 / 2**20, 1),
        "million_kernel_gib": number(scale["idle_kernel_kib"] * 1e6 / 2**20, 1),
    }


def write(results):
    draw(results)
    machine = results["machine"]
    versions = ", ".join(f"{title(results, name)} {version}" for name, version in results["versions"].items())
    with open(NOTES) as file:
        notes = string.Template(file.read()).substitute(facts(results))
    with open(PAGE, "w") as file:
        file.write(f"""# Results

Written by `bench/run` in {sum(results["took_seconds"].values()) / 60:.0f} minutes on {machine["cores"]} cores of
{machine["processor"]}, Linux {machine["kernel"]}, over loopback: {results["rounds"]} interleaved rounds of
{results["seconds"]} s, medians (least–most), ratios taken within each round.

{versions}.

The floor (`bench/floor`) is no proxy: it makes the two reads and two writes that a request costs any proxy, and does
nothing else, so it shows the kernel's part. A proxy that serves fewer requests than come is overloaded, and its
latencies would only say for how long.

{tables(results)}

{notes}""")
