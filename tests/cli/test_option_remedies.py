"""Remedies for options work when they are followed: a refused command, what is said, and the command that is accepted.

What a command does is replaced by a function that records what it is asked to do.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.command_line import call

from tumorgen_cli import api
from tumorgen_cli.data.phantom import Phantoms
from tumorgen_cli.evaluation.design import Design
from tumorgen_cli.geometry import Box
from tumorgen_cli.pipeline import demo
from tumorgen_cli.synthesis.options import HostOptions, check_hosts, host_faults
from tumorgen_cli.system.errors import PlanError

IN_RANGE = "give a number in this range, or leave it out"
REMEDY = re.compile(r"remedy:\s+(.*)")


@pytest.fixture
def asked(monkeypatch):
    """Replaces a function of the API; returns what it is called with."""

    def replace(name):
        found = {}

        def record(*positional, **named):
            found.update(named, positional=positional)
            raise SystemExit(0)

        monkeypatch.setattr(api, name, record)
        return found

    return replace


@pytest.fixture
def site(tmp_path):
    """Folders by the names that stand for them in the tables; a plan is not read before options are checked."""
    for name in ("work", "hosts", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "work" / "plan.json").write_text("{}")
    return {"WORK": tmp_path / "work", "HOSTS": tmp_path / "hosts", "LABELS": tmp_path / "labels"}


def words(text, site):
    return [site.get(word, word) for word in text.split()]


REFUSED = [  # function of the API, command, remedy, command that follows it, what the function is then asked for
    (
        "downstream",
        "downstream --arms copypaste --healthy HOSTS -w WORK",
        "add real to --arms",
        "downstream --arms real,copypaste --healthy HOSTS -w WORK",
        {"design": Design(("real", "copypaste"))},
    ),
    (
        "downstream",
        "downstream --arms real,copypaste,real --healthy HOSTS -w WORK",
        "leave one out",
        "downstream --arms real,copypaste --healthy HOSTS -w WORK",
        {"design": Design(("real", "copypaste"))},
    ),
    (
        "downstream",
        "downstream --healthy HOSTS --fractions half -w WORK",
        "for example --fractions 0.25,0.5,1",
        "downstream --healthy HOSTS --fractions 0.25,0.5,1 -w WORK",
        {"design": Design(fractions=(0.25, 0.5, 1.0))},
    ),
    (
        "downstream",
        "downstream -w WORK",
        "give --healthy DIR, --cases train, or both",
        "downstream --healthy HOSTS --cases train -w WORK",
        {"positional": (HostOptions("HOSTS", "train"),)},
    ),
    (
        "downstream",
        "downstream --healthy HOSTS --hosts some -w WORK",
        "for example --hosts 10,50,all",
        "downstream --healthy HOSTS --hosts 10,50,all -w WORK",
        {"design": Design(hosts=(10, 50, None))},
    ),
    (
        "pilot_downstream",
        "downstream --cases train --longest 5 -w WORK",
        "add --pilot, or leave it out",
        "downstream --pilot --longest 60 -w WORK",
        {"longest": 60.0},
    ),
    (
        "pilot_downstream",
        "downstream --pilot --dry-run -w WORK",
        "leave --dry-run out: the pilot tells its hours before it begins",
        "downstream --pilot -w WORK",
        {"longest": None},
    ),
    (
        "compare",
        "compare --methods copypaste -w WORK",
        "give --healthy DIR or --cases test",
        "compare --methods copypaste --cases test -w WORK",
        {"iterations": None, "minutes": None},
    ),
    (
        "compare",
        "compare --methods copypaste --cases test --iterations 5 --minutes 5 -w WORK",
        "leave one out",
        "compare --methods copypaste --cases test --iterations 5 -w WORK",
        {"iterations": 5, "minutes": None},
    ),
    (
        "compare",
        "compare --methods copypaste --healthy HOSTS --paint-in tumor -w WORK",
        "add what is missing, or leave both out",
        "compare --methods copypaste --healthy HOSTS --paint-in tumor --host-labels LABELS -w WORK",
        {"work": "WORK"},
    ),
    (
        "compare",
        "compare --methods copypaste --healthy HOSTS --host-labels LABELS -w WORK",
        "add --paint-in LABEL",
        "compare --methods copypaste --healthy HOSTS --host-labels LABELS --paint-in tumor -w WORK",
        {"work": "WORK"},
    ),
    (
        "synthesize",
        "synthesize --healthy HOSTS --box 1,2 -w WORK",
        "for example --box 40,40,60,60,60,80",
        "synthesize --healthy HOSTS --box 40,40,60,60,60,80 -w WORK",
        {"positional": (HostOptions("HOSTS", box=Box((40, 40, 60), (60, 60, 80))),)},
    ),
    (
        "synthesize",
        "synthesize --healthy HOSTS --shard 9 -w WORK",
        "for example --shard 1/8, and so on to --shard 8/8",
        "synthesize --healthy HOSTS --shard 8/8 -w WORK",
        {"shard": (8, 8)},
    ),
    (
        "train_judge",
        "train judge --iterations 5 -w WORK",
        "leave it out",
        "train judge -w WORK",
        {"positional": (30.0,)},
    ),
]


@pytest.mark.parametrize(("function", "refused", "remedy", "accepted", "wanted"), REFUSED, ids=lambda x: str(x)[:60])
def test_an_option_is_corrected_as_told(asked, site, function, refused, remedy, accepted, wanted):
    found = asked(function)
    assert REMEDY.findall(call(*words(refused, site), code=1).stderr) == [remedy]
    assert found == {}  # nothing was begun
    call(*words(accepted, site))

    for key, value in wanted.items():
        if key == "positional" and isinstance(value[0], HostOptions):
            assert found[key][0] == replace(value[0], healthy=site["HOSTS"])
        else:
            assert found[key] == site.get(str(value), value)


PHANTOMS = [  # options, remedy, options that follow it
    ("--cases 0", IN_RANGE, "--cases 1"),
    ("--healthy -1", IN_RANGE, "--healthy 0"),
    ("--crop 5", IN_RANGE, ""),
    ("--quick --modality ct", "leave it out", "--modality ct"),
]


@pytest.mark.parametrize(("refused", "remedy", "accepted"), PHANTOMS)
def test_phantoms_are_asked_for_as_told(monkeypatch, tmp_path, refused, remedy, accepted):
    drawn = []
    monkeypatch.setattr(
        demo, "write_phantoms", lambda *args, **kwargs: drawn.append(kwargs) or Phantoms(*[tmp_path] * 3)
    )
    words = ("demo", "--data-only", "-w", tmp_path / "demo")
    assert REMEDY.findall(call(*words, *refused.split(), code=1).stderr) == [remedy]
    assert drawn == []
    assert not (tmp_path / "demo").exists()
    call(*words, *accepted.split())
    assert len(drawn) == 1


HOSTS = Path("hosts")
BOX = Box((1, 1, 1), (9, 9, 9))
PLACES = [  # options of hosts, remedy, options that follow it
    (HostOptions(), "give --healthy DIR or --cases test", HostOptions(cases="test")),
    (HostOptions(HOSTS, "test"), "leave one out", HostOptions(HOSTS)),
    (HostOptions(HOSTS, box=BOX, anywhere=True), "leave one out", HostOptions(HOSTS, box=BOX)),
    (
        HostOptions(HOSTS, roi=HOSTS, host_labels=HOSTS, paint_in="liver"),
        "leave one out",
        HostOptions(HOSTS, roi=HOSTS),
    ),
    (HostOptions(HOSTS, paint_in="liver"), "give --paint-in and --host-labels, or neither", HostOptions(HOSTS)),
    (HostOptions(HOSTS, tumors=0), IN_RANGE, HostOptions(HOSTS)),
    (HostOptions(HOSTS, tumors=2, box=BOX), "leave out --tumors or --box", HostOptions(HOSTS, tumors=2)),
]


@pytest.mark.parametrize(("refused", "remedy", "accepted"), PLACES)
def test_places_are_given_as_told(refused, remedy, accepted):
    with pytest.raises(PlanError) as error:
        check_hosts(refused)
    assert [fault.remedy for fault in error.value.faults] == [remedy]
    check_hosts(accepted)


def test_options_of_healthy_scans_are_left_out_with_cases_alone():
    (fault,) = host_faults(HostOptions(cases="train", anywhere=True), both=True)
    assert fault.remedy == "leave it out: --cases paints where the tumors are"
    assert host_faults(HostOptions(cases="train"), both=True) == []
