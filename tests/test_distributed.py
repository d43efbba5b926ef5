"""Two processes do what one does: real runs over gloo (tests/distributed_worker.py), looked at from here."""

import json
import math
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import distributed_worker as worker
import pytest
import torch
from safetensors.torch import load_file

from zoo import registry
from zoo.core.cache import FeatureCache
from zoo.core.memory import states

HERE = Path(__file__).parent
TOLERANCE = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left, started as `python -m zoo.fit` starts them: by Lightning, from one command."""
    folder = tmp_path_factory.mktemp("processes")
    worker.write_data(folder)
    worker.train(folder, "single", halt="whole")
    env = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}", "ZOO_HOME": str(folder / "home")}
    env |= {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, worker.__file__, str(folder), "2"], env=env, capture_output=True, text=True
    )  # a worker that waits in vain ends itself
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def one(folder):
    """The same checks in this process alone, each when it is first asked for."""
    done = {}
    calls = {
        "judged": worker.judged,
        "plain": lambda f: worker.train(f, "single"),
        "accumulated": lambda f: worker.train(f, "single", accumulate=2),
        "short": lambda f: worker.train(f, "single", epoch_size=17),
        "tokens": lambda f: worker.train(f, "single", kind="tokens"),
        "lora": lambda f: worker.train(f, "single", kind="lora"),
        "modalities": lambda f: worker.train(f, "single", loader=worker.text_and_pictures),
        "broken": lambda f: worker.train(f, "single", loader=worker.good_and_broken),
        "bf16": lambda f: worker.train(f, "single", precision="bf16-mixed"),
        "fit": lambda f: worker.whole_run(f, "single"),
        "wide": lambda f: worker.whole_run(f, "single", "thinkguard"),
    }

    def run(name):
        if name not in done:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("ZOO_HOME", str(folder / "home of one"))
                patch.setattr(registry, "build", worker.small_parts)
                done[name] = calls[name](folder)
        return done[name]

    return run


def two(folder, name):
    """What the first and the second process found. The files are this test's own."""
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_processes_agree(folder):
    for rank, found in enumerate(two(folder, "agreeing")):
        assert found["gathered"] == [0, 1] and found["first"] == "of 0" and found["place"] == (rank, 2)
        assert found["first error"] == "process 0 fails"  # told to the one that did nothing wrong, too
        assert found["in_turn error"] == found["together error"] == "process 1 fails"
        assert found["patience"] == timedelta(days=365)  # a corpus may take an hour to render


@pytest.mark.parametrize(
    "name, alone",
    [
        ("ddp", "plain"),
        ("ddp-accumulated", "accumulated"),
        ("ddp-short", "short"),
        ("ddp-tokens", "tokens"),
        ("fsdp", "plain"),
        ("fsdp-accumulated", "accumulated"),
        ("fsdp-lora", "lora"),
        ("ddp-modalities", "modalities"),
        ("ddp-broken", "broken"),
        ("fsdp-modalities", "modalities"),
        ("fsdp-broken", "broken"),
    ],
)
def test_two_processes_train_what_one_does(folder, one, name, alone):
    """The same losses, validation metrics and weights, whatever one of them has to read, or cannot."""
    single = one(alone)
    fresh = worker.weights_of(worker.module_of(alone if alone in ("tokens", "lora") else "encoded"))
    assert max((single["weights"][k] - fresh[k]).abs().max() for k in fresh) > 1e-3  # it has learned something
    for found in two(folder, name):
        assert found["losses"] == pytest.approx(single["losses"], abs=1e-5)
        assert len(found["val"]) == len(single["val"])
        for mine, other in zip(found["val"], single["val"]):
            assert mine == pytest.approx(other, abs=1e-6, nan_ok=True)
        assert set(found["weights"]) == set(single["weights"]) == set(fresh)
        for key, value in single["weights"].items():
            torch.testing.assert_close(found["weights"][key], value, **TOLERANCE, msg=lambda m, k=key: f"{k}: {m}")
    assert set.union(*(found["failed"] for found in two(folder, name))) == single["failed"]


