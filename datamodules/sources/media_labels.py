"""From the classes of a photo or a recording to labels over policy entries."""

from __future__ import annotations

from datamodules.taxonomy import DEFAULT_POLICY


def labels(
    tags: set[str] | frozenset[str],
    entries: dict[str, set[str]],
    unsure: dict[str, set[str]],
) -> dict[str, str]:
    """Yes where an entry lists one of `tags`, absent (unknown) where `unsure` lists one, no otherwise.

    A sample is in a closed set of classes, so what its class excludes is a no; `unsure` names the classes of which a
    file may well hold the entry too (a fireworks clip may have a crowd).
    """
    out = {}
    for id, classes in entries.items():
        if tags & classes:
            out[id] = "yes"
        elif not tags & unsure.get(id, set()):
            out[id] = "no"
    return out


def _names(words: str) -> set[str]:
    return set(words.split())


SOUND: dict[str, set[str]] = {
    "snd.animal": _names("dog cat cow crow chirping_birds hen rooster pig sheep frog crickets insects"),
    "snd.dog": {"dog"},
    "snd.bird": {"crow", "chirping_birds", "hen", "rooster"},
    "snd.crying_baby": {"crying_baby"},
    "snd.body": _names(
        "breathing coughing laughing sneezing snoring clapping footsteps drinking_sipping brushing_teeth"
    ),
    "snd.sneeze": {"sneezing"},
    "snd.speech": {"speech"},
    "snd.siren": {"siren"},
    "snd.alarm": {"siren", "clock_alarm", "car_horn"},
    "snd.vehicle": {"airplane", "helicopter", "train", "engine", "car_horn"},
    "snd.helicopter": {"helicopter"},
    "snd.power_tool": {"chainsaw"},
    "snd.glass": {"glass_breaking"},
    "snd.bang": {"fireworks", "gunshot"},
    "snd.fire": {"crackling_fire"},
    "snd.water": {"rain", "sea_waves", "pouring_water", "toilet_flush", "water_drops"},
    "snd.rain": {"rain"},
    "snd.clock": {"clock_tick"},
    "snd.machine": {"vacuum_cleaner", "washing_machine", "keyboard_typing", "mouse_click"},
    "snd.music": {"music"},
    "snd.applause": {"clapping", "applause"},
}

_OUTDOOR = {"rain", "thunderstorm", "wind", "sea_waves", "fireworks", "siren", "church_bells", "airplane", "train"}
SOUND_UNSURE: dict[str, set[str]] = {
    "snd.animal": _OUTDOOR | {"footsteps", "applause"},
    "snd.bird": _OUTDOOR | {"footsteps", "insects", "frog"},
    "snd.dog": {"fireworks", "siren", "footsteps"},
    "snd.body": {"crying_baby", "fireworks", "applause", "speech", "crowd", "door_wood_knock", "pouring_water"},
    "snd.speech": _names("laughing fireworks applause crowd footsteps train siren clapping crying_baby"),
    "snd.alarm": {"phone", "church_bells", "train"},
    "snd.vehicle": {"siren", "chainsaw", "vacuum_cleaner", "washing_machine", "wind", "rain", "fireworks"},
    "snd.helicopter": {"engine", "airplane"},
    "snd.power_tool": {"hand_saw", "engine", "vacuum_cleaner", "can_opening"},
    "snd.bang": {"thunderstorm", "door_wood_knock"},
    "snd.water": {"washing_machine", "drinking_sipping", "thunderstorm", "wind", "brushing_teeth", "frog"},
    "snd.rain": {"thunderstorm", "wind", "water_drops", "toilet_flush"},
    "snd.clock": {"clock_alarm", "mouse_click", "church_bells"},
    "snd.machine": {"engine", "chainsaw"},
    "snd.music": {"church_bells", "applause", "phone"},
    "snd.applause": {"fireworks", "crowd", "laughing"},
}

DOGS = _names(
    "Japanese_spaniel Rhodesian_ridgeback borzoi otterhound Lakeland_terrier cairn cocker_spaniel schipperke "
    "miniature_pinscher dalmatian Mexican_hairless"
)
BIRDS = {"hen", "house_finch", "jacamar", "spoonbill"}
REPTILES = {"Indian_cobra", "African_chameleon", "sea_snake"}
ANIMALS = (
    DOGS
    | BIRDS
    | REPTILES
    | _names(
        "scorpion goldfish tree_frog platypus Dungeness_crab jaguar mantis sea_urchin guinea_pig wild_boar polecat "
        "otter gorilla gibbon"
    )
)
TOPS = {"t-shirt", "shirt", "longsleeve"}
GARMENTS = TOPS | {"dress", "skirt", "pants", "shorts", "outwear"}

