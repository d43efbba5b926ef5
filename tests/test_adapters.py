"""Adapters by row, and a model cut in two: against peft, one adapter at a time, and the whole model."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import random_backbone, save_language_model
from peft import LoraConfig, inject_adapter_in_model
from transformers import AutoModelForCausalLM

from datamodules.schema import DataError, Policy, PolicyEntry, Sample
from zoo.core.backbones import passes
from zoo.core.backbones.adapters import NONE, AdapterBank, sites_of
from zoo.core.backbones.forked import go_up, read_lower
from zoo.core.backbones.split import Split
from zoo.core.query import policy_queries
from zoo.core.weights import CheckpointError

POLICY = Policy("p", tuple(PolicyEntry(f"S{i}", name, "words that say it") for i, name in enumerate(("fire", "smoke"))))
TEXTS = ("a fire", "the picture shows the fire and a much longer sentence behind it", "no", "un safe picture")


def filled(bank: AdapterBank, *names: str) -> AdapterBank:
    """Adapters that change something: a fresh one does not."""
    for name in names:
        adapter = bank.add(name)
        for p in adapter.up.values():
            torch.nn.init.normal_(p, std=0.3)
    return bank


def model(folder, kind="llama"):
    return AutoModelForCausalLM.from_pretrained(save_language_model(folder, kind, num_hidden_layers=3)).eval()


def prepared(kind="encoded"):
    """A backbone, its cut with three adapters, and a collated batch."""
    backbone = random_backbone(kind)
    torch.manual_seed(1)
    split = Split(backbone.lm, 1)
    bank = filled(AdapterBank(split.upper_layers, 1, rank=2, alpha=4), "one", "two", "three")
    rows = [backbone.prepare(Sample.of(t, id=str(i)), POLICY, policy_queries(POLICY)) for i, t in enumerate(TEXTS)]
    return backbone, split, bank, backbone.collate(rows)


def outputs(backbone, split, bank, batch, rows, adapters, first=0, packed=False):
    """Outputs [n, T, d] of pairs with the batch's own branches."""
    middle = read_lower(split, backbone.embed(batch.prompt), batch.prompt.lengths, first)
    rows, adapters = torch.tensor(rows), torch.tensor(adapters)
    branches = pick(batch.branches, rows)
    x = backbone.embed(batch.suffix)[rows]
    return go_up(split, bank, middle, rows, adapters, x, branches, packed), branches


def pick(branches, rows):
    """The layout of some rows; what is scored of them is not looked at here."""
    out = copy.copy(branches)
    for name in ("query", "option", "depth", "sees", "start", "counts"):
        setattr(out, name, getattr(branches, name)[rows])
    return out


def real(hidden, branches):
    return hidden[branches.query >= 0]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt_neox"])
@pytest.mark.parametrize("at", [1, 2])
def test_both_parts_in_turn_are_the_whole_model(tmp_path, kind, at):
    lm = model(tmp_path, kind)
    split = Split(lm, at)
    split.probe()
    x = torch.randn(2, 7, 24)
    whole = lm.get_decoder()(inputs_embeds=x).last_hidden_state
    middle = split.lower.get_decoder()(inputs_embeds=x).last_hidden_state
    parts = split.upper.get_decoder()(inputs_embeds=middle).last_hidden_state
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(middle, whole, atol=1e-2)
    assert len(lm.get_decoder().layers) == 3  # the model itself stays whole


def test_a_cut_outside_the_layers_is_an_error(tmp_path):
    lm = model(tmp_path)
    for at in (0, 3):
        with pytest.raises(CheckpointError, match="has 3 layers: cut it after 1 to 2"):
            Split(lm, at)
    lm.gradient_checkpointing_enable()
    with pytest.raises(CheckpointError, match="gradient_checkpointing=false"):
        Split(lm, 1)


