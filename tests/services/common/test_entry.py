"""A process that is asked to end while it still imports."""

import subprocess
import sys

import pytest

from tests.services.support.system import ROOT, clean_environment

MAINS = {
    "gateway": "services.gateway.app.assembly",
    "stage": "services.stage.service",
    "decoder": "services.decoder.service",
    "web": "services.web.standalone",
}
AT_THE_IMPORT = """
import os, runpy, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Finder())
runpy.run_module("services.{name}", run_name="__main__")
"""


@pytest.mark.parametrize("name", MAINS)
def test_sigterm_while_it_imports_ends_it(name: str) -> None:
    """The first process of a container has no default for signals: a handler must have been there."""
    code = AT_THE_IMPORT.format(name=name, module=MAINS[name])
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean_environment(), timeout=120)
    assert ended.returncode == 0
