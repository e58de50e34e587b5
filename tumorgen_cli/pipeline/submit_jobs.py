"""The jobs of a chain: what each runs, after which others, and what it may take of a machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tumorgen_cli.data.checks import read_header
from tumorgen_cli.data.workers import preprocessing_memory_gib
from tumorgen_cli.judge.find import BUNDLED, choose_judge
from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.pipeline.hints import DEFAULT_METHOD
from tumorgen_cli.pipeline.preprocess import forecast_preprocessing, learns_from_hosts
from tumorgen_cli.pipeline.submit_records import STAGES, ChainOptions, Job, Needs
from tumorgen_cli.pipeline.synthesize import set_name
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.forecast import forecast_set
from tumorgen_cli.synthesis.host_checks import check_sources
from tumorgen_cli.synthesis.jobs import make_jobs
from tumorgen_cli.synthesis.options import HostOptions, QualityOptions, check_hosts
from tumorgen_cli.synthesis.pair import PairInputs
from tumorgen_cli.synthesis.sources import Source, healthy_sources, redraw_sources
from tumorgen_cli.system.errors import Fault, PlanError, say_count
from tumorgen_cli.system.json_records import unknown_name_fault

_SAMPLE = 20  # hosts whose headers are looked at before submission
_PREPROCESSING_CORES = 4
_PAINTING_CORES = 2  # files are read and written beside the painting
_TRAINING_CORES = {"cpu": 4, "cuda": 9}  # on a GPU eight processes draw the windows of the next steps
_NNUNET_CORES = {"cpu": 4, "cuda": 13}  # nnU-Net's own number of processes beside its training
_TRAINING_GIB = {"cpu": 10.0, "cuda": 24.0}  # a CPU's networks are planned for 8 GiB at most; loaders need some, too
_NNUNET_GIB = {"cpu": 16.0, "cuda": 48.0}
_PROCESS_GIB = 3.0  # Python with its libraries, a method's networks and a judge
_VOXEL_BYTES = 24  # of a pair in memory, for each voxel and channel: the scan, the painted one, what is being written
_JUDGE_SECONDS = 2 * 1800.0  # the command's own half hour, and as much for the scores of the held-out cases
_ARM_SECONDS = 9 * 3600.0  # of downstream: three seeds and three fractions of an hour


def plan_jobs(workspace: Workspace, options: ChainOptions) -> tuple[Job, ...]:
    """Decide the jobs of a chain.

    Hosts are listed, and the headers of some are looked at. If cases are left to preprocess, one is preprocessed in a
    temporary folder; if the device of the plan is here, a step of the training is measured.

    Raises:
        PlanError: options that do not fit together, an unknown stage, or no judge for `filter`.
        DataError: there are no hosts, or they cannot be used.
    """
    _check_options(options)
    plan = workspace.plan()
    sources = _find_sources(workspace, plan, options)
    if "filter" in options.stages and "judge" not in options.stages:
        _check_judge(workspace, options, sources)
    trains = "train" in options.stages and bool(find_method(options.method).stages)
    names = [name for name in STAGES if name in options.stages and (name != "train" or trains)]
    ready = "train" if trains else "preprocess"
    after = {
        "train": ("preprocess",),
        "judge": ("preprocess",),
        "synthesize": (ready,),
        "filter": ("synthesize", "judge"),
        "merge": ("filter" if "filter" in names else "synthesize",),
        "downstream": (ready,),
    }
    chain = _Chain(workspace, plan, options, sources)
    return tuple(getattr(chain, name)(tuple(each for each in after.get(name, ()) if each in names)) for name in names)


def with_absolute_paths(options: ChainOptions) -> ChainOptions:
    """The same options with absolute paths: scripts run in other folders. `bundled` names a judge and is no path."""

    def absolute(path: Path | None) -> Path | None:
        return path if path is None or (str(path) == BUNDLED and not path.exists()) else path.resolve()

    hosts = replace(options.hosts, healthy=absolute(options.hosts.healthy), roi=absolute(options.hosts.roi))
    quality = replace(options.quality, judge=absolute(options.quality.judge))
    return replace(options, hosts=hosts, quality=quality, out=absolute(options.out))


def _check_options(options: ChainOptions) -> None:
    """Check that the options of a chain fit together.

    Raises:
        PlanError: they do not.
    """
    faults = [unknown_name_fault("--stages", name, STAGES) for name in options.stages if name not in STAGES]
    paints = {"synthesize", "downstream"} & {*options.stages}
    if "merge" in options.stages and options.merged is None:
        fault = Fault("--merged", "not given", "a name for `merge`", "for example --merged Dataset601_Merged")
        faults.append(fault)
    if "merge" not in options.stages and options.merged is not None:
        faults.append(Fault("--merged", options.merged, "the stage merge", "add merge to --stages, or leave it out"))
    if "downstream" in options.stages and options.hosts.cases == "test":
        remedy = "give --cases train or --healthy DIR, or leave downstream out"
        faults.append(Fault("--cases", "test", "scans that downstream may paint into", remedy))
    if "downstream" in options.stages and (options.hosts.roi is not None or options.hosts.skip_suspects):
        remedy = "leave them out, or leave downstream out of --stages"
        faults.append(Fault("--roi or --skip-suspects", "given", "options that downstream knows", remedy))
    if not paints and options.hosts != HostOptions():
        remedy = "add synthesize to --stages, or leave the options of hosts out"
        faults.append(Fault("--stages", ",".join(options.stages), "a stage that paints", remedy))
    if faults:
        raise PlanError("Options that do not fit together", faults)
    if paints:
        check_hosts(options.hosts)


def _find_sources(workspace: Workspace, plan: Plan, options: ChainOptions) -> list[Source]:
    """The hosts of the chain, of which some are looked at; none where nothing is painted."""
    if options.hosts.cases is not None:
        return redraw_sources(workspace, plan, options.hosts.cases)
    if options.hosts.healthy is None:
        return []
    sources = healthy_sources(plan, options.hosts.healthy, options.hosts.roi)
    cases = workspace.fingerprint().of(workspace.splits().train).cases
    check_sources(sources[: min(_SAMPLE, options.pairs)], None, plan, cases, tell=False)
    return sources


def _check_judge(workspace: Workspace, options: ChainOptions, sources: Sequence[Source]) -> None:
    """Check that there is a judge for the pairs.

    Raises:
        PlanError: there is none.
    """
    choice = choose_judge(workspace, options.quality.judge, [source.files for source in sources[:_SAMPLE]])
    reason = choice.reason or "; ".join(choice.differences if options.quality.judge is None else ())
    if reason:
        remedy = "add judge to --stages, which trains one; give --judge; or leave filter out of --stages"
        raise PlanError("There is no judge", [Fault("--stages filter", reason, "a judge for the pairs", remedy)])


@dataclass(frozen=True)
class _Chain:
    """Makes the job of each stage; a method is named after its stage."""

    workspace: Workspace
    plan: Plan
    options: ChainOptions
    sources: Sequence[Source]

    @property
    def work(self) -> tuple[str, ...]:
        """The option of the workspace."""
        return ("-w", str(self.workspace.root))

    @property
    def on_gpu(self) -> bool:
        """Whether networks compute on a GPU."""
        return self.plan.device == "cuda"

    @property
    def out(self) -> Path:
        """The folder of the set."""
        hosts, method = self.options.hosts, self.options.method
        own = self.workspace.synthetic(set_name(method, hosts, Sampling(), QualityOptions()))
        return self.options.out or own

    @property
    def kept(self) -> Path:
        """The folder of the pairs that passed the judge."""
        return self.out.with_name(f"{self.out.name}_kept")

    @property
    def shards(self) -> int:
        """The tasks of the set."""
        return min(self.options.shards, self.options.pairs)

    def preprocess(self, after: tuple[str, ...]) -> Job:
        healthy = self.options.hosts.healthy if learns_from_hosts(self.workspace, self.options.method) else None
        grids = [case.grid for case in self.workspace.fingerprint().cases]
        memory = _PREPROCESSING_CORES * preprocessing_memory_gib(grids, len(self.plan.channels))
        seconds = forecast_preprocessing(self.workspace, healthy, _PREPROCESSING_CORES).seconds
        words = ("tumorgen", "preprocess", *_option("--healthy", healthy), *self.work)
        needs = Needs(_PREPROCESSING_CORES, memory, seconds)
        return Job("preprocess", "Brings every case to the working spacing.", words, after, needs)

    def train(self, after: tuple[str, ...]) -> Job:
        words = ("tumorgen", "train", "all", "--method", self.options.method, *self.work)
        seconds = _training_seconds(self.plan, self.options.method)
        needs = Needs(_TRAINING_CORES[self.plan.device], _TRAINING_GIB[self.plan.device], seconds, self.on_gpu)
        return Job("train", f"Trains every stage of {self.options.method}.", words, after, needs)

    def judge(self, after: tuple[str, ...]) -> Job:
        needs = Needs(_NNUNET_CORES[self.plan.device], _NNUNET_GIB[self.plan.device], _JUDGE_SECONDS, self.on_gpu)
        return Job("judge", "Trains a judge.", ("tumorgen", "train", "judge", *self.work), after, needs)

    def synthesize(self, after: tuple[str, ...]) -> Job:
        seconds = self._seconds_of_pairs()
        each = None if seconds is None else seconds / self.shards
        needs = Needs(_PAINTING_CORES, self._painting_gib(), each, self.on_gpu)
        what = ("-n", str(self.options.pairs), "--method", self.options.method, *self._host_words())
        seed = _option("--seed", self.options.seed)
        words = ("tumorgen", "synthesize", *what, *seed, "--out", str(self.out), *self.work)
        return Job("synthesize", f"Paints {say_count(self.options.pairs, 'pair')}.", words, after, needs, self.shards)

    def filter(self, after: tuple[str, ...]) -> Job:
        quality = self.options.quality
        options = ("--keep", f"{quality.keep:g}", *(("--p-alone",) if quality.p_alone else ()))
        options += _option("--judge", quality.judge)
        words = ("tumorgen", "filter", str(self.out), *options, "--out", str(self.kept), *self.work)
        needs = Needs(_PAINTING_CORES, self._painting_gib(), None, self.on_gpu)
        return Job("filter", "Copies the pairs that pass the judge.", words, after, needs, self.shards)

    def merge(self, after: tuple[str, ...]) -> Job:
        pairs = self.kept if "filter" in self.options.stages else self.out
        words = ("tumorgen", "merge", self.plan.dataset_path, str(pairs), "--out", str(self.options.merged), *self.work)
        needs = Needs(1, _PROCESS_GIB, None)
        return Job("merge", "Puts real cases and pairs into one nnU-Net raw data set.", words, after, needs)

    def downstream(self, after: tuple[str, ...]) -> Job:
        arms = ("real", *(("empty",) if self.options.hosts.healthy else ()), self.options.method)
        words = ("tumorgen", "downstream", *self._host_words(), "--arms", ",".join(arms), *self.work)
        device, seconds = self.plan.device, len(arms) * _ARM_SECONDS
        needs = Needs(_NNUNET_CORES[device], _NNUNET_GIB[device], seconds, self.on_gpu)
        return Job("downstream", "Trains nnU-Nets with and without pairs.", words, after, needs)

    def _host_words(self) -> tuple[str, ...]:
        """The options of the hosts as words."""
        hosts = self.options.hosts
        flags = {
            "--skip-suspects": hosts.skip_suspects,
            "--anywhere": hosts.anywhere,
            "--trust-units": hosts.trust_units,
        }
        return (
            *_option("--healthy", hosts.healthy),
            *_option("--cases", hosts.cases),
            *_option("--roi", hosts.roi),
            *_option("--tumors", hosts.tumors),
            *(name for name, given in flags.items() if given),
        )

    def _painting_gib(self) -> float:
        """The memory that painting or judging a pair takes, by the largest file among the hosts."""
        files = [source.files[0] for source in self.sources if source.files[0].is_file()]
        largest = max(files, key=lambda path: path.stat().st_size, default=None)
        grid = None if largest is None else read_header(largest, [])
        voxels = 0 if grid is None else math.prod(grid.shape)
        return _PROCESS_GIB + _VOXEL_BYTES * voxels * len(self.plan.channels) / 2**30

    def _seconds_of_pairs(self) -> float | None:
        """The seconds of all pairs in one process; None if the method has painted nothing in this workspace."""
        method = find_method(self.options.method)(self.plan, self.workspace)
        cases = self.workspace.fingerprint().of(self.workspace.splits().train).cases
        jobs = make_jobs(self.sources, self.options.pairs, self.plan.seed)
        return forecast_set(PairInputs(method, cases, Sampling()), jobs, self.out).seconds


def _option(name: str, value: object) -> tuple[str, ...]:
    """An option and its value as words. None: no words."""
    return () if value is None else (name, str(value))


def _training_seconds(plan: Plan, method: str) -> float | None:
    """The expected seconds of a training; None where they cannot be measured here."""
    import torch

    if method != DEFAULT_METHOD or (plan.device == "cuda" and not torch.cuda.is_available()):
        return None
    from tumorgen_cli.methods.tumorgen.timing import rough_training_seconds

    return rough_training_seconds(plan)