@pytest.mark.parametrize("name", ["ddp-resumed", "fsdp-resumed"])
def test_a_checkpoint_is_whole_whatever_the_strategy(folder, one, name):
    """A sharded run goes on unsharded, and a run of one process sharded: to the weights of one that was not halted."""
    single = one("plain")
    for found in two(folder, name):
        assert found["losses"] == pytest.approx(single["losses"][3:], abs=1e-5)
        for key, value in single["weights"].items():
            torch.testing.assert_close(found["weights"][key], value, **TOLERANCE)


def test_accumulated_parts_make_the_same_step(one):
    whole, parted = one("plain"), one("accumulated")
    assert len(parted["losses"]) == 2 * len(whole["losses"])
    for key, value in whole["weights"].items():
        torch.testing.assert_close(parted["weights"][key], value, **TOLERANCE)


def test_the_loads_differ_as_the_tests_say(folder):
    """Or the tests of a missing modality and of nothing but failures would show nothing."""
    data = worker.data_of(folder)
    rows = {}
    for rank in (0, 1):
        for name, loader in (("text", worker.text_and_pictures), ("bad", worker.good_and_broken)):
            batches = loader(data).batch_sampler
            batches.rank, batches.processes = rank, 2
            picked = [[loader(data).dataset.samples[i] for i, _ in batch] for batch in batches]
            rows[name, rank] = [[s.modality if name == "text" else s.id for s in batch] for batch in picked]
    assert {m for batch in rows["text", 0] for m in batch} == {"text"}
    assert {m for batch in rows["text", 1] for m in batch} == {"image"}
    assert set(rows["bad", 1][0]) == {"bad-train"} and set(rows["bad", 1][1]) == {"r0"}
    short = worker.ProcessBatches(range(17), worker.BATCH, 1, 2)
    assert [len(b) for b in short] == [4, 4, 0]


def test_sharded_bf16_is_near_autocast(folder, one):
    single = one("bf16")
    for found in two(folder, "fsdp-bf16"):
        assert found["losses"] == pytest.approx(single["losses"], rel=0.03)
        assert found["losses"] != pytest.approx(one("plain")["losses"], abs=1e-5)  # it did run in bf16


def test_each_process_holds_its_share(folder):
    backbone = worker.random_backbone()
    whole = sum(p.numel() * p.element_size() for p in backbone.parameters() if p.requires_grad)
    held = [found["held"] for found in two(folder, "fsdp")]
    assert sum(held) == whole
    trained = torch.nn.ModuleDict({k: v for k, v in backbone.named_children() if k != "encoders"})
    assert held[0] == max(held) == states(trained, backbone.layers(), "fsdp", 2).gradients
    assert [found["held"] for found in two(folder, "ddp")] == [whole, whole]


def test_every_sample_is_judged_once_and_in_order(folder, one):
    alone = one("judged")
    assert [i for i, _ in alone] == [f"r{n}" for n in range(29, 40)]
    for found in two(folder, "judged"):
        assert [i for i, _ in found] == [i for i, _ in alone]
        assert [x for _, x in found] == pytest.approx([x for _, x in alone], abs=1e-5)


