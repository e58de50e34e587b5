"""The plan: who decides, what a wrong field is told, what a reader refuses, and that every preset works."""

import json
import shlex
from dataclasses import replace

import pytest

from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.pipeline import plan_summary
from tumorgen_cli.planning import plan as plans
from tumorgen_cli.planning import presets
from tumorgen_cli.planning.fields import check_overrides, plan_fields
from tumorgen_cli.planning.fingerprint import ChannelFacts
from tumorgen_cli.planning.plan import ChannelPlan, make_plan, read_plan
from tumorgen_cli.planning.presets import read_overrides
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.errors import PlanError, StateError
from tumorgen_cli.system.json_records import to_plain, write_json

CPU = DeviceBudget("cpu", 8.0, 0.0)


@pytest.fixture
def make(workspace):
    fingerprint, train = workspace.fingerprint(), workspace.splits().train
    sections = {name: find_method(name).plan_section for name in METHODS}
    fields = plan_fields(1, {name: find_method(name).section for name in METHODS})

    def make(preset=None, *settings, budget=CPU, channel="PET"):
        overrides = read_overrides(preset, settings)
        check_overrides(overrides, fields)
        named = replace(fingerprint, channels=tuple(replace(facts, name=channel) for facts in fingerprint.channels))
        return make_plan(named, train, budget, sections, overrides)

    return make


def decision(plan, field):
    (found,) = [d for d in plan.decisions if d.field == field]
    return found


def refused(kind, make, *arguments):
    with pytest.raises(kind) as error:
        make(*arguments)
    return {fault.where: fault for fault in error.value.faults}


def test_rule_then_preset_then_set(make, tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text(
        "window:\n  alpha: 0.07  # a comment\nmethods:\n  tumorgen:\n    flow:\n      copies: 5\n      ema: 0.9\n"
    )
    rule, by_preset = make(), make(str(preset))
    by_set = make(str(preset), "methods.tumorgen.flow.copies=6", "seed=3")
    field = "methods.tumorgen.flow.copies"
    assert [decision(p, field).source for p in (rule, by_preset, by_set)] == ["rule", f"preset {preset}", "--set"]
    assert [p.methods["tumorgen"]["flow"]["copies"] for p in (by_preset, by_set)] == [5, 6]
    assert by_set.methods["tumorgen"]["flow"]["ema"] == 0.9
    assert (by_preset.window.alpha, by_set.seed, rule.seed) == (0.07, 3, 0)
    assert decision(by_set, field).rule == decision(rule, field).rule  # the reason of the rule stays to be read


def test_rules_see_what_was_set(make):
    plan = make(None, "window.spacing_mm=[20.0,20.0,20.0]", "window.shape=[64,48,48]")
    assert plan.paste.feather_mm == 40.0
    assert plan.methods["tumorgen"]["vae"]["patch"] == [64, 48, 48]


def test_old_tumors_are_looked_for_beyond_their_outline_in_pet_alone(make, workspace):
    assert make().paste.seen_in == (0,)
    fingerprint, sections = workspace.fingerprint(), {name: find_method(name).plan_section for name in METHODS}
    (pet,) = fingerprint.channels
    cases = tuple(  # what surrounds a tumor is of one channel
        replace(case, tumors=tuple(replace(tumor, surroundings=None) for tumor in case.tumors))
        for case in fingerprint.cases
    )
    fingerprint = replace(fingerprint, cases=cases)
    for names, expected in ((("CT", "SUV"), (1,)), (("T1", "ADC"), ())):
        channels = tuple(replace(pet, name=name) for name in names)
        plan = make_plan(
            replace(fingerprint, channels=channels), workspace.splits().train, CPU, sections, read_overrides(None, ())
        )
        assert plan.paste.seen_in == expected
    assert make(None, "paste.seen_in=[]").paste.seen_in == ()
    assert "of 0 to 0" in refused(PlanError, make, None, "paste.seen_in=[1]")["paste.seen_in"].expected
    assert "of 0 to 0" in refused(PlanError, make, None, "main_channel=1")["main_channel"].expected


def test_every_field_has_its_decision(make):
    def leaves(tree, prefix=""):
        for name, value in tree.items():
            yield from leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]

    plan = make()
    plain = to_plain(plan)
    facts = (
        "schema",
        "dataset",
        "dataset_path",
        "fingerprint_hash",
        "file_ending",
        "labels",
        "tumor_name",
        "tumor_label",
        "regions_class_order",
        "decisions",
    )
    fields = set(leaves({k: v for k, v in plain.items() if k not in (*facts, "channels")}))
    fields |= {f"channels.{i}.{name}" for i, channel in enumerate(plain["channels"]) for name in channel}
    assert fields == {d.field for d in plan.decisions}
    assert all(d.rule for d in plan.decisions)


