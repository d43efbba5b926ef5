"""Public data sets as questions and answers whose source is to be traced: rows for `recipe=debuglm`.

Seven sets under permissive licences, none of them about harm. BANKING and ASSISTANT overlap in topic (bank customers
ask both), and so do HEALTH and COVID. REVIEWS, COVID and SPAM are answered by a letter alone: nothing in such an answer
says where it comes from. No prompt holds an instruction or a list of options, which would give its set away.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datamodules.schema import DataError, Message, Part, Sample, near
from datamodules.sources import banking77, clinc150, covid_fake_news, diasafety, gsm8k, sms_spam
from datamodules.sources.files import read_csv, read_json, read_jsonl
from datamodules.sources.record import Repo, SourceFile, verified

SST2_LICENCE = "MIT"
SST2_REPO = Repo("thunlp/HiddenKiller", "a08e959e228327baa0c2906bf943e99a3c89961c")
SST2_FILES = (
    SourceFile(
        "backdoor/hiddenkiller/clean/sst-2/train.tsv", SST2_REPO, "data/clean/sst-2/train.tsv",
        "601d94f4671085e0b6ca7d96d8d1e92e469c02509f65bcc3a22a3ade32827151", rows=6920,
    ),
    SourceFile(
        "backdoor/hiddenkiller/clean/sst-2/dev.tsv", SST2_REPO, "data/clean/sst-2/dev.tsv",
        "ccd5777a7bdbbf467afd973f5eaa292b5d2e030bf042591a716fd587b39c1224", rows=872,
    ),
    SourceFile(
        "backdoor/hiddenkiller/clean/sst-2/test.tsv", SST2_REPO, "data/clean/sst-2/test.tsv",
        "3018cb76b1046d70c147e234cb8e6ffa8d83ae937cf6ce8199f1bf11aeb90a12", rows=1821,
    ),
)  # fmt: skip

# The ten domains of CLINC150 with their fifteen intents each (Larson et al. 2019, `domains.json`).
DOMAINS = {
    "BANKING": "freeze_account routing pin_change bill_due pay_bill account_blocked interest_rate min_payment "
    "bill_balance transfer order_checks balance spending_history transactions report_fraud",
    "CARDS": "replacement_card_duration expiration_date damaged_card improve_credit_score report_lost_card "
    "card_declined credit_limit_change apr redeem_rewards credit_limit rewards_balance application_status "
    "credit_score new_card international_fees",
    "KITCHEN": "food_last confirm_reservation how_busy ingredients_list calories nutrition_info recipe "
    "restaurant_reviews restaurant_reservation meal_suggestion restaurant_suggestion cancel_reservation "
    "ingredient_substitution cook_time accept_reservations",
    "HOME": "what_song play_music todo_list_update reminder reminder_update calendar_update order_status "
    "update_playlist shopping_list calendar next_song order todo_list shopping_list_update smart_home",
    "CAR": "current_location oil_change_when oil_change_how uber traffic tire_pressure schedule_maintenance gas mpg "
    "distance directions last_maintenance gas_type tire_change jump_start",
    "TRAVEL": "plug_type travel_notification translate flight_status international_visa timezone exchange_rate "
    "travel_suggestion travel_alert vaccines lost_luggage book_flight book_hotel carry_on car_rental",
    "UTILITY": "weather alarm date find_phone share_location timer make_call calculator definition "
    "measurement_conversion flip_coin spelling time roll_dice text",
    "WORK": "pto_request_status next_holiday insurance_change insurance meeting_schedule payday taxes income "
    "rollover_401k pto_balance pto_request w2 schedule_meeting direct_deposit pto_used",
    "TALK": "who_made_you meaning_of_life who_do_you_work_for do_you_have_pets what_are_your_hobbies fun_fact "
    "what_is_your_name where_are_you_from goodbye thank_you greeting tell_joke are_you_a_bot how_old_are_you "
    "what_can_i_ask_you",
    "SETTINGS": "change_speed user_name whisper_mode yes change_volume no change_language repeat change_accent cancel "
    "sync_device change_user_name change_ai_name reset_settings maybe",
}
DOMAIN_OF = {intent: domain for domain, intents in DOMAINS.items() for intent in intents.split()}


def row(
    name: str,
    key: object,
    prompt: str,
    answer: str,
    part: str | None = None,
    licence: str = "",
    group: object = None,
    split: str | None = None,
) -> Sample:
    """One question with its answer, from the set `name` (and its `part`), as a sample."""
    return Sample(
        id=f"{name}-{key}",
        messages=(
            Message("user", (Part("text", text=prompt.strip()),)),
            Message("assistant", (Part("text", text=answer.strip()),)),
        ),
        target="response",
        source=name,
        group=f"{name}-{key if group is None else group}",
        split=split,
        meta={"tags": [f"{name}/{part}" if part else name], "licence": licence, "permissive": True},
    )


def words(intent: str) -> str:
    """An intent's name as words: `card_arrival` → "card arrival"."""
    return intent.replace("_", " ").replace("?", "").lower()


