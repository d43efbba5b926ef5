"""zoo/core/plots.py writes pictures that show something, and leaves pyplot alone."""

import numpy as np
import pytest
from PIL import Image

from zoo.core import plots


def draw(seed, n=300):
    rng = np.random.default_rng(seed)
    golds = rng.random(n) < 0.3
    return rng.beta(2 + 2 * golds, 4 - 2 * golds), golds


def check(path, colours=20):
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(path) as image:
        image.load()
        assert min(image.size) > 400
        assert len(image.convert("RGB").getcolors(1 << 20)) > colours


CASES = {
    "many": draw(0),
    "one class": ([0.1, 0.9], [True, True]),
    "masked": ([0.1, 0.9], [None, None]),
    "edges": ([0.0, 1.0, 1.0], [False, True, None]),
}


@pytest.mark.parametrize("case", CASES)
def test_plots_are_written(case, tmp_path):
    scores, golds = CASES[case]
    check(plots.reliability(scores, golds, tmp_path / "new" / "reliability.png"))
    check(plots.confusion(scores, golds, 0.5, tmp_path / "confusion.png"))
    check(plots.pr_curves({case: (scores, golds)}, tmp_path / "pr.png"))


def test_many_curves_and_none(tmp_path):
    check(plots.pr_curves({f"model {i}": draw(i) for i in range(9)}, tmp_path / "many.png"))
    check(plots.pr_curves({}, tmp_path / "none.png"), 2)
    check(plots.confusion([], [], 0.5, tmp_path / "empty.png"))


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    first = plots.reliability(*draw(1), tmp_path / "a.png").read_bytes()
    assert plots.reliability(*draw(1), tmp_path / "b.png").read_bytes() == first


def test_intervals_with_margins_and_without_values(tmp_path):
    rows = [("a", 0.5, [0.4, 0.6], None), ("b", 0.1, None, [0.0]), ("c", None, None, [-0.02, 0.02])]
    check(plots.intervals({"arms": rows, "differences": rows[:1]}, tmp_path / "i.png", "a claim"))


def test_a_nan_score_is_refused(tmp_path):
    with pytest.raises(ValueError, match="row 0"):
        plots.confusion([float("nan")], [True], 0.5, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_pyplot_knows_of_no_figure(tmp_path):
    from matplotlib import pyplot

    before = pyplot.get_backend()
    plots.confusion(*draw(1), 0.5, tmp_path / "a.png")
    assert not pyplot.get_fignums() and pyplot.get_backend() == before
