#!/usr/bin/env python3
"""Fetches models from a node with the real client of the Hugging Face Hub.

usage: hub.py CASKAD_BINARY    (needs huggingface_hub)
"""
import contextlib, filecmp, os, socket, sys, tempfile, threading, urllib.parse, urllib.request

from window import Store

store = Store(sys.argv[1]).start()
os.environ.update(HF_ENDPOINT=store.url, HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1")

# The endpoint is read when the client is imported.
from huggingface_hub import HfApi, hf_hub_download, snapshot_download  # noqa: E402
from huggingface_hub.utils import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError  # noqa: E402


def put(name, files):
    """Stores a directory with `files` as the next version of a key."""
    directory = tempfile.mkdtemp(dir=store.directory)
    for path, content in files.items():
        os.makedirs(os.path.dirname(os.path.join(directory, path)), exist_ok=True)
        with open(os.path.join(directory, path), "wb") as out:
            out.write(content)
    store.put(directory, name)
    return directory


def same(fetched, stored):
    files = sorted(os.path.relpath(os.path.join(at, file), stored) for at, _, names in os.walk(stored) for file in names)
    assert files and filecmp.cmpfiles(stored, fetched, files, shallow=False) == (files, [], []), (fetched, files)


def refuses(error, call):
    try:
        call()
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def parts():
    """How many parts of files the node has answered with."""
    metrics = urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/metrics").read().decode()
    counted = [line.split()[-1] for line in metrics.splitlines() if line.startswith("caskad_http_requests_total") and 'route="hub"' in line and 'method="GET"' in line and 'status="206"' in line]
    return sum(map(int, counted))


def cutting_proxy():
    """An address that leads to the node, and cuts the first answer that is longer than 15 million bytes: the client writes 10 MiB at a time."""
    node, listener = urllib.parse.urlsplit(os.environ["HF_ENDPOINT"]), socket.create_server(("127.0.0.1", 0))
    cut = threading.Event()

    def pump(source, target, bound):
        passed = 0
        while data := source.recv(65_536):
            target.sendall(data)
            passed += len(data)
            if bound and passed > 15_000_000 and not cut.is_set():
                cut.set()
                break
        for end in (source, target):
            end.shutdown(socket.SHUT_RDWR)

    def quietly(*arguments):
        with contextlib.suppress(OSError):
            pump(*arguments)

    def serve():
        while True:
            client, server = listener.accept()[0], socket.create_connection((node.hostname, node.port))
            threading.Thread(target=quietly, args=(client, server, False), daemon=True).start()
            threading.Thread(target=quietly, args=(server, client, True), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return "http://127.0.0.1:%d" % listener.getsockname()[1]


def fresh():
    return tempfile.mkdtemp(dir=store.directory)


try:
    weights = os.urandom(24_000_000)
    first = put("org/model@v1", {"config.json": b"{}", "weights/a.bin": weights})
    second = put("org/model", {"config.json": b'{"n": 2}', "weights/a.bin": weights[::-1], "weights/empty": b""})
    api = HfApi()
    commit = api.model_info("org/model", revision="v1").sha

    same(snapshot_download("org/model", cache_dir=fresh()), second)
    for revision in ("v1", commit, "1"):
        same(snapshot_download("org/model", revision=revision, cache_dir=fresh()), first)
    assert api.list_repo_files("org/model") == ["config.json", "weights/a.bin", "weights/empty"]
    assert [tag.name for tag in api.list_repo_refs("org/model").tags] == ["v1"]
    assert {entry.path for entry in api.list_repo_tree("org/model")} == {"config.json", "weights"}

    # A download that is cut goes on where it stopped: the rest is asked for as a range.
    name, before = "weights/a.bin", parts()
    with open(hf_hub_download("org/model", name, cache_dir=fresh(), endpoint=cutting_proxy()), "rb") as fetched:
        assert fetched.read() == weights[::-1]
    assert parts() == before + 1

    # More files than the Hub itself lists in one answer.
    many = put("org/many", {f"{n:04}.bin": str(n).encode() for n in range(1_100)})
    assert api.list_repo_files("org/many") == sorted(os.listdir(many))
    assert len(list(api.list_repo_tree("org/many"))) == 1_100

    refuses(EntryNotFoundError, lambda: hf_hub_download("org/model", "none.bin", cache_dir=fresh()))
    refuses(RevisionNotFoundError, lambda: hf_hub_download("org/model", name, revision="none", cache_dir=fresh()))
    refuses(RepositoryNotFoundError, lambda: snapshot_download("org/none", cache_dir=fresh()))
    assert not api.file_exists("org/model", "none.bin")
    print("the client of the Hugging Face Hub fetches what is stored")
finally:
    store.end()