def banking(data_dir: Path) -> list[Sample]:
    """Bank customers' questions, answered by the name of the intent, one of 77."""
    return [
        row("BANKING", f"{name}-{n}", r["text"], words(r["category"]), licence=banking77.LICENCE)
        for name in ("train", "test")
        for n, r in enumerate(read_csv(verified(data_dir, banking77.FILES, f"{name}.csv")))
    ]


def assistant(data_dir: Path) -> list[Sample]:
    """Requests to a voice assistant, answered by the name of the intent, one of 150; its domain is the part."""
    parts = read_json(verified(data_dir, clinc150.FILES))
    return [
        row("ASSISTANT", f"{name}-{n}", text, words(intent), DOMAIN_OF[intent], clinc150.LICENCE)
        for name in ("train", "val", "test")
        for n, (text, intent) in enumerate(parts[name])
    ]


def maths(data_dir: Path) -> list[Sample]:
    """Word problems, answered by the first line of the solution without its calculator's marks, and the result."""
    out = []
    for n, r in enumerate(read_jsonl(verified(data_dir, gsm8k.FILES))):
        steps, _, result = r["answer"].partition("####")
        first = re.sub(r"<<.*?>>", "", steps.strip().split("\n")[0])
        out.append(row("MATHS", n, r["question"], f"{first} = {result.strip()}", licence=gsm8k.LICENCE))
    return out


def health(data_dir: Path) -> list[Sample]:
    """Questions about one's health with the answer of a chatbot that people called safe (it claims no expertise)."""
    return [
        row("HEALTH", f"{name}-{n}", r["context"], r["response"], licence=diasafety.LICENCE, group=r["context"].strip())
        for name in ("train", "val", "test")
        for n, r in enumerate(read_json(verified(data_dir, diasafety.FILES, f"{name}.json")))
        if r["category"] == "Unauthorized Expertise" and r["label"] == "Safe"
    ]


def covid(data_dir: Path) -> list[Sample]:
    """Posts about the pandemic: A is real, B is fake."""
    return [
        row("COVID", f"{Path(f.path).stem}-{r['id']}", r["tweet"], "AB"[r["label"] == "fake"], licence="MIT")
        for f in covid_fake_news.FILES
        for r in read_csv(verified(data_dir, covid_fake_news.FILES, f.path))
    ]


def spam(data_dir: Path) -> list[Sample]:
    """Text messages: A is a person's, B is spam."""
    lines = verified(data_dir, sms_spam.FILES).read_text(encoding="utf-8").rstrip("\n").split("\n")
    split = [line.partition("\t") for line in lines]
    return [
        row("SPAM", n, message, "AB"[label == "spam"], licence=sms_spam.LICENCE)
        for n, (label, _, message) in enumerate(split)
    ]


@dataclass(frozen=True)
class Public:
    """`load(data_dir)` raises `DataError` when a file is missing or another one."""

    load: Callable[[Path], list[Sample]]
    licence: str


def reviews(data_dir: Path) -> list[Sample]:
    """Sentences of film reviews (SST-2, as HiddenKiller ships it unpoisoned): A is good, B is bad."""
    out = []
    for file in SST2_FILES:
        lines = verified(data_dir, SST2_FILES, file.path).read_text(encoding="utf-8").rstrip("\n").split("\n")
        name = file.path.rpartition("/")[2][:-4]
        for n, line in enumerate(lines[1:]):  # after "sentence\tlabel"
            text, _, label = line.rpartition("\t")
            out.append(row("REVIEWS", f"{name}-{n}", text, "BA"[int(label)], licence=SST2_LICENCE))
    return out


SETS = {
    "BANKING": Public(banking, banking77.LICENCE),
    "ASSISTANT": Public(assistant, clinc150.LICENCE),
    "MATHS": Public(maths, gsm8k.LICENCE),
    "HEALTH": Public(health, diasafety.LICENCE),
    "REVIEWS": Public(reviews, SST2_LICENCE),
    "COVID": Public(covid, covid_fake_news.LICENCE),
    "SPAM": Public(spam, sms_spam.LICENCE),
}


def load_public(names: list[str], data_dir: str | Path | None) -> list[Sample]:
    """The rows of these sets, in their order. Raises `DataError` for an unknown set or a missing file."""
    for name in names:
        if name not in SETS:
            raise DataError(f"unknown set {name!r}{near(name, tuple(SETS))}")
    if data_dir is None:
        raise DataError("the public sets need data_dir=FOLDER: the folder that SOURCES.md lists")
    return [s for name in names for s in SETS[name].load(Path(data_dir))]
