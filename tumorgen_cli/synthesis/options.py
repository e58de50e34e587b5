"""Options of painting that travel together: hosts, quality, the set to make, painting on the fly. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tumorgen_cli.geometry import Box
from tumorgen_cli.synthesis.counts import count_faults
from tumorgen_cli.synthesis.shards import Shard
from tumorgen_cli.system.errors import Fault, PlanError

if TYPE_CHECKING:
    from tumorgen_cli.judge.verdict import PassRule


#: whose own tumors are redrawn: those of the held-out or of the training cases
CaseGroup = Literal["test", "train"]


@dataclass(frozen=True)
class HostOptions:
    """What is painted into, and where.

    Attributes:
        healthy: Folder of scans without tumors (`NAME_0000.nii.gz`, ...).
        cases: Redraw the tumors of the data set's own held-out or training cases.
        roi: Folder of masks, one per scan (`NAME.nii.gz`); tumors lie where a mask is not 0.
        box: Paint in this box of every scan, in voxels.
        paint_in: Name of a label of the plan: tumors are painted in this label of the `host_labels`. In a comparison,
            without `host_labels`, another data set, whose cases without tumors are painted into.
        host_labels: Folder with a label file per scan of `healthy`, named as the scan without `_0000`.
        skip_suspects: Leave out scans of `healthy` in which a judge marks suspected lesions.
        tumors: Number of tumors in a pair. None: in healthy scans as the plan says (`paste.tumors`), by default as many
            as patients have; of a redrawn case one.
        anywhere: Draw boxes anywhere in the regions or the body, whatever the plan says (`paste.places`); else, where
            the surroundings look like those of training tumors.
        trust_units: Paint also into scans whose intensities look like another unit than the training cases'.
        aim: Results folder of an nnU-Net with folds of the training cases: half of the pairs get tumors like those that
            it misses or outlines badly (`synthesis.aim`). Only in scans of `healthy`.
    """

    healthy: Path | None = None
    cases: CaseGroup | None = None
    roi: Path | None = None
    box: Box | None = None
    paint_in: str | None = None
    host_labels: Path | None = None
    skip_suspects: bool = False
    tumors: int | None = None
    anywhere: bool = False
    trust_units: bool = False
    aim: Path | None = None


def refuse_host_options(hosts: HostOptions, *known: str) -> None:
    """Refuse the options of hosts that a stage has no use for, so that none is ignored.

    Args:
        hosts: What the user asks for.
        known: The fields that the stage uses.

    Raises:
        PlanError: another field is given.
    """
    given = [(f.name, getattr(hosts, f.name)) for f in fields(hosts) if f.name not in known]
    faults = [
        Fault(f"--{name.replace('_', '-')}", str(value), f"only {', '.join(known)} here", "leave it out")
        for name, value in given
        if value is not None and value is not False
    ]
    if faults:
        raise PlanError("Options that do not apply", faults)


def host_faults(hosts: HostOptions, both: bool = False) -> list[Fault]:
    """The faults of hosts that are not given or, unless `both` is allowed, given twice.

    Where both are allowed, also of options that have no effect on cases alone; `check_hosts` refuses them with others.
    """
    if hosts.healthy is None and hosts.cases is None:
        remedy = "give --healthy DIR, --cases train, or both" if both else "give --healthy DIR or --cases test"
        return [Fault("--healthy and --cases", "neither given", "scans to paint into", remedy)]
    if hosts.healthy is not None and hosts.cases is not None and not both:
        return [Fault("--healthy and --cases", "both given", "one of them", "leave one out")]
    return faults_of_cases_alone(hosts) if both else []


def faults_of_cases_alone(hosts: HostOptions) -> list[Fault]:
    """The fault of each option that is for healthy scans and has no effect where only tumors of cases are redrawn."""
    if hosts.healthy is not None or hosts.cases is None:
        return []
    given = {"--roi": hosts.roi, "--anywhere": hosts.anywhere, "--trust-units": hosts.trust_units, "--aim": hosts.aim}
    remedy = "leave it out: --cases paints where the tumors are"
    return [
        Fault(name, "given with --cases alone", "--healthy beside it", remedy) for name, value in given.items() if value
    ]


def check_hosts(hosts: HostOptions) -> None:
    """Check that the options of hosts fit together, for a set that is painted into one kind of hosts.

    Raises:
        PlanError: no source or two, several tumors in one box, regions of which one would be ignored, or a label
            without label files.
    """
    faults = host_faults(hosts)
    if hosts.cases is not None and not faults:
        refuse_host_options(hosts, "cases", "box", "tumors")
    faults += count_faults(hosts.tumors, hosts.box)
    if hosts.anywhere and hosts.box is not None:
        faults.append(Fault("--anywhere and --box", "both given", "one of them", "leave one out"))
    if hosts.aim is not None and hosts.box is not None:
        faults.append(Fault("--aim and --box", "both given", "one of them", "leave one out"))
    if hosts.roi is not None and hosts.host_labels is not None:
        faults.append(Fault("--roi and --host-labels", "both given", "one of them", "leave one out"))
    if (hosts.paint_in is None) != (hosts.host_labels is None):
        expected, remedy = "a label and the label files", "give --paint-in and --host-labels, or neither"
        faults.append(Fault("--paint-in and --host-labels", "one of them", expected, remedy))
    if faults:
        raise PlanError("Options that do not fit together", faults)


@dataclass(frozen=True)
class QualityOptions:
    """Which pairs are kept: those of which a judge finds enough of the mask, and newly marks little beside it.

    Attributes:
        until_pass: How many draws of a pair the judge may reject before the pair is given up. None: no judge is asked.
        keep: Least share of the mask, 0 to 1, that the judge must find.
        judge: nnU-Net results folder, or `bundled`. None: the workspace's judge, else the bundled one if it knows such
            scans.
        p_alone: What the judge marks beside the mask does not count, as in FreeTumor.
    """

    until_pass: int | None = None
    keep: float = 0.7
    judge: Path | None = None
    p_alone: bool = False

    @property
    def rule(self) -> PassRule:
        """When a pair passes."""
        from tumorgen_cli.judge.verdict import MOST_BESIDE, PassRule

        return PassRule(self.keep, None if self.p_alone else MOST_BESIDE)


def judge_faults(quality: QualityOptions) -> list[Fault]:
    """The fault of a judge that is not asked."""
    unused = quality.judge is not None and quality.until_pass is None
    fault = Fault("--judge", str(quality.judge), "--until-pass beside it", "add --until-pass N, or leave it out")
    return [fault] if unused else []


@dataclass(frozen=True)
class SetOptions:
    """Which set is made, and which part of it by this process.

    Attributes:
        pairs: How many pairs the whole set has.
        out: Folder of the set. None: a folder of the workspace, named after the method, the hosts and the options.
        seed: Seed of every random draw. None: the plan's.
        shard: The part of the pairs that this process makes. None: all of them.
        dry_run: Check the hosts, paint one pair in memory, estimate time and disk, and write nothing.
    """

    pairs: int = 20
    out: Path | None = None
    seed: int | None = None
    shard: Shard | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class OnTheFlyOptions:
    """How many painted patches nnU-Net sees while it trains, and what painting them may cost.

    Attributes:
        probability: Probability that a training patch is a painted one.
        pool: How many painted patches are kept at a time.
        share: Largest share of its time that the painter computes, above 0 and at most 1.
        mixup: Share of the painted patches into which a box of another one is pasted.
        around: Share of the painted patches that are cut around a tumor; the others are cut elsewhere in the painted
            scan. None: as many show a tumor as of the real patches.
    """

    probability: float = 0.5
    pool: int = 32
    share: float = 0.15
    mixup: float = 0.0
    around: float | None = None
