"""What TLS costs the proxies that have it: requests and bodies over warm connections, handshakes, idle connections, and what a
request of somebody else's waits for beside handshakes. A part of `bench/run`."""
import contextlib
import json
import subprocess

import bed
import contenders
import rounds

PEERS = ("haproxy", "maypole", "nginx")
WARM = ("small64", "small8", "body1m")
# Titles by whether the key is of ECDSA or RSA, and whether sessions are resumed. A resumption needs neither.
SHAKEN = {
    "ecdsa": ("full handshakes, ECDSA P-256", "ecdsa", False),
    "rsa": ("full handshakes, RSA 2048", "rsa", False),
    "resumed": ("resumed handshakes", "ecdsa", True),
}
CLIENTS = 16


def handshakes_command(one, resume, seconds):
    options = ["--ca", one.authority, "--seconds", str(seconds), "--clients", str(CLIENTS)]
    return ["taskset", "-c", str(bed.LOAD_CPU), bed.HANDSHAKES, str(one.port), *options, *["--resume"] * resume]


def handshakes(resume):
    """A load of handshakes, as `rounds.load` is one of requests: a sample tells what each took, with its request."""

    def load(_test_bed, one, _scenario, seconds):
        members = bed.family(one.pid)
        before = bed.cpu_seconds(members)
        done = subprocess.run(handshakes_command(one, resume, seconds), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        after = bed.cpu_seconds(members)
        counts = json.loads(done.stdout)
        count, other = (counts["resumed"], counts["full"]) if resume else (counts["full"], counts["resumed"])
        # The first handshake of each client has nothing to resume.
        if counts["failed"] or not count or other > (CLIENTS if resume else 0):
            print(f"  {one.name}: a round is spoilt: {counts} {done.stderr[:200]}", flush=True)
            return None
        user_us, system_us = ((b - a) / (count + other) * 1e6 for a, b in zip(before, after))
        return rounds.Sample(user_us, system_us, (count + other) / seconds)

    return load


def peers(arguments):
    return [name for name in PEERS if name in arguments.peers]


def costs(arguments, binary):
    """Samples by scenario and name, as `bench/run` has those in clear."""
    extent = arguments.rounds, arguments.seconds, arguments.warm_up_seconds
    found = {}
    for key_type in ("ecdsa", "rsa"):
        with bed.Bed() as test_bed:
            certificate = test_bed.certificate(key_type)
            origins = [test_bed.origin()[1] for _ in range(2)]
            running = [contenders.start(test_bed, name, binary, origins, certificate=certificate) for name in peers(arguments)]
            loads = {key: (rounds.SCENARIOS[key], rounds.load) for key in WARM} if key_type == "ecdsa" else {}
            for key, (title, of, resume) in SHAKEN.items():
                if of == key_type:
                    loads[key] = rounds.Scenario(title), handshakes(resume)
            for key, (scenario, load) in loads.items():
                print(f"over TLS: {scenario.title}: {arguments.rounds} rounds of {arguments.seconds} s", flush=True)
                samples = rounds.run(test_bed, running, scenario, *extent, load)
                rounds.show([one.name for one in running], samples, "haproxy")
                found[key] = {name: [vars(sample) if sample else None for sample in of] for name, of in samples.items()}
    return found


def idle_kib(arguments, binary, count):
    """By name: resident KiB for each of so many idle connections."""
    found = {}
    for name in peers(arguments):
        with bed.Bed() as test_bed, contextlib.ExitStack() as sockets:
            certificate = test_bed.certificate("ecdsa")
            origins = [test_bed.origin()[1] for _ in range(2)]
            one = contenders.start(test_bed, name, binary, origins, certificate=certificate)
            bed.open_idle(sockets, one.port, 16, one.authority)
            before = bed.resident_kib(one.pid)
            bed.open_idle(sockets, one.port, count, one.authority)
            found[name] = (bed.resident_kib(one.pid) - before) / count
        print(f"over TLS: {name} holds {found[name]:.2f} KiB for each idle connection", flush=True)
    return found


def bystander(arguments, binary, pace):
    """What requests in clear wait for, alone and beside full handshakes of 16 clients with the same worker: microseconds."""
    with bed.Bed() as test_bed:
        certificate = test_bed.certificate("rsa")
        origins = [test_bed.origin()[1] for _ in range(2)]
        one, plain = contenders.encrypted_maypole(test_bed, origins, binary, bed.PROXY_CPU, 1, certificate)
        alone = pace(plain, arguments.seconds)
        flood = test_bed.start(handshakes_command(one, False, arguments.seconds + 2))
        beside = pace(plain, arguments.seconds)
        flood.wait(60)
    print(f"over TLS: requests in clear wait {alone['p99']} us (p99) alone, {beside['p99']} us beside full handshakes", flush=True)
    return {"alone": alone, "beside": beside}
