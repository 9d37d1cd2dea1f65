"""What a real Prometheus makes of a node: its metrics pass promtool's check, and every query of docs/grafana.json has an answer.

usage: metrics.py CASKAD    with prometheus and promtool on the path, and a Python that has grafana-foundation-sdk installed
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request

from grafana_foundation_sdk.models.dashboard import Dashboard

from window import Store, fixtures

patience = 60


def fetch(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def expressions(dashboard):
    """Each panel's title with a query of it, as Grafana sends it with nothing chosen."""
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$instance", ".*")


def query(prometheus, expression):
    """The series that `expression` gives."""
    answer = json.loads(fetch(f"{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
    assert answer["status"] == "success", answer
    return answer["data"]["result"]


def listens_on(log):
    """The address that Prometheus tells of in its log."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        with open(log) as file:
            said = re.search(r'"Listening on" address=(\S+)', file.read())
        if said:
            return said[1]
        time.sleep(0.1)
    raise TimeoutError(f"Prometheus does not come up: {open(log).read()}")


store = Store(sys.argv[1])
for version in ("v1", "v2"):
    store.put(os.path.join(fixtures, f"real_bf16_{version}.safetensors"), f"runs/tuned@{version}")
with store, contextlib.ExitStack() as stack:
    fetch(f"{store.url}/blobs/runs/tuned@v1")

    checked = subprocess.run(["promtool", "check", "metrics"], input=fetch(f"{store.url}/metrics"), capture_output=True)
    complaints = checked.stdout + checked.stderr
    assert checked.returncode == 0 and not complaints.strip(), complaints.decode()

    settings = os.path.join(store.directory, "prometheus.yml")
    with open(settings, "w") as file:
        targets = [{"targets": [store.url.removeprefix("http://")]}]
        json.dump({"scrape_configs": [{"job_name": "caskad", "scrape_interval": "1s", "static_configs": targets}]}, file)
    subprocess.run(["promtool", "check", "config", settings], check=True)
    log = os.path.join(store.directory, "prometheus.log")
    with open(log, "w") as file:
        command = ["prometheus", f"--config.file={settings}", "--web.listen-address=127.0.0.1:0", f"--storage.tsdb.path={store.directory}/tsdb"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
    stack.callback(server.wait, 30)
    stack.callback(server.terminate)
    prometheus = "http://" + listens_on(log)

    with open(os.path.join(fixtures, "..", "..", "docs", "grafana.json")) as file:
        dashboard = json.load(file)
    model = Dashboard.from_json(dashboard)
    assert model.title == dashboard["title"] and len(model.panels) == len(dashboard["panels"])

    # A rate needs two scrapes of the same series.
    missing, until = list(expressions(dashboard)), time.monotonic() + patience
    while missing and time.monotonic() < until:
        missing = [(title, expression) for title, expression in missing if not query(prometheus, expression)]
        time.sleep(0.5)
    assert not missing, f"no answer to {missing}"
    assert [series["value"][1] for series in query(prometheus, 'up{job="caskad"}')] == ["1"]
    stored = [float(series["value"][1]) for series in query(prometheus, "caskad_stored_bytes")]
    logical = [float(series["value"][1]) for series in query(prometheus, "caskad_logical_bytes")]
    assert len(stored) == len(logical) == 1 and 0 < stored[0] < logical[0], (stored, logical)
print(f"{len(list(expressions(dashboard)))} queries of {len(dashboard['panels'])} panels have an answer")
