"""Arms that use what another arm's run left, and experiments that can be done over another model: zoo/claims."""

import json
from pathlib import Path

import pytest
import yaml

from datamodules.schema import DataError
from zoo.claims import report
from zoo.claims.claim import Place, load_claim
from zoo.claims.runs import plan_units
from zoo.claims.survey import made_by, survey
from zoo.core.metrics import Record
from zoo.core.scores import decide, write_scores
from zoo.reproduce import reproduce

ATTACK = {"verb": "test", "recipe": "redcoder_eval", "model": "scripted:gives-in", "outcomes": "scores_explore"}
PAGE = {
    "claim": "toy",
    "title": "A scripted one.",
    "paper": "It does.",
    "seeds": 2,
    "defaults": {"tasks.limit": 4, "attackers": ["scripted:explore"]},
    "backbones": {"real": {"model": "smollm2", "title": "A real one.", "settings": {"tasks.limit": 2}}},
    "arms": {
        "with": {**ATTACK, "overrides": {"arsenal.path": "arm:games/arsenal"}},
        "without": {**ATTACK, "overrides": {"arsenal.retrieval": "none"}},
        "games": {**ATTACK, "recipe": "redcoder_gaming"},
    },
    "metrics": {"rate": {"name": "recall"}},
    "comparisons": [{"metric": "rate", "arm": "with", "against": "without", "direction": "higher", "margin": 0.0}],
}


def claim_file(folder: Path, **arms) -> str:
    page = {**PAGE, "arms": {**PAGE["arms"], **arms}}
    (folder / "toy.yaml").write_text(yaml.safe_dump(page, sort_keys=False))
    return str(folder / "toy.yaml")


class Launch:
    """Stands in for the commands: leaves a run's folder, with every attack a success where there is an arsenal."""

    def __init__(self, fails=()):
        self.asked, self.fails = [], fails

    def __call__(self, verb, words, log):
        given = dict(w.split("=", 1) for w in words)
        self.asked.append((verb, given))
        log.write_text("error: broken\n")
        if given["recipe"] in self.fails:
            return 2
        run = Path(given["runs"]) / verb / given["recipe"] / "20260101-000000"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("{}")
        won = "arsenal.path" in given
        rows = (decide(Record(f"t{n}", float(won), True, group=f"t{n}"), 0.5, 0.5) for n in range(4))
        write_scores(run / "scores_explore.jsonl", rows)
        if given["recipe"] == "redcoder_gaming":
            (run / "arsenal").mkdir()
        else:
            assert "arsenal.path" not in given or Path(given["arsenal.path"]).is_dir()
        (run / "metrics.json").write_text(json.dumps({"seconds": 1.0, "failed": 0}))
        return 0


def test_an_arm_is_given_the_run_of_the_same_seed(tmp_path):
    launch = Launch()
    result, path = reproduce([f"claim={claim_file(tmp_path)}", f"runs={tmp_path / 'runs'}"], launch)
    assert [w["recipe"] for _, w in launch.asked] == ["redcoder_gaming", "redcoder_eval", "redcoder_eval"] * 2
    games = [next((tmp_path / "runs").rglob(f"games-{s}-*")) for s in (0, 1)]
    taken = [w["arsenal.path"] for _, w in launch.asked if "arsenal.path" in w]
    assert taken == [str(g / "test" / "redcoder_gaming" / "20260101-000000" / "arsenal") for g in games]
    assert [w["seed"] for _, w in launch.asked] == ["0"] * 3 + ["1"] * 3  # this attacker draws
    assert result["verdict"] == "reproduced" and result["differences"][0]["mean"] == 1.0
    (told,) = [a["arguments"] for a in result["arms"] if a["name"] == "with"]
    assert told["arsenal.path"] == "arm:games/arsenal"  # no place of this machine
    assert path.name == "toy.json" and str(tmp_path) not in path.read_text().replace(result["command"], "")
    again = Launch()
    reproduce([f"claim={claim_file(tmp_path)}", f"runs={tmp_path / 'runs'}"], again)
    assert not again.asked


def test_what_another_run_fails_to_leave_fails_alone(tmp_path, capsys):
    launch = Launch(fails=("redcoder_gaming",))
    assert reproduce([f"claim={claim_file(tmp_path)}", f"runs={tmp_path / 'runs'}"], launch) == (None, None)
    assert [w["recipe"] for _, w in launch.asked] == ["redcoder_gaming", "redcoder_eval"] * 2
    assert "it uses games, seed 1, which failed" in capsys.readouterr().err


