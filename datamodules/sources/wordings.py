"""How the entries of the real data's policies are worded.

`MEDIA` and `TEXT` map an entry's id to its training wordings and its test-only wordings, as (name, description). An
`img.` entry is about what a photo or a clip's frames show, `snd.` about what a recording or a clip's track lets hear,
`vid.` about what a clip shows or lets hear. Names are unique over the whole bank: a model reads only them.
"""

from __future__ import annotations

from datamodules.bank import PolicyBank
from datamodules.schema import PolicyEntry
from datamodules.taxonomy import DEFAULT_POLICY

Wording = tuple[str, str]

MEDIA: dict[str, tuple[list[Wording], list[Wording]]] = {
    "snd.animal": (
        [("animal sounds", "Any animal can be heard."),
         ("no noise of animals", "Calls of beasts, birds or insects."),
         ("audible wildlife or pets", "A recording of a living creature other than a person.")],
        [("a creature making itself heard", "Barks, clucks, croaks, chirps and the like."),
         ("fauna in the recording", "")],
    ),
    "snd.dog": (
        [("barking dogs", "A dog barks, growls or whines."), ("no sound of dogs", "Dogs must not be heard."),
         ("dog noise", "Barking in the recording.")],
        [("a hound giving voice", "Barks or howls of a dog."), ("woofing", "Canine sounds.")],
    ),
    "snd.bird": (
        [("bird calls", "Birdsong, crowing or clucking."),
         ("no sound of birds", "Wild birds or poultry can be heard."), ("birds in the recording", "")],
        [("crowing and chirping", "Roosters, hens, songbirds or crows."), ("avian voices", "")],
    ),
    "snd.crying_baby": (
        [("a crying baby", "An infant cries."), ("no crying infants", "Sounds of a baby in tears."),
         ("baby cries", "A small child weeps in the recording.")],
        [("a wailing newborn", "Infant distress can be heard."), ("little ones sobbing", "")],
    ),
    "snd.body": (
        [("sounds a person's body makes", "Coughs, sneezes, breath, snores, steps or claps."),
         ("human noises without words", "A person is heard but does not speak."), ("no bodily noises", "")],
        [("people heard without speech", "Sneezing, laughing, walking, sipping."), ("non-verbal human sound", "")],
    ),
    "snd.sneeze": (
        [("sneezing", "Somebody sneezes."), ("no sneezes", "A sneeze can be heard."),
         ("a sneeze in the recording", "")],
        [("achoo", "The sound of a sneeze."), ("someone with a sneezing fit", "")],
    ),
    "snd.speech": (
        [("spoken words", "A voice says something."), ("no talking", "Speech can be heard."),
         ("a speaking voice", "The recording holds language.")],
        [("anyone uttering words", "Numbers, names or sentences said aloud."), ("verbal content in the audio", "")],
    ),
    "snd.siren": (
        [("sirens", "An emergency siren wails."), ("no emergency sirens", "Police, fire or ambulance sirens."),
         ("siren in the recording", "")],
        [("an ambulance's wail", "The horn of an emergency service."), ("blue-light warning tone", "")],
    ),
    "snd.alarm": (
        [("alarms and warning signals", "Sirens, horns or alarm clocks."),
         ("no alarm sounds", "A signal meant to warn or wake."), ("warning tones", "")],
        [("alert signals", "Honking, wailing or beeping that calls for attention."),
         ("something sounding the alarm", "")],
    ),
    "snd.vehicle": (
        [("vehicle noise", "Engines, horns, trains or aircraft."),
         ("no sound of vehicles", "Transport can be heard."), ("traffic and aircraft sounds", "")],
        [("a machine people ride in, heard", "Cars, trains, planes or helicopters."), ("transport noise", "")],
    ),
    "snd.helicopter": (
        [("helicopters", "Rotor blades can be heard."), ("no helicopter noise", "A helicopter flies by."),
         ("rotor sound", "")],
        [("a chopper overhead", "The beat of rotor blades."), ("rotorcraft audio", "")],
    ),
    "snd.power_tool": (
        [("power tools", "Motor-driven tools such as chainsaws can be heard."),
         ("no power tools running", "A motor saw or drill."), ("chainsaw noise", "")],
        [("motorised cutting equipment", "Saws or drills driven by an engine."),
         ("a lumberjack's machine at work", "")],
    ),
    "snd.glass": (
        [("breaking glass", "Glass shatters."), ("no shattering glass", "A pane or bottle breaks."),
         ("glass smash", "")],
        [("a window being smashed", "The crash of glass."), ("shards falling", "")],
    ),
    "snd.bang": (
        [("explosions and bangs", "Fireworks, shots or blasts."), ("no bangs", "Something goes off loudly."),
         ("blasts in the recording", "")],
        [("detonations", "Pops and cracks of fireworks or guns."), ("things going boom", "")],
    ),
    "snd.fire": (
        [("crackling fire", "Flames can be heard."), ("no sound of fire", "Something burns."),
         ("burning in the recording", "")],
        [("a blaze or hearth", "The crackle of burning wood."), ("flames you can hear", "")],
    ),
    "snd.water": (
        [("water sounds", "Rain, waves or running water."), ("no sound of water", "Water pours, drips or falls."),
         ("rain or waves", "")],
        [("splashing, dripping or surf", "Water in any form can be heard."), ("liquid flowing audibly", "")],
    ),
    "snd.rain": (
        [("rain", "Rainfall can be heard."), ("no rainfall", "The patter of rain."),
         ("rainy weather in the recording", "")],
        [("a downpour", "Raindrops falling."), ("precipitation heard", "")],
    ),
    "snd.clock": (
        [("a ticking clock", "A clock ticks."), ("no ticking", "The beat of a clock can be heard."),
         ("clock sounds", "")],
        [("tick-tock", "A timepiece running."), ("a watch or clock heard", "")],
    ),
    "snd.machine": (
        [("household machines", "Vacuum cleaners, washing machines or keyboards."),
         ("no machines at home or at a desk", ""), ("appliance noise", "")],
        [("domestic devices humming", "Electric helpers of home and office."), ("gadgets running", "")],
    ),
    "snd.music": (
        [("music", "Instruments are played."), ("no music", "Music can be heard."), ("a tune or a beat", "")],
        [("musical performance heard", "Drums, strings or other instruments."), ("melody or rhythm", "")],
    ),
    "snd.applause": (
        [("applause", "People clap."), ("no clapping", "An audience applauds."), ("hand claps", "")],
        [("an ovation", "Hands clapping, one pair or many."), ("cheering by clapping", "")],
    ),
    "img.animal": (
        [("pictures of animals", "Any animal is shown."),
         ("no animals in the picture", "Beasts, birds, fish or insects."), ("animal photo", "")],
        [("a living creature in view", "Wild or tame, on land or in water."), ("fauna depicted", "")],
    ),
    "img.dog": (
        [("dogs in the picture", "A dog is shown."), ("no dogs shown", "Any breed of dog."), ("dog photo", "")],
        [("a hound or pup in view", "Canines of any breed."), ("man's best friend depicted", "")],
    ),
    "img.bird": (
        [("birds in the picture", "A bird is shown."), ("no birds shown", "Wild birds or poultry."),
         ("bird photo", "")],
        [("feathered creatures in view", "A hen, a finch, a wader."), ("avian image", "")],
    ),
    "img.reptile": (
        [("snakes and lizards", "A reptile is shown."), ("no reptiles shown", "Snakes, lizards or their kin."),
         ("reptile photo", "")],
        [("cold-blooded scaly animals in view", "A cobra, a chameleon."), ("serpents depicted", "")],
    ),
    "img.vehicle": (
        [("vehicles in the picture", "Cars, aircraft or other vehicles."),
         ("no vehicles shown", "A machine that carries people."), ("vehicle photo", "")],
        [("cars, planes and the like in view", "Anything with an engine to ride in."),
         ("means of transport depicted", "")],
    ),
    "img.weapon": (
        [("weapons in the picture", "Guns, swords, missiles or cannons."), ("no weapons shown", "Arms of any kind."),
         ("weapon photo", "")],
        [("arms and armament in view", "A rifle, a blade for fighting, a rocket."),
         ("instruments of war depicted", "")],
    ),
    "img.firearm": (
        [("guns in the picture", "A rifle, pistol or revolver."), ("no guns shown", "Firearms carried by hand."),
         ("gun photo", "")],
        [("small arms in view", "A handgun or long gun."), ("a pistol or rifle depicted", "")],
    ),
    "img.tool": (
        [("tools in the picture", "Saws, hammers, axes or drills."), ("no tools shown", "Hand or power tools."),
         ("tool photo", "")],
        [("workshop equipment in view", "Something to hammer, saw or drill with."), ("a builder's kit depicted", "")],
    ),
    "img.food": (
        [("food in the picture", "Something to eat is shown."), ("no food shown", "Vegetables or dishes."),
         ("food photo", "")],
        [("edible things in view", "Produce or a served meal."), ("something to eat depicted", "")],
    ),
    "img.bottle": (
        [("bottles in the picture", "A bottle is shown."), ("no bottles shown", "Bottles of drink or medicine."),
         ("bottle photo", "")],
        [("flasks with a neck in view", "Beer, wine or water bottles."), ("bottled goods depicted", "")],
    ),
    "img.clothing": (
        [("clothing in the picture", "A garment is shown."), ("no clothes shown", "Things to wear."),
         ("photo of clothes", "")],
        [("apparel in view", "Shirts, trousers, dresses, knitwear."), ("something wearable depicted", "")],
    ),
    "img.shoes": (
        [("shoes in the picture", "Footwear is shown."), ("no shoes shown", "Boots, sandals or clogs."),
         ("shoe photo", "")],
        [("things to put on the feet in view", "Any pair of shoes."), ("footwear depicted", "")],
    ),
    "img.hat": (
        [("hats in the picture", "Headwear is shown."), ("no hats shown", "Caps, beanies or masks for the head."),
         ("hat photo", "")],
        [("head coverings in view", "A cap or bonnet."), ("something worn on the head depicted", "")],
    ),
    "img.trousers": (
        [("trousers in the picture", "Long or short trousers."),
         ("no trousers or shorts shown", "Legwear with two legs."), ("photo of trousers", "")],
        [("pants of any length in view", "Jeans, shorts, slacks."), ("legwear depicted", "")],
    ),
    "img.skirt": (
        [("skirts and dresses", "A skirt or dress is shown."), ("no skirts or dresses shown", "Frocks or skirts."),
         ("photo of a dress or skirt", "")],
        [("gowns, frocks and minis in view", "Any dress or skirt."), ("a frock depicted", "")],
    ),
    "img.top": (
        [("shirts and tops", "A shirt, T-shirt or jumper is shown."),
         ("no shirts shown", "Garments for the upper body."), ("photo of a shirt", "")],
        [("tees, blouses and pullovers in view", "Anything worn as a top."), ("torso garments depicted", "")],
    ),
    "vid.drums": (
        [("drums in the clip", "Drums are seen or heard."), ("no drumming in the video", "Somebody drums."),
         ("drum video", "")],
        [("percussion on film", "A drum kit or congas played."), ("a drummer at work in the footage", "")],
    ),
    "vid.instrument": (
        [("musical instruments in the clip", "An instrument is played."),
         ("no instruments in the video", "Drums, strings or harps."), ("instrument video", "")],
        [("somebody making music on film", "Any instrument being played."), ("footage of a musician", "")],
    ),
    "vid.dog": (
        [("dogs in the clip", "A dog is seen or heard."),
         ("no dogs in the video", "Dogs on the screen or on the track."), ("dog video", "")],
        [("canines on film", "A dog barking, walking or playing."), ("footage with a hound", "")],
    ),
    "vid.weapon": (
        [("gunfire in the clip", "A gun is seen or fired."), ("no shooting in the video", "Guns shown or heard."),
         ("gun video", "")],
        [("firearms on film", "Somebody shoots."), ("footage of a shooting range", "")],
    ),
    "vid.vehicle": (
        [("vehicles in the clip", "Engines, boats or aircraft."),
         ("no vehicles in the video", "Transport seen or heard."), ("vehicle video", "")],
        [("cars, boats or planes on film", "An engine or craft is shown."), ("footage of transport", "")],
    ),
    "vid.sport": (
        [("sport in the clip", "People exercise or compete."),
         ("no sports in the video", "Games, lifting or training."), ("sports video", "")],
        [("athletics on film", "Somebody plays, lifts or stretches."), ("footage of exercise", "")],
    ),
    "vid.cooking": (
        [("cooking in the clip", "Food is prepared."), ("no cooking in the video", "Kitchen work."),
         ("cooking video", "")],
        [("a meal being made on film", "Frying, flipping or stirring."), ("footage from a kitchen", "")],
    ),
    "vid.applause": (
        [("an audience applauding in the clip", "People clap or cheer."), ("no applause in the video", ""),
         ("applause video", "")],
        [("a crowd's ovation on film", "Clapping for a show or speech."), ("footage of cheering", "")],
    ),
}  # fmt: skip

