#!/usr/bin/env python3
"""Times whole processes of caskad beside zstd, cp and b3sum on one file, in turn, and prints the ratios of their medians.

usage: compare.py [--caskad BIN] [--runs N] [--dir DIR] [--only NAME,...] FILE...

The comparison tools must be on the PATH; a missing one is named and left out. Everything is written below DIR (default: a
temporary directory next to FILE) and removed at the end. A ratio above 1 means that caskad is faster.
"""
import argparse, os, shutil, statistics, subprocess, sys, tempfile, time


def run(command, peak):
    """Wall seconds of `command`; its peak memory is noted under its name."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status != 0:
        sys.exit(f"{' '.join(command)} failed: {error.decode(errors='replace')}")
    peak.append(usage.ru_maxrss)
    return seconds


def remove(*paths):
    for path in paths:
        shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else os.path.exists(path) and os.remove(path)


def compare(name, goal, ours, theirs, runs, before_ours=lambda: None, before_theirs=lambda: None):
    if shutil.which(theirs[0]) is None:
        print(f"  {name:28} left out: {theirs[0]} is not installed")
        return
    mine, other, peak, other_peak = [], [], [], []
    for index in range(runs + 1):
        before_ours()
        a = run(ours, peak)
        before_theirs()
        b = run(theirs, other_peak)
        if index:  # the first pair only warms the caches
            mine.append(a)
            other.append(b)
    ratios = sorted(b / a for a, b in zip(mine, other))
    print(f"  {name:28} {statistics.median(mine):8.3f} s  {statistics.median(other):8.3f} s   ×{statistics.median(other) / statistics.median(mine):5.2f}"
          f"  ({ratios[0]:.2f}–{ratios[-1]:.2f})  goal ×{goal}   peak {max(peak) / 1024:.0f} MiB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--caskad", default="caskad")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--dir")
    parser.add_argument("--only", default="put,get,cp,again,verify")
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    only = options.only.split(",")
    for file in options.files:
        work = tempfile.mkdtemp(prefix="caskad-compare-", dir=options.dir or os.path.dirname(os.path.abspath(file)))
        store, out, frame = (os.path.join(work, part) for part in ("store", "out", "out.zst"))
        base = [options.caskad, "--store", store, "--quiet"]
        put, get = base + ["put", file, "--as", "model"], base + ["get", "model", "-o", out]
        size = os.path.getsize(file)
        print(f"{os.path.basename(file)}, {size} bytes, {options.runs} pairs: caskad, other, ratio of medians (range of pairs)")
        try:
            if "put" in only:
                compare("put : zstd -3 -T2", 1.5, put, ["zstd", "-3", "-T2", "-q", "-f", file, "-o", frame], options.runs,
                        lambda: remove(store), lambda: remove(frame))
                packs = os.path.join(store, "packs")
                stored = sum(os.path.getsize(os.path.join(packs, pack)) for pack in os.listdir(packs))
                print(f"  {'size':28} {stored / size:8.2%}    {os.path.getsize(frame) / size:8.2%}")
            else:
                run(put, [])
                run(["zstd", "-3", "-T2", "-q", "-f", file, "-o", frame], [])
            if "get" in only:
                compare("get : zstd -d", 1.3, get, ["zstd", "-d", "-q", "-f", frame, "-o", out], options.runs,
                        lambda: remove(out), lambda: remove(out))
            remove(out)
            if "cp" in only:
                compare("get : cp", 0.6, get, ["cp", file, out], options.runs, lambda: remove(out), lambda: remove(out))
            remove(out, frame)
            if "again" in only:
                compare("put again : b3sum", 0.5, put, ["b3sum", file], options.runs)
            if "verify" in only:
                compare("verify : b3sum", 0.5, base + ["verify", "model"], ["b3sum", file], options.runs)
        finally:
            remove(work)


if __name__ == "__main__":
    main()