def close(a, b, where="", within=1e-5):
    """Metrics alike, seconds and latencies aside."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert set(a) == set(b), where
        for key in set(a) - {"seconds", "latency_ms"}:
            close(a[key], b[key], f"{where}/{key}", within)
    elif isinstance(a, float):
        assert math.isclose(a, b, abs_tol=within), (where, a, b)
    else:
        assert a == b, (where, a, b)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_whole_run(folder, one, strategy):
    """One folder, one table, the metrics and the published model of a single process."""
    single = one("fit")
    main, other = two(folder, f"fit-{strategy}")
    assert main["run"] == other["run"] and main["errors"] == other["errors"] == single["errors"]
    assert {e["id"] for e in main["errors"]} == {"bad-train", "bad-val", "bad-test"}
    assert other["metrics"] == {} and other["printed"] == "" and main["printed"].count("overall") == 1
    close(main["metrics"], single["metrics"])
    assert main["metrics"]["n"] == 11 and main["metrics"]["failed"] == 3
    run = Path(main["run"])
    assert [p for p in (folder / f"runs-{strategy}" / "omniguard").iterdir()] == [run]
    assert json.loads((run / "metrics.json").read_text())["overall"] == main["metrics"]["overall"]
    assert len((run / "errors.jsonl").read_text().splitlines()) == 3
    published, expected = (load_file(Path(r) / "model" / "model.safetensors") for r in (run, single["run"]))
    assert set(published) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(published[key], value, **TOLERANCE)
    config, its = (json.loads((Path(r) / "model" / "config.json").read_text()) for r in (run, single["run"]))
    close(config["calibration"], its["calibration"])
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)  # one whole file, sharded or not
    own = {k.removeprefix("guard.backbone."): v for k, v in saved["state_dict"].items() if k.startswith("guard.")}
    for key, value in expected.items():
        torch.testing.assert_close(own[key], value, **TOLERANCE)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_wide_half_is_fitted_once_for_all(folder, one, strategy):
    single = one("wide")
    main, other = two(folder, f"wide-{strategy}")
    assert other["metrics"] == {} and main["metrics"]["n"] == single["metrics"]["n"]
    within = 1e-3  # the readers stop at their optimum's tolerance, and one starts from features that differ by rounding
    close(main["metrics"], single["metrics"], within=within)
    published, expected = (load_file(Path(r["run"]) / "model" / "model.safetensors") for r in (main, single))
    readers = [k for k in expected if k.startswith("wide.")]
    assert len(readers) == 4 and any(expected[k].abs().sum() > 0 for k in readers)
    for key in readers:
        torch.testing.assert_close(published[key], expected[key], rtol=within, atol=within)
    config, its = (json.loads((Path(r["run"]) / "model" / "config.json").read_text()) for r in (main, single))
    close(config["calibration"], its["calibration"], within=within)
    assert its["calibration"]["votes"]


def test_a_published_model_is_tested_by_both(folder):
    """Judged with the calibration that it was published with, the metrics are those that its run had."""
    main, other = two(folder, "test-ddp")
    assert main["code"] == 1 and other == {"code": 0, "printed": ""}  # some rows cannot be read
    (run,) = (folder / "tests" / "test" / "omniguard").iterdir()
    its = json.loads((Path(two(folder, "fit-ddp")[0]["run"]) / "metrics.json").read_text())
    found = json.loads((run / "metrics.json").read_text())
    for key in ("overall", "by_modality", "threshold", "ece", "n"):
        close(found[key], its[key], key)
    assert len((run / "errors.jsonl").read_text().splitlines()) == 3 and main["printed"].count("overall") == 1


def test_the_model_of_a_sharded_run_moderates(folder, monkeypatch):
    monkeypatch.setattr(registry, "build", worker.small_parts)
    guards = [registry.load(two(folder, f"fit-{s}")[0]["run"]) for s in ("ddp", "fsdp")]
    scores = [g.moderate([worker.sample_of(t) for t in ("a fire", "the end")]) for g in guards]
    for ddp, fsdp in zip(*scores):
        assert ddp.score == pytest.approx(fsdp.score, abs=1e-5)


def test_the_feature_cache_is_filled_by_both(folder):
    """No file is encoded twice; what each wrote, the other reads."""
    shards = sorted((folder / "home" / "features").glob("*.safetensors"))
    alone = FeatureCache(folder / "home" / "features")
    keys = []
    for path in shards:
        header = path.read_bytes()
        meta = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
        keys.append(set(json.loads(meta["keys"])))
    assert len(shards) >= 2 and len(set.union(*keys)) == len(alone)
    assert sum(map(len, keys)) - len(alone) <= 6  # the six marks of turns, which every process needs first
    assert max(map(len, keys)) < len(alone)


def test_who_keeps_lightnings_sampler_is_told(folder):
    for found in two(folder, "usual-sampler"):
        assert "use_distributed_sampler=False" in found
