#!/usr/bin/env python3
"""What families of versions cost in a store: stored bytes (packs, manifests and index) as a share of raw bytes.

A corpus is a directory of families; a family is a directory of versions. Their order is that of MANIFEST.json
({"versions": [{"file": ...}]}) or, without one, of their names. Each family goes into one store of its own, all versions under one
key. Every version is restored from it and compared.

    cargo build --release --locked
    python3 benches/corpus.py CORPUS [--caskad target/release/caskad] [--family NAME ...] [--mode default|compact|no-delta ...]
                              [--json FILE] [--plot FILE.svg] [--table FILE.md]
    python3 benches/corpus.py --from FILE.json [--plot FILE.svg] [--table FILE.md]

Needs nothing but Python 3.9 and the caskad binary.
"""

import argparse
import filecmp
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

MODES = {
    # What `put` takes, and whether `caskad compact` follows.
    "default": ([], False),
    "compact": (["--compact"], True),
    "no-delta": (["--no-delta"], False),
}
COLOURS = {"no-delta": "#8a8f98", "default": "#2563a8", "compact": "#d08a1e"}


def versions(family):
    manifest = family / "MANIFEST.json"
    if manifest.is_file():
        return [family / version["file"] for version in json.loads(manifest.read_text())["versions"]]
    natural = lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
    return sorted((path for path in family.iterdir() if not path.name.startswith(".")), key=natural)


def run(caskad, store, *args):
    done = subprocess.run([caskad, "--store", store, "--json", *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"caskad {' '.join(map(str, args))}: {done.stderr.strip()}")
    return json.loads(done.stdout) if done.stdout.strip() else {}


def measure(caskad, family, mode, check):
    put, compact = MODES[mode]
    files = versions(family)
    raw = sum(file.stat().st_size for file in files)
    with tempfile.TemporaryDirectory() as scratch:
        store, key = os.path.join(scratch, "store"), family.name
        added = [run(caskad, store, "put", file, "--as", key, *put)["stored_bytes"] for file in files]
        if compact:
            run(caskad, store, "compact", key)
        for number, file in enumerate(files, 1) if check else ():
            restored = os.path.join(scratch, "restored")
            run(caskad, store, "get", f"{key}@{number}", "-o", restored)
            if not filecmp.cmp(file, restored, shallow=False):
                sys.exit(f"{family.name}@{number} came back altered")
            os.remove(restored)
        stat = run(caskad, store, "stat")
        packs = sum(path.stat().st_size for path in pathlib.Path(store, "packs").iterdir())
        others = sum(path.stat().st_size for path in pathlib.Path(store).iterdir() if path.is_file())
    return {
        "family": family.name, "mode": mode, "versions": len(files), "raw_bytes": raw, "pack_bytes": packs,
        "index_bytes": others, "stored_bytes": packs + others, "percent": round(100 * (packs + others) / raw, 2),
        "added_bytes": added, "codecs": stat["codecs"],
    }


def plot(rows, path):
    """Horizontal bars, one group a family, one bar a mode, written as plain SVG."""
    families = list(dict.fromkeys(row["family"] for row in rows))
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    bar, gap, left, width = 13, 12, 120, 520
    group = bar * len(modes) + gap
    height = 40 + group * len(families) + 30
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {height}" font-family="sans-serif" font-size="11">',
        '<title>Stored bytes as a share of raw bytes, by family of versions and mode</title>',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for at, mode in enumerate(modes):
        x = left + 110 * at
        out.append(f'<rect x="{x}" y="10" width="11" height="11" fill="{COLOURS[mode]}"/><text x="{x + 16}" y="20">{mode}</text>')
    bottom = 34 + group * len(families)
    for percent in range(0, 101, 20):
        x = left + width * percent / 100
        out.append(f'<line x1="{x}" x2="{x}" y1="30" y2="{bottom}" stroke="#dddddd"/>')
        out.append(f'<text x="{x}" y="{bottom + 14}" text-anchor="middle" fill="#555555">{percent} %</text>')
    for at, family in enumerate(families):
        top = 36 + group * at
        middle = top + bar * len(modes) / 2 + 4
        out.append(f'<text x="{left - 8}" y="{middle}" text-anchor="end">{family}</text>')
        for row in (row for row in rows if row["family"] == family):
            y = top + bar * modes.index(row["mode"])
            length = width * row["percent"] / 100
            out.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 2}" fill="{COLOURS[row["mode"]]}"/>')
            out.append(f'<text x="{left + length + 5:.1f}" y="{y + bar - 4}">{row["percent"]:.1f}</text>')
    out.append("</svg>\n")
    pathlib.Path(path).write_text("\n".join(out))


def table(rows, path):
    """A Markdown table, one line a family, one column of percentages a mode."""
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    out = ["| family | versions | raw MB | " + " | ".join(f"{mode}, %" for mode in modes) + " |"]
    out.append("|---|" + "---:|" * (2 + len(modes)))
    for family in dict.fromkeys(row["family"] for row in rows):
        those = {row["mode"]: row for row in rows if row["family"] == family}
        first = next(iter(those.values()))
        cells = [f"{those[mode]['percent']:.1f}" if mode in those else "–" for mode in modes]
        out.append(f"| {family} | {first['versions']} | {first['raw_bytes'] / 1e6:.1f} | " + " | ".join(cells) + " |")
    pathlib.Path(path).write_text("\n".join(out) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=pathlib.Path, nargs="?")
    parser.add_argument("--from", type=pathlib.Path, dest="measured", help="measure nothing: take the figures that --json wrote")
    parser.add_argument("--caskad", default="target/release/caskad")
    parser.add_argument("--family", nargs="+", help="only these")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=["no-delta", "default", "compact"])
    parser.add_argument("--no-check", action="store_true", help="do not restore and compare")
    parser.add_argument("--json", type=pathlib.Path, help="write every figure here")
    parser.add_argument("--plot", type=pathlib.Path, help="write the percentages here, as SVG")
    parser.add_argument("--table", type=pathlib.Path, help="write the percentages here, as a Markdown table")
    args = parser.parse_args()
    if (args.corpus is None) == (args.measured is None):
        parser.error("either a corpus or --from")
    rows = json.loads(args.measured.read_text()) if args.measured else measure_all(args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if args.plot:
        plot(rows, args.plot)
    if args.table:
        table(rows, args.table)


def measure_all(args):
    families = sorted(path for path in args.corpus.iterdir() if path.is_dir() and not path.name.startswith("."))
    families = [family for family in families if not args.family or family.name in args.family]
    rows = []
    print(f"{'family':<14} {'mode':<9} {'raw':>11} {'packs':>11} {'index':>8} {'stored':>8}")
    for family in families:
        for mode in args.mode:
            row = measure(args.caskad, family, mode, not args.no_check)
            rows.append(row)
            print(f"{row['family']:<14} {mode:<9} {row['raw_bytes']:>11} {row['pack_bytes']:>11} {row['index_bytes']:>8} {row['percent']:>6.2f} %", flush=True)
    return rows


if __name__ == "__main__":
    main()
