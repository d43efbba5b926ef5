"""DataModules: samples from a source, policies drawn for training, batches made by whoever is attached.

Hooks connect a model without the data knowing it: `transform(sample, policy, train)` runs in the worker, `collate`
makes a batch, and `group` sees the batches of one step together where gradients are accumulated. Without them a batch
is a list of (sample, policy) pairs. Where training augments, `transform` gets an `augment` too. `stage` parts an epoch:
samples of a lower stage come first.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler

from datamodules.bank import PolicyBank, rng_for
from datamodules.buckets import BucketOrder, characters, text_alone
from datamodules.corpus.types import Corpus
from datamodules.lazy import in_split, keep, modalities_of, without_ids
from datamodules.loading import load_corpus
from datamodules.poisoned import flip, leave_out
from datamodules.sampling import BalancedSampler, ProcessBatches, StepLoader, process
from datamodules.schema import SPLITS, DataError, MediaError, Policy, Sample, canonical_json
from datamodules.taxonomy import DEFAULT_POLICY
from datamodules.transforms.augment import Augment, augmentation
from datamodules.transforms.critics import Critic, critic_named, prepared


@dataclass(frozen=True)
class Failed:
    """A sample that could not be read while training: it is counted, not hidden."""

    id: str
    error: str


class SampleDataset(Dataset):
    """Samples with the policy each is judged under. An index may be a pair (index, epoch): training draws per epoch.

    A `critic` says why the verdict under that policy is right, in place of what the sample brings; `augment_of` says
    how its media are changed in an epoch.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        policy_of: Callable[[Sample, int], Policy],
        transform: Callable,
        critic: Critic | None = None,
        augment_of: Callable[[Sample, int], Augment] | None = None,
    ):
        self.samples, self.policy_of, self.transform, self.critic = samples, policy_of, transform, critic
        self.augment_of = augment_of

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: int | tuple[int, int]) -> Any:
        index, epoch = item if isinstance(item, tuple) else (item, 0)
        sample = self.samples[index]
        policy = self.policy_of(sample, epoch)
        if self.critic is not None:
            sample = sample.replace(critique=self.critic(sample, policy))
        more = {} if self.augment_of is None else {"augment": self.augment_of(sample, epoch)}
        try:
            return self.transform(sample, policy, **more)
        except MediaError as e:
            return Failed(sample.id, str(e))


def pairs(sample: Sample, policy: Policy, train: bool, augment: Augment | None = None) -> tuple[Sample, Policy]:
    """The transform of a DataModule that no model is attached to."""
    return sample, policy


def alone(batches: list[Any]) -> None:
    """The `group` of a DataModule that no model is attached to: what a step's batches have to know of each other."""