def test_values_read_as_json_or_yaml():
    found = read_overrides(None, ["a=[1,2]", "b=true", "c=abc", "d=1e-3", "e=null", "f= 3", "g=x=y"])
    assert {k: v for k, (v, _) in found.items()} == {
        "a": [1, 2],
        "b": True,
        "c": "abc",
        "d": 1e-3,
        "e": None,
        "f": 3,
        "g": "x=y",
    }
    assert {source for _, source in found.values()} == {"--set"}


def test_the_hash_follows_numbers_not_reasons(make):
    plan = make()
    assert make().hash == plan.hash
    assert make(None, "window.alpha=0.11").hash != plan.hash
    assert replace(plan, decisions=(), dataset_path="/elsewhere").hash == plan.hash


def test_training_cases_without_a_tumor(workspace):
    with pytest.raises(
        PlanError, match="0 training cases without a tumor that is large enough, and 6 held out"
    ) as error:
        make_plan(workspace.fingerprint(), (), CPU, {})
    said = "write a splits_final.json into the data set that holds out other cases, then plan again"
    assert error.value.faults[0].remedy == said


def test_unknown_fields_with_the_nearest_name(make):
    found = refused(
        PlanError,
        make,
        None,
        "window.alhpa=0.1",
        "methods.tumorgen.flow.coarse_wieght=0",
        "methods.tumorgan.flow.copies=2",
    )
    asked = {where.removeprefix("--set "): fault.remedy for where, fault in found.items()}
    assert asked == {
        "window.alhpa": "did you mean window.alpha?",
        "methods.tumorgen.flow.coarse_wieght": "did you mean methods.tumorgen.flow.coarse_weight?",
        "methods.tumorgan.flow.copies": "did you mean methods.tumorgen.flow.copies?",
    }
    assert "set one of window.alpha, window.shape" in refused(PlanError, make, None, "window=3")["--set window"].remedy
    (fault,) = refused(PlanError, make, None, "zzzzzzzzzz=3").values()
    assert fault.remedy == "`tumorgen plan --show` lists the fields of a plan"


@pytest.mark.parametrize(
    "setting",
    [
        "window.alpha=wide",
        "paste.draws=2.5",
        "device=tpu",
        "precision=fp8",
        "seed=one",
        "memory_gib=true",
        "paste.seen_in=PET",
        "paste.seen_in=0",
        "paste.draws=0",
        "methods.tumorgen.flow.iterations=-5",
        "window.spacing_mm=[1.0,NaN,1.0]",
        "methods.tumorgen.vae.batch=0",
        "methods.tumorgen.vae.widths=[]",
        "methods.tumorgen.vae.widths=[16]",
        "methods.tumorgen.vae.widths=[16,32,64,128]",
        "methods.tumorgen.vae.widths=[24,40,80]",
        "methods.tumorgen.vae.widths=wide",
        "methods.tumorgen.flow.bapmg=1",
        "methods.tumorgen.flow.time_schedule=cosine",
        "methods.tumorgen.flow.ssim_window=4",
        "methods.tumorgen.flow.ema=1",
        "methods.tumorgen.flow.learning_rate=0",
        "methods.tumorgen.sampling.halo=0",
        "methods.difftumor.sampling.edge_mm=[4,0]",
        "methods.difftumor.vqgan.downsampling=3",
        "methods.difftumor.ddpm.widths=[24,48,90]",
        "methods.unconditional.sampling.halo=0",
        "methods.blended.sampling.texture=own",
        "methods.freetumor.filter.threshold=1.5",
        "methods.syntumor.texture.cloud_mm=[5,1]",
        "methods.tumorgen.vae.patch=[40,32,32]",
        "methods.difftumor.vqgan.patch=[0,32,32]",
        "methods.difftumor.vqgan.patch=[32,32,16]",
        "methods.freetumor.gan.patch=[32,16,32]",
        "methods.freetumor.segmentor.patch=[32,40,32]",
        "window.shape=[32,32,16]",
        "window.shape=[32,32]",
        "window.shape=64",
        "window.shape=[32,40,32]",
        "window.shape=[0,32,32]",
        "window.spacing_mm=2",
        "window.spacing_mm=[1.0,1.0]",
        'window.spacing_mm=[1.0,1.0,"a"]',
        "window.spacing_mm=[1.0,0.0,1.0]",
        "window=3",
        "window.shape=null",
    ],
)
def test_wrong_types_and_values(make, setting):
    found = refused(PlanError, make, None, setting)
    assert all(where.split("[")[0] == f"--set {setting.split('=')[0]}" for where in found), found


