"""What `downstream` compares: its arms, the axes of the experiment, and what nnU-Net draws in each arm.

Plain records and arithmetic; nothing is read or written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tumorgen_cli.evaluation.scan_scores import EMPTY, REAL
from tumorgen_cli.methods.registry import METHODS
from tumorgen_cli.nnunet.segmentors import Segmentor
from tumorgen_cli.system.errors import Fault, PlanError, did_you_mean

LIVE, MIXUP, ALONE, PRETRAINED, LONGER = "-live", "-mixup", "-alone", "-pretrained", "-longer"
AIMED = "-aimed"
#: share of healthy scans with empty masks beside an arm's pairs. On chest CT (8 real cases, one seed) 0.5 lowered false
#: positives from 5.2 to 1.5 a scan, and found nodules were as well outlined.
UNPAINTED = 0.5
#: share of the painted patches of a `-mixup` arm into which a box of another one is pasted
MIXED = 0.5


@dataclass(frozen=True)
class ArmRecipe:
    """What an nnU-Net of an arm learns from.

    Attributes:
        name: Name of the arm.
        source: REAL, EMPTY or a method.
        live: The method paints while nnU-Net trains.
        mixup: A box of another patch is pasted into a share of the painted patches.
        alone: No real case is drawn.
        pretrained: Pairs come first, then real cases alone.
        longer: The training is longer, so that real cases are drawn as often as in the arm of real cases alone.
        aimed: Half of what is painted into healthy scans is aimed at what nnU-Nets of the real cases miss.
        ratio: Number of its pairs for each real case; None: as the design says.
        learned: Number of real cases that its method learns from; None: those of nnU-Net.
    """

    name: str
    source: str
    live: bool = False
    mixup: bool = False
    alone: bool = False
    pretrained: bool = False
    longer: bool = False
    aimed: bool = False
    ratio: int | None = None
    learned: int | None = None

    @property
    def paints(self) -> bool:
        """Whether a method paints for this arm."""
        return self.source not in (REAL, EMPTY)


def _recipes() -> dict[str, ArmRecipe]:
    """Return every arm by its name."""
    short = [ArmRecipe(REAL, REAL), ArmRecipe(EMPTY, EMPTY)]
    for method in METHODS:
        live = f"{method}{LIVE}"
        short += [ArmRecipe(method, method), ArmRecipe(live, method, live=True)]
        short += [ArmRecipe(f"{live}{MIXUP}", method, live=True, mixup=True)]
        short += [ArmRecipe(f"{method}{AIMED}", method, aimed=True)]
        short += [ArmRecipe(f"{live}{AIMED}", method, live=True, aimed=True)]
        short += [ArmRecipe(f"{method}{ALONE}", method, alone=True)]
        short += [ArmRecipe(f"{method}{PRETRAINED}", method, pretrained=True)]
    long = [
        replace(arm, name=f"{arm.name}{LONGER}", longer=True)
        for arm in short
        if not arm.alone and not arm.pretrained  # these do not draw real cases among others
    ]
    return {arm.name: arm for arm in (*short, *long)}


ARMS = _recipes()


_NUMBERED = re.compile(r"(?P<source>[a-z0-9]+)(?:-from(?P<learned>\d+))?(?:-x(?P<ratio>\d+))?(?P<kind>(?:-[a-z]+)*)")


def find_arm(name: str) -> ArmRecipe:
    """Return an arm by its name, which may hold numbers: METHOD-fromN learned from N real cases, ARM-xN has N pairs.

    Raises:
        PlanError: There is no such arm.
    """
    found = _NUMBERED.fullmatch(name)
    plain = ARMS.get(found["source"] + found["kind"]) if found else None
    if found is None or plain is None:
        expected = "real, empty, or a method's name, which more may follow, as in METHOD-live or METHOD-x16"
        ask = f"{near} " if (near := did_you_mean(name, ARMS)) else ""
        remedy = f"{ask}`tumorgen downstream --help` tells what each arm is (--arms)"
        raise PlanError("No such arm", [Fault(f"--arms.{name}", "an unknown name", expected, remedy)])
    learned, ratio = (int(found[key]) if found[key] else None for key in ("learned", "ratio"))
    pairs_alone = ratio is not None and (ratio == 0 or plain.source == REAL or plain.live)
    if pairs_alone or (learned is not None and (learned == 0 or not plain.paints or plain.aimed)):
        expected = "-xN of an arm with a set of pairs, -fromN of a method that is not aimed"
        raise PlanError("No such arm", [Fault(f"--arms.{name}", "a number of no use", expected, "leave it out")])
    return replace(plain, name=name, ratio=ratio, learned=learned)


@dataclass(frozen=True)
class Design:
    """What is compared.

    Attributes:
        arms: Names of the arms, of `ARMS`.
        fractions: Shares of the training cases that arms learn from.
        seeds: Trainings of nnU-Net on each painting.
        minutes: Length of a training of the real arm. The first one measures how many steps these are; all take as
            many.
        ratio: Number of pairs for each real case.
        real_share: Share of real cases among the cases nnU-Net draws; they are repeated to reach it.
        hosts: Numbers of healthy scans; None: all.
        unpainted: Share of healthy scans with empty masks in what is drawn beside real cases. None: `UNPAINTED` where
            there are healthy scans.
        subsets: Number of draws of the real cases; methods, pairs and nnU-Nets are made anew for each.
        paintings: Number of sets that a method paints for each draw.
        times: Length of the trainings of the other arms, as a multiple of the real arm's.
        aside: Share of the real cases that no arm learns from. Their scores choose the best weights of a training, and
            say when it reaches the plateau of the real arm. 0: none, and the last weights count.
        segmentor: The network that nnU-Net trains.
        pretrained: Path of one of nnU-Net's checkpoints that every training starts from; None: random weights.
        primary: The arm of the primary comparison. None: the first method of the registry that is an arm.
        measure: Name of the measure of the primary comparison. None: sensitivity at one false positive a scan.
    """

    arms: tuple[str, ...] = (REAL, EMPTY, METHODS[0])
    fractions: tuple[float, ...] = (0.25, 0.5, 1.0)
    seeds: int = 3
    minutes: float = 60.0
    ratio: int = 4
    real_share: float = 0.5
    hosts: tuple[int | None, ...] = (None,)
    unpainted: float | None = None
    subsets: int = 1
    paintings: int = 1
    times: float = 1.0
    aside: float = 0.0
    segmentor: Segmentor = "nnunet"
    pretrained: str | None = None
    primary: str | None = None
    measure: str | None = None

    @property
    def folder(self) -> str:
        """Where its trainings and results are below the study's folder: segmentors are not mixed."""
        if self.pretrained is None:
            return "" if self.segmentor == Design().segmentor else self.segmentor
        return f"{self.segmentor}_from_{Path(self.pretrained).stem}"


