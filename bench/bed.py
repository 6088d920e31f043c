"""The test bed that the benchmarks stand on: processes that end with it, pinned to a core; their cost; wrk.

Only the standard library is used, and only loopback is touched."""
import contextlib
import http.client
import json
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MAYPOLE = os.path.join(ROOT, "target/release/maypole")
ORIGIN = os.path.join(ROOT, "bench/origin/target/release/origin")
PACE = os.path.join(ROOT, "bench/pace/target/release/pace")
HANDSHAKES = os.path.join(ROOT, "bench/handshakes/target/release/handshakes")
FLOOR = os.path.join(ROOT, "bench/floor/target/release/floor")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PROXY_CPU, LOAD_CPU = 0, 1
# Past the linger after which a connection is parked, and what Go's collector waits for.
SETTLE_SECONDS = 1
# The Debian packages of programs that aren't called the same.
PACKAGES = {"c++": "g++", "go": "golang-go", "pip3": "python3-pip", "protoc": "protobuf-compiler", "strip": "binutils"}


def install(*programs):
    """Installs the Debian packages of those programs that are missing."""
    missing = [PACKAGES.get(program, program) for program in programs if not shutil.which(program)]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"please install {' '.join(missing)}")
    quiet = dict(check=True, stdout=subprocess.DEVNULL, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    subprocess.run(["apt-get", "update", "-qq"], **quiet)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], **quiet)


def lift_descriptor_limit():
    """Allows this process and its children as many descriptors as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def build(binary=None):
    """Builds the tools, and the proxy unless its binary is given; returns the proxy's path."""
    cargo = ["cargo", "build", "--release", "--locked", "--quiet", "--manifest-path"]
    for tool in ("origin", "floor", "handshakes", "pace", "pump"):
        subprocess.run([*cargo, os.path.join(ROOT, f"bench/{tool}/Cargo.toml")], check=True)
    if not binary:
        subprocess.run([*cargo, os.path.join(ROOT, "Cargo.toml")], check=True)
    return os.path.abspath(binary or MAYPOLE)


class Certificate(NamedTuple):
    """Paths of PEM files. The pair is the certificate and its key in one."""

    authority: str
    cert: str
    key: str
    pair: str


