"""zoo/core/memory.py against the tensors of real training steps."""

from pathlib import Path

import pytest
import torch
from helpers import random_backbone
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel

from zoo.core import memory
from zoo.core.optim import build_optimizer
from zoo.list import memory as printed

DOCS = Path(__file__).parent.parent / "docs" / "distributed.md"
SMALL = {
    "hidden_size": 256,  # two heads of 128: the axes of positions are cut for that
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 64,
}


def held(tensors):
    return sum(t.untyped_storage().nbytes() for t in tensors)


@pytest.mark.parametrize("kind", ["encoded", "tokens"])
def test_states_are_those_of_a_real_step(kind):
    backbone = random_backbone(kind)
    lm = backbone.lm
    lm.model.layers[0].requires_grad_(False)
    optimizer = build_optimizer(lm, 1e-3, 0.1, (0.9, 0.95), 0.1, 10)["optimizer"]
    lm(input_ids=torch.arange(8)[None]).logits.logsumexp(-1).sum().backward()
    optimizer.step()
    need = memory.states(lm, backbone.layers(), "ddp", 4, mixed=False)
    assert need.weights == held(lm.parameters())
    assert need.gradients == held(p.grad for p in lm.parameters() if p.grad is not None) < need.weights
    moments = [v for state in optimizer.state.values() for k, v in state.items() if k != "step"]
    assert need.optimizer == held(moments) == 2 * need.gradients
    assert need.gathered == need.activations == 0 and need.total == need.weights + 3 * need.gradients
    assert memory.states(lm, backbone.layers(), "ddp", 4).gathered == need.gradients / 2  # bf16 copies of float32


def test_shares():
    """A first dimension that does not part evenly: the largest share counts, as FSDP2 cuts with torch.chunk."""
    tensors = [torch.zeros(5, 3), torch.zeros(7), torch.zeros(1, 2, dtype=torch.bfloat16)]
    for n in (1, 2, 3, 8):
        parts = [t.chunk(n)[0] for t in tensors]
        assert memory.bytes_of(tensors, n) == sum(p.numel() * p.element_size() for p in parts)


def test_sharded_states_by_hand():
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 2, bias=False))
    model[1].weight.requires_grad_(False)
    need = memory.states(model, [model[1]], "fsdp", 2)
    assert (need.weights, need.gradients, need.optimizer) == (4 * (32 + 64 + 16) / 2, 4 * 48 / 2, 8 * 48 / 2)
    assert need.gathered == 2 * (48 + 2 * 64 + 48)  # the rest, two layers, and the gradients of the rest, in bf16
    zero = memory.states(model, [], "deepspeed", 4)
    assert (zero.weights, zero.gradients, zero.optimizer) == (4 * 64 + 2 * 48, 2 * 48 / 4, 12 * 48 / 4)
    with pytest.raises(ValueError, match="unknown strategy 'x'"):
        memory.states(model, [model[1]], "x", 2)


def test_saved_bytes_by_hand():
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.randn(3, 8, requires_grad=True)
    # The first layer keeps its input; the ReLU its output, which is the last layer's input.
    assert memory.saved_bytes(lambda: net(x), net.parameters()) == 4 * 3 * (8 + 16)
    with torch.no_grad():
        assert memory.saved_bytes(lambda: net(x), net.parameters()) == 0


@pytest.mark.parametrize("tuning", memory.TUNINGS)
def test_fake_tensors_keep_what_real_ones_do(tuning):
    config = Qwen2_5OmniThinkerTextModel.config_class(**SMALL)

    def kept(lm, dtype):
        x = torch.randn(2, 16, 256, dtype=dtype, requires_grad=True)
        return memory.saved_bytes(lambda: memory.decoded(lm, x), [*lm.parameters(), *lm.buffers()])

    real = memory.made(lambda: Qwen2_5OmniThinkerTextModel(config), tuning, rank=2).train()
    dtype = real.embed_tokens.weight.dtype
    assert dtype == (torch.bfloat16 if tuning == "lora" else torch.float32)
    trained = [p for p in real.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32} and (len(trained) == len(list(real.parameters()))) == (
        tuning == "full"
    )
    with torch.device("meta"):
        fake = memory.made(lambda: Qwen2_5OmniThinkerTextModel(config), tuning, rank=2).train()
    mode = FakeTensorMode()
    memory.faked(fake, mode)
    with mode:
        counted = kept(fake, dtype)
    assert counted == kept(real, dtype) > 2 * 16 * 256 * dtype.itemsize


def test_a_checkpointed_decoder_keeps_an_input_a_layer():
    config = Qwen2_5OmniThinkerTextModel.config_class(**SMALL)
    deep = Qwen2_5OmniThinkerTextModel.config_class(**{**SMALL, "num_hidden_layers": 9})
    one, nine = (memory.activations(c, "full", 2, 16) for c in (config, deep))
    assert nine - one == 8 * 2 * 16 * 256 * 4


def test_parameters_of_the_3b_and_7b():
    """The decoder counted by hand; with its encoders 4.7B and 8.9B, as their published files have."""
    for name, whole in (("Qwen2.5-Omni-3B", 4.70), ("Qwen2.5-Omni-7B", 8.93)):
        model, c = memory.thinker(name, "full")
        h, m, kv = c.hidden_size, c.intermediate_size, c.num_key_value_heads * (c.hidden_size // c.num_attention_heads)
        layer = 2 * h * h + h + 2 * (h * kv + kv) + 3 * h * m + 2 * h
        decoder = c.num_hidden_layers * layer + h + 2 * c.vocab_size * h
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == decoder
        assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(whole, abs=0.005)


def test_the_page_has_the_printed_table():
    table = DOCS.read_text(encoding="utf-8").split("<!-- table:memory -->\n")[1].split("\n<!-- end -->")[0]
    assert table == printed(), "run python -m zoo.list memory"