PICTURE: dict[str, set[str]] = {
    "img.animal": ANIMALS,
    "img.dog": DOGS,
    "img.bird": BIRDS,
    "img.reptile": REPTILES,
    "img.vehicle": {"minivan", "police_van", "tank", "warplane", "space_shuttle"},
    "img.weapon": _names("assault_rifle cannon revolver rifle scabbard missile projectile holster"),
    "img.firearm": {"assault_rifle", "revolver", "rifle", "holster"},
    "img.tool": {"chain_saw", "hammer", "hatchet", "power_drill"},
    "img.food": {"spaghetti_squash", "bell_pepper", "American_lobster"},
    "img.bottle": {"beer_bottle", "wine_bottle", "water_bottle", "pill_bottle"},
    "img.clothing": GARMENTS | {"shoes", "hat", "mitten", "wool", "bulletproof_vest", "ski_mask", "bow_tie"},
    "img.shoes": {"shoes"},
    "img.hat": {"hat", "shower_cap", "ski_mask"},
    "img.trousers": {"pants", "shorts"},
    "img.skirt": {"dress", "skirt"},
    "img.top": TOPS | {"wool"},
}

# Photos of these classes have people in them, or may have: they wear clothes, and hats for all that the label says.
_PEOPLE = _names(
    "cleaver hammer bow_tie shower_cap stretcher torch syringe chain_saw prison guillotine library plow "
    "shopping_basket gasmask joystick space_shuttle minivan police_van tank missile warplane cannon rifle "
    "washbasin bulletproof_vest bolo_tie hen cairn otter"
)
PICTURE_UNSURE: dict[str, set[str]] = {
    "img.animal": {"American_lobster", "cleaver", "wool", "torch"},
    "img.dog": {"wild_boar", "torch"},
    "img.bird": {"miniature_pinscher"},  # a small yellow toy lies beside the dog
    "img.vehicle": _names("missile projectile cairn plow stretcher disk_brake cannon otter guillotine"),
    "img.weapon": _names("tank warplane cleaver hatchet letter_opener guillotine bulletproof_vest space_shuttle"),
    "img.firearm": {"tank", "bulletproof_vest", "cannon", "stretcher", "prison"},
    "img.tool": {"cleaver", "letter_opener", "scabbard", "stretcher", "plow", "disk_brake", "syringe", "power_drill"},
    "img.food": _names(
        "cleaver buckeye earthstar shopping_basket Dungeness_crab beer_bottle wine_bottle torch hen teapot pill_bottle "
        "goldfish sea_urchin"
    ),
    "img.bottle": _names("shopping_basket beaker water_jug lipstick home_theater library washbasin stretcher"),
    "img.clothing": _PEOPLE | {"holster", "schipperke", "miniature_pinscher", "studio_couch"},
    "img.shoes": _PEOPLE,
    "img.hat": _PEOPLE,
    "img.trousers": _PEOPLE,
    "img.skirt": _PEOPLE,
    "img.top": _PEOPLE | {"outwear", "dress", "ski_mask"},
}


def combine(parts: list[dict[str, str]]) -> dict[str, str]:
    """The labels of several files in one message: yes if one is, no if all are, unknown otherwise."""
    out = {}
    for id in dict.fromkeys(id for part in parts for id in part):
        values = [part.get(id, "unknown") for part in parts]
        if "yes" in values:
            out[id] = "yes"
        elif all(v == "no" for v in values):
            out[id] = "no"
    return out


def cross_modal(kind: str, labelled: dict[str, str]) -> dict[str, str]:
    """`labelled` and the noes that need no look: a recording shows nothing, a photo sounds of nothing.

    Such media are ordinary ones (no file here is harmful), so they break no entry of the default policy either.
    """
    other = PICTURE if kind == "audio" else SOUND if kind == "image" else {}
    return {**dict.fromkeys(DEFAULT_POLICY.ids, "no"), **labelled, **dict.fromkeys(other, "no")}
