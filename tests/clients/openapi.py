"""Every path that /openapi.json describes, asked by Schemathesis in many ways: answers are what the description says.

usage: openapi.py CASKAD    with a Python that has schemathesis installed
"""

import json
import os
import subprocess
import sys
import tempfile

# A condition that does not hold is no fault of whoever set it; and the address of a version that was stored is not one to store at.
SETTINGS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "404", "412", "416"]
[phases.stateful.inference]
algorithms = []
"""

caskad = os.path.abspath(sys.argv[1])
work = tempfile.mkdtemp(prefix="caskad-openapi-")
environment = dict(os.environ, CASKAD_STORE=os.path.join(work, "store"))
fixtures = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures")


def run(*command):
    subprocess.run([caskad, "-q", *command], env=environment, check=True)


# Versions of each kind, so that there is something to find.
for version in ("v1", "v2"):
    run("put", os.path.join(fixtures, f"real_bf16_{version}.safetensors"), "--as", f"runs/tuned@{version}")
run("put", fixtures, "--as", "models/whole")

node = subprocess.Popen(
    [caskad, "--json", "node", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", "--replication-factor", "1", "--http", "127.0.0.1:0"],
    env=environment, stdout=subprocess.PIPE, text=True)
try:
    url = json.loads(node.stdout.readline())["http"]
    schemathesis = os.path.join(os.path.dirname(sys.executable), "schemathesis")
    settings = os.path.join(work, "schemathesis.toml")
    with open(settings, "w") as file:
        file.write(SETTINGS)
    asked = [schemathesis, "--config-file", settings, "run", f"{url}/openapi.json", "--checks", "all", "--max-examples", "40", "--seed", "1"]
    done = subprocess.run(asked, cwd=work)
    alive = node.poll() is None
finally:
    node.terminate()
    node.wait(30)
sys.exit(done.returncode or not alive)
