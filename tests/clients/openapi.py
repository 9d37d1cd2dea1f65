"""Every path that /openapi.json describes, asked by Schemathesis in many ways: answers are what the description says.

usage: openapi.py CASKAD    with a Python that has schemathesis installed
"""

import os
import subprocess
import sys

from window import Store, fixtures

# A condition that does not hold is no fault of whoever set it; and the address of a version that was stored is not one to store at.
SETTINGS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "404", "412", "416"]
[phases.stateful.inference]
algorithms = []
"""

store = Store(sys.argv[1])
# Versions of each kind, so that there is something to find.
for version in ("v1", "v2"):
    store.put(os.path.join(fixtures, f"real_bf16_{version}.safetensors"), f"runs/tuned@{version}")
store.put(fixtures, "models/whole")

with store:
    schemathesis = os.path.join(os.path.dirname(sys.executable), "schemathesis")
    settings = os.path.join(store.directory, "schemathesis.toml")
    with open(settings, "w") as file:
        file.write(SETTINGS)
    asked = [schemathesis, "--config-file", settings, "run", f"{store.url}/openapi.json", "--checks", "all", "--max-examples", "40", "--seed", "1"]
    done = subprocess.run(asked, cwd=store.directory)
sys.exit(done.returncode or store.ended_by_itself)
