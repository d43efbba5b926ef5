"""Do-Not-Answer: 924 questions that a model should not answer, each with six models' answers labelled by people.

Upstream: Libr-AI/do-not-answer (data CC-BY-NC-SA-4.0), here through kunishou/do-not-answer-ja, 15 rows cut. Citation:
Wang, Li, Han, Nakov and Baldwin (2024), "Do-Not-Answer: Evaluating Safeguards in LLMs".

The label is about the RESPONSE: `<model>_harmful` is 1 for 185 of the 5,544 answers. The question's harm decides which
category a harmful answer has; a harmless answer is a no for that category and tells nothing of the others. The question
is the group. `specific_harms` begins with the harm's name, then ":" and its definition, and decides where it is finer
than `types_of_harm`. Risky pranks, hazardous activities, illegal trade and questions for the chatbot's own data fit no
single category: their answers have a verdict and no category.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import DataError, Sample
from datamodules.sources.files import read_csv, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC-BY-NC-SA-4.0"
PERMISSIVE = False
TARGET = "response"
MODELS = ("GPT4", "ChatGPT", "Claude", "ChatGLM2", "llama2-7b-chat", "vicuna-7b")
# types_of_harm → category, and within it the harms that go elsewhere (None: to no single category)
TYPES: dict[str, tuple[str | None, dict[str, str | None]]] = {
    "Adult Content": ("S9", {"Graphic Violence": "S1"}),
    "Assisting illegal activities": (
        "S3",
        {
            "Animal Abuse/Cruelty/Poaching": "S4", "Copyright Infringement": "S12", "Illegal Digital Activities": "S14",
            "Illegal Drugs and Substances": "S1", "Illegal Trade": None, "Terrorist Activities": "S10",
            "Illegitimate surveillance and censorship": "S11", "Substance Abuse": "S1",
            "Threats and Intimidation": "S2", "Violence and Physical Harm": "S1",
        },
    ),
    "Causing material harm by disseminating misinformation e.g. in medicine or law": ("S3", {}),
    "Compromise privacy by leaking or inferring private information (person/individual)": ("S11", {}),
    "Disseminating false or misleading information": ("S7", {"Hazardous Activities": None}),
    "Mental Health or Overreliance Crisis": ("S13", {"Self-Harm": "S8"}),
    "Nudging or advising users to perform unethical or unsafe actions": (
        None,
        {
            "Defamatory Content": "S2", "Endorsement of Cyberbullying or Online Harassment": "S2",
            "Endorsement of Unsafe Health Practices": "S3", "Trolling or Flame baiting": "S2",
        },
    ),
    "Reducing the cost of disinformation campaigns": ("S7", {"Spam Content": "S3"}),
    "Risks from leaking or inferring sensitive information (organization/gov)": (
        "S11",
        {"Cybersecurity Vulnerabilities": "S14"},
    ),
    "Social stereotypes and unfair discrimination": ("S2", {}),
    "Toxic language (hate speech)": ("S2", {}),
    "Treat Chatbot as a Human": (None, {"places personal emotional reliance on a chatbot": "S13"}),
}  # fmt: skip
REPO = Repo("kunishou/do-not-answer-ja", "1380ff2ff5abad07e8aead79caa9757bb8d9f866")
FILES = (
    SourceFile(
        "text/do_not_answer/data_en.csv", REPO, "datasets/data_en.csv",
        "410449674780aa7304512043706f7981f666a79528d11546da34ebdd9595681c", rows=924, cut=15,
        sha256="822cf5300bd1b46c91b0a00862afb34735481122eed656e5e48e8b6ec8992f8b",
    ),
)  # fmt: skip


def category_of(row: dict[str, str]) -> str | None:
    """The category that a harmful answer to the row's question has. Raises `DataError` for an unknown type of harm."""
    if row["types_of_harm"] not in TYPES:
        raise DataError(f"do_not_answer: row {row['id']}: unknown type of harm {row['types_of_harm']!r}")
    category, finer = TYPES[row["types_of_harm"]]
    return finer.get(row["specific_harms"].split(":")[0].strip(), category)


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    samples = []
    for row in read_csv(verified(data_dir, FILES)):
        category = category_of(row)
        for model in MODELS:
            unsafe = row[f"{model}_harmful"] == "1"
            samples.append(
                text_sample(
                    "do_not_answer", f"{row['id']}-{model}", row["question"], row[f"{model}_response"], unsafe=unsafe,
                    categories={category: "yes" if unsafe else "no"} if category else {}, group=row["id"],
                    kind=row["types_of_harm"],
                )
            )  # fmt: skip
    return samples
