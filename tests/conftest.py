"""Every test runs on one thread, and with a ZOO_HOME of the session unless it is marked `assets`."""

import os

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def session_home(tmp_path_factory):
    return tmp_path_factory.mktemp("zoo-home")


@pytest.fixture(autouse=True)
def zoo_home_of_the_session(request, monkeypatch):
    if request.node.get_closest_marker("assets") is None:
        monkeypatch.setenv("ZOO_HOME", str(request.getfixturevalue("session_home")))
    elif not os.environ.get("ZOO_HOME"):
        monkeypatch.delenv("ZOO_HOME", raising=False)
