"""Interleaved rounds: what a request costs the proxies that run beside each other, loaded in turn."""
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass

import bed

POST_16K = 'wrk.method = "POST"\nwrk.body = string.rep("x", 16384)\n'


@dataclass(frozen=True)
class Scenario:
    title: str
    path: str = "/"
    connections: int = 64
    threads: int = 1
    script: str = ""
    close: bool = False
    method: str = "GET"
    body: bytes | None = None
    answer: bytes = b"sixteen bytes ok"
    # So much longer a round takes, for connections to open.
    opening_seconds: int = 0


SCENARIOS = {
    "small64": Scenario("16 bytes, 64 connections"),
    "small8": Scenario("16 bytes, 8 connections", connections=8),
    "two256": Scenario("16 bytes, 256 connections, 2 threads", connections=256, threads=2),
    "body64k": Scenario("64 KiB, 64 connections", path="/64k", answer=b"o" * 65536),
    "body1m": Scenario("1 MiB, 16 connections", path="/1m", connections=16, answer=b"o" * 1048576),
    "post16k": Scenario(
        "POST of 16 KiB, 64 connections", path="/sink", script=POST_16K, method="POST", body=b"x" * 16384,
        answer=b"16384",
    ),
    "newconn": Scenario("a connection per request, 64 at once", close=True),
    "crowd": Scenario("16 bytes, 6,000 connections", connections=6000, opening_seconds=2),
}
# What `bench/large` alone looks at.
LARGE = {
    "body64k": SCENARIOS["body64k"],
    "body256k": Scenario("256 KiB, 16 connections", path="/256k", connections=16, answer=b"o" * 262144),
    "body1m": SCENARIOS["body1m"],
    "body100m": Scenario("100 MiB, 4 connections", path="/100m", connections=4, answer=b"o" * (100 << 20)),
}


@dataclass
class Sample:
    """What one round took of one proxy."""

    user_us: float
    system_us: float
    per_second: float

    @property
    def cost_us(self):
        return self.user_us + self.system_us

    @property
    def cores(self):
        """How busy it was: less than what it may have says that it waited for the load."""
        return self.cost_us * self.per_second / 1e6


def check(one, scenario):
    """A proxy that answers wrongly isn't fast."""
    for _ in range(4):
        status, body = bed.ask(one.port, scenario.method, scenario.path, scenario.body, authority=one.authority)
        if status != 200 or body != scenario.answer:
            sys.exit(f"{one.name} answers {scenario.method} {scenario.path} with {status}, {len(body)} bytes: {body[:80]!r}")


def load(test_bed, one, scenario, seconds):
    """Loads one proxy for some seconds; None when any request failed."""
    script = None
    if scenario.script:
        script = os.path.join(test_bed.folder, "wrk.lua")
        test_bed.write(script, scenario.script)
    members = bed.family(one.pid)
    seconds += scenario.opening_seconds
    command = bed.wrk_command(one.port, scenario.path, scenario.connections, seconds, script, scenario.close, one.scheme)
    # Two threads of a proxy leave no core for the load alone.
    pin = ["taskset", "-c", str(bed.LOAD_CPU)] if scenario.threads == 1 else []
    before = bed.cpu_seconds(members)
    result = bed.Load(subprocess.run([*pin, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout)
    after = bed.cpu_seconds(members)
    # A server that closes without having said so has wrk fail to read an answer to a request of no account.
    unannounced = result.broken_reads if scenario.close else 0
    if result.failed > unannounced or not result.requests:
        print(f"  {one.name}: a round is spoilt: {result}", flush=True)
        return None
    user_us, system_us = ((b - a) / result.requests * 1e6 for a, b in zip(before, after))
    return Sample(user_us, system_us, result.requests / seconds)


def run(test_bed, contenders, scenario, rounds, seconds, warm_up_seconds=1, load=load):
    """Loads all in turn, round by round; each one's samples by its name, in which a spoilt round is None."""
    for one in contenders:
        check(one, scenario)
        if warm_up_seconds:
            load(test_bed, one, scenario, warm_up_seconds)
    samples = {one.name: [] for one in contenders}
    for _ in range(rounds):
        for one in contenders:
            samples[one.name].append(load(test_bed, one, scenario, seconds))
    return samples


def ratios(mine, reference, what=lambda sample: sample.cost_us):
    """The ratios to the reference, each taken within its round."""
    return [what(a) / what(b) for a, b in zip(mine, reference) if a and b]


def median(values):
    return statistics.median(values) if values else float("nan")


def show(names, samples, reference):
    """Prints medians and spreads; returns maypole's ratio to the reference, None where there is none."""
    print(f"  {'':12} {'us/request':>10}  {'user':>6} {'system':>6}  {'spread':>13}  ratio to {reference}")
    ratio = None
    for name in names:
        good = [sample for sample in samples[name] if sample]
        shares = ratios(samples[name], samples[reference])
        if not shares:
            print(f"  {name:12} no good round")
            continue
        costs = [sample.cost_us for sample in good]
        user, system = (median([getattr(sample, part) for sample in good]) for part in ("user_us", "system_us"))
        spread = f"{min(costs):.2f}-{max(costs):.2f}"
        middle = median(shares)
        print(
            f"  {name:12} {median(costs):10.2f}  {user:6.2f} {system:6.2f}  {spread:>13}"
            f"  {middle:.2f} ({min(shares):.2f}-{max(shares):.2f})",
            flush=True,
        )
        ratio = middle if name == "maypole" else ratio
    return ratio
