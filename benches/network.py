#!/usr/bin/env python3
"""Times a fetch between node processes on loopback beside raw TCP, and prints rates, ratios, CPU seconds and peak memory.

usage: network.py [--caskad BIN] [--mib N] [--runs N] [--dir DIR] [--raw BIN] [--slow | --gradients | --versions FILE FILE]

One node has N MiB of random bytes; another, which has nothing, gets them over one connection: each chunk is verified and durably stored before the
file is restored from the store. The same from four nodes. Raw TCP: two processes, one socket, buffers of 1 MiB, no encryption, nothing stored;
with --raw by the program that `cargo bench --bench raw --no-run` makes (tokio), else by this script.
With --gradients, four workers exchange 3 MB each, 20 rounds: from the first publish to the last collect, beside the same bytes over raw TCP.
With --versions, a node that has the first file as version 1 gets the second as version 2, from six others that hold them: bytes received.
With --slow, of 24 nodes one is dead and two read and write 1 MiB a second at most, and the get of N MiB is compared with one where none is.
"""
import argparse, array, json, os, random, shutil, signal, socket, statistics, subprocess, sys, tempfile, time


class Node:
    def __init__(self, options, directory, index, join=None, flags=()):
        self.env = dict(os.environ, CASKAD_STORE=os.path.join(directory, f"store-{index}"))
        self.caskad = options.caskad
        command = [self.caskad, "--json", "node", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", *flags]
        command += ["--join", join] if join else []
        self.process = subprocess.Popen(command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        ready = json.loads(self.process.stdout.readline())
        self.address, self.scope = ready["listen"][0], ready["scope"]

    def run(self, *arguments, check=True):
        ran = subprocess.run([self.caskad, "--json", *arguments], env=self.env, capture_output=True, text=True)
        if check and ran.returncode:
            sys.exit(f"{arguments}: {ran.stderr}")
        return json.loads(ran.stdout) if ran.stdout else None

    def cpu(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self):
        return int(next(line for line in open(f"/proc/{self.process.pid}/status") if line.startswith("VmHWM")).split()[1]) / 1024

    def stop(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def raw_tcp(size):
    """Seconds that `size` bytes take over one loopback connection between two processes."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    if os.fork() == 0:
        connection, block, left = listener.accept()[0], bytes(1 << 20), size
        while left:
            connection.sendall(block[: min(left, len(block))])
            left -= min(left, len(block))
        os._exit(0)
    sock, buffer, left = socket.create_connection(listener.getsockname()), bytearray(1 << 20), size
    started = time.perf_counter()
    while left:
        left -= sock.recv_into(buffer)
    seconds = time.perf_counter() - started
    os.wait()
    return seconds


def touch_memory(options):
    """Has a virtual machine's memory in hand: many give what is free back to their host, and the first use of each page costs a fault there,
    fifteen times what writing it to the page cache costs otherwise."""
    path = os.path.join(options.dir or tempfile.gettempdir(), "caskad-touched")
    block = bytes(1 << 20)
    with open(path, "wb") as out:
        for _ in range(3 * options.mib):
            out.write(block)
    os.unlink(path)


def settle(nodes):
    for node in nodes:
        deadline = time.time() + 60
        while len(node.run("peers")) < min(len(nodes) - 1, 20):
            if time.time() > deadline:
                sys.exit("the nodes do not find each other")
            time.sleep(0.1)


def start_nodes(options, directory, nodes, count):
    """Adds `count` nodes that know each other to `nodes`."""
    for index in range(count):
        nodes.append(Node(options, directory, index, nodes[0].address if nodes else None))
    settle(nodes)


def fetch(options, holders, flags, slow=0, dead=0):
    """Seconds, CPU seconds and peak memory of a get from `holders` nodes by one that has nothing."""
    directory = tempfile.mkdtemp(prefix="caskad-network-", dir=options.dir)
    nodes = []
    try:
        payload = os.path.join(directory, "payload")
        with open(payload, "wb") as out:
            for _ in range(options.mib):
                out.write(os.urandom(1 << 20))
        for index in range(holders):
            capped = ["--upload", str(1 << 20), "--download", str(64 << 20)] if 0 < index <= slow else []
            nodes.append(Node(options, directory, index, nodes[0].address if nodes else None, [*flags, *capped]))
        settle(nodes)
        nodes[0].run("put", payload, "--as", "payload")
        for node in nodes[holders - dead:]:
            node.stop()
        reader = Node(options, directory, "reader", nodes[0].address, flags)
        deadline = time.time() + 60
        while len(reader.run("peers")) < min(holders - dead, 3) and time.time() < deadline:
            time.sleep(0.1)
        nodes.append(reader)
        live = nodes[: holders - dead] + [reader]
        # All nodes share one disk here: what the holders wrote should not be written back while the reader is timed.
        os.sync()
        touch_memory(options)
        before = [node.cpu() for node in live]
        started = time.perf_counter()
        report = reader.run("get", f"@{nodes[0].scope}/payload", "-o", os.path.join(directory, "restored"))
        seconds = time.perf_counter() - started
        cpu = [node.cpu() - then for node, then in zip(live, before)]
        same = subprocess.run(["cmp", payload, os.path.join(directory, "restored")]).returncode == 0
        peak = [node.peak_mib() for node in live]
        return dict(seconds=seconds, cpu_reader=cpu[-1], cpu_holders=sum(cpu[:-1]), peak_reader=peak[-1], peak_holder=max(peak[:-1]), same=same, report=report)
    finally:
        for node in nodes:
            if node.process.poll() is None:
                node.stop()
        shutil.rmtree(directory, ignore_errors=True)


def show(name, options, runs, raw=None):
    seconds = statistics.median(run["seconds"] for run in runs)
    fetched = statistics.median(run["report"]["fetch_seconds"] for run in runs)
    rate = options.mib / fetched
    gb = options.mib * (1 << 20) / 1e9
    reader, holders = (statistics.median(run[key] for run in runs) / gb for key in ("cpu_reader", "cpu_holders"))
    ratio = f", {rate / raw:.2f} of raw TCP" if raw else ""
    print(f"{name}: {seconds:.2f} s, of which fetched, verified and stored in {fetched:.2f} s, {rate * 1.048576:.0f} MB/s{ratio}; CPU {reader:.2f} + {holders:.2f} s a GB (reader + holders); "
          f"peak {max(r['peak_reader'] for r in runs):.0f} and {max(r['peak_holder'] for r in runs):.0f} MiB; same bytes: {all(r['same'] for r in runs)}; "
          f"received {statistics.median(r['report']['received_bytes'] for r in runs) / (options.mib << 20):.2f} of the payload, lookups {runs[0]['report']['lookups']}", flush=True)
    return fetched


def gradients(options):
    """Seconds of each round: every worker publishes, and then collects from all."""
    directory = tempfile.mkdtemp(prefix="caskad-network-", dir=options.dir)
    nodes = []
    try:
        start_nodes(options, directory, nodes, 4)
        header = json.dumps({"w": {"dtype": "F32", "shape": [750000], "data_offsets": [0, 3000000]}}).encode()
        workers = [flag for node in nodes for flag in ("--worker", "@" + node.scope)]
        # Spread as gradients are.
        normal = bytearray(array.array("f", (random.gauss(0, 1e-3) for _ in range(750000))).tobytes())
        seconds = []
        for number in range(21):
            for index in range(4):
                with open(os.path.join(directory, f"grads-{index}"), "wb") as out:
                    # Other numbers each time: the exponents of these in another order, under other fractions.
                    turn = 4 * random.randrange(750000)
                    words = normal[turn:] + normal[:turn]
                    words[0::4], words[1::4] = os.urandom(750000), os.urandom(750000)
                    out.write(len(header).to_bytes(8, "little") + header + words)
            started = time.perf_counter()

            def start(index, *arguments):
                return subprocess.Popen([options.caskad, "--json", *arguments], env=nodes[index].env, stdout=subprocess.DEVNULL)

            publishing = [start(i, "gradient", "publish", os.path.join(directory, f"grads-{i}"), "--run", "r", "--round", str(number)) for i in range(4)]
            collecting = [start(i, "gradient", "collect", "--run", "r", "--round", str(number), "-o", os.path.join(directory, f"mean-{i}"), "--force", *workers) for i in range(4)]
            failed = [process.wait() for process in publishing + collecting]
            if any(failed):
                sys.exit(f"a worker failed: {failed}")
            if number:
                seconds.append(time.perf_counter() - started)
        seconds.sort()
        raw = statistics.median(raw_tcp(36_000_000) for _ in range(9))
        p50, p99 = seconds[len(seconds) // 2], seconds[-1]
        print(f"a round of 4 workers, 3 MB each: p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms; raw TCP {raw * 1e3:.0f} ms for 36 MB; ratio {p50 / raw:.1f}")
    finally:
        for node in nodes:
            node.stop()
        shutil.rmtree(directory, ignore_errors=True)


def versions(options):
    """What a reader of version 1 receives of version 2."""
    directory = tempfile.mkdtemp(prefix="caskad-network-", dir=options.dir)
    nodes = []
    try:
        start_nodes(options, directory, nodes, 7)
        nodes[0].run("put", options.versions[0], "--as", "m")
        reader = Node(options, directory, "reader", nodes[0].address)
        nodes.append(reader)
        settle(nodes)
        for number, file in enumerate(options.versions, 1):
            if number > 1:
                nodes[0].run("put", file, "--as", "m")
            out = os.path.join(directory, f"out-{number}")
            report = reader.run("get", f"@{nodes[0].scope}/m@{number}", "-o", out)
            same = subprocess.run(["cmp", file, out]).returncode == 0
            share = report["received_bytes"] / report["bytes"] * 100
            print(f"version {number}: {report['bytes']} bytes, {report['received_bytes']} received ({share:.1f} %), {report['from_peers']} chunks from peers, "
                  f"{report['peer_deltas']} as differences; same bytes: {same}", flush=True)
    finally:
        for node in nodes:
            node.stop()
        shutil.rmtree(directory, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--caskad", default=shutil.which("caskad") or "target/release/caskad")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dir")
    parser.add_argument("--raw")
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--gradients", action="store_true")
    parser.add_argument("--versions", nargs="+")
    options = parser.parse_args()
    options.caskad = os.path.abspath(options.caskad)
    if options.gradients:
        return gradients(options)
    if options.versions:
        return versions(options)
    if options.slow:
        usual = show("24 nodes", options, [fetch(options, 24, ()) for _ in range(options.runs)])
        slow = show("24 nodes, 2 slow, 1 dead", options, [fetch(options, 24, (), slow=2, dead=1) for _ in range(options.runs)])
        print(f"ratio {slow / usual:.2f}")
        return
    if options.raw:
        rates = [float(subprocess.run([options.raw, str(options.mib)], capture_output=True, check=True).stdout) for _ in range(options.runs)]
        raw = statistics.median(rates) / 1.048576
    else:
        raw = statistics.median(options.mib / raw_tcp(options.mib << 20) for _ in range(options.runs))
    print(f"raw TCP: {raw * 1.048576:.0f} MB/s", flush=True)
    one = show("one holder", options, [fetch(options, 1, ("--replication-factor", "1")) for _ in range(options.runs)], raw)
    four = show("four holders", options, [fetch(options, 4, ("--replication-factor", "4")) for _ in range(options.runs)], raw)
    print(f"four against one: {one / four:.2f}")


main()
