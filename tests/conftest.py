"""Every test runs on one thread and in a ZOO_HOME of the session.

A test marked `assets` works with the pretrained parts and the text that `python -m zoo.data fetch` brings; where they
have not been brought it is skipped: tests do not use the network.
"""

import os

import pytest
import torch

from datamodules.assets import ASSETS

torch.set_num_threads(1)
NEEDED = ("minilm", "efficientnet-lite0", "pyrit-scores", "bastioncorpus")


@pytest.fixture(scope="session")
def session_home(tmp_path_factory):
    return tmp_path_factory.mktemp("zoo-home")


@pytest.fixture(autouse=True)
def zoo_home_of_the_session(request, monkeypatch):
    if request.node.get_closest_marker("assets") is None:
        monkeypatch.setenv("ZOO_HOME", str(request.getfixturevalue("session_home")))
        return
    if not os.environ.get("ZOO_HOME"):
        monkeypatch.delenv("ZOO_HOME", raising=False)
    missing = [name for name in NEEDED if not ASSETS[name].folder.is_dir()]
    if missing:
        pytest.skip(f"not fetched: {', '.join(missing)} (python -m zoo.data fetch {' '.join(missing)})")
