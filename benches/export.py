#!/usr/bin/env python3
"""Measures an exporter of a large fleet: 64 nodes with 32 actors each, all counters, latencies of all calls, all sinks.

    benches/export.py [PROGRAM]         # target/release/treehaul

Needs memcached. Writes the keys of ops/metrics.md as workers do, lets a few cycles pass in which every counter grows, and prints
how long cycles took and how much memory the exporter held at most. Exit 1: a cycle took a second or more, or it held 64 MiB or more.
"""
import os, re, shutil, socket, subprocess, sys, tempfile, threading, time, urllib.request

NODES, ACTORS, CYCLES = 64, 16, 8
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def source(path):
    with open(os.path.join(ROOT, path)) as file:
        return file.read()


COUNTERS = re.findall(r'\w+: "(\w+)", "treehaul_\w+", "[^"]+";', source("src/telemetry/counts.rs"))
CALLS = re.findall(r'^    [A-Z]\w+ = "(\w+)",', source("src/model/latency.rs"), re.M)
BUCKETS = range(4, 12)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def keys():
    """Everything that workers count."""
    for node in range(NODES):
        own = f"treehaul.0000000000001.node{node}"
        yield from (f"{own}.{pool}_{n}.{c}" for pool in ("dirs", "files") for n in range(ACTORS) for c in COUNTERS)
        yield from (f"{own}.latency.{call}.{part}" for call in CALLS for part in (*BUCKETS, "sum_ns"))


def send(port, lines):
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall("".join(lines).encode() + b"mn\r\n")
        while not s.recv(65536).endswith(b"MN\r\n"):
            pass


def drain_tcp(listener, lines):
    stream = listener.accept()[0]
    while data := stream.recv(1 << 20):
        lines[0] += data.count(b"\n")


def drain_udp(sock, lines):
    while data := sock.recv(65536):
        lines[1] += data.count(b"\n") + 1


def stored(key, value):
    return f"ms {key} {len(value)} q\r\n{value}\r\n"


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "target/release/treehaul")
    port, page = free_port(), f"127.0.0.1:{free_port()}"
    memcached = subprocess.Popen(["memcached", "-u", "nobody", "-l", "127.0.0.1", "-U", "0", "-p", str(port), "-m", "256"])
    graphite, statsd = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    statsd.bind(("127.0.0.1", 0))
    lines = [0, 0]
    for target, args in ((drain_tcp, graphite), (drain_udp, statsd)):
        threading.Thread(target=target, args=(args, lines), daemon=True).start()
    state = tempfile.mkdtemp()
    exporter = None
    try:
        time.sleep(0.5)
        actors = f"dirs=0-{ACTORS - 1} files=0-{ACTORS - 1} calls={','.join(CALLS)}"
        at = f"at={int(time.time())} actors_dirs={ACTORS} actors_files={ACTORS}"
        send(port, [stored("treehaul.index", str(2 * NODES))])
        for n in range(NODES):
            send(port, [stored(f"treehaul.index.{2 * n + 1}", f"0000000000001 node{n} {actors}"),
                        stored(f"treehaul.index.{2 * n + 2}", f"- node{n}"), stored(f"treehaul.node.node{n}.gauges", at)])
        grow = [f"ma {key} q N86400 J1000 D1000\r\n" for key in keys()]
        send(port, grow)
        exporter = subprocess.Popen(
            [program, "export", "--memcached", f"127.0.0.1:{port}", "--every", "2s", "--prometheus", page, "--state", state + "/state",
             "--graphite", "127.0.0.1:%d" % graphite.getsockname()[1], "--statsd", "127.0.0.1:%d" % statsd.getsockname()[1]],
            env={**os.environ, "TREEHAUL_CONFIG": ""}, stderr=subprocess.DEVNULL)
        looks, last, scraped = [], None, 0
        while len(looks) < CYCLES:
            time.sleep(0.25)
            try:
                text = urllib.request.urlopen(f"http://{page}/metrics", timeout=5).read().decode()
            except OSError:
                continue
            scraped = max(scraped, len(text))
            now = re.search(r"^treehaul_export_cycle_seconds (.*)$", text, re.M)
            if now and now[1] != last:
                last = now[1]
                looks.append(float(now[1]))
                send(port, grow)
        with open(f"/proc/{exporter.pid}/status") as status:
            peak = int(re.search(r"VmHWM:\s+(\d+)", status.read())[1]) / 1024
        # All of a cycle, the sinks among it: by the time that its thread is at work.
        log = f"{max(looks):.3f} s at most, {sorted(looks)[len(looks) // 2]:.3f} s the median"
        busy = busy_seconds(exporter.pid) / len(looks)
        print(f"{len(grow)} keys; a look: {log}; a cycle with all sinks: {busy:.3f} s of CPU; peak {peak:.1f} MiB")
        print(f"{lines[0]} lines to Graphite, {lines[1]} to statsd, {scraped} bytes a scrape")
        sys.exit(0 if max(looks) < 1 and busy < 1 and peak < 64 else 1)
    finally:
        for process in (exporter, memcached):
            if process:
                process.kill()
        shutil.rmtree(state)


def busy_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


main()