def default_arms(with_healthy: bool) -> tuple[str, ...]:
    """Return the arms of a design that names none; empty masks need healthy scans."""
    return Design().arms if with_healthy else (REAL, METHODS[0])


@dataclass(frozen=True)
class Variant:
    """An arm with the number of its healthy scans and its painting: what nnU-Nets of all seeds learn from."""

    arm: ArmRecipe
    hosts: int | None = None
    painting: int = 0

    @property
    def name(self) -> str:
        """A name for folders and messages."""
        hosts = "" if self.hosts is None else f"_hosts{self.hosts}"
        return f"{self.arm.name}{hosts}" + (f"_painting{self.painting}" if self.painting else "")


def list_variants(design: Design) -> list[Variant]:
    """List what is trained at one draw of real cases: the real arm first, whose length the others follow."""
    found = []
    for arm in sorted(map(find_arm, design.arms), key=lambda arm: arm.name != REAL):
        hosts = design.hosts if arm.source != REAL else (None,)
        paintings = range(design.paintings if arm.paints else 1)
        found += [Variant(arm, count, painting) for count in hosts for painting in paintings]
    return found


def unpainted_share(design: Design, with_healthy: bool) -> float:
    """Return the share of healthy scans with empty masks in what is drawn beside real cases."""
    if design.unpainted is not None:
        return design.unpainted
    return UNPAINTED if with_healthy else 0.0


def repeats(real: int, others: int, real_share: float) -> int:
    """Return how often each real case is listed so that `real_share` of the drawn cases is real; at least once."""
    return max(1, round(real_share / (1 - real_share) * others / real)) if others else 1


def attained_share(design: Design, unpainted: float) -> float:
    """Return the share of real cases among the drawn cases that repeating them can reach.

    Args:
        design: The design.
        unpainted: Share of healthy scans with empty masks in what is drawn beside real cases.
    """
    others = design.ratio / (1 - unpainted)
    repeated = max(1, round(design.real_share / (1 - design.real_share) * others))
    return repeated / (repeated + others)


@dataclass(frozen=True)
class Draws:
    """What nnU-Net draws from.

    Attributes:
        names: Names of the cases; a case that is drawn more often is repeated.
        painted: Probability that a painted patch takes the place of a drawn case.
        real_share: Share of real cases in what is drawn.
    """

    names: tuple[str, ...]
    painted: float
    real_share: float


def cycle_names(names: Sequence[str], count: int) -> list[str]:
    """Return `count` names, each in turn."""
    return [names[i % len(names)] for i in range(count)] if names else []


def list_draws(
    arm: ArmRecipe, design: Design, real: Sequence[str], pairs: Sequence[str], empty: Sequence[str], unpainted: float
) -> Draws:
    """List what nnU-Net draws in an arm; for one that is pretrained, before it sees real cases.

    Args:
        arm: The arm.
        design: The design.
        real: Names of the real cases.
        pairs: Names of its pairs.
        empty: Names of its healthy scans with empty masks.
        unpainted: Share of healthy scans with empty masks in what is drawn beside real cases.
    """
    if arm.source == REAL:
        return Draws(tuple(real), 0.0, 1.0)
    if arm.live:
        return _live_draws(design, real, empty, unpainted)
    if arm.source == EMPTY:
        others = cycle_names(empty, (arm.ratio or design.ratio) * len(real))
    else:
        others = [*pairs, *cycle_names(empty, round(len(pairs) * unpainted / (1 - unpainted)))]
    if arm.alone or arm.pretrained:
        return Draws(tuple(others), 0.0, 0.0)
    repeated = [*real] * repeats(len(real), len(others), design.real_share)
    return Draws((*repeated, *others), 0.0, round(len(repeated) / (len(repeated) + len(others)), 4))


def _live_draws(design: Design, real: Sequence[str], empty: Sequence[str], unpainted: float) -> Draws:
    """List what nnU-Net draws while a method paints: real, painted and unpainted in the shares of the other arms."""
    share = attained_share(design, unpainted)
    painted = (1 - share) * (1 - unpainted)
    if not empty or not unpainted:
        return Draws(tuple(real), round(1 - share, 4), round(share, 4))
    unpainted_per_real = (1 - share) * unpainted / share
    # every healthy scan is listed at least once, if real cases can be repeated that often
    repeated = [*real] * max(1, round(len(empty) / unpainted_per_real / len(real)))
    hosts = cycle_names(empty, max(1, round(unpainted_per_real * len(repeated))))
    real_share = (1 - painted) * len(repeated) / (len(repeated) + len(hosts))
    return Draws((*repeated, *hosts), round(painted, 4), round(real_share, 4))