def test_a_unit_goes_by_the_channels_name(make):
    """The fingerprint has measured it so."""
    for field in ("channels.0.scheme=own", "channels.0.name=CT"):
        (fault,) = refused(PlanError, make, None, field).values()
        assert "name in dataset.json" in fault.expected
        assert fault.remedy == "name the channel in dataset.json for what it holds, for example noNorm"


def test_a_clip_window_has_two_ends(make):
    (fault,) = refused(PlanError, make, None, "channels.0.low=50").values()
    assert "a low end below the high end" in fault.expected
    assert fault.remedy == "set both channels.N.low and channels.N.high, low first"
    assert make(None, "channels.0.low=50", "channels.0.high=60").channels[0].low == 50


def test_a_clip_window_far_beyond_the_scans_is_told(workspace, make, capsys):
    """Also where it counts in the scans' own unit: 99.9 is no percentile."""
    fingerprint, plan = workspace.fingerprint(), make()
    facts = ChannelFacts("T1", {"0.05": 0.5, "99.95": 3.0}, {"0.05": 0.0, "99.95": 1.0})
    for high, told in ((1.2, False), (99.9, True)):
        channel = ChannelPlan("T1", "own", 0.0, high, 1.0)
        plan_summary.warn_of_foreign_windows(
            replace(fingerprint, channels=(facts,)), replace(plan, channels=(channel,))
        )
        output = capsys.readouterr()
        assert ("clip window" in " ".join((output.out + output.err).split())) == told


def test_a_window_smaller_than_a_critics_patch_is_told_once(make):
    """The sides of the autoencoders' patches follow from it."""
    assert set(refused(PlanError, make, None, "window.shape=[16,32,32]")) == {"--set window.shape[0]"}


def test_settings_without_a_sign(make):
    found = refused(PlanError, make, None, "window.alpha", "=3", "seed=1")
    assert set(found) == {"--set window.alpha", "--set =3"}
    (remedy,) = {fault.remedy for fault in found.values()}
    assert remedy == "for example --set window.alpha=0.1"
    assert make(None, remedy.split("--set ")[1]).window.alpha == 0.1
    (fault,) = refused(PlanError, make, None, "window.shape=[64").values()
    assert fault.remedy == "quote it for the shell, for example --set 'window.shape=[64,64,64]'"
    assert make(None, shlex.split(fault.remedy.split("--set ")[1])[0]).window.shape == (64, 64, 64)


def test_channels_of_the_data_set_are_named(make):
    for wrong, right in (("main_channel=3", "main_channel=0"), ("paste.seen_in=[1]", "paste.seen_in=[0]")):
        (fault,) = refused(PlanError, make, None, wrong).values()
        assert fault.remedy == "name channels of the data set, in --set, the preset or plan.json"
        assert make(None, right).main_channel == 0


def test_fields_that_do_not_fit_together_are_corrected_in_the_preset_or_by_set(workspace):
    """The remedy of values that only the whole plan shows to be wrong."""
    fingerprint, train = workspace.fingerprint(), workspace.splits().train
    with pytest.raises(PlanError) as error:
        make_plan(fingerprint, train, CPU, {}, {"seed": ("many", "--set")})
    assert error.value.faults[0].remedy == "correct the preset or --set"
    assert make_plan(fingerprint, train, CPU, {}, {"seed": (5, "--set")}).seed == 5


def test_no_such_preset(make):
    (fault,) = refused(PlanError, make, "demo-quik").values()
    assert fault.remedy == "did you mean demo-quick?"
    refused(PlanError, make, "/nowhere/mine.yaml")


