"""Real clips: 37 videos of 1 to 30 s, most with sound, from the examples of twelve open-source projects.

Upstreams and licences by folder (`FOLDERS`). SpecVQGAN's two folders hold clips of VAS (Chen, Zhang, Tan, Xiao, Huang
and Gan, 2020, "Generating Visually Aligned Sound from Videos") and VGGSound (Chen, Xie, Vedaldi and Zisserman, 2020,
"VGGSound: A Large-scale Audio-Visual Dataset"), cut from other people's films; so are the ActivityNet and Kinetics
clips of video_features. A project's own licence does not cover such clips: they are not permissive.

A label is the folder (VAS) or what the file's name and SOURCES.md say, checked by hand against three frames of each
clip. `vid.` entries are decided for every clip but where `unsure`. What a track holds besides its class is unknown; a
clip without a track sounds of nothing. No two files are parts of one recording (by name, and by their frames). The
split is by hand: the clips are too few for chance to leave every entry a positive on each side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datamodules.schema import Message, Part, Sample
from datamodules.sources.files import locate
from datamodules.sources.media_labels import SOUND

LICENCE = "by folder"
PERMISSIVE = False  # as a whole; see FOLDERS
TARGET = "prompt"
FOLDERS: dict[str, tuple[str, bool]] = {
    "specvqgan_vas": ("MIT repository, clips of others", False),
    "specvqgan_vggsound": ("MIT repository, clips of others", False),
    "video_llama_examples": ("BSD-3-Clause", True),
    "moviepy": ("MIT; Big Buck Bunny CC-BY-3.0", True),
    "torchcodec": ("BSD-3-Clause; NASA, public domain", True),
    "mdn_cc0": ("CC0-1.0", True),
    "decord": ("Apache-2.0", True),
    "video_features_samples": ("MIT repository, clips of others", False),
    "mmaction2": ("Apache-2.0", True),
    "silent_llamafactory": ("Apache-2.0", True),
    "silent_ask_anything": ("MIT", True),
    "imageio": ("none stated", False),
}
_NAMES = ("drums", "instrument", "dog", "weapon", "vehicle", "sport", "cooking", "applause")
ENTRIES = tuple(f"vid.{name}" for name in _NAMES)


@dataclass(frozen=True)
class Clip:
    """`yes` and `unsure` list entry ids; every other `vid.` entry is a no. `track` tells whether there is sound."""

    path: str
    words: str
    split: str
    yes: str = ""
    unsure: str = ""
    track: bool = True


_DOG = "vid.dog img.dog img.animal"
_DRUM = "vid.drums vid.instrument snd.music"
CLIPS = (
    Clip("specvqgan_vas/cough/video_00331.mp4", "a person coughing", "train", "snd.body", "vid.vehicle"),
    Clip("specvqgan_vas/dog/video_02677.mp4", "a barking puppy", "train", f"{_DOG} snd.dog snd.animal"),
    Clip("specvqgan_vas/dog/video_02754.mp4", "barking dogs at play", "val", f"{_DOG} snd.dog snd.animal"),
    Clip("specvqgan_vas/drum/video_02480.mp4", "a man playing drums", "train", _DRUM),
    Clip("specvqgan_vas/drum/video_02542.mp4", "a drum kit from above", "val", _DRUM),
    Clip("specvqgan_vas/fireworks/video_03051.mp4", "fireworks", "train", "snd.bang", "vid.applause vid.weapon"),
    Clip("specvqgan_vas/gun/video_00819.mp4", "a person firing a gun", "test",
         "vid.weapon snd.bang img.weapon img.firearm"),
    Clip("specvqgan_vas/hammer/video_00323.mp4", "hammering", "val", "img.tool", "vid.drums vid.instrument"),
    Clip("specvqgan_vggsound/-1pRmoJIGQc_10000_20000.mp4", "a running engine", "train", "vid.vehicle snd.vehicle"),
    Clip("specvqgan_vggsound/-Qowmc0P9ic_34000_44000.mp4", "a man at a drum kit", "train", _DRUM),
    Clip("specvqgan_vggsound/0nib7bMm8BA_15000_25000.mp4", "a bird in a cage", "val",
         "img.bird img.animal snd.bird snd.animal"),
    Clip("specvqgan_vggsound/54bz5yqN2IA_4000_14000.mp4", "a double bass", "test", "vid.instrument snd.music"),
    Clip("specvqgan_vggsound/6zlMP_kQ_-w_30000_40000.mp4", "a harp", "train", "vid.instrument snd.music"),
    Clip("specvqgan_vggsound/7tMPoaU2oL4_0_10000.mp4", "a crowd applauding", "train", "vid.applause snd.applause"),
    Clip("specvqgan_vggsound/D1NO38P8vqI_284000_294000.mp4", "a person playing congas", "test", _DRUM),
    Clip("video_llama_examples/applausing.mp4", "a man on a stage and applause", "test", "vid.applause snd.applause",
         "vid.instrument vid.drums"),
    Clip("video_llama_examples/boat.mp4", "a boat on a river", "test", "vid.vehicle img.vehicle"),
    Clip("video_llama_examples/dog_barking.mp4", "a man at a door and a barking dog", "train",
         "vid.dog snd.dog snd.animal"),
    Clip("video_llama_examples/skateboarding_dog.mp4", "a dog on a skateboard", "test", _DOG, "vid.sport vid.vehicle"),
    Clip("moviepy/big_buck_bunny_0_30.webm", "an animated meadow", "train", "", "vid.instrument"),
    Clip("moviepy/chaplin.mp4", "two men in a silent film", "test", "", "vid.instrument"),
    Clip("moviepy/example3.mp4", "a person in the snow", "train", "", "vid.weapon vid.sport vid.instrument"),
    Clip("moviepy/video_with_failing_audio.mp4", "an aircraft in the sky", "val", "vid.vehicle img.vehicle"),
    Clip("torchcodec/nasa_13013.mp4", "a narrated film of a space programme", "train", "snd.speech",
         "vid.vehicle vid.instrument"),
    Clip("mdn_cc0/flower.webm", "an opening flower", "train"),
    Clip("mdn_cc0/friday.mp4", "a scene of an old film", "val", "snd.speech", "vid.weapon vid.instrument"),
    Clip("mdn_cc0/stream-of-water.mp4", "a stream of water", "test"),
    Clip("decord/flipping_a_pancake.mkv", "a person flipping a pancake", "test", "vid.cooking", "vid.applause"),
    Clip("video_features_samples/v_GGSY1Qvo990.mp4", "a person lifting weights", "test", "vid.sport", "vid.applause"),
    Clip("video_features_samples/v_ZNVhz7ctTq0.mp4", "people walking dogs", "train", _DOG, "vid.vehicle vid.sport"),
    Clip("mmaction2/demo.mp4", "two people arm wrestling", "val", "vid.sport", track=False),
    Clip("mmaction2/test.avi", "a person putting on make-up", "train"),
    Clip("mmaction2/test_video_structuralize.mp4", "people playing basketball", "train", "vid.sport", track=False),
    Clip("silent_llamafactory/2.avi", "a person cooking in a wok", "test", "vid.cooking", track=False),
    Clip("silent_ask_anything/hitting_baseball.mp4", "a person hitting baseballs", "train", "vid.sport", track=False),
    Clip("silent_ask_anything/yoga.mp4", "a person doing yoga", "train", "vid.sport", track=False),
    Clip("imageio/realshort.mp4", "a potted plant by a window", "train"),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a clip is missing."""
    samples = []
    for clip in CLIPS:
        path = locate(data_dir, f"video/{clip.path}")
        licence, permissive = FOLDERS[clip.path.split("/")[0]]
        unsure = clip.unsure.split()
        found = {id: "no" for id in ENTRIES if id not in unsure}
        if not clip.track:
            found.update(dict.fromkeys(SOUND, "no"))
        found.update(dict.fromkeys(clip.yes.split(), "yes"))
        key = path.parent.name + "-" + path.stem
        samples.append(
            Sample(
                id=f"real_clips-{key}",
                messages=(Message("user", (Part("video", path=str(path)),)),),
                target=TARGET,
                categories=found,
                critique=f"The video shows {clip.words}.",
                source="real_clips",
                group=f"real_clips-{key}",
                split=clip.split,
                meta={"licence": licence, "permissive": permissive, "track": clip.track},
            )
        )
    return samples