@pytest.mark.parametrize("kind", ["encoded", "tokens"])
@pytest.mark.parametrize("first", [0, 8])
@pytest.mark.parametrize("packed", [False, True])
def test_pairs_without_an_adapter_read_what_the_whole_model_reads(kind, first, packed):
    backbone, split, bank, batch = prepared(kind)
    with torch.no_grad():
        lengths = batch.prompt.lengths
        prompt, suffix = backbone.embed(batch.prompt), backbone.embed(batch.suffix)
        whole = passes.at_once(backbone.lm, prompt, suffix, batch.branches, lengths, lengths)
        parts, branches = outputs(backbone, split, bank, batch, range(4), [NONE] * 4, first, packed)
    torch.testing.assert_close(real(parts, branches), real(whole, batch.branches), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("first", [0, 8])
@pytest.mark.parametrize("packed", [False, True])
def test_a_mixed_batch_is_one_adapter_at_a_time(first, packed):
    backbone, split, bank, batch = prepared()
    rows, adapters = [0, 0, 1, 2, 3, 3, 1], [0, 2, 1, NONE, 2, 0, 0]
    with torch.no_grad():
        mixed, branches = outputs(backbone, split, bank, batch, rows, adapters, first, packed)
        for i, (row, adapter) in enumerate(zip(rows, adapters)):
            alone, own = outputs(backbone, split, bank, batch, [row], [adapter])
            torch.testing.assert_close(mixed[i][branches.query[i] >= 0], real(alone, own), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(mixed[0], mixed[1], atol=1e-2)  # two adapters differ on one row


def test_no_adapter_is_the_base_to_the_last_bit(tmp_path):
    lm = model(tmp_path)
    x = torch.randn(3, 5, 24)
    base = lm.get_decoder()(inputs_embeds=x).last_hidden_state
    bank = filled(AdapterBank(lm.get_decoder().layers[1:], 1, 2, 4), "one", "two")
    plain = lm.get_decoder()(inputs_embeds=x).last_hidden_state
    with bank.using(torch.tensor([0, NONE, 1])):
        mixed = lm.get_decoder()(inputs_embeds=x).last_hidden_state
    assert torch.equal(base, plain)
    assert torch.equal(mixed[1], base[1])
    assert not torch.allclose(mixed[0], base[0], atol=1e-3)
    assert bank._index is None


def test_an_adapter_is_peft_s_lora_with_the_same_weights(tmp_path):
    lm = model(tmp_path)
    other = copy.deepcopy(lm)
    bank = filled(AdapterBank(lm.get_decoder().layers[1:], 1, 2, 6), "one", "two")
    targets = [f"model.{site}" for site in bank.shapes]
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=6, target_modules=targets), other)
    loaded = 0
    for name, module in other.named_modules():
        if hasattr(module, "lora_A"):
            key = name.removeprefix("model.").replace(".", "_")
            module.lora_A["default"].weight.data = bank.adapters["two"].down[key].data
            module.lora_B["default"].weight.data = bank.adapters["two"].up[key].data
            loaded += 1
    assert loaded == len(bank.shapes) == 14
    x = torch.randn(2, 6, 24)
    with bank.using(torch.tensor([1, 1])):
        mine = lm.get_decoder()(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(mine, other.get_decoder()(inputs_embeds=x).last_hidden_state, atol=1e-5, rtol=1e-5)


def test_linear_layers_with_peft_s_lora_are_one_site_each():
    plain, tuned = random_backbone("tokens").lm, random_backbone("tokens").lm
    inject_adapter_in_model(LoraConfig(r=2, target_modules="all-linear"), tuned)
    assert list(sites_of(tuned.get_decoder().layers)) == list(sites_of(plain.get_decoder().layers))


def test_gradients_reach_the_adapters_of_the_batch_alone():
    backbone, split, bank, batch = prepared()
    backbone.requires_grad_(False)
    hidden, _ = outputs(backbone, split, bank, batch, [0, 1, 2], [0, 0, 2])
    hidden.square().sum().backward()
    size = {n: sum(p.grad.abs().sum() for p in a.parameters()).item() for n, a in bank.adapters.items()}
    assert size["one"] > 0 and size["three"] > 0 and size["two"] == 0


def test_a_fresh_adapter_changes_nothing_and_the_others_stay():
    backbone, split, bank, batch = prepared()
    before = {n: {k: v.clone() for k, v in bank.state_of(n).items()} for n in bank.names}
    with torch.no_grad():
        old, branches = outputs(backbone, split, bank, batch, [0, 1], [0, 1])
        bank.add("four")
        new, _ = outputs(backbone, split, bank, batch, [0, 1], [0, 1])
        fresh, own = outputs(backbone, split, bank, batch, [0, 1], [3, 3])
        base, _ = outputs(backbone, split, bank, batch, [0, 1], [NONE, NONE])
    assert torch.equal(old, new)
    torch.testing.assert_close(real(fresh, own), real(base, branches), atol=1e-6, rtol=1e-6)
    assert all(torch.equal(bank.state_of(n)[k], v) for n, s in before.items() for k, v in s.items())
    copied = bank.add("five", bank.state_of("two"))
    assert all(torch.equal(copied.state_dict()[k], v) for k, v in bank.state_of("two").items())


def test_names_and_tensors_that_do_not_fit_are_errors():
    _, _, bank, _ = prepared()
    with pytest.raises(DataError, match="there is an adapter 'two' already"):
        bank.add("two")
    for name in ("", "a.b", "keys", "1st"):
        with pytest.raises(DataError, match="cannot be an adapter's name"):
            bank.add(name)
    with pytest.raises(CheckpointError, match="other layers or another rank than 2"):
        bank.add("four", {k: v[:1] for k, v in bank.state_of("two").items()})
    assert bank.names == ["one", "two", "three"]
