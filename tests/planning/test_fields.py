"""Every field of a plan has a range, which is checked where it is set, where a plan is made, and where it is read."""

import json
import math
import typing

import pytest

from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.planning.fields import check_overrides, plan_fields
from tumorgen_cli.planning.plan import read_plan
from tumorgen_cli.planning.presets import preset_names, read_overrides
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.errors import PlanError
from tumorgen_cli.system.json_records import describe_type, to_plain

FIELDS = plan_fields(1, {name: find_method(name).section for name in METHODS})
ABSURD = (math.nan, math.inf, -math.inf, 1e30, -1e30, -(10**12), 10**12)


def is_numeric(kind: object) -> bool:
    """Whether a type is made of numbers."""
    return kind in (int, float) or any(is_numeric(each) for each in typing.get_args(kind))


def with_last_number(value: object, number: float) -> object:
    """A value of a plan, lists included, whose last number is another one."""
    return [*value[:-1], with_last_number(value[-1], number)] if isinstance(value, list) else number


NUMERIC = [field for field, kind in FIELDS.items() if is_numeric(kind)]


@pytest.fixture(scope="module")
def values(workspace: Workspace) -> dict[str, object]:
    """The values of the fields in the plan of the phantoms."""
    plan = workspace.plan()
    return {decision.field: to_plain(decision.value) for decision in plan.decisions}


def test_the_fields_are_those_of_a_plan(values: dict[str, object]) -> None:
    assert {*FIELDS, "channels.0.name", "channels.0.scheme"} == values.keys()
    assert len(NUMERIC) > 100
    check_overrides({field: (values[field], "--set") for field in FIELDS}, FIELDS)


@pytest.mark.parametrize("field", NUMERIC)
def test_absurd_numbers_are_refused(field: str, values: dict[str, object]) -> None:
    value = values[field] if values[field] != [] else [0]
    for number in ABSURD:
        with pytest.raises(PlanError) as caught:
            check_overrides({field: (with_last_number(value, number), "--set")}, FIELDS)
        (fault,) = caught.value.faults
        assert fault.where.split("[")[0] == f"--set {field}"
        assert "from" in fault.expected or "at most" in fault.expected or "below" in fault.expected


@pytest.mark.parametrize(
    "field", [name for name in NUMERIC if name.endswith(("widths", "shape", "patch", "_mm", "mm[0]"))]
)
def test_empty_lists_are_refused(field: str, values: dict[str, object]) -> None:
    if isinstance(values[field], list):
        with pytest.raises(PlanError):
            check_overrides({field: ([], "--set")}, FIELDS)


def test_an_edited_plan_is_checked_when_it_is_read(workspace: Workspace, tmp_path, values: dict[str, object]) -> None:
    for field in NUMERIC:
        plain = to_plain(workspace.plan())
        *parents, last = field.split(".")
        node = plain
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node[parent]
        value = values[field] if values[field] != [] else [0]
        node[last] = with_last_number(value, math.nan)
        (tmp_path / "plan.json").write_text(json.dumps(plain))
        with pytest.raises(PlanError, match=last):  # noqa: PT012  (a method reads its own section)
            plan = read_plan(tmp_path / "plan.json")
            find_method(parents[1])(plan, workspace)


def test_every_preset_passes_and_a_wrong_one_is_named(tmp_path) -> None:
    for name in preset_names():
        check_overrides(read_overrides(name, ()), FIELDS)
    mine = tmp_path / "mine.yaml"
    mine.write_text("paste:\n  draws: 0\nmethods:\n  tumorgen:\n    flow:\n      learning_rate: 1e-4\n")
    with pytest.raises(PlanError) as caught:
        check_overrides(read_overrides(str(mine), ()), FIELDS)
    (fault,) = caught.value.faults
    assert fault.where == f"preset {mine} paste.draws"
    assert (fault.found, fault.expected) == ("0", "a whole number from 1 to 1,000")
    assert read_overrides(str(mine), ())["methods.tumorgen.flow.learning_rate"][0] == 1e-4


def test_a_setting_of_another_type_blames_the_option_and_its_remedy_works() -> None:
    with pytest.raises(PlanError) as caught:
        check_overrides(read_overrides(None, ["paste.draws=many", "draws=5", "Window.Alpha=0.1"]), FIELDS)
    wrong, unknown, upper = caught.value.faults
    assert (wrong.where, wrong.found) == ("--set paste.draws", "'many'")
    assert (unknown.where, unknown.remedy) == ("--set draws", "did you mean paste.draws?")
    assert upper.remedy == "did you mean window.alpha?"
    check_overrides(read_overrides(None, ["paste.draws=5", "window.alpha=0.1"]), FIELDS)


def test_ranges_are_said_in_words() -> None:
    assert describe_type(FIELDS["window.shape"]) == "3 values, each a whole number from 32 to 4,096 in steps of 16"
    assert describe_type(FIELDS["methods.tumorgen.flow.ema"]) == "a number at least 0, below 1"
    assert describe_type(FIELDS["methods.tumorgen.sampling.solver"]) == "one of euler, heun"
    assert describe_type(FIELDS["paste.tumors"]) == "data or a whole number from 1 to 1,000"
    assert describe_type(FIELDS["methods.tumorgen.flow.bapmg"]) == "true or false"
    assert describe_type(FIELDS["methods.syntumor.contrast"]).startswith("a list, each 2 values, each a number from")
