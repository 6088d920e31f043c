"""From the results of `bench/run` to `bench/RESULTS.md` and its plots."""
import json
import os
import re

import bed
import rounds

FOLDER = os.path.join(bed.ROOT, "bench/results")
PAGE = os.path.join(bed.ROOT, "bench/RESULTS.md")
# What people say of the figures; stands behind the tables.
NOTES = os.path.join(FOLDER, "notes.md")


def processor():
    return re.search(r"model name\s*: (.*)", open("/proc/cpuinfo").read())[1]


def samples_of(results, scenario, name):
    """As in `rounds`: None is a spoilt round, or the name didn't take part."""
    return [rounds.Sample(**sample) if sample else None for sample in results["costs"][scenario].get(name, [])]


def cost_ratio(results, scenario, name, reference="haproxy"):
    return rounds.median(rounds.ratios(samples_of(results, scenario, name), samples_of(results, scenario, reference)))


def latency(results, at, name, quantile):
    good = [figures[quantile] for figures in results["latencies"][at]["of"][name] if figures]
    return rounds.median(good)


def title(results, name):
    return results["titles"].get(name, name)


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def number(value, digits=2):
    return "–" if value != value else f"{value:.{digits}f}"


def cost_rows(results, scenario):
    for name in results["costs"][scenario]:
        good = [sample for sample in samples_of(results, scenario, name) if sample]
        ratios = rounds.ratios(samples_of(results, scenario, name), samples_of(results, scenario, "haproxy"))
        if not ratios:
            continue
        per_second = rounds.median([sample.per_second for sample in good])
        yield [
            title(results, name),
            number(rounds.median([sample.cost_us for sample in good])),
            number(rounds.median([sample.user_us for sample in good])),
            number(rounds.median([sample.system_us for sample in good])),
            f"{number(rounds.median(ratios))} ({number(min(ratios))}–{number(max(ratios))})",
            number(per_second, 0),
        ]


def latency_rows(results, at):
    for name in results["latencies"][at]["of"]:
        figures = [latency(results, at, name, quantile) for quantile in ("p50", "p99", "p99.9")]
        reference = latency(results, at, "haproxy", "p99.9")
        yield [title(results, name), *(number(figure, 0) for figure in figures), number(figures[2] / reference)]


def memory_rows(results):
    for name, of in results["memory"].items():
        yield [title(results, name), number(of["start_kib"] / 1024, 1), number(of["idle_kib"])]


def goals(results):
    """Row, figure, goal, and whether it is reached; ratios to HAProxy unless the row says otherwise."""

    def at_most(row, figure, goal):
        return [row, number(figure), f"≤ {goal:g}", "yes" if figure <= goal else "no"]

    small = {name: cost_ratio(results, "small64", "maypole", name) for name in results["costs"]["small64"]}
    yield at_most("CPU per request, 16 bytes, 64 connections", small["haproxy"], 0.60)
    for name, goal in (("nginx", 0.72), ("hyper", 0.52), ("pingora", 0.35)):
        if name in small:
            yield at_most(f"the same, to {title(results, name)}", small[name], goal)
    for scenario, goal in (
        ("small8", 0.62), ("two256", 0.56), ("body64k", 0.75), ("body1m", 0.65), ("post16k", 0.45), ("newconn", 0.80)
    ):
        yield at_most(f"CPU per request, {rounds.SCENARIOS[scenario].title}", cost_ratio(results, scenario, "maypole"), goal)
    tails = {name: latency(results, 0, name, "p99.9") for name in results["latencies"][0]["of"] if name != "floor"}
    best = min(figure for name, figure in tails.items() if name != "maypole" and figure == figure)
    yield at_most("p99.9 at half of HAProxy's capacity, to the best peer", tails["maypole"] / best, 1.0)
    yield at_most("KiB for each idle connection", results["memory"]["maypole"]["idle_kib"], 0.5)
    scale = {what: rounds.median(of) for what, of in results["scale"].items()}
    yield at_most("CPU per request, 1,000 backends to 2", scale["1000 backends to 2"], 1.05)
    yield at_most("CPU per request, 6,000 connections to 64", scale["6000 connections to 64"], 1.25)
    throughput = 2 / scale["2 workers to 1"]
    yield ["throughput of 2 workers to 1, by CPU per request", number(throughput), "≥ 1.9", "yes" if throughput >= 1.9 else "no"]
    yield at_most("static binary without symbols, MB", results["static_bytes"] / 1e6, 6)
    yield at_most("resident memory at the start, MiB", results["memory"]["maypole"]["start_kib"] / 1024, 8)


