"""What a trainer group may ask for, how a batch is parted, and the parts of a loss."""

import itertools

import lightning as L
import pytest
import torch
from helpers import random_backbone
from torch.utils.data import DataLoader, SequentialSampler

from datamodules.sampling import BalancedSampler, ProcessBatches, StepLoader, check_batch_size
from datamodules.schema import DataError, Policy, PolicyEntry, Sample
from zoo import cli
from zoo.config import compose, plain
from zoo.core import launch, processes
from zoo.core.cache import FeatureCache
from zoo.core.guard import Guard
from zoo.core.losses import PARTS, LossWeights, asked, guard_loss, loss_sums, weighted_mean
from zoo.core.module import GuardModule
from zoo.core.warm import owner, warm
from zoo.fit import plan_of
from zoo.methods import METHODS

POLICY = Policy("site", (PolicyEntry("fire", "open fire"), PolicyEntry("alarm", "alarm")))


# ---------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("size, count", [(0, 2), (1, 2), (17, 2), (24, 3), (23, 3), (5, 1)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_item_comes_once_and_all_processes_keep_step(size, count, accumulate):
    batch = 12
    of = [list(ProcessBatches(range(size), batch, rank, count, accumulate)) for rank in range(count)]
    assert sorted(i for batches in of for b in batches for i in b) == list(range(size))
    steps = {len(batches) for batches in of}
    assert steps == {-(-size // batch) * accumulate} == {len(ProcessBatches(range(size), batch, 0, count, accumulate))}
    alone = list(ProcessBatches(range(size), batch, 0, 1, accumulate))
    together = [sorted(itertools.chain(*parts)) for parts in zip(*of)]
    assert together == [sorted(b) for b in alone]  # the same global batches, whatever the number of processes
    for parts in zip(*of):
        assert max(map(len, parts)) - min(map(len, parts)) <= 1  # nobody has more than one row over the others


def test_the_order_is_that_of_one_process():
    samples = [Sample.of("x", id=str(n)) for n in range(20)]

    def drawn(rank, count):
        sampler = BalancedSampler(samples, seed=4)
        sampler.set_epoch(3)
        return list(ProcessBatches(sampler, 6, rank, count))

    whole = [i for b in drawn(0, 1) for i in b]
    assert len(whole) == 20 and {e for _, e in whole} == {3}
    for first, second, both in zip(drawn(0, 2), drawn(1, 2), drawn(0, 1)):
        assert [x for pair in itertools.zip_longest(first, second) for x in pair if x is not None] == both


def test_lightning_sets_the_epoch_of_the_order_within():
    loader = DataLoader([0] * 9, batch_sampler=ProcessBatches(BalancedSampler([Sample.of("x", id="a")] * 9), 3))
    L.fabric.utilities.data._set_sampler_epoch(loader, 7)
    assert loader.batch_sampler.sampler.epoch == 7
    assert not hasattr(loader.batch_sampler, "batch_size")  # or Lightning would make one with a sampler of its own


def test_the_batches_of_a_step_are_seen_together():
    seen = []
    sampler = ProcessBatches(SequentialSampler(range(10)), 8, 0, 1, accumulate=2)
    loader = StepLoader(list(range(10)), batches=2, group=seen.append, batch_sampler=sampler, collate_fn=list)
    stream = iter(loader)
    assert next(stream) == [0, 2, 4, 6] and seen == [[[0, 2, 4, 6], [1, 3, 5, 7]]]
    assert list(stream) == [[1, 3, 5, 7], [8], [9]] and seen[1:] == [[[8], [9]]]
    assert len(loader) == 4


@pytest.mark.parametrize(
    "batch, count, accumulate, fix",
    [(16, 3, 1, "15 or 18"), (16, 2, 3, "12 or 18"), (1, 2, 1, "=2$"), (0, 1, 1, "=1$")],
)
def test_a_batch_that_cannot_be_parted(batch, count, accumulate, fix):
    with pytest.raises(DataError, match=rf"data.batch_size={batch} .*set data.batch_size=?.*{fix}"):
        check_batch_size(batch, count, accumulate)
    with pytest.raises(DataError):
        ProcessBatches(range(3), batch, 0, count, accumulate)


# ------------------------------------------------------------------------------------------------------------- plans


def trainer(**changes):
    return {
        "accelerator": "cpu",
        "devices": 1,
        "nodes": 1,
        "strategy": "single",
        "accumulate": 1,
        "precision": "32-true",
    } | changes


@pytest.fixture(autouse=True)
def started_by_nobody(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gpus(monkeypatch):
    def there(n):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    return there


@pytest.mark.parametrize(
    "changes, count, words",
    [
        ({"devices": 2}, 0, r"2 × trainer.nodes=1 are 2 processes, and this trainer runs one: choose trainer=ddp"),
        ({"accelerator": "gpu"}, 0, r"torch sees no GPU here"),
        ({"accelerator": "gpu", "devices": 4, "strategy": "ddp"}, 2, r"trainer.devices=4, but torch sees 2 GPUs here"),
        ({"strategy": "fsdp"}, 0, r"trainer=fsdp parts a model among processes, and there is one: set trainer.devices"),
        ({"strategy": "fsdp", "devices": 2, "precision": "16-mixed"}, 0, r"precision '16-mixed'; did you mean"),
        ({"strategy": "deepspeed"}, 0, r"trainer=deepspeed needs GPUs"),
        ({"strategy": "deepspeed", "accelerator": "gpu"}, 1, r"pip install 'guardrail-zoo\[deepspeed\]'"),
        ({"strategy": "fdsp"}, 0, r"trainer.strategy=fdsp; did you mean 'fsdp'"),
        ({"accelerator": "gpuu"}, 0, r"trainer.accelerator=gpuu; did you mean 'gpu'"),
        ({"devices": "two"}, 0, r"trainer.devices=two: expected a whole number"),
        ({"devices": 0}, 0, r"trainer.devices=0: expected a whole number of 1 or more"),
        ({"nodes": "-1"}, 0, r"trainer.nodes=-1: expected"),
        ({"accumulate": 0}, 0, r"trainer.accumulate=0: expected"),
        ({"devices": 3, "strategy": "ddp"}, 0, r"3 processes × 1 accumulated part: set data.batch_size=15 or 18"),
    ],
)
def test_what_cannot_be_served_is_said_first(gpus, monkeypatch, changes, count, words):
    gpus(count)
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=words):
        processes.plan(trainer(**changes), 16)


def test_automatic_devices(gpus, monkeypatch):
    gpus(4)
    ddp = trainer(strategy="ddp", devices="auto", accelerator="auto")
    found = processes.plan(ddp, 16)
    assert (found.accelerator, found.devices, found.processes) == ("gpu", 4, 4)
    gpus(0)
    found = processes.plan(ddp, 16)
    assert (found.accelerator, found.processes) == ("cpu", 1) and found.trainer()["strategy"] == "auto"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert processes.plan({**ddp, "nodes": 2}, 16).processes == 4
    with pytest.raises(DataError, match=r"torchrun started 4 processes, but trainer.devices=2 × trainer.nodes=1 are 2"):
        processes.plan(ddp, 16)


def test_slurm(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    asked_for = trainer(strategy="ddp", devices=2, nodes=2)
    with pytest.raises(DataError, match=r"--ntasks=4: give --ntasks-per-node"):
        processes.plan(asked_for, 16)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    assert processes.plan(asked_for, 16).processes == 4
    assert processes.plan({**asked_for, "devices": "auto"}, 16).devices == 2
    with pytest.raises(DataError, match=r"SLURM started 4 processes, but .* are 2"):
        processes.plan({**asked_for, "nodes": 1}, 16)
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")  # a shell on a node: nothing was started
    assert processes.plan({**asked_for, "nodes": 1}, 16).processes == 2


def test_lightnings_arguments():
    one = processes.plan(trainer(accumulate=2), 16).trainer()
    assert one["strategy"] == "auto" and one["accumulate_grad_batches"] == 2 and one["num_nodes"] == 1
    ddp = processes.plan(trainer(strategy="ddp", devices=2), 16).trainer()
    assert ddp["use_distributed_sampler"] is False  # Lightning's repeats samples
    assert ddp["strategy"]._ddp_kwargs["broadcast_buffers"] is False  # a collective in every validation batch
    assert "find_unused_parameters" not in ddp["strategy"]._ddp_kwargs
    fsdp = processes.plan(trainer(strategy="fsdp", devices=4), 16).trainer()["strategy"]
    assert (fsdp._data_parallel_size, fsdp._tensor_parallel_size) == (4, 1)


def test_a_method_of_one_process():
    config = plain(compose(["recipe=audio_tiny", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]))
    with pytest.raises(DataError, match=r"recipe 'audio_tiny' trains in one process, and 2 are asked for"):
        plan_of(config, METHODS["soundtagger"])
    assert plan_of(config, METHODS["omniguard"]).processes == 2


# ------------------------------------------------------------------------------------------------------- agreement


def test_only_the_main_process_speaks(monkeypatch, capsys):
    def ends(main, variable=None):
        if variable:
            monkeypatch.setenv(*variable)
        with pytest.raises(SystemExit) as found:
            cli.run(main)
        return found.value.code, capsys.readouterr().err

    def fails(arguments):
        raise DataError("no such file")

    assert ends(fails) == (2, "error: no such file\n") and ends(lambda a: 1) == (1, "")
    assert ends(fails, ("LOCAL_RANK", "1")) == (0, "") and ends(lambda a: 1) == (0, "")
    assert ends(fails, ("RANK", "0"))[0] == 2  # the first of a second machine has LOCAL_RANK 0, too
    assert ends(fails, ("RANK", "4"))[0] == 0


def test_one_process_agrees_with_itself():
    assert launch.gather("x") == ["x"] and launch.place() == (0, 1) and launch.is_main()
    assert launch.first(lambda: 1) == launch.in_turn(lambda: 1) == launch.together(lambda: 1) == 1
    done = []
    launch.in_turn(lambda: done.append(1))
    assert done == [1]
    for agree in (launch.first, launch.in_turn, launch.together):
        with pytest.raises(DataError, match="wrong"):
            agree(lambda: (_ for _ in ()).throw(DataError("wrong")))
    state = torch.get_rng_state()
    launch.own_randomness()
    assert torch.equal(torch.get_rng_state(), state)  # a run of one process is what it was


def test_processes_have_noise_of_their_own(monkeypatch):
    def noise(rank):
        torch.manual_seed(5)
        monkeypatch.setattr(launch, "process", lambda: (rank, 3))
        launch.own_randomness()
        return torch.rand(4)

    drawn = [noise(r) for r in (0, 1, 2)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))
    torch.manual_seed(5)
    assert torch.equal(drawn[0], torch.rand(4)) and torch.equal(noise(1), drawn[1])


def test_a_cache_sees_what_another_wrote(tmp_path):
    mine, other = FeatureCache(tmp_path), FeatureCache(tmp_path)
    other.put("a", torch.ones(2, 3))
    other.flush()
    assert "a" not in mine
    mine.refresh()
    assert torch.equal(mine.get("a"), torch.ones(2, 3))
    mine.refresh()
    assert len(mine) == 1 and len(mine._shards) == 1


def test_each_file_has_one_owner(monkeypatch):
    samples = [Sample.of("x", id=f"{n}-{k}", image=f"{n}.png") for n in range(40) for k in range(2)]
    samples += [Sample.of(f"text {n % 5}", id=f"t{n}") for n in range(10)]
    owners = [owner(s, 3) for s in samples]
    assert set(owners) == {0, 1, 2} and owners[0:80:2] == owners[1:80:2]
    assert {owner(s, 1) for s in samples} == {0}
    assert owners[80:85] == owners[85:]

    class Backbone:
        cache = type("Cache", (), {"refresh": lambda self: None})()

        def warm(self, samples, phrases):
            given.append((samples, phrases))
            return [(s, "broken") for s in samples if s.id in ("7-0", "3-1", "t4")]

    given, phrases = [], [f"p{n}" for n in range(7)]
    for number in range(3):
        monkeypatch.setattr(launch, "place", lambda n=number: (n, 3))
        warm(Backbone(), samples, phrases)
    assert sorted(s.id for part, _ in given for s in part) == sorted(s.id for s in samples)
    assert sorted(p for _, part in given for p in part) == phrases
    monkeypatch.setattr(launch, "place", lambda: (0, 1))
    assert [s.id for s, why in warm(Backbone(), samples, phrases)] == ["3-1", "7-0", "t4"]


# ------------------------------------------------------------------------------------------------------------ losses


def batch_of(module, numbers):
    samples = []
    for n in numbers:
        labels = {"fire": "yes" if n % 2 else "no"}
        critique = "a fire" if n % 3 else None
        samples.append(Sample.of(f"the picture shows {n}", id=str(n), categories=labels, critique=critique))
    return module.collate([module.prepare(s, POLICY, train=True) for s in samples])


@pytest.mark.parametrize("sizes", [(4, 2), (5, 1), (6, 0)])
def test_the_losses_of_parts_add_up(sizes):
    """Against the loss of the whole batch: three means with three denominators, none of them the number of rows."""
    module = GuardModule(Guard(random_backbone(), POLICY))
    numbers = range(6)
    weights = LossWeights(1.0, 0.5, 2.0)
    whole = batch_of(module, numbers)
    expected, parts = guard_loss(module.scores(whole), whole.targets, weights)
    assert set(parts) == {"verdict", "categories", "critique"}
    of = [
        batch_of(module, numbers[: sizes[0]]),
        batch_of(module, numbers[sizes[0] :]) if sizes[1] else module.collate([]),
    ]
    module.group(of)
    assert torch.equal(of[0].total, whole.asked) and torch.equal(of[1].total, whole.asked)
    assert whole.asked.tolist()[:2] == [3.0, 6.0] and whole.asked[2] > 3
    total = sum(
        weighted_mean(loss_sums(module.scores(b), b.targets if b.samples else module.idle.targets), b.total, weights)
        for b in of
    )
    torch.testing.assert_close(total, expected)
    if sizes != (6, 0):
        means = sum(guard_loss(module.scores(b), b.targets, weights)[0] for b in of) / 2
        assert abs(means - expected) > 1e-4  # what averaging the parts' own losses would have given


@pytest.mark.parametrize("kind", ["encoded", "adapted", "tokens"])
@pytest.mark.parametrize("rows", ["text", "unlabelled", "none"])
def test_every_parameter_takes_part(kind, rows):
    """Text alone, rows without a label, and no row at all: no process waits for a gradient that never comes."""
    module = GuardModule(Guard(random_backbone(kind), POLICY)).train()
    samples = {"text": [Sample.of("a fire", unsafe=True)], "unlabelled": [Sample.of("a fire")], "none": []}[rows]
    batch = module.collate([module.prepare(s, POLICY, train=True) for s in samples])
    targets = batch.targets if batch.samples else module.idle.targets
    sums = loss_sums(module.scores(batch), targets)
    weighted_mean(sums, torch.ones(len(PARTS)), LossWeights()).backward()
    missing = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    moved = sum(p.grad.abs().sum().item() for p in module.parameters() if p.requires_grad)
    assert (moved > 0) == (rows == "text")
    assert torch.equal(
        batch.asked, asked(targets, module.guard.backbone.option_tokens(batch.inputs or module.idle.inputs))
    )


def test_a_datamodule_and_a_trainer_that_part_differently():
    module = GuardModule(Guard(random_backbone(), POLICY))

    class Data:
        accumulate, transform = 2, module.prepare

    module._trainer = type("Trainer", (), {"datamodule": Data(), "accumulate_grad_batches": 3, "world_size": 1})()
    with pytest.raises(DataError, match=r"parts a step into 2 batches, but the Trainer accumulates 3"):
        module.setup("fit")
