"""The README's script runs, and its tables are what the result files say."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import readme

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.name)
def test_the_tables_are_those_of_the_result_files(page):
    text = page.read_text(encoding="utf-8")
    assert "<!-- table:" in text
    assert readme.rendered(text) == text, "run python -m benchmarks.readme"


def test_the_two_commands_stand_near_the_top():
    top = TEXT[:1500]
    assert "pip install -e . && python -m zoo.fit recipe=omniguard" in top
    assert 'pip install -e ".[test]" && pytest' in top


def test_every_linked_file_exists():
    for name in re.findall(r"\]\((?!https?:|#)([^)]+)\)", TEXT):
        assert (ROOT / name).exists(), name


@pytest.mark.assets
def test_the_plain_lightning_script_runs(tmp_path):
    """On red and green pictures: the script, as it stands, trains and then moderates."""
    (script,) = re.findall(r"<!-- plain-lightning -->\n```python\n(.*?)```", TEXT, re.S)
    assert len([line for line in script.splitlines() if line.strip()]) <= 11
    rng = np.random.default_rng(0)
    rows = []
    for n in range(24):
        red = n % 2 == 0
        pixels = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8) + np.array([180 * red, 180 * (not red), 0], np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
        rows.append(
            {
                "id": f"r{n}",
                "messages": [{"role": "user", "content": [{"type": "image", "path": f"{n}.png"}]}],
                "target": "prompt",
                "categories": {"red": "yes" if red else "no"},
                "critique": f"The picture is {'red' if red else 'green'}.",
                "split": ("train", "train", "val", "test")[n // 6],
            }
        )
    (tmp_path / "0.png").rename(tmp_path / "a.png")
    rows[0]["messages"][0]["content"][0]["path"] = "a.png"
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    policy = {"name": "colours", "entries": [{"id": "red", "name": "red", "description": "A red picture."}]}
    (tmp_path / "site-rules.yaml").write_text(json.dumps(policy), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Verdict(id='sample'" in done.stdout
