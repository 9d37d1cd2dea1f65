#!/usr/bin/env python3
"""Times whole processes of caskad beside zstd, cp and b3sum on one file, in turn, and prints the ratios of their medians.

usage: compare.py [--caskad BIN] [--runs N] [--dir DIR] [--only NAME,...] [--versions] FILE...

With --versions the files are versions of one key: each is put after the ones before it, as differences where that pays, and got back.

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


def versions(options):
    """Puts the files as versions of one key and gets each, beside zstd -3 -T2 and zstd -d on the same file."""
    work = tempfile.mkdtemp(prefix="caskad-compare-", dir=options.dir or os.path.dirname(os.path.abspath(options.files[0])))
    store, out = os.path.join(work, "store"), os.path.join(work, "out")
    base = [options.caskad, "--store", store, "--quiet"]
    frames = [os.path.join(work, f"{number}.zst") for number in range(len(options.files))]
    seconds, peaks = {}, {}
    try:
        for index in range(options.runs + 1):
            remove(store)
            for number, (file, frame) in enumerate(zip(options.files, frames), 1):
                put = base + ["put", file, "--as", "model"]
                step, zstd = f"put @{number} : zstd -3 -T2", ["zstd", "-3", "-T2", "-q", "-f", file, "-o", frame]
                took = [run(command, peaks.setdefault((step, side), [])) for side, command in enumerate((put, zstd))]
                seconds.setdefault(step, []).append(took if index else None)
            for number, frame in enumerate(frames, 1):
                remove(out)
                step, get = f"get @{number} : zstd -d", base + ["get", f"model@{number}", "-o", out]
                ours = run(get, peaks.setdefault((step, 0), []))
                remove(out)
                theirs = run(["zstd", "-d", "-q", "-f", frame, "-o", out], peaks.setdefault((step, 1), []))
                seconds.setdefault(step, []).append([ours, theirs] if index else None)
        for step, pairs in seconds.items():
            ours, theirs = ([pair[side] for pair in pairs if pair] for side in (0, 1))
            ratios = sorted(b / a for a, b in zip(ours, theirs))
            print(f"  {step:28} {statistics.median(ours):8.3f} s  {statistics.median(theirs):8.3f} s   ×{statistics.median(theirs) / statistics.median(ours):5.2f}"
                  f"  ({ratios[0]:.2f}–{ratios[-1]:.2f})   peak {max(peaks[(step, 0)]) / 1024:.0f} MiB", flush=True)
        packs = os.path.join(store, "packs")
        stored = sum(os.path.getsize(os.path.join(packs, pack)) for pack in os.listdir(packs))
        raw = sum(map(os.path.getsize, options.files))
        print(f"  {'size of all versions':28} {stored / raw:8.2%}    {sum(map(os.path.getsize, frames)) / raw:8.2%}")
    finally:
        remove(work)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--caskad", default="caskad")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--dir")
    parser.add_argument("--only", default="put,get,cp,again,verify")
    parser.add_argument("--versions", action="store_true")
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    if options.versions:
        return versions(options)
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
                compare("put : zstd -3 -T2", 1.6, put, ["zstd", "-3", "-T2", "-q", "-f", file, "-o", frame], options.runs,
                        lambda: remove(store), lambda: remove(frame))
                packs = os.path.join(store, "packs")
                stored = sum(os.path.getsize(os.path.join(packs, pack)) for pack in os.listdir(packs))
                print(f"  {'size':28} {stored / size:8.2%}    {os.path.getsize(frame) / size:8.2%}")
            else:
                run(put, [])
                run(["zstd", "-3", "-T2", "-q", "-f", file, "-o", frame], [])
            if "get" in only:
                compare("get : zstd -d", 1.8, get, ["zstd", "-d", "-q", "-f", frame, "-o", out], options.runs,
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
