"""A node with a window, on a store of its own in a temporary directory, for the clients here."""

import json
import os
import shutil
import subprocess
import tempfile

fixtures = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures")
FLAGS = ["--no-mdns", "--replication-factor", "1", "--listen", "/ip4/127.0.0.1/tcp/0", "--http", "127.0.0.1:0"]


class Store:
    """A store, and a node on it between `with` and its end, when both are gone."""

    def __init__(self, caskad):
        self.caskad, self.directory = os.path.abspath(caskad), tempfile.mkdtemp(prefix="caskad-client-")
        self.environment = dict(os.environ, CASKAD_STORE=os.path.join(self.directory, "store"))

    def put(self, path, name):
        """Stores what is at `path` as the next version of a key."""
        subprocess.run([self.caskad, "--quiet", "put", path, "--as", name], env=self.environment, check=True)

    def start(self):
        command = [self.caskad, "--json", "node", *FLAGS]
        self.node = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.url = json.loads(self.node.stdout.readline())["http"]
        return self

    def end(self, *_):
        self.ended_by_itself = self.node.poll() is not None
        self.node.terminate()
        self.node.wait(30)
        shutil.rmtree(self.directory)

    __enter__, __exit__ = start, end
