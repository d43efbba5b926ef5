"""Runs that are killed, interrupted or out of disk, and then go on: real processes, real signals.

`resume_runs` says how a process comes to its end at a given moment.
"""

import random
import shutil
import subprocess
import sys

import pytest
import resume_runs
import torch
import yaml

from datamodules.schema import DataError
from zoo.core.resume import find_session

KILLED = -9
rng = random.Random(7)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return resume_runs.Runs(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def whole(work):
    """An uninterrupted run, which saves at its epochs' ends alone: 3 epochs of 4 steps, validation after the second."""
    code, output = work.begin("whole")
    assert code == 0, output
    return work


def unequal(a, b, where=""):
    """The first place in which two checkpoints differ, or None."""
    if isinstance(a, dict):
        if set(a) != set(b):
            return f"{where}: {set(a) ^ set(b)}"
        return next((d for k in a if (d := unequal(a[k], b[k], f"{where}/{k}"))), None)
    if isinstance(a, list):
        return next(
            (d for i, (x, y) in enumerate(zip(a, b, strict=True)) if (d := unequal(x, y, f"{where}/{i}"))), None
        )
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return None if same else f"{where}: {a} is not {b}"


def assert_same_end(work, name, other="whole"):
    """Bit for bit: weights, optimizer, schedule, place in the data and random states."""
    files = [work.run(n) / "model" / "model.safetensors" for n in (name, other)]
    assert files[0].read_bytes() == files[1].read_bytes()
    ends = [work.saved(n) for n in (name, other)]
    for end in ends:
        end.pop("loops")  # counters of attempts
        for key in ("identity", "seconds", "sessions"):
            end["callbacks"]["Checkpointer"].pop(key)
    assert unequal(*ends) is None
    assert ends[0]["GuardDataModule"]["epoch"] == ends[0]["epoch"] + 1 and len(ends[0]["callbacks"]) == 1
    assert not list(work.run(name).rglob(".*.*.*"))


def test_killed_again_and_again(whole):
    """Before the first checkpoint, within a step, a write, a validation, and after training."""
    work = whole
    moments = [
        ("step", rng.randint(1, 3)),  # nothing was saved: it begins again at step 0
        ("write checkpoint", rng.randint(2, 30)),
        ("rename checkpoint", 2),  # the second one is whole, and not yet in its place
        ("optimizer", rng.randint(1, 3)),
        ("validation", rng.randint(1, 2)),
        ("fsync checkpoint", 2),
        ("epoch end", 1),
        ("finish", 1),
    ]
    steps = []
    for n, moment in enumerate(moments):
        code, output = (work.resume if n else work.begin)("killed", *["trainer.checkpoint_every=3"][n:], at=moment)
        assert code == KILLED, output
        there = (work.run("killed") / "checkpoints" / "last.ckpt").exists()
        steps.append(work.saved("killed")["global_step"] if there else None)
    assert steps[:3] == [None, None, 3] and steps[-1] == 12 and steps[2:] == sorted(steps[2:])
    code, output = work.resume("killed")
    assert code == 0, output
    assert_same_end(work, "killed")
    assert work.saved("killed")["callbacks"]["Checkpointer"]["sessions"] > 3


def test_workers_draw_ahead_and_the_place_stays(whole):
    """Mid-epoch, and then in an epoch's first step: workers have the next batches in hand at both moments."""
    work = whole
    code, output = work.begin("workers", "data.workers=2", "trainer.checkpoint_every=2", at=("step", 8))
    assert code == KILLED and work.saved("workers")["global_step"] == 6, output
    code, output = work.resume("workers", at=("step", 3), end="SIGTERM")  # which kills the workers, too
    assert code == 143 and work.saved("workers")["global_step"] in (8, 9) and "Traceback" not in output, output
    code, output = work.resume("workers")
    assert code == 0, output
    assert_same_end(work, "workers")


def test_a_number_of_steps_instead_of_epochs(work):
    """With `max_steps`, Lightning takes every resumed run to be within an epoch. And in the CPU's usual precision."""
    assert work.begin("steps", "trainer.max_steps=7", precision="bf16-mixed")[0] == 0
    killed = work.begin("steps-killed", "trainer.max_steps=7", precision="bf16-mixed", at=("step", 5))
    assert killed[0] == KILLED, killed[1]
    assert work.saved("steps-killed")["global_step"] == 4
    code, output = work.resume("steps-killed")
    assert code == 0, output
    assert_same_end(work, "steps-killed", "steps")


def test_signals_and_a_full_disk(whole):
    work = whole
    code, output = work.begin("stopped", "data.workers=1", at=("step", 2), end="SIGINT")
    assert code == 130 and work.saved("stopped")["global_step"] == 2, output
    assert f"zoo.fit resume={work.run('stopped')}" in output and not (work.run("stopped") / "model").exists()
    code, output = work.resume("stopped", "trainer.checkpoint_every=3", at=("validation", 1), end="SIGTERM")
    assert code == 143 and work.saved("stopped")["global_step"] == 6, output
    assert f"zoo.fit resume={work.run('stopped')}" in output and "Traceback" not in output
    code, output = work.resume("stopped", "trainer.checkpoint_every=1", at=("write checkpoint", 1), end="full")
    assert code == 2 and output.count("error:") == 1 and "Traceback" not in output
    assert "file too large on the disk /" in output and f"resume={work.run('stopped')}" in output
    assert work.saved("stopped")["global_step"] == 6  # the one before
    assert [p.name for p in (work.run("stopped") / "checkpoints").iterdir()] == ["last.ckpt"]
    code, output = work.resume("stopped")
    assert code == 0, output
    assert_same_end(work, "stopped")


# ------------------------------------------------------------------------------------------------------------- refusals


def refused(words, *arguments):
    with pytest.raises(DataError, match=words):
        find_session(list(arguments))


@pytest.fixture
def stopped(whole, tmp_path):
    """A copy of a run as it stands before its test."""
    run = tmp_path / "omniguard" / "20250101-000000"
    shutil.copytree(whole.run("whole"), run)
    (run / "metrics.json").unlink()
    return run


def test_which_run_is_meant(whole, stopped, tmp_path):
    session = find_session(["resume=true", "recipe=omniguard", f"runs={tmp_path}"])
    assert session.run == stopped and session.checkpoint == stopped / "checkpoints" / "last.ckpt"
    assert session.config == yaml.safe_load((stopped / "config.yaml").read_text())
    for name in ("20250101-000000-9", "20250101-000000-10", "20241231-235959"):
        (tmp_path / "omniguard" / name).mkdir()
        shutil.copy(stopped / "config.yaml", tmp_path / "omniguard" / name)
    (tmp_path / "omniguard" / "20250102-000000").mkdir()  # killed before its configuration was written
    newest = find_session(["resume=true", "recipe=omniguard", f"runs={tmp_path}"])
    assert newest.run.name == "20250101-000000-10" and newest.checkpoint is None  # before its first checkpoint
    (newest.run / "metrics.json").write_text("{}")
    assert find_session(["resume=true", "recipe=omniguard", f"runs={tmp_path}"]).run.name == "20250101-000000-9"
    refused("no unfinished run of recipe 'audio_tiny'", "resume=true", "recipe=audio_tiny", f"runs={tmp_path}")
    refused("is finished", f"resume={whole.run('whole')}")
    refused("no such folder", f"resume={tmp_path / 'none'}")
    refused(r"no config\.yaml", f"resume={tmp_path}")
    refused("give resume=true or", "resume=", "recipe=omniguard")
    refused("recipe=NAME", "resume=true")
    assert find_session(["resume=false", "recipe=omniguard"]).run is None


def test_a_resumed_run_cannot_be_changed(whole, stopped):
    again = [*whole.arguments, "trainer.precision=32-true", "trainer.checkpoint_every=7", "runs=elsewhere"]
    session = find_session([f"resume={stopped}", *again])  # the command that it was begun with
    assert session.config["trainer"]["checkpoint_every"] == 7 and session.config["runs"] != "elsewhere"
    for change, words in (
        ("seed=1", "seed is 0 in .* and would be 1"),
        ("trainer.max_epochs=9", r"trainer\.max_epochs is 3"),
        ("trainer=gpu", r"trainer\.accelerator is 'cpu' in .* leave trainer= out"),
        ("data.workers=1", r"data\.workers is 0"),
        ("recipe=audio_tiny", "is a run of recipe 'omniguard', not of 'audio_tiny'"),
        ("optim.lrr=1", r"no key 'optim\.lrr'"),
        ("trainer.checkpoint_every=0", "at least 1"),
    ):
        refused(words, f"resume={stopped}", change)
    refused("at least 1", "recipe=omniguard", "trainer.checkpoint_every=0")


def test_checkpoints_that_are_not_the_runs(whole, stopped):
    config, path = yaml.safe_load((stopped / "config.yaml").read_text()), stopped / "checkpoints" / "last.ckpt"
    (stopped / "config.yaml").write_text(yaml.safe_dump({**config, "seed": 1}))
    refused("one of the two is another run's", f"resume={stopped}")
    (stopped / "config.yaml").write_text(yaml.safe_dump({**config, "model": "x"}))
    refused("not the configuration of a training", f"resume={stopped}")
    (stopped / "config.yaml").write_text(yaml.safe_dump({**config, "trainer": {"devices": 1}}))
    refused("could not resume", f"resume={stopped}")
    (stopped / "config.yaml").write_text("- a list")
    refused("not the configuration", f"resume={stopped}")
    (stopped / "config.yaml").write_text(yaml.safe_dump(config))
    whole_file = path.read_bytes()
    for content in (whole_file[:-1000], b"", b"not a checkpoint"):
        path.write_bytes(content)
        refused("damaged.*remove it to begin at step 0", f"resume={stopped}")
    torch.save({"state_dict": {}}, path)
    refused("damaged, or not a checkpoint of this zoo", f"resume={stopped}")
    torch.save({"callbacks": {"Checkpointer": {"identity": random.Random}}}, path)  # something that would be imported
    refused("damaged, or not a checkpoint of this zoo", f"resume={stopped}")


def test_other_rows(whole, stopped):
    rows = whole.folder / "rows.jsonl"
    before = rows.read_text()
    try:
        rows.write_text(before.replace("the fire 3", "a fire 3"))
        code, output = whole.process("fit", [f"resume={stopped}"])
    finally:
        rows.write_text(before)
    assert code == 2 and "error: the training rows are not those" in output and "Traceback" not in output


def test_one_process_at_a_time(stopped):
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(stopped / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with pytest.raises(DataError, match="another process is training it"):
            find_session([f"resume={stopped}"]).take()
        other.kill()
    with find_session([f"resume={stopped}"]) as session:
        session.take()