class Bed:
    """Starts processes and ends all of them, by their own ids, when the `with` block ends, however it ends."""

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="bench-")
        self.processes, self.ports = [], set()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
        return self

    def __exit__(self, *_):
        everyone = [pid for process in self.processes for pid in family(process.pid)]
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + 3
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
        for pid in everyone:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, command, cpu=None, port=None):
        """Starts a command; with `port`, waits until somebody listens there."""
        command = shlex.split(command) if isinstance(command, str) else list(command)
        pin = ["taskset", "-c", str(cpu)] if cpu is not None else []
        path = os.path.join(self.folder, f"log-{len(self.processes)}")
        with open(path, "wb") as log:
            process = subprocess.Popen([*pin, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        process.log = path
        self.processes.append(process)
        if port is not None:
            wait_until(f"{command[0]} listens on {port}", lambda: listens(port), process)
        return process

    def origin(self, port=None, cpu=LOAD_CPU):
        """Starts the benchmark's origin; returns its process and its port."""
        port = port or self.port()
        return self.start([ORIGIN, str(port)], cpu, port), port

    def maypole(self, backends, binary=MAYPOLE, cpu=PROXY_CPU, workers=1, **settings):
        """Starts maypole, or a command that runs it, over the ports of these backends; returns its process, its port and
        its admin port."""
        port, admin = self.port(), self.port()
        config = maypole_config(port, admin, backends, workers=workers, **settings)
        path = os.path.join(self.folder, f"maypole-{port}.json")
        self.write(path, json.dumps(config, indent=1))
        command = [binary] if isinstance(binary, str) else binary
        process = self.start([*command, "--config", path], cpu, port)
        # Before it serves, it listens for a moment to see whether the port is taken.
        wait_until("the admin API answers", lambda: answers(admin), process)
        return process, port, admin

    def certificate(self, key_type):
        """A certificate for localhost by an authority of its own, with an "ecdsa" or "rsa" key."""
        path = {part: os.path.join(self.folder, f"{key_type}-{part}") for part in ("ca", "ca-key", "cert", "key", "pair")}
        kind = {"ecdsa": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa": ["rsa:2048"]}[key_type]
        request = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", *kind]
        leaf = ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]
        signed = ["-CA", path["ca"], "-CAkey", path["ca-key"], *leaf]
        for name, key, cert, more in (("bench", "ca-key", "ca", []), ("localhost", "key", "cert", signed)):
            command = [*request, "-subj", f"/CN={name}", "-keyout", path[key], "-out", path[cert], *more]
            subprocess.run(command, check=True, capture_output=True)
        self.write(path["pair"], open(path["cert"]).read() + open(path["key"]).read())
        return Certificate(path["ca"], path["cert"], path["key"], path["pair"])

    def write(self, path, text):
        with open(path, "w") as file:
            file.write(text)

    def port(self):
        """A free port below those that outgoing connections take theirs from; never the same twice."""
        for port in range(20000 + os.getpid() % 5000, 32000):
            if port in self.ports:
                continue
            with socket.socket() as probe:
                with contextlib.suppress(OSError):
                    probe.bind(("127.0.0.1", port))
                    self.ports.add(port)
                    return port
        sys.exit("no port is free")


def maypole_config(port, admin, backends, **settings):
    """The backends are ports of loopback, or what a configuration takes."""
    urls = [f"http://127.0.0.1:{backend}" if isinstance(backend, int) else backend for backend in backends]
    return {"port": port, "bind": "127.0.0.1", "admin_port": admin, "backends": urls, **settings}


def connect(port, timeout=10, authority=None):
    """A connection, over TLS where there is an authority."""
    plain = socket.create_connection(("127.0.0.1", port), timeout)
    if not authority:
        return plain
    return ssl.create_default_context(cafile=authority).wrap_socket(plain, server_hostname="localhost")


def trusting():
    """What a client of TLS goes by that takes any certificate."""
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    return client


def hello():
    """A ClientHello, as openssl says it."""
    inbound, outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        trusting().wrap_bio(inbound, outbound, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        return outbound.read()
    sys.exit("a handshake of one side alone")


def open_idle(sockets, port, count, authority=None):
    """Opens connections that each have an answer and ask no more, and waits until they count as idle; they close with
    `sockets`."""
    for _ in range(count):
        client = sockets.enter_context(connect(port, authority=authority))
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        if not client.recv(65536).startswith(b"HTTP/1.1 200 "):
            raise ConnectionError("an idle connection had no answer")
    time.sleep(SETTLE_SECONDS)


def resident_kib(pid):
    """Of the process and all that descend from it."""
    return sum(map(memory_kib, family(pid)))


def listens(port):
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(admin):
    with contextlib.suppress(OSError, http.client.HTTPException):
        return ask(admin, "GET", "/healthz", timeout=1)[0] == 200
    return False


def wait_until(what, holds, process=None, seconds=10, pause=0.01):
    """Waits for a condition and returns when it came, on the monotonic clock; ends the program if it doesn't."""
    deadline = time.monotonic() + seconds
    while not holds():
        if process is not None and process.poll() is not None:
            sys.exit(f"{what}: it ended with {process.returncode}: {open(process.log, errors='replace').read()[-500:]}")
        if time.monotonic() > deadline:
            sys.exit(f"not within {seconds} s: {what}")
        time.sleep(pause)
    return time.monotonic()


def ask(port, method, path, body=None, timeout=10, authority=None):
    """One request on a connection of its own, over TLS where there is an authority: the status and the body."""
    if authority:
        context = ssl.create_default_context(cafile=authority)
        connection = http.client.HTTPSConnection("localhost", port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def family(pid):
    """The process and all that descend from it."""
    with contextlib.suppress(OSError):
        children = open(f"/proc/{pid}/task/{pid}/children").read().split()
        return [pid] + [member for child in children for member in family(int(child))]
    return [pid]


def cpu_seconds(pids):
    """What these processes took of the processor so far: (in user mode, in the kernel)."""
    user = system = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
            user, system = user + int(fields[11]), system + int(fields[12])
    return user / TICKS_PER_SECOND, system / TICKS_PER_SECOND


def memory_kib(pid, field="VmRSS"):
    """Resident memory now (VmRSS) or at its peak (VmHWM)."""
    return int(re.search(rf"^{field}:\s+(\d+)", open(f"/proc/{pid}/status").read(), re.M)[1])


class Load:
    """What wrk said at its end: completed requests, and those that failed one way or another."""

    def __init__(self, output):
        completed = re.search(r"(\d+) requests in ", output)
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
        self.output = output
        self.requests = int(completed[1]) if completed else 0
        self.not_ok = int(refused[1]) if refused else 0
        self.broken = sum(map(int, errors.groups())) if errors else 0
        self.broken_reads = int(errors[2]) if errors else 0

    @property
    def failed(self):
        return self.not_ok + self.broken

    def __str__(self):
        return f"{self.requests} requests, {self.not_ok} not answered with 2xx, {self.broken} socket errors"


def wrk_command(port, path="/", connections=64, seconds=600, script=None, close=False, scheme="http"):
    # Thousands of connections that open at once wait for the SYN to be sent again.
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    options += ["-s", script] if script else []
    options += ["-H", "Connection: close"] if close else []
    return ["wrk", *options, f"{scheme}://127.0.0.1:{port}{path}"]


def finish(wrk):
    """Ends a wrk that `Bed.start` started, as Ctrl-C does, and reads what it counted."""
    wrk.send_signal(signal.SIGINT)
    wrk.wait(10)
    return Load(open(wrk.log).read())