def test_keys_follow_what_is_used(tmp_path):
    """Another experiment before makes another run after; the same one does not."""

    def keys(**games):
        arms = {"games": {**PAGE["arms"]["games"], "overrides": games}} if games else {}
        units = plan_units(load_claim(claim_file(tmp_path, **arms)), 2, {}, False, tmp_path)
        survey(units, load_claim(claim_file(tmp_path, **arms)))
        return {k: u.key for k, u in units.items()}

    plain, same, other = keys(), keys(), keys(contrast=False)
    assert plain == same and len(set(plain.values())) == 6
    assert plain["with", 0] != other["with", 0] and plain["without", 0] == other["without", 0]


def test_what_is_not_drawn_has_one_run(tmp_path):
    steps = {**ATTACK, "outcomes": "scores_steps", "overrides": {"attackers": ["scripted:steps"]}}
    path = claim_file(tmp_path, **{"with": {**steps}, "without": {**steps, "recipe": "redcoder_gaming"}})
    page = yaml.safe_load(Path(path).read_text())
    page["defaults"] = {"tasks.limit": 4}
    page["arms"]["with"]["overrides"] = {"arsenal.path": "arm:without/arsenal", "attackers": ["scripted:steps"]}
    Path(path).write_text(yaml.safe_dump(page))
    units = plan_units(load_claim(path), 2, {}, False, tmp_path)
    seeds = {name: [units[name, s].seed for s in (0, 1)] for name in page["arms"]}
    assert seeds == {"with": [0, 0], "without": [0, 0], "games": [0, 1]}  # gaming's own attacker draws


def test_data_that_an_arm_makes_are_known_by_its_key(tmp_path):
    expert = {
        "recipe": "expert",
        "overrides": {
            "base": "thinkguard-small", "expert.name": "code", "expert.categories": ["insecure-code"],
            "data": "games", "data.path": "arm:games",
        },
    }  # fmt: skip
    guarded = {**ATTACK, "overrides": {"guard": "arm:expert"}}
    path = Path(claim_file(tmp_path, expert=expert, guarded=guarded))
    path.write_text(json.dumps({**yaml.safe_load(path.read_text()), "defaults": {}}))  # an expert has no tasks
    claim = load_claim(str(path))
    assert [a.name for a in claim.order()] == ["games", "with", "without", "expert", "guarded"]
    units = plan_units(claim, 2, {}, False, tmp_path)
    survey(units, claim)
    a, b = units["expert", 0], units["expert", 1]
    assert made_by(a) == {"data.path": units["games", 0].key} and a.data_hash != b.data_hash
    assert units["guarded", 0].seed == 0 and units["guarded", 1].seed == 1  # nothing is drawn but the expert
    assert units["guarded", 1].uses == {"guard": b}


@pytest.mark.parametrize(
    "arms, said",
    [
        ({"with": {**ATTACK, "overrides": {"arsenal.path": "arm:gmes/arsenal"}}}, "unknown arm 'gmes'"),
        ({"with": {**ATTACK, "overrides": {"arsenal.path": "arm:games/../x"}}}, "a place inside the run of arm"),
        ({"with": {**ATTACK, "overrides": {"arsenal.path": "arm:games//etc"}}}, "a place inside the run of arm"),
        ({"games": {**ATTACK, "overrides": {"guard": "arm:with"}}}, "cycle: with → games → with"),
        ({"with": {**ATTACK, "model": "arm:games"}}, "uses arm 'games', which makes no model"),
    ],
)  # fmt: skip
def test_places_that_cannot_be(tmp_path, arms, said):
    with pytest.raises(DataError) as e:
        load_claim(claim_file(tmp_path, **arms))
    assert said in str(e.value)
    page = {**PAGE, "defaults": {"arsenal.path": "arm:games/arsenal"}}
    (tmp_path / "toy.yaml").write_text(json.dumps(page))
    with pytest.raises(DataError, match="belongs into the overrides of the arm that uses it"):
        load_claim(str(tmp_path / "toy.yaml"))
    assert Place.of("arm:games/a/b") == Place("games", "a/b") and Place.of("arm:games") == Place("games")


def test_the_same_experiment_over_another_model(tmp_path):
    launch = Launch()
    words = [f"claim={claim_file(tmp_path)}", f"runs={tmp_path / 'runs'}", "seeds=1"]
    scripted, first = reproduce(words, launch)
    real, second = reproduce([*words, "backbone=real"], launch)
    assert [w["model"] for _, w in launch.asked] == ["scripted:gives-in"] * 3 + ["smollm2"] * 3
    assert [w["tasks.limit"] for _, w in launch.asked] == ["4"] * 3 + ["2"] * 3
    assert (first.name, second.name) == ("toy.json", "toy-real.json") and first.parent == second.parent
    assert (scripted["title"], real["title"]) == ("A scripted one.", "A real one.")
    assert report.stem("a", "b", True) == "a-b-gpu" and report.stem("a") == "a"
    with pytest.raises(DataError, match="has no backbone to choose"):  # a word that the page does not know is the arms'
        reproduce([*words, "backbone=smollm2"], launch)
