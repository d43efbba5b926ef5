"""What a checkpoint holds beside Lightning's own: random states, the place in the data, generators; sharded ones."""

import random
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from test_manifest import POLICY, text_row, write_manifest

from datamodules import GuardDataModule
from datamodules.schema import DataError
from zoo.core.checkpointing import Checkpointer, find_checkpoint, random_states, replace_folder, restore_random
from zoo.soundtagger.model import SoundTagger
from zoo.soundtagger.module import SoundTaggerModule

CPU = torch.device("cpu")
BATCHES, EPOCHS = 4, 3  # of 3 samples, the last one of 2


def draws():
    return random.gauss(0, 1), random.random(), np.random.normal(), np.random.rand(), torch.randn(3).tolist()


def test_random_states_come_back_from_a_file(tmp_path):
    random.gauss(0, 1), np.random.normal()  # both keep a second normal number for the next call
    torch.save(random_states(CPU), tmp_path / "s")
    expected = draws()
    assert draws() != expected
    restore_random(torch.load(tmp_path / "s", weights_only=True), CPU)
    assert draws() == expected
    states = random_states(CPU)
    with pytest.raises(DataError, match="another kind of device than cpu"):
        restore_random({**states, "cuda": states["torch"]}, CPU)


def test_another_number_of_processes(tmp_path):
    checkpointer = Checkpointer(tmp_path, 1)
    checkpointer.load_state_dict({"seconds": 1.0, "sessions": 1, "random": [random_states(CPU)] * 2})
    trainer = L.Trainer(accelerator="cpu", logger=False, callbacks=[checkpointer], default_root_dir=tmp_path)
    with pytest.raises(DataError, match="begun with 2 processes and cannot go on with 1"):
        checkpointer.on_train_start(trainer, None)


# ------------------------------------------------------------------------------------------- the place in the data


class Seen(L.LightningModule):
    """Notes which samples with which policies reach a step; `estimated_stepping_batches` makes the loader early."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.weight, self.steps, self.stop_at = torch.nn.Parameter(torch.ones(())), [], stop_at

    def training_step(self, batch, index):
        if len(self.steps) == self.stop_at:
            raise InterruptedError
        self.steps.append(batch)
        return self.weight

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches == BATCHES * EPOCHS
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Late(SingleDeviceStrategy):
    """Restores when everything is set up, as the sharded strategies do."""

    restore_checkpoint_after_setup = True


def names(batch):
    return [(sample.id, *policy.ids) for sample, policy in batch]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    splits = ["train"] * 11 + ["val", "test"]
    rows = [text_row(n, split=s, categories={"fire": "yes", "alarm": "no"}) for n, s in enumerate(splits)]
    return write_manifest(tmp_path_factory.mktemp("rows"), rows)


def steps_of(manifest, folder, stop_at=None, path=None, workers=0, strategy="auto", **saving):
    saver = ModelCheckpoint(folder, filename="last", enable_version_counter=False, **saving)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=EPOCHS, callbacks=[saver], logger=False, strategy=strategy,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    module = Seen(stop_at)
    data = GuardDataModule("manifest", path=manifest, policy=POLICY, batch_size=3, workers=workers)
    data.collate = names
    try:
        trainer.fit(module, data, ckpt_path=path, weights_only=True)
    except InterruptedError:
        assert stop_at is not None
    return module.steps


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`", "ignore:Checkpoint directory")
@pytest.mark.parametrize("workers, strategy", [(0, "auto"), (1, "auto"), (0, "late"), (1, "late")])
@pytest.mark.parametrize("saving, at", [({"every_n_train_steps": 3}, 6), ({"every_n_epochs": 1}, 4)])
def test_in_plain_lightning_the_data_goes_on_where_it_stood(manifest, tmp_path, workers, strategy, saving, at):
    """Saved by Lightning's own callback, within an epoch and at its end; workers have drawn ahead."""
    whole = steps_of(manifest, tmp_path / "whole")
    assert [len(s) for s in whole] == [3, 3, 3, 2] * EPOCHS and len({str(s) for s in whole}) == len(whole)
    assert steps_of(manifest, tmp_path, stop_at=7, workers=workers, **saving) == whole[:7]
    strategy = Late() if strategy == "late" else "auto"
    rest = steps_of(manifest, tmp_path, path=tmp_path / "last.ckpt", workers=workers, strategy=strategy, **saving)
    assert rest == whole[at:]


# ------------------------------------------------------------------------------------------------------- other methods


def test_the_sound_taggers_own_generator_is_saved(tmp_path):
    one, two = (SoundTaggerModule(SoundTagger(["a"], 8, 4), 1e-3, 0.0, (0.9, 0.99), 0.1) for _ in range(2))
    torch.rand(5, generator=one.generator)
    one.failed_ids.add("x")
    one.on_save_checkpoint(saved := {})
    torch.save(saved, tmp_path / "s")
    two.on_load_checkpoint(torch.load(tmp_path / "s", weights_only=True))
    assert torch.equal(torch.rand(5, generator=one.generator), torch.rand(5, generator=two.generator))
    assert two.failed_ids == {"x"}


# ----------------------------------------------------------------------------------------------------- sharded folders


def write_sharded(folder, text):
    folder.mkdir()
    (folder / "__0_0.distcp").write_text(text)
    return folder


@pytest.mark.parametrize("killed_at", [0, 1, 2])
def test_a_sharded_checkpoint_is_whole_at_every_moment(tmp_path, monkeypatch, killed_at):
    """Two renames and a removal: a folder cannot take another's place in one move."""
    last = tmp_path / "last.ckpt"
    assert find_checkpoint(tmp_path) is None
    replace_folder(write_sharded(tmp_path / "next.ckpt", "one"), last)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    fresh = write_sharded(tmp_path / "next.ckpt", "two")
    moves = [0]
    real = Path.rename

    def rename(self, target):
        if moves[0] == killed_at:
            raise KeyboardInterrupt
        moves[0] += 1
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    if killed_at == 2:
        monkeypatch.setattr("shutil.rmtree", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        replace_folder(fresh, last)
    monkeypatch.undo()
    assert (find_checkpoint(tmp_path) / "__0_0.distcp").read_text() == ("two" if killed_at == 2 else "one")
    if killed_at < 2:
        replace_folder(tmp_path / "next.ckpt", last)
    replace_folder(write_sharded(tmp_path / "next.ckpt", "three"), last)
    assert (find_checkpoint(tmp_path) / "__0_0.distcp").read_text() == "three"
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
