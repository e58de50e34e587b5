"""What painting costs nnU-Net: the arithmetic, and a whole measurement on phantoms."""

import pytest


@pytest.fixture(scope="module")
def cost(example):
    return example("live_cost")


def test_the_goals_are_read_off_a_row(cost):
    found = cost.Cost(0.3, (0.20, 0.30, 0.25), (0.30, 0.28, 0.40), 50, 180.0, 0.29)
    assert found.slower == pytest.approx(0.2)
    assert found.minutes_for_100 == pytest.approx(6.0)
    assert found.row == ("0.3", "0.2500", "0.3000", "+20.0%", "29%", "50", "6.0")
    none = cost.Cost(0.3, (0.2,), (0.2,), 0, 60.0, 0.0)
    assert none.minutes_for_100 == float("inf")


@pytest.mark.slow
def test_a_painter_is_measured_beside_nnunet(cost, unpainted, phantoms, tmp_path, capsys):
    cost.main(unpainted.root, phantoms.healthy, tmp_path, "copypaste", "0.9", rounds=1, seconds=5.0, device="cpu")
    text = capsys.readouterr()
    row = next(line for line in (text.out + text.err).splitlines() if line.strip().startswith(("0.9", "│ 0.9")))
    assert "%" in row