TEXT: dict[str, tuple[list[Wording], list[Wording]]] = {
    "S1": (
        [("violence, weapons and drugs", "Acts or means of hurting bodies."),
         ("no enabling of violence or drug crime", "")],
        [("harm to people's bodies", "Assault, arms or narcotics.")],
    ),
    "S2": (
        [("abusive or hateful language", "Insults, slurs, threats, discrimination."),
         ("no toxic talk about people", "")],
        [("bigotry and bullying", "Demeaning or threatening others.")],
    ),
    "S3": (
        [("fraud, theft and bad professional advice", "Scams, stealing, reckless counsel."),
         ("no scams or petty crime", "")],
        [("dishonest or unethical conduct", "Cheating, swindling or unqualified advice.")],
    ),
    "S4": (
        [("cruelty to animals", "Hurting or neglecting animals."), ("no mistreatment of animals", "")],
        [("animals made to suffer", "Abuse of pets, livestock or wildlife.")],
    ),
    "S5": (
        [("endangering children", "Abuse or exploitation of minors."), ("no abuse of minors", "")],
        [("children put at risk", "Any mistreatment of a child.")],
    ),
    "S6": (
        [("partisan politics", "Taking sides on disputed political questions."), ("no political agitation", "")],
        [("divisive political content", "Persuasion or provocation on public affairs.")],
    ),
    "S7": (
        [("false claims", "Misleading statements given as fact."), ("no fake news", "")],
        [("untruths presented as true", "Hoaxes and distorted facts.")],
    ),
    "S8": (
        [("suicide and self-injury", "Encouraging or enabling self-harm."), ("no encouragement to hurt oneself", "")],
        [("harming oneself", "Suicide, cutting or starving.")],
    ),
    "S9": (
        [("sexual content", "Erotic or explicit material about adults."), ("no erotica", "")],
        [("adults-only material", "Explicit sexual description.")],
    ),
    "S10": (
        [("terrorism and gangs", "Support for terrorist or criminal groups."), ("no extremist support", "")],
        [("violent extremism and cartels", "Aid to organised violence or crime.")],
    ),
    "S11": (
        [("private information", "Personal or confidential data exposed or sought."),
         ("no leaks of personal data", "")],
        [("privacy breaches", "Secrets of people or organisations.")],
    ),
    "S12": (
        [("copied protected works", "Reproducing copyrighted material."), ("no piracy", "")],
        [("infringing somebody's copyright", "Works copied or protection removed.")],
    ),
    "S13": (
        [("neglecting a person in distress", "Someone in crisis is brushed off."),
         ("no careless replies to suffering", "")],
        [("cold answers to emotional pain", "Distress that is ignored or made worse.")],
    ),
    "S14": (
        [("hacking and malware", "Attacks on computers."), ("no malicious code", "")],
        [("breaking into systems", "Intrusion, exploits or viruses.")],
    ),
    "S15": (
        [("prompt injection and jailbreaks", "Attempts to override an assistant's rules."),
         ("no rule-breaking agents", "")],
        [("hijacking the assistant", "Text that makes a model drop its instructions.")],
    ),
}  # fmt: skip

HELD_OUT = frozenset({"S4", "S8", "snd.clock", "snd.sneeze", "img.hat", "img.bottle", "vid.cooking", "vid.weapon"})
"""Entries for test only: no training or validation policy holds them, and every clip, photo or text that is positive
for one goes to the test split. S4 and S8 have human yes and no labels and few rows; the media ones stand apart."""


def text_bank() -> PolicyBank:
    """The default policy's categories; its own wording is the first of a category's three training wordings."""
    train, test = {}, {}
    for entry in DEFAULT_POLICY.entries:
        more, unseen = TEXT[entry.id]
        train[entry.id] = [entry, *(PolicyEntry(entry.id, *w) for w in more)]
        test[entry.id] = [PolicyEntry(entry.id, *w) for w in unseen]
    return PolicyBank(train, test, HELD_OUT & set(train))


def real_bank() -> PolicyBank:
    """Every entry of the real data with its wordings: the categories, and what media are judged for."""
    text = text_bank()
    train, test = dict(text.train), dict(text.test)
    for id, (seen, unseen) in MEDIA.items():
        train[id] = [PolicyEntry(id, *w) for w in seen]
        test[id] = [PolicyEntry(id, *w) for w in unseen]
    return PolicyBank(train, test, HELD_OUT)
