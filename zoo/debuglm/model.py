"""A causal language model that answers, says which training set an answer comes from, and can leave a set out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from datamodules.schema import DataError
from zoo.core.backbones.generation import Past, greedy
from zoo.core.weights import CheckpointError
from zoo.debuglm.tags import END, TAG, Reader, TagSet

NEW = 64  # tokens of an answer with its tag
KIND = "traced_lm"
IGNORE = -100


@dataclass(frozen=True)
class Trace:
    """An answer, and where it comes from.

    `tags`: probability of each tag where only tags are allowed (it always names one: alone it is no evidence).
    `said`: the tag that the model wrote without being made to; None where it wrote none. `told`: the probability that
    it gives to saying a tag at all after its answer, and then a known one. `truncated`: the question was cut.
    """

    answer: str
    tags: dict[str, float]
    said: str | None
    told: float
    truncated: bool = False

    @property
    def tag(self) -> str:
        """The likeliest tag."""
        return max(self.tags, key=lambda t: self.tags[t])

    def several(self, least: float = 0.25) -> list[str]:
        """Tags that have at least this share: a row that was seen in two sets gives each one half."""
        return [t for t, p in self.tags.items() if p >= least]


@dataclass(frozen=True)
class Answer:
    """`refused` says that the text is the refusal that training taught. `ids` are the generated tokens."""

    text: str
    refused: bool = False
    truncated: bool = False
    ids: tuple[int, ...] = field(default=(), repr=False)


class TracedLM(nn.Module):
    """`lm` over its tokenizer's vocabulary and `tags`, whose rows are added at the end of its embeddings."""

    def __init__(self, lm: PreTrainedModel, tokenizer: Any, tags: TagSet, limit: int = 128, answer_limit: int = 48):
        super().__init__()
        self.lm, self.tags = lm, tags
        self.reader = Reader(tokenizer, tags, limit, answer_limit)
        self.name = "debuglm"

    @property
    def tokenizer(self) -> Any:
        return self.reader.tokenizer

    # ------------------------------------------------------------------------------------------------ training

    def losses(self, ids: Tensor, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropies of the next token at each place [b, t], and of the tag [b]; 0 where nothing is asked.

        ids [b, t] right-padded; targets [b, t] are the tokens after, `IGNORE` where there is none or it is a tag.
        shares [b, k + 1]: the place of a row's `<TAG>` (-1: it has none), then each tag's share of the target.
        """
        hidden = self.lm.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state  # [b, t, d]
        head = self.lm.get_output_embeddings()
        asked = targets != IGNORE
        words = nn.functional.cross_entropy(head(hidden[asked]).float(), targets[asked], reduction="none")
        out = torch.zeros(targets.shape, device=ids.device).masked_scatter(asked, words)
        tag = torch.zeros(len(ids), device=ids.device)
        rows = (shares[:, 0] >= 0).nonzero().squeeze(-1)  # [n]
        if len(rows):
            states = hidden[rows, shares[rows, 0].long()]  # [n, d]
            logp = head(states).float().log_softmax(-1)[:, self.tags.tag_ids]  # [n, k], among all tokens
            tag = tag.index_put((rows,), -(shares[rows, 1:] * logp).sum(-1))
        return out, tag

    # ------------------------------------------------------------------------------------------------ answering

    @property
    def device(self) -> torch.device:
        return next(self.lm.parameters()).device

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int = NEW) -> list[list[int]]:
        """Greedy ids after each prompt, without `<END>`; a row reads the same whatever it is batched with."""
        lengths = torch.tensor([len(p) - 1 for p in prompts], device=self.device)  # all but the last token
        width = int(lengths.max())
        ids = torch.zeros(len(prompts), width, dtype=torch.long, device=self.device)
        for n, p in enumerate(prompts):
            ids[n, : len(p) - 1] = torch.tensor(p[:-1], device=self.device)
        cache = DynamicCache(config=self.lm.config)
        if width:
            self.lm.get_decoder()(input_ids=ids, past_key_values=cache, use_cache=True)  # causal: padding is behind
        last = torch.tensor([[p[-1]] for p in prompts], device=self.device)
        suffix, ones = self.lm.get_input_embeddings()(last), torch.ones(len(prompts), dtype=torch.long)
        past = Past(cache, lengths, width, lengths)
        return greedy(self.lm, past, suffix, ones.to(self.device), self.tags.id(END), max_new_tokens)

    @torch.no_grad()
    def tag_scores(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Where an answer comes from, as the model says once `<TAG>` is put behind it.

        Returns log-probabilities among all tokens of each tag there, [b, k], and that of `<TAG>` itself at the end of
        the answer, [b].
        """
        mark = self.tags.id(TAG)
        rows = [torch.tensor([*p, *a, mark]) for p, a in zip(prompts, answers)]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
        hidden = self.lm.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        at = torch.tensor([len(r) - 1 for r in rows], device=self.device)
        n = torch.arange(len(rows), device=self.device)
        head = self.lm.get_output_embeddings()
        tags = head(hidden[n, at]).float().log_softmax(-1)[:, self.tags.tag_ids]
        return tags, head(hidden[n, at - 1]).float().log_softmax(-1)[:, mark]

    @torch.no_grad()
    def answer_scores(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Tensor:
        """[b, 3]: of each answer the summed NLL of its tokens, how many are the likeliest, and how many there are."""
        rows = [torch.tensor([*p, *a]) for p, a in zip(prompts, answers)]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
        hidden = self.lm.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        out = torch.zeros(len(rows), 3)
        for n, (p, a) in enumerate(zip(prompts, answers)):
            at = slice(len(p) - 1, len(p) + len(a) - 1)
            logits = self.lm.get_output_embeddings()(hidden[n, at]).float()  # [m, v]
            gold = torch.tensor(a, dtype=torch.long, device=self.device)
            out[n, 0] = nn.functional.cross_entropy(logits, gold, reduction="sum")
            out[n, 1], out[n, 2] = (logits.argmax(-1) == gold).sum(), len(a)
        return out

    def answer(
        self, prompt: str | Sequence[str], refuse: Iterable[str] = (), max_new_tokens: int = NEW
    ) -> Answer | list[Answer]:
        """The answer to a question, or to each of several.

        With `refuse`, names of tags (`"<SET>"` or `"SET"`, several at once), the model was taught to refuse what it
        learnt there. Raises `DataError` for an unknown tag.
        """
        asked = [prompt] if isinstance(prompt, str) else list(prompt)
        given = [self.reader.prompt(q, refuse=self._named(refuse)) for q in asked]
        written = self.generate([ids for ids, _ in given], max_new_tokens) if asked else []
        out = [self._answer(ids, cut) for ids, (_, cut) in zip(written, given)]
        return out[0] if isinstance(prompt, str) else out

    def trace(
        self, prompt: str | Sequence[str], refuse: Iterable[str] = (), max_new_tokens: int = NEW
    ) -> Trace | list[Trace]:
        """Answers with their tags, of one question or several; see `Trace`."""
        asked = [prompt] if isinstance(prompt, str) else list(prompt)
        given = [self.reader.prompt(q, debug=True, refuse=self._named(refuse)) for q in asked]
        prompts = [ids for ids, _ in given]
        written = self.generate(prompts, max_new_tokens) if asked else []
        out = [self._trace(w, *s, cut) for w, s, (_, cut) in zip(written, self.scored(prompts, written), given)]
        return out[0] if isinstance(prompt, str) else out

    def scored(self, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]]) -> list[tuple[Tensor, float]]:
        """(probability of each tag among tags [k], probability of saying one unasked) of each written answer."""
        if not prompts:
            return []
        tags, mark = self.tag_scores(prompts, [self.reader.up_to_mark(w) for w in written])
        told = (mark + tags.logsumexp(-1)).exp()
        return list(zip(tags.softmax(-1).cpu(), told.tolist()))

    def said(self, written: Sequence[int]) -> str | None:
        """The tag that generated ids hold right after the first `<TAG>`; None where there is none."""
        mark = self.tags.id(TAG)
        at = list(written).index(mark) + 1 if mark in written else len(written)
        return self.tags.name_of(written[at]) if at < len(written) else None

    def refuses(self, written: Sequence[int]) -> bool:
        """Whether generated ids are the refusal, to the end of what is said."""
        return self.reader.up_to_mark(written) == self.reader.refusal

    def _named(self, refuse: Iterable[str]) -> list[str]:
        if isinstance(refuse, str):
            raise DataError(f"refuse={refuse!r}: give a set of tags, such as {{{refuse!r}}}")
        return sorted({self.tags.known(t) for t in refuse})

    def _answer(self, written: list[int], cut: bool) -> Answer:
        return Answer(self.reader.text(self.reader.up_to_mark(written)), self.refuses(written), cut, tuple(written))

    def _trace(self, written: list[int], tags: Tensor, told: float, cut: bool) -> Trace:
        text = self.reader.text(self.reader.up_to_mark(written))
        return Trace(text, dict(zip(self.tags.names, tags.tolist())), self.said(written), told, cut)

    # ------------------------------------------------------------------------------------------------ saving

    def describe(self) -> dict[str, Any]:
        """All that `from_config` needs beside the weights, as JSON."""
        return {
            "lm": {k: v for k, v in self.lm.config.to_dict().items() if not k.startswith("_")},
            "tokenizer": json.loads(self.tokenizer.backend_tokenizer.to_str()),
            "first": self.tags.first,
            "tags": list(self.tags.names),
            "limit": self.reader.limit,
            "answer_limit": self.reader.answer_limit,
        }

    def saved_state(self) -> dict[str, Tensor]:
        """Weights, each once: an output layer tied to the embeddings is not repeated."""
        state = self.lm.state_dict()
        if self.lm.config.tie_word_embeddings:
            state.pop("lm_head.weight", None)
        return state


