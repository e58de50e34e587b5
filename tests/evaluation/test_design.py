"""What nnU-Net draws in each arm, by hand."""

import dataclasses
from collections import Counter

import pytest
from support.command_line import call

from tumorgen_cli.evaluation.design import (
    ARMS,
    UNPAINTED,
    Design,
    default_arms,
    find_arm,
    list_draws,
    list_variants,
    unpainted_share,
)
from tumorgen_cli.methods.registry import METHODS
from tumorgen_cli.system.errors import PlanError

REAL = [f"r{i}" for i in range(8)]
PAIRS = [f"p{i}" for i in range(32)]
EMPTY = [f"h{i}" for i in range(10)]
DESIGN = Design(("real", "empty", "copypaste"), (1.0,), 2, 60, 4, 0.5)


def counts(arm, unpainted=0.0, pairs=PAIRS, empty=EMPTY, **changes):
    """How often real cases, pairs and healthy scans are listed."""
    draws = list_draws(find_arm(arm), dataclasses.replace(DESIGN, **changes), REAL, pairs, empty, unpainted)
    listed = Counter(name[0] for name in draws.names)
    return (listed["r"], listed["p"], listed["h"]), draws


def test_the_control_draws_healthy_scans_as_often_as_an_arm_draws_pairs():
    found, draws = counts("empty")
    assert found == (32, 0, 32)
    assert draws.real_share == 0.5
    assert {Counter(draws.names)[name] for name in EMPTY} == {3, 4}  # 32 draws of ten scans, each in turn
    assert counts("copypaste")[0] == (32, 32, 0)


def test_unpainted_hosts_are_drawn_beside_the_pairs():
    """Half and half; the real cases stay half of all."""
    found, draws = counts("copypaste", 0.5)
    assert found == (64, 32, 32)
    assert draws.real_share == 0.5
    assert counts("copypaste", 0.1)[0] == (32, 32, 4)  # SynTumor's share: 4 of 36


def test_arms_without_real_cases():
    assert counts("copypaste-alone", 0.5)[0] == (0, 32, 32)
    assert counts("copypaste-alone")[1].real_share == 0.0
    assert counts("copypaste-pretrained")[0] == (0, 32, 0)  # before it learns from real cases alone


def test_the_real_arm_draws_each_case_once():
    found, draws = counts("real", 0.5)
    assert (found, draws.real_share, draws.painted) == ((8, 0, 0), 1.0, 0.0)


@pytest.mark.parametrize(("unpainted", "real_share"), [(0.0, 0.5), (0.5, 0.5), (0.2, 0.75)])
def test_a_live_arm_draws_in_the_shares_of_the_other_arms(unpainted, real_share):
    """Painted patches take the place of listed cases; what is left is divided over real and unpainted ones."""
    (real, _, hosts), draws = counts("copypaste-live", unpainted, pairs=(), real_share=real_share)
    listed_real = real / (real + hosts)
    assert draws.painted == pytest.approx((1 - real_share) * (1 - unpainted), abs=0.02)
    assert (1 - draws.painted) * listed_real == pytest.approx(real_share, abs=0.02)
    assert draws.real_share == pytest.approx(real_share, abs=0.02)


def test_variants_begin_with_the_real_arm_and_vary_where_they_can():
    design = dataclasses.replace(DESIGN, arms=("copypaste", "empty", "real"), hosts=(10, None), paintings=2)
    assert [variant.name for variant in list_variants(design)] == [
        "real",
        "copypaste_hosts10",
        "copypaste_hosts10_painting1",
        "copypaste",
        "copypaste_painting1",
        "empty_hosts10",
        "empty",
    ]


def test_every_method_has_every_kind_of_arm():
    for method in METHODS:
        for ending in (
            "",
            "-live",
            "-live-mixup",
            "-alone",
            "-pretrained",
            "-longer",
            "-live-longer",
            "-aimed",
            "-live-aimed",
        ):
            assert ARMS[f"{method}{ending}"].source == method
    assert {name for name in ARMS if ARMS[name].source in ("real", "empty")} == {
        "real",
        "empty",
        "real-longer",
        "empty-longer",
    }


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        (
            "copypaste-lives",
            "did you mean copypaste-live? `tumorgen downstream --help` tells what each arm is (--arms)",
        ),
        ("Real", "did you mean real? `tumorgen downstream --help` tells what each arm is (--arms)"),
        ("qqq", "`tumorgen downstream --help` tells what each arm is (--arms)"),
    ],
)
def test_an_unknown_arm_gets_the_nearest_and_not_the_whole_list(wrong, remedy):
    with pytest.raises(PlanError) as error:
        find_arm(wrong)
    (fault,) = error.value.faults
    assert (fault.where, fault.remedy) == (f"--arms.{wrong}", remedy)
    assert len(str(fault)) < 320
    told = " ".join(call("downstream", "-h").stdout.split())  # the remedy, followed
    assert all(text in told for text in ("METHOD-live", "METHOD-alone", "METHOD-x16", "ARM-longer"))


def test_arms_may_have_their_own_numbers():
    """Of pairs for each real case, and of the cases that the method learns from."""
    arm = find_arm("copypaste-from32-x16-alone")
    assert (arm.source, arm.learned, arm.ratio, arm.alone) == ("copypaste", 32, 16, True)
    assert find_arm("copypaste-x16").name == "copypaste-x16"
    assert counts("empty-x2")[0] == (16, 0, 16)
    for wrong in ("real-x4", "empty-from8", "copypaste-live-x4", "copypaste-x4-live", "copypaste-x0", "tumorgen-from0"):
        with pytest.raises(PlanError) as caught:
            find_arm(wrong)
        assert caught.value.faults[0].where == f"--arms.{wrong}"
    assert find_arm("copypaste-live").live  # the remedy, followed
    with pytest.raises(PlanError, match="leave it out"):
        find_arm("copypaste-x4-live")


def test_defaults():
    assert default_arms(True) == ("real", "empty", "tumorgen")
    assert default_arms(False) == ("real", "tumorgen")
    assert unpainted_share(DESIGN, True) == UNPAINTED
    assert unpainted_share(DESIGN, False) == 0.0
    assert unpainted_share(dataclasses.replace(DESIGN, unpainted=0.1), True) == 0.1