def tables(results):
    parts = [table(["maypole", "figure", "goal", "reached"], goals(results))]
    for name, scenario in rounds.SCENARIOS.items():
        head = [scenario.title, "µs/request", "user", "system", "to HAProxy (least–most)", "requests/s"]
        parts += [f"## CPU per request: {scenario.title}", table(head, cost_rows(results, name))]
    for at, load in enumerate(results["latencies"]):
        share = f"{load['share']:.0%} of HAProxy's capacity"
        head = [f"{load['rate']:.0f} requests/s", "p50 µs", "p99 µs", "p99.9 µs", "p99.9 to HAProxy"]
        parts += [f"## Latency at {share}", table(head, latency_rows(results, at))]
    head = ["", "MiB at the start", "KiB for each idle connection"]
    parts += ["## Memory", table(head, memory_rows(results))]
    return "\n\n".join(parts)


def plot(results):
    """Bars: CPU per request of every scenario as ratios to HAProxy, and p99.9 at each rate."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "maypole"
    import matplotlib.pyplot as plots

    def bars(file, heading, unit, values):
        values = [(name, value) for name, value in values if value == value]
        figure, axes = plots.subplots(figsize=(7, 0.35 * len(values) + 1))
        names = [title(results, name) for name, _ in values]
        colours = ["tab:red" if name == "maypole" else "tab:grey" for name, _ in values]
        drawn = axes.barh(names, [value for _, value in values], color=colours)
        axes.bar_label(drawn, fmt="%.2f", padding=3)
        axes.invert_yaxis()
        axes.set_title(heading)
        axes.set_xlabel(unit)
        axes.margins(x=0.12)
        figure.tight_layout()
        figure.savefig(os.path.join(FOLDER, f"{file}.svg"), metadata={"Date": None})
        plots.close(figure)

    for name, scenario in rounds.SCENARIOS.items():
        values = [(one, cost_ratio(results, name, one)) for one in results["costs"][name]]
        bars(name, f"CPU per request: {scenario.title}", "ratio to HAProxy", values)
    for at, load in enumerate(results["latencies"]):
        values = [(one, latency(results, at, one, "p99.9") / 1000) for one in load["of"]]
        bars(f"latency{at}", f"p99.9 at {load['rate']:.0f} requests/s", "milliseconds", values)


def write(results):
    bed.ensure_module("matplotlib", "python3-matplotlib")
    os.makedirs(FOLDER, exist_ok=True)
    with open(os.path.join(FOLDER, "results.json"), "w") as file:
        json.dump(results, file, indent=1)
    plot(results)
    machine = results["machine"]
    versions = ", ".join(f"{title(results, name)} {version}" for name, version in results["versions"].items())
    pictures = "\n".join(f"![{name}](results/{name}.svg)" for name in [*rounds.SCENARIOS, "latency0", "latency1"])
    with open(PAGE, "w") as file:
        file.write(f"""# Results

Written by `bench/run` on {machine["cores"]} cores of {machine["processor"]}, Linux {machine["kernel"]}, over loopback:
{results["rounds"]} interleaved rounds of {results["seconds"]} s, medians, ratios to HAProxy taken within each round.
{versions}. The floor (`bench/floor`) is no proxy: it makes the two reads and two writes that a request costs any proxy,
and does nothing else, so it shows the kernel's part.

{tables(results)}

{open(NOTES).read()}
{pictures}
""")
