"""Counts of what a request takes, which no busy machine can blur: instructions and allocations under callgrind, system
calls and migrations under strace.

One client sends one request after the other over one connection, once at once and once spaced past the linger, after
which a connection is parked. Callgrind's counts begin behind the first of them, and are taken before maypole stops: to
start takes it more or fewer instructions each time, as many as a hundred a request of the spaced ones. Of system calls
the difference between a short run and a longer one is what the requests took."""
import collections
import os
import re
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import bed

PROGRAMS = ("valgrind", "strace")
ALLOCATORS = {"malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"}
HEAD = (
    b"GET /path?query=1 HTTP/1.1\r\nHost: example.test\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
    b"Accept: text/html,application/xhtml+xml\r\nAccept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\n"
    b"Connection: keep-alive\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n\r\n"
)
# The pause between two requests, in seconds, how many are sent at first, and how many in all.
PACES = {"at once": (0.0, 200, 2200), "spaced": (0.03, 20, 220)}
# What else maypole does by the clock allocates a little.
ALLOCATIONS_SLACK = 0.05
# Connections that ask at the same time while migrations are counted.
CONNECTIONS = 8


class Client:
    """One connection that sends one request at a time, over TLS where there is an authority."""

    def __init__(self, port, authority=None):
        self.socket = bed.connect(port, 30, authority)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self):
        self.socket.sendall(HEAD)

    def receive(self):
        answer = self.socket.recv(65536)
        if not answer.startswith(b"HTTP/1.1 200 ") or not answer.endswith(b"sixteen bytes ok"):
            sys.exit(f"an answer is wrong: {answer[:200]!r}")

    def send(self, requests, pause):
        for _ in range(requests):
            self.ask()
            self.receive()
            time.sleep(pause)


def callgrind(test_bed, binary, origin, pace, authority=None, **settings):
    """Instructions and allocations that a request takes, over TLS where there is an authority."""
    pause, first, requests = PACES[pace]
    out = os.path.join(test_bed.folder, "callgrind")
    # Coroutines are stacks that valgrind can't know. A wait that `control` interrupts would be logged.
    tool = ["env", "RUST_LOG=off", "valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--max-stackframe=100000000"]
    process, port, _ = test_bed.maypole([origin], [*tool, binary], cpu=None, health_check_frequency="1h", **settings)
    client = Client(settings["tls"]["port"] if authority else port, authority)
    client.send(first, pause)
    control(process, "--zero")
    client.send(requests - first, pause)
    control(process, "--dump")
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    names, calls, callee = {}, collections.Counter(), None
    instructions = None
    for line in open(f"{out}.1"):
        if named := re.match(r"c?fn=\((\d+)\) (\S+)", line):
            names[named[1]] = named[2]
        if called := re.match(r"cfn=\((\d+)\)", line):
            callee = called[1]
        elif counted := re.match(r"calls=(\d+)", line):
            calls[callee] += int(counted[1])
        elif total := re.match(r"(?:summary|totals): (\d+)", line):
            instructions = int(total[1])
    allocations = sum(count for number, count in calls.items() if names[number] in ALLOCATORS)
    return {"instructions": instructions / (requests - first), "allocations": allocations / (requests - first)}


def control(process, command):
    subprocess.run(["callgrind_control", command, str(process.pid)], check=True, capture_output=True, timeout=60)


def strace(test_bed, binary, origin, pace):
    """System calls by name that a request takes."""

    def called(requests):
        process, port, _ = test_bed.maypole([origin], ["strace", "-f", "-o", out, binary], cpu=None, health_check_frequency="1h")
        Client(port).send(requests, pause)
        [proxy] = bed.family(process.pid)[1:]
        os.kill(proxy, signal.SIGTERM)
        process.wait(60)
        # A call that another thread's interrupts is written in two lines, of which only the first has the bracket.
        return collections.Counter(re.findall(r"^\d+ +(\w+)\(", open(out).read(), re.M))

    out = os.path.join(test_bed.folder, "strace")
    pause, short, long = PACES[pace]
    before, after = called(short), called(long)
    return {name: (after[name] - before[name]) / (long - short) for name in sorted(after)}


def measure(binary):
    figures = {}
    with bed.Bed() as test_bed:
        _, origin = test_bed.origin(cpu=None)
        for pace in PACES:
            counted = callgrind(test_bed, binary, origin, pace)
            calls = strace(test_bed, binary, origin, pace)
            figures[pace] = {
                "instructions": round(counted["instructions"]),
                "allocations": round(counted["allocations"], 2),
                "syscalls": {name: round(each, 2) for name, each in calls.items() if each >= 0.02},
            }
    return figures


def encrypted(binary):
    """Instructions and allocations a request over TLS, by side, those of a request in clear beside them."""
    with bed.Bed() as test_bed:
        certificate = test_bed.certificate("ecdsa")
        _, origin = test_bed.origin(cpu=None)
        pair = [{"cert": certificate.cert, "key": certificate.key}]
        listening = [{"port": test_bed.port(), "bind": "127.0.0.1", "certificates": pair} for _ in range(2)]
        # What has the backend speak TLS is another maypole, which isn't counted.
        test_bed.maypole([origin], binary, cpu=None, tls=listening[1])
        backend = {"url": f"https://localhost:{listening[1]['port']}"}
        # Under callgrind, on a busy machine, the handshake of the first probe takes seconds.
        patient = {"timeout": "30s"}
        sides = {
            "neither": (origin, callgrind),
            "client's": (origin, partial(callgrind, authority=certificate.authority, tls=listening[0])),
            "backend's": (backend, partial(callgrind, upstream_tls={"ca": certificate.authority}, health_check=patient)),
        }
        return {side: count(test_bed, binary, to, "at once") for side, (to, count) in sides.items()}


def migrations(test_bed, one, pace):
    """How often in a request a proxy that runs used a connection on another thread than the time before."""
    pause, _, requests = PACES[pace]
    out = os.path.join(test_bed.folder, f"strace-{one.name}-{pause}")
    calls = "recvfrom,sendto,recvmsg,sendmsg,readv,writev"
    tracer = test_bed.start(["strace", "-f", "-e", calls, "-o", out, "-p", str(one.pid)])
    bed.wait_until("strace is attached", lambda: "attached" in open(tracer.log).read(), tracer)
    clients = [Client(one.port) for _ in range(CONNECTIONS)]
    for _ in range(requests // CONNECTIONS):
        for client in clients:
            client.ask()
        for client in clients:
            client.receive()
        time.sleep(pause)
    tracer.send_signal(signal.SIGINT)
    tracer.wait(60)
    threads, count = {}, 0
    for thread, descriptor in re.findall(r"^(\d+) +\w+\((\d+),", open(out).read(), re.M):
        count += threads.get(descriptor, thread) != thread
        threads[descriptor] = thread
    if not threads:
        sys.exit(f"strace saw no call of {one.name}")
    return count / (requests // CONNECTIONS * CONNECTIONS)