@pytest.mark.parametrize("text", ["window: [1", "- a\n- b\n", "just words"])
def test_a_preset_that_is_no_preset(make, tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    found = refused(PlanError, make, str(tmp_path / "mine.yaml"))
    assert any("mine.yaml" in where for where in found)
    copied = "correct that line, or begin with a copy of another preset (`tumorgen presets NAME --copy FILE`)"
    assert {fault.remedy for fault in found.values()} <= {copied, "see `tumorgen presets`"}
    (tmp_path / "mine.yaml").write_text(presets.preset_text("demo"))
    assert make(str(tmp_path / "mine.yaml")).hash == make("demo").hash


def test_an_empty_preset_changes_nothing(make, tmp_path):
    (tmp_path / "mine.yaml").write_text("# nothing\n")
    assert make(str(tmp_path / "mine.yaml")).hash == make().hash


def test_round_trip(make, tmp_path):
    plan = make()
    write_json(tmp_path / "plan.json", plan)
    back = read_plan(tmp_path / "plan.json")
    assert back.hash == plan.hash
    assert to_plain(back) == to_plain(plan)


def test_another_schema_names_the_command(make, tmp_path):
    plain = to_plain(make())
    (tmp_path / "plan.json").write_text(json.dumps({**plain, "schema": plans.SCHEMA + 1, "windows": {}}))
    with pytest.raises(StateError, match="tumorgen plan DATASET") as error:
        read_plan(tmp_path / "plan.json")
    assert error.value.faults[0].found == f"schema {plans.SCHEMA + 1}"
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(StateError, match="tumorgen plan DATASET"):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(StateError, match="tumorgen plan DATASET"):
        read_plan(tmp_path / "none.json")


def test_an_edited_plan_is_read_strictly(make, tmp_path):
    plain = to_plain(make())
    plain["window"]["alhpa"] = plain["window"].pop("alpha")
    plain["seed"] = "0"
    (tmp_path / "plan.json").write_text(json.dumps(plain))
    found = refused(PlanError, read_plan, tmp_path / "plan.json")
    assert set(found) == {"plan.json.window.alhpa", "plan.json.window.alpha", "plan.json.seed"}


def test_a_plan_of_another_fingerprint_is_stale(workspace, tmp_path):
    for path in (workspace.plan_file, workspace.fingerprint_file, workspace.splits_file):
        (tmp_path / path.name).write_text(path.read_text())
    copy = Workspace(tmp_path)
    assert copy.plan().hash == workspace.plan().hash
    plain = json.loads(copy.fingerprint_file.read_text())
    copy.fingerprint_file.write_text(json.dumps({**plain, "content_hash": "other"}))
    with pytest.raises(StateError) as error:
        copy.plan()
    assert error.value.faults[0].remedy == "run `tumorgen plan DATASET` (again), or name another workspace with -w"
    assert workspace.plan().fingerprint_hash == workspace.fingerprint().content_hash


def test_there_are_presets():
    own = ("autopet-lung", "ct-abdomen", "demo", "demo-ct", "demo-quick", "hecktor", "paper")
    rivals = ("difftumor-liver", "freetumor-abdomen", "syntumor-liver")
    assert presets.preset_names() == tuple(sorted((*own, *rivals)))


@pytest.mark.parametrize("name", presets.preset_names())
@pytest.mark.parametrize("budget", [CPU, DeviceBudget("cuda", 24.0, 2.0)], ids=["cpu", "cuda"])
def test_every_preset_plans(make, workspace, name, budget):
    plan = make(name, budget=budget, channel="CT" if name == "syntumor-liver" else "PET")  # its contrasts are of CT
    for method in METHODS:
        find_method(method)(plan, workspace)
    asked = read_overrides(name, ())
    assert asked
    for field, (value, source) in asked.items():  # every line of it arrives, none is dropped
        found = decision(plan, field)
        assert (found.source, to_plain(found.value)) == (source, value)
    assert presets.preset_text(name).startswith("# ")


def test_a_preset_may_be_based_on_another(make, tmp_path):
    base, mine, loop = (tmp_path / f"{name}.yaml" for name in ("base", "mine", "loop"))
    base.write_text("window: {alpha: 0.07}\nseed: 4\n")
    mine.write_text(f"preset: {base}\nseed: 5\n")
    found = make(str(mine))
    assert (found.window.alpha, found.seed) == (0.07, 5)
    assert decision(found, "window.alpha").source == f"preset {base}"
    loop.write_text(f"preset: {loop}\n")
    with pytest.raises(PlanError, match="name another preset in its field `preset`, or remove that line"):
        make(str(loop))


def test_the_presets_of_the_papers_data_are_the_paper(make):
    paper = read_overrides("paper", ())
    for name in ("hecktor", "autopet-lung"):
        found = read_overrides(name, ())
        assert {field: value for field, (value, _) in found.items()}.items() >= {
            f: v for f, (v, _) in paper.items()
        }.items()
