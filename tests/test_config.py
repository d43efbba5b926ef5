"""zoo/config.py: recipes compose, values arrive as typed, mistakes are told with near matches."""

import inspect

import pytest

from datamodules import GuardDataModule
from datamodules.schema import DataError
from zoo.config import GROUPS, _groups, compose, options, plain, recipe_names, split_arguments
from zoo.farms import FARMS
from zoo.list import main as list_main
from zoo.methods import METHODS


def value(argument, recipe="omniguard"):
    node = plain(compose([f"recipe={recipe}", argument]))
    for key in argument.split("=")[0].split("."):
        node = node[key]
    return node


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_composes_with_every_option(recipe):
    for group in _groups(recipe):
        for option in options(group):
            config = plain(compose([f"recipe={recipe}", f"{group}={option}"]))
            assert config["recipe"] == recipe and config["method"] in METHODS
            accepted = inspect.signature(GuardDataModule).parameters
            if METHODS[config["method"]].data is None:  # others have a DataModule of their own
                assert set(config["data"]) <= set(accepted)
            if group == "backbone":
                assert (
                    option in (name := config["backbone"]["name"], f"{name}_text")
                    and config["optim"]["lr"] == config["backbone"]["lr"]
                )
            if group == "trainer":
                known = {"cpu": ("cpu", "single"), "gpu": ("gpu", "single")}.get(option, ("gpu", option))
                assert (config["trainer"]["accelerator"], config["trainer"]["strategy"]) == known
    assert set(_groups(recipe)) <= set(GROUPS)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "give recipe=NAME; known: "),
        (["recipe=omnigard"], "unknown recipe 'omnigard'; did you mean 'omniguard'"),
        (["recipe=../omniguard"], "unknown recipe '../omniguard'"),
        (["recipe="], "unknown recipe ''"),
        (["recipe=omniguard", "sed=1"], "recipe 'omniguard' has no key 'sed'; did you mean 'seed'"),
        (["recipe=omniguard", "optim.lrr=1"], "no key 'optim.lrr'; did you mean 'optim.lr'"),
        (["recipe=omniguard", "data.bach_size=1"], "did you mean 'data.batch_size'"),
        (["recipe=omniguard", "+seed=1"], "no key '+seed'"),
        (["recipe=omniguard", "hydra.run.dir=x"], "no key 'hydra.run.dir'"),
        (["recipe=omniguard", "data=manifst"], "unknown data 'manifst'; did you mean 'manifest'"),
        (["recipe=omniguard", "trainer=tpu"], "unknown trainer 'tpu'"),
        (["recipe=omniguard", "backbone="], "unknown backbone ''"),
        (["recipe=audio_tiny", "backbone=tiny"], "'audio_tiny' has no backbone to choose; its groups: data, trainer"),
        (["recipe=omniguard", "seed=1", "seed=2"], "seed is given twice"),
        (["recipe=omniguard", "data_dir=???"], "data_dir=???: give a value"),
        (["recipe=omniguard", "seed"], "'seed': expected key=value"),
        (["recipe=omniguard", "=1"], "'=1': expected key=value"),
        (["recipe=omniguard", "optim=1"], "optim is a group: set one of optim.lr"),
        (["recipe=omniguard", "seed=x"], "seed=x: expected a value like 0"),
        (["recipe=omniguard", "seed=1.5"], "seed=1.5: expected a value like 0"),
        (["recipe=omniguard", "seed=true"], "seed=true: expected"),
        (["recipe=omniguard", "seed=[1]"], "expected a value like 0"),
        (["recipe=omniguard", "optim.lr=fast"], "optim.lr=fast: expected a value like 0.002"),
        (["recipe=omniguard", "optim.lr=2024-13-99"], "optim.lr=2024-13-99: expected"),
        (["recipe=omniguard", "optim.lr={a: b}"], "expected a value like"),
        (["recipe=omniguard", "optim.betas=0.9"], "optim.betas=0.9: expected a value like [0.9, 0.95]"),
        (["recipe=omniguard", "optim.betas=[a, b]"], "optim.betas=a: expected a value like 0.9"),
        (["recipe=omniguard", "data.modalities=image"], "expected a list such as [image, joint]"),
    ],
)
def test_mistakes(arguments, words):
    with pytest.raises(DataError) as e:
        compose(arguments)
    assert words in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "text",
    [
        "/data/it's here",
        '/data/"quoted"',
        "/a,b,c",
        "/a[1]{2}(3)",
        "[a, b]",
        "{a: b}",
        "/lr=1e-3=x",
        "/with  two spaces ",
        "${data_dir}",
        "a\\${b}",
        "C:\\new\\$x",
        "~null",
        "2024",
        "no",
        "1e-3",
        "# hash",
        "été: 火",
        "!tag",
        "&a *b",
    ],
)
def test_text_arrives_unchanged(text):
    for key in ("data_dir", "data.path", "runs"):
        got = value(f"{key}={text}")
        assert got == text and type(got) is str


@pytest.mark.parametrize(
    "argument, expected",
    [
        ("seed=7", 7),
        ("seed=-1", -1),
        ("seed=1e3", 1000),
        ("optim.lr=1e-3", 0.001),
        ("optim.lr=1", 1.0),
        ("optim.lr=.5", 0.5),
        ("optim.betas=[0.5, 1e-1]", [0.5, 0.1]),
        ("optim.betas=[0, 1]", [0.0, 1.0]),
        ("trainer.max_epochs=2", 2),
        ("trainer.gradient_clip=null", None),
        ("trainer.precision=32", "32"),
        ("data.epoch_size=64", 64),
        ("data.epoch_size=", None),
        ("data.modalities=[image, joint]", ["image", "joint"]),
        ("data.modalities=null", None),
        ("data.path=null", None),
        ("backbone.limits.fps=1", 1.0),
        ("data.batch_size=4", 4),
    ],
)
def test_values_take_the_type_of_what_they_replace(argument, expected):
    got = value(argument)
    assert got == expected and type(got) is type(expected)
    if isinstance(expected, list):
        assert [type(v) for v in got] == [type(v) for v in expected]


def test_values_reach_what_refers_to_them():
    config = plain(compose(["recipe=omniguard", "data_dir=/my, data", "backbone=smollm2", "backbone.lr=1e-4"]))
    assert config["data"]["data_dir"] == "/my, data" and config["optim"]["lr"] == 1e-4
    assert plain(compose(["recipe=omniguard", "backbone=smollm2"]))["optim"]["lr"] == 5e-4
    tagger = plain(compose(["recipe=audio_tiny"]))
    assert tagger["trainer"]["max_epochs"] == 14 and tagger["data"]["source"] == "sample+real"


def test_composing_twice_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plain(compose(["recipe=omniguard", "seed=5"]))["seed"] == 5
    assert plain(compose(["recipe=omniguard"]))["seed"] == 0
    assert not list(tmp_path.iterdir())  # Hydra writes no folder of its own


def test_split_arguments():
    assert split_arguments(["a=b=c", "d="]) == {"a": "b=c", "d": ""}


def test_list(capsys):
    assert list_main(["recipes"]) == 0
    said = capsys.readouterr().out
    verbs = {n: "fit" if "trainer" in _groups(n) or n in FARMS else "test" for n in recipe_names()}
    assert all(f"python -m zoo.{verb} recipe={n}" in said for n, verb in verbs.items()) and "backbone: " in said
    with pytest.raises(DataError, match=r"cannot list 'model'; did you mean 'models'"):
        list_main(["model"])
