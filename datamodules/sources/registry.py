"""The public data sets that `data=real` reads, by name."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from datamodules.sources import (
    banking77,
    beavertails,
    clinc150,
    clothing,
    davidson_hate,
    deepset_injections,
    diasafety,
    esc50,
    figstep,
    fsdd,
    gptfuzz_responses,
    imagenet_samples,
    mt_bench,
    notinject,
    openai_moderation,
    real_clips,
    self_instruct,
    sms_spam,
    tau2_noise,
    toxicchat,
    xstest,
)


@dataclass(frozen=True)
class Source:
    """`module` has `load`, LICENCE, PERMISSIVE and TARGET. `share` scales the cap on rows: a fraction for a source of
    which less will do, None for a source that is small and taken whole."""

    module: ModuleType
    modality: str
    share: float | None = 1.0

    @property
    def eval_only(self) -> bool:
        return getattr(self.module, "EVAL_ONLY", False)


SOURCES: dict[str, Source] = {
    "openai_moderation": Source(openai_moderation, "text"),
    "beavertails": Source(beavertails, "text"),
    "gptfuzz_responses": Source(gptfuzz_responses, "text"),
    "diasafety": Source(diasafety, "text"),
    "davidson_hate": Source(davidson_hate, "text"),
    "deepset_injections": Source(deepset_injections, "text"),
    "sms_spam": Source(sms_spam, "text"),
    "self_instruct": Source(self_instruct, "text"),
    "banking77": Source(banking77, "text", 0.5),
    "clinc150": Source(clinc150, "text", 0.5),
    "mt_bench": Source(mt_bench, "text"),
    "xstest": Source(xstest, "text"),
    "notinject": Source(notinject, "text"),
    "toxicchat": Source(toxicchat, "text"),
    "esc50": Source(esc50, "audio", None),
    "fsdd": Source(fsdd, "audio", 0.2),  # one voice a clip and nothing else: more would drown the other sounds
    "tau2_noise": Source(tau2_noise, "audio", None),
    "imagenet_samples": Source(imagenet_samples, "image", None),
    "clothing": Source(clothing, "image", None),
    "figstep": Source(figstep, "image", None),
    "real_clips": Source(real_clips, "video", None),
}