class GuardDataModule(L.LightningDataModule):
    """Samples of one source, of some modalities, as train, val and test loaders.

    Args:
        source: sample (rendered scenes and permissive text), relations (rendered pairs of pictures), real (labelled
            public files under `data_dir`), guardzoo (all labelled text and trajectories there), policyguard (rules and
            agents' trajectories), hiddenkiller (film reviews with a backdoor), games and prompts (conversations with a
            code model), or manifest; several with a plus, as in sample+relations.
        path: the manifest, for source="manifest".
        data_dir: the folder that the files lie in; default: the manifest's folder.
        policy: a policy file (or Policy) that replaces the source's entries; default for manifests: the 15 categories.
        modalities: buckets to keep (text, image, audio, video, joint); None: all.
        batch_size: samples of one training step, of all processes together.
        accumulate: batches that a step's samples are parted into on each process; give the Trainer the same number.
        max_entries: the largest policy drawn in training.
        epoch_size: samples an epoch; None: as many as there are.
        seed: of the order of the samples and of the drawn policies; `corpus_seed` is that of the scenes and the splits.
        balance: 0 equal shares of the modalities, 1 their natural ones.
        shares: factors on those shares, by modality.
        bucket: training batches of similar length, for text alone.
        held_out: what is for test alone: sources of guardzoo (None: `guardzoo.HELD_OUT`), or domains of policyguard.
        only: the sources of guardzoo that are read, as if there were no others; None: all.
        leave_out: sources without training and validation rows: a training without them, on the same test rows.
        flip: a source whose training rows get the opposite verdicts (poison, for audits); `flip_share` of them.
        critic: who explains training rows: own (their own critiques), annotations, endpoint or none.
        augment: how training changes media at random: shift (sounds, by up to a quarter of their length) or None.
        endpoint: settings of the endpoint that critiques come from (`transforms.endpoint.EndpointSettings`).
    """

    modality: str | None = None  # set by the single-modality DataModules

    def __init__(
        self,
        source: str = "sample",
        *,
        path: str | Path | None = None,
        data_dir: str | Path | None = None,
        policy: str | Path | Policy | None = None,
        modalities: Sequence[str] | None = None,
        batch_size: int = 32,
        accumulate: int = 1,
        workers: int = 0,
        seed: int = 0,
        max_entries: int = 8,
        epoch_size: int | None = None,
        balance: float = 0.0,
        shares: Mapping[str, float] | None = None,
        scale: float = 1.0,
        licences: str = "all",
        max_rows: int | None = None,
        corpus_seed: int = 0,
        bucket: bool = False,
        held_out: Sequence[str] | None = None,
        critic: str = "own",
        endpoint: Mapping[str, Any] | None = None,
        augment: str | None = None,
        only: Sequence[str] | None = None,
        leave_out: Sequence[str] | None = None,
        flip: str | None = None,
        flip_share: float = 1.0,
    ):
        super().__init__()
        self.source, self.path, self.data_dir = source, path, data_dir
        self.policy = Policy.from_file(policy) if isinstance(policy, (str, Path)) else policy
        self.modalities = tuple(modalities) if modalities else (self.modality,) if self.modality else None
        self.batch_size, self.accumulate, self.workers, self.seed = batch_size, accumulate, workers, seed
        self.max_entries, self.epoch_size, self.balance, self.scale = max_entries, epoch_size, balance, scale
        self.shares = dict(shares or {})
        self.licences, self.max_rows, self.corpus_seed = licences, max_rows, corpus_seed
        self.bucket, self.held_out, self.only = bucket, held_out, only
        self.leave_out, self.flip, self.flip_share = leave_out, flip, flip_share
        self.critic = critic_named(critic, endpoint)
        self.augment_of = augmentation(augment, seed, self.modalities)
        self.critiques: dict[str, Any] | None = None  # how many training rows the critic explains
        if bucket and source != "manifest" and self.modalities != ("text",):
            raise DataError(f"bucket=true is for text alone: set modalities=[text] for source {source!r}")
        self.transform: Callable[..., Any] = pairs
        self.collate: Callable[[list[Any]], Any] = list
        self.group: Callable[[list[Any]], None] = alone
        self.stage: Callable[[Sample], int] | None = None
        self.errors: list[dict[str, str]] = []
        self._corpus: Corpus | None = None
        self._order: BalancedSampler | BucketOrder | None = None
        self._start: tuple[int, int] | None = None  # epoch and batch of a resumed training
        self._hashed: str | None = None

    # ------------------------------------------------------------------------------------------------ samples

    def prepare_data(self) -> None:
        self._load()

    def setup(self, stage: str | None = None) -> None:
        self._load()

    def _load(self) -> Corpus:
        if self._corpus is None:
            corpus = load_corpus(
                self.source,
                path=self.path,
                data_dir=self.data_dir,
                policy=self.policy,
                seed=self.corpus_seed,
                scale=self.scale,
                licences=self.licences,
                modalities=self.modalities,
                max_rows=self.max_rows,
                held_out=self.held_out,
                only=self.only,
            )
            self.errors += corpus.report.get("errors", [])
            if not corpus.samples:
                raise DataError(f"source {self.source!r} has no usable sample{self._why_empty()}")
            if self.leave_out:
                corpus = leave_out(corpus, [self.leave_out] if isinstance(self.leave_out, str) else self.leave_out)
            if self.flip is not None:
                corpus = flip(corpus, self.flip, self.flip_share, self.default_policy, self.corpus_seed)
            if self.bucket:
                text_alone(corpus.samples)
            self.policy = self.policy or corpus.policy
            self.critiques = prepared(self.critic, corpus.split("train"), self.fixed_policy)
            self._corpus = corpus
        return self._corpus

    def _why_empty(self) -> str:
        reasons = [e["error"] for e in self.errors[:3]]
        kept = f" of modality {', '.join(self.modalities)}" if self.modalities else ""
        return kept + (": " + "; ".join(reasons) if reasons else "")

    @property
    def corpus(self) -> Corpus:
        return self._load()

    @property
    def poisoned(self) -> dict[str, Any] | None:
        """What was made wrong of the training rows on purpose, counted; None where they are as they came."""
        return self.corpus.report.get("poisoned")

    @property
    def bank(self) -> PolicyBank:
        return self.corpus.bank

    @property
    def default_policy(self) -> Policy:
        """What a sample without its own policy is judged under outside training."""
        return self.policy or DEFAULT_POLICY

    def samples(self, split: str) -> Sequence[Sample]:
        """The samples of train, val or test. Those of a manifest are read when they are asked for."""
        if split not in SPLITS:
            raise DataError(f"unknown split {split!r}: one of {', '.join(SPLITS)}")
        return in_split(self.corpus.samples, split)

    def reject(self, bad: Sequence[tuple[Sample, str]]) -> None:
        """Takes samples out that turned out to be unreadable; they are listed in `errors`."""
        if bad:
            self.corpus.samples = without_ids(self.corpus.samples, {s.id for s, _ in bad})
            self.errors += [{"id": s.id, "error": why} for s, why in bad]
            if process()[0] == 0:
                print(f"{len(bad)} samples cannot be read, e.g. {bad[0][1]}", file=sys.stderr)

    def keep(self, wanted: Callable[[Sample], bool]) -> None:
        """Narrows the data to the samples that a method can use."""
        self.corpus.samples = keep(self.corpus.samples, wanted)

    def counts(self) -> dict[str, dict[str, int]]:
        """split → modality → samples."""
        return {s: dict(sorted(Counter(modalities_of(self.samples(s))).items())) for s in SPLITS}

    # ------------------------------------------------------------------------------------------------ loaders

    def train_policy(self, sample: Sample, epoch: int) -> Policy:
        return self.bank.draw(sample, rng_for(self.seed, epoch, sample.id), max_entries=self.max_entries)

    def fixed_policy(self, sample: Sample, epoch: int = 0) -> Policy:
        return sample.policy or self.default_policy

    def loader(self, samples: Sequence[Sample], train: bool = False) -> DataLoader:
        """This process's batches of any samples; in training with drawn policies and balanced modalities.

        Each sample comes once over all processes, and all have the same number of batches (some may be empty).
        """
        policy_of = self.train_policy if train else self.fixed_policy
        transform = functools.partial(self.transform, train=train)
        critic, augment_of = (self.critic, self.augment_of) if train else (None, None)
        dataset = SampleDataset(samples, policy_of, transform, critic, augment_of)
        order: Sampler = SequentialSampler(dataset)
        if train:
            stages = None if self.stage is None else [self.stage(s) for s in samples]
            order = BalancedSampler(samples, self.seed, self.epoch_size, self.balance, self.shares, stages)
            if self.bucket:
                order = BucketOrder(order, self.batch_size, self._length(samples), self.seed)
        settings: dict[str, Any] = {
            "batch_sampler": ProcessBatches(order, self.batch_size, *process(), self.accumulate),
            "num_workers": self.workers,
            "collate_fn": self.collate,
            # Every iterator draws a number, and how many there are differs in a resumed run: not from the global state.
            "generator": torch.Generator().manual_seed(self.seed),
            "persistent_workers": self.workers > 0,
        }
        if train and self.accumulate > 1:
            return StepLoader(dataset, batches=self.accumulate, group=self.group, **settings)
        return DataLoader(dataset, **settings)

    def _length(self, samples: Sequence[Sample]) -> Callable[[tuple[int, int]], int]:
        def length(item: tuple[int, int]) -> int:
            return characters(samples[item[0]], self.train_policy(samples[item[0]], item[1]))

        return length

    def train_dataloader(self) -> DataLoader:
        rows = self.samples("train")
        if not rows:
            raise DataError(f"source {self.source!r} has no training sample{self._why_empty()}")
        loader = self.loader(rows, train=True)
        self._order = loader.batch_sampler.sampler
        if self._start is not None:
            self._skip_to(*self._start)
            self._start = None
        return loader

    def val_dataloader(self) -> DataLoader:
        return self.loader(self.samples("val"))

    def test_dataloader(self) -> DataLoader:
        return self.loader(self.samples("test"))

    # ------------------------------------------------------------------------------------------------ resuming

    def _skip_to(self, epoch: int, batch: int) -> None:
        self._order.start_at(epoch, batch // self.accumulate * self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, by the batches that reached a step: workers have drawn more. And of which rows."""
        if self.trainer is None:
            return {}
        loop = self.trainer.fit_loop
        epoch, batch = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current.processed
        if epoch.ready == epoch.processed:
            start = (epoch.processed, 0)
        elif batch >= self.trainer.num_training_batches:
            start = (epoch.processed + 1, 0)
        else:
            start = (epoch.processed, batch)
        return {"epoch": start[0], "batch": start[1], "rows": self._rows_hash()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Training goes on where `state_dict` was taken. Raises `DataError` if the training rows are others now."""
        if state["rows"] != self._rows_hash():
            raise DataError("the training rows are not those that the run was begun with: restore them, or start anew")
        self._start = (state["epoch"], state["batch"])
        fetcher = self.trainer.fit_loop._data_fetcher if self.trainer else None
        if fetcher is not None:  # strategies that restore late have made the loader, and its workers have drawn
            self._skip_to(*self._start)
            self._start = None
            iter(fetcher)

    def _rows_hash(self) -> str:
        """sha256 over texts, labels and names of the training rows, in their order. Media are not read."""
        if self._hashed is None:
            digest = hashlib.sha256()
            for sample in self.samples("train"):
                row = sample.to_dict()
                for message in row["messages"]:
                    for part in message["content"]:
                        if "path" in part:  # the folder may be another one after a move
                            part["path"] = Path(part["path"]).name
                digest.update(canonical_json(row).encode() + b"\n")
            self._hashed = digest.hexdigest()
        return self._hashed