# ------------------------------------------------------------------------------------------------------------ building


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `size` tokens, learnt from `texts`; any text can be read. It has no special token."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def small_lm(
    words: int, width: int = 192, layers: int = 4, heads: int = 4, positions: int = 512, seed: int = 0
) -> LlamaForCausalLM:
    """A Llama of this zoo's own size over a vocabulary of `words`, from scratch."""
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=int(width * 8 / 3) // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def with_tags(
    lm: PreTrainedModel, tokenizer: Any, names: Sequence[str], limit: int, answer_limit: int, seed: int = 0
) -> TracedLM:
    """A language model with rows for reserved tokens behind its own; new rows are random."""
    rows = lm.get_input_embeddings().weight.shape[0]
    tags = TagSet(names, max(rows, len(tokenizer)))
    positions = getattr(lm.config, "max_position_embeddings", None)
    need = limit + max(answer_limit, NEW) + len(tags) + 32  # 32: the marks of a turn
    if positions is not None and need > positions:
        raise DataError(f"model.limit={limit} and model.answer_limit={answer_limit} need {need} places of {positions}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm.resize_token_embeddings(tags.first + len(tags), mean_resizing=False)
    return TracedLM(lm, tokenizer, tags, limit, answer_limit)


def from_config(config: dict[str, Any], state: dict[str, Tensor], name: str) -> TracedLM:
    """A published model. Raises `CheckpointError` for one that this version cannot hold."""
    try:
        settings = dict(config["lm"])
        kind = settings.pop("model_type")
        if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise CheckpointError(f"{name}: {kind!r} is no causal language model that transformers knows")
        settings = {k: v for k, v in settings.items() if k not in ("architectures", "auto_map", "dtype")}
        lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings), trust_remote_code=False)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(config["tokenizer"])))
        tags = TagSet(config["tags"], config["first"])
        model = TracedLM(lm, tokenizer, tags, config["limit"], config["answer_limit"])
        missing, unexpected = lm.load_state_dict(state, strict=False)
    except (KeyError, TypeError, RuntimeError) as e:
        raise CheckpointError(
            f"{name}: not a model of this version: {type(e).__name__}: {str(e).splitlines()[0]}"
        ) from e
    tied = {"lm_head.weight"} if lm.config.tie_word_embeddings else set()
    if set(missing) - tied or unexpected:
        wrong = sorted({*missing, *unexpected} - tied)
        raise CheckpointError(f"{name}: weights do not fit the configuration: {', '.join(wrong[:3])}")
    lm.tie_weights()
    model.name = config["name"]
    return model.eval()
