"""How a child process finds our source. It runs with `-P`: what lies in the user's folder is not imported."""

import os
import site
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path


def finding(module: str) -> Mapping[str, str]:
    """Our environment, in which a child also finds the package of `module` where we found it: in a checkout
    that is not installed, say."""
    package = find_spec(module.partition(".")[0])
    assert package, module
    assert package.submodule_search_locations, module
    root = str(Path(package.submodule_search_locations[0]).parent)
    if root in (*site.getsitepackages(), site.getusersitepackages()):
        return os.environ  # found without; before the standard library it might hide parts of that
    paths = (root, os.environ.get("PYTHONPATH"))
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
