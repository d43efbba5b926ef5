"""A guard's language model for other programs: merged weights in the hub's layout, or adapters in peft's.

What is written is read back by the plain classes and compared before anybody else sees it.
"""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from zoo.core.backbones.base import ExportParts
from zoo.core.backbones.readers import plain_ids
from zoo.core.weights import CheckpointError

EXTRA = "zoo_extra.safetensors"
ABOUT = "zoo.json"
PROBE = "Judge the user's last message by the policy: 1) no weapons, 2) no fraud. Is it safe?\nIt is, I think."
# Largest difference of logits after a round trip, as a share of the largest logit. Merging rounds each weight once.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def has_adapters(lm: PreTrainedModel) -> bool:
    return any(isinstance(m, LoraLayer) for m in lm.modules())


def merged_state(lm: PreTrainedModel) -> dict[str, Tensor]:
    """The weights under the plain model's names, LoRA added to what it lies over. `lm` stays as it is."""
    out = {n.replace(".base_layer.", "."): t for n, t in lm.state_dict().items() if ".lora_" not in n}
    for name, layer in lm.named_modules():
        if isinstance(layer, LoraLayer):
            at = f"{name}.weight"
            delta = sum(layer.get_delta_weight(a).float() for a in layer.active_adapters)
            out[at] = (out[at].float() + delta).to(out[at].dtype)
    return out


def export_size(parts: ExportParts, adapters: bool) -> int:
    """Bytes that the export will take, about."""
    tensors = [p for n, p in parts.model.named_parameters() if (".lora_" in n) == adapters]
    return sum(t.numel() * t.element_size() for t in (*tensors, *parts.rest.values()))


def write_merged(parts: ExportParts, folder: Path) -> None:
    """The merged model and its tokenizer or processor, as `save_pretrained` writes them."""
    lm = parts.model
    with torch.device("meta"):  # no second copy: the plain model takes the tensors as they are
        plain = type(lm)(copy.deepcopy(lm.config))
    plain.load_state_dict(merged_state(lm), strict=True, assign=True)
    plain.tie_weights()
    if lm.can_generate():
        plain.generation_config = copy.deepcopy(lm.generation_config)
    plain.save_pretrained(folder)
    parts.processor.save_pretrained(folder)


def write_adapters(parts: ExportParts, folder: Path) -> None:
    """LoRA weights and their configuration in peft's layout, with the tokenizer or processor."""
    lm = parts.model
    state = {
        "base_model.model." + name.replace(".default.", "."): t.detach().cpu().contiguous()
        for name, t in lm.state_dict().items()
        if ".lora_" in name
    }
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(next(m.peft_config["default"] for m in lm.modules() if hasattr(m, "peft_config")))
    # By their whole names: the encoders of an omni-modal model have layers of the same short names.
    config.target_modules = {name for name, m in lm.named_modules() if isinstance(m, LoraLayer)}
    config.base_model_name_or_path, config.revision = parts.base_name, parts.base_revision
    config.task_type, config.inference_mode = "CAUSAL_LM", True
    config.save_pretrained(str(folder))
    parts.processor.save_pretrained(folder)


def write_rest(rest: dict[str, Tensor], folder: Path) -> dict[str, str]:
    """Tensors that no hub class reads, each stored once; returns the other names of those that have several."""
    first: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    kept: dict[str, Tensor] = {}
    for name, t in rest.items():
        where = (t.untyped_storage().data_ptr(), t.storage_offset(), t.shape, t.stride(), t.dtype)
        if t.numel() and where in first:
            aliases[name] = first[where]
            continue
        first[where] = name
        kept[name] = t.detach().cpu().contiguous()
    path = folder / EXTRA
    save_file(kept, path, metadata={"format": "pt"})
    again = load_file(path)
    for name, t in rest.items():
        if not torch.equal(again[aliases.get(name, name)], t.detach().cpu()):
            raise CheckpointError(f"{EXTRA}: {name} was written but reads back otherwise: the disk cannot be trusted")
    return aliases


@torch.no_grad()
def logits_of(model: torch.nn.Module, ids: list[int]) -> Tensor:
    """Logits [n, v] of a text, computed in float32: what remains is the rounding of the weights."""
    model.eval()
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    wide = {n: t.float() for n, t in tensors if t.is_floating_point() and t.dtype != torch.float32}
    inputs = {"input_ids": torch.tensor([ids], device=next(model.parameters()).device), "use_cache": False}
    return torch.func.functional_call(model, wide, kwargs=inputs).logits[0].float().cpu()


def probe_ids(processor: Any) -> list[int]:
    return plain_ids(getattr(processor, "tokenizer", processor), PROBE)


def parity(parts: ExportParts, folder: Path, adapters: bool) -> tuple[float, float]:
    """Reads the export back with the plain classes; returns the largest difference of logits and what is allowed.

    Raises `CheckpointError` where the difference is larger, or where the tokenizer reads a text otherwise.
    """
    lm = parts.model
    settings = {"local_files_only": True, "dtype": lm.dtype, "trust_remote_code": False}
    try:
        again = parts.loader.from_pretrained(parts.base if adapters else folder, **settings)
        if adapters:
            again = PeftModel.from_pretrained(again, str(folder))
        processor = type(parts.processor).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as e:
        raise CheckpointError(f"the export cannot be read back: {(str(e).splitlines() or [''])[0][:200]}") from e
    ids = probe_ids(parts.processor)
    if probe_ids(processor) != ids:
        raise CheckpointError("the exported tokenizer reads a text otherwise than the guard's: nothing was exported")
    expected = logits_of(lm, ids)
    difference = float((logits_of(again, ids) - expected).abs().max().nan_to_num(torch.inf))
    allowed = TOLERANCE[lm.dtype] * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise CheckpointError(
            f"logits of the export differ by {difference:.3g} from the guard's (allowed {allowed:.3g}): nothing was "
            "exported"
        )
    return difference, allowed


def write_export(guard: Any, parts: ExportParts, folder: Path, adapters: bool) -> tuple[float, float]:
    """Writes everything into an empty folder and checks it; returns difference and tolerance of the logits."""
    (write_adapters if adapters else write_merged)(parts, folder)
    aliases = write_rest(parts.rest, folder) if parts.rest else {}
    difference, allowed = parity(parts, folder, adapters)
    about = {"format": 1, "name": guard.name, "weights": "adapters" if adapters else "merged", **guard.describe()}
    about |= {"logits_difference": difference, "aliases": aliases}
    (folder / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    card = folder / "README.md"
    card.write_text(readme(guard, parts, adapters, difference), encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(card.stat().st_mode)  # safetensors files come readable by their owner alone
    return difference, allowed


def readme(guard: Any, parts: ExportParts, adapters: bool, difference: float) -> str:
    """What lies in an export, how it is loaded, and what it is not."""
    loader, where = parts.loader.__name__, "FOLDER"
    code = [f"from transformers import {loader}", "", f'model = {loader}.from_pretrained("{where}")']
    what = "LoRA weights merged into the model they were trained on" if has_adapters(parts.model) else "The weights"
    if adapters:
        base = parts.base_name
        code[0] = f"from peft import PeftModel\n{code[0]}"
        code[2] = f'base = {loader}.from_pretrained("{base}")\nmodel = PeftModel.from_pretrained(base, "{where}")'
        what = f"LoRA weights in peft's layout, to be laid over `{base}`"
    extra = ""
    if parts.rest:
        groups = ", ".join(sorted({n.split(".")[0] for n in parts.rest}))
        makes = "pictures and sound" if parts.reads_text else "words, pictures and sound"
        alone = "the language model reads text alone"
        if not parts.reads_text:
            alone += ", which it was not trained on"
        extra = f"""
`{EXTRA}` holds what no class of the hub reads: {groups}.
They make soft tokens of {makes}. Without them {alone}.
"""
    lines = "\n".join(code)
    return f"""# {guard.name}: exported language model

{what}. Written by `python -m zoo.export` and read back with the plain classes: its logits differ by {difference:.2g} at
most from those inside the guard.

```python
{lines}
```
{extra}
`{ABOUT}` holds the guard's policy, calibration and settings. The language model alone is no guard: verdicts are scores
of answers after the prompt that the zoo renders, calibrated. `zoo.load` gives the whole.
"""
