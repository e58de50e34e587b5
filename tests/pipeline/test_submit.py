"""The chain as jobs: their scripts, order and resources, on a false SLURM and on this machine without it.

The commands of the scripts are a function of the shell here, which writes its words down.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.slurm import false_slurm, wait_for

from tumorgen_cli.judge.find import Choice
from tumorgen_cli.pipeline import submit as module
from tumorgen_cli.pipeline import submit_jobs, submit_state
from tumorgen_cli.pipeline.status import next_step, workspace_status
from tumorgen_cli.pipeline.submit import submit_chain
from tumorgen_cli.pipeline.submit_cluster import Cluster, time_limit_hours
from tumorgen_cli.pipeline.submit_records import ChainOptions
from tumorgen_cli.pipeline.submit_state import last_line, read_chain, submit_folder
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.options import HostOptions, QualityOptions
from tumorgen_cli.system.errors import PlanError, StateError
from tumorgen_cli.system.processes import Terminated, stop_cleanly

WHOLE = ("preprocess", "synthesize", "filter", "merge")


@pytest.fixture
def place(workspace, tmp_path):
    """A copy of the preprocessed workspace, without SLURM."""
    found = Workspace(tmp_path / "a work")
    shutil.copytree(workspace.root, found.root)
    return found


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch):
    """Whatever this machine has."""
    for each in (module, submit_state):
        monkeypatch.setattr(each, "has_slurm", lambda: False)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    for each in (module, submit_state):
        monkeypatch.setattr(each, "has_slurm", lambda: True)
    with false_slurm(tmp_path / "bin") as found:
        yield found


@pytest.fixture
def options(phantoms):
    hosts, quality = HostOptions(phantoms.healthy), QualityOptions(keep=0.5, judge=Path("bundled"))
    return ChainOptions(WHOLE, hosts, "copypaste", 7, shards=3, quality=quality, merged="Dataset700_Merged")


def fill_in(place, **fields):
    """Write the file of the cluster. The false command fails where there is a file `fail`."""
    folder = submit_folder(place)
    folder.mkdir(exist_ok=True)
    setup = f'tumorgen() {{ echo "$*" | cut -d" " -f1,2 >> "{folder}/ran"; test ! -e "{folder}/fail"; }}'
    (folder / "cluster.yaml").write_text(json.dumps({"setup": setup, **fields}))
    return folder


def states(place):
    return {step.name: (step.state, step.detail) for step in workspace_status(place) if step.name.startswith("job ")}


def test_scripts_can_be_read_and_hold_the_lines_of_the_lab(place, options, phantoms):
    gpu = {"sbatch_gpu": ["--partition=gpu", "--gres=gpu:a100:1"]}
    folder = fill_in(place, sbatch=["--account=lab"], sbatch_cpu=["--partition=cpu"], **gpu, setup="module load x")
    plan = json.loads(place.plan_file.read_text())
    place.plan_file.write_text(json.dumps({**plan, "device": "cuda"}))
    made = submit_chain(place, options, write_only=True)
    assert (made.where, [state.job.name for state in made.jobs]) == (None, list(WHOLE))
    assert next_step(workspace_status(place)).command == f"tumorgen submit -w '{place.root}'"
    assert not (folder / "ran").exists()
    texts = {path.stem: path.read_text() for path in folder.glob("*.sh")}
    assert set(texts) == set(WHOLE)
    for name, text in texts.items():
        assert subprocess.run(["bash", "-n", folder / f"{name}.sh"], check=False).returncode == 0
        lines = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
        assert {"--account=lab", "--requeue", "--time=12:00:00"} & {*lines} >= {"--account=lab", "--requeue"}
        painted = name in ("synthesize", "filter")
        assert ("--gres=gpu:a100:1" in lines, "--partition=cpu" in lines) == (painted, not painted)
        assert ("--array=1-3" in lines) == painted
        assert "\nmodule load x\n" in text
        assert f"-w '{place.root}'" in text
    assert f"--healthy {phantoms.healthy}" in texts["synthesize"]
    assert '--shard "$task/3" &' in texts["synthesize"]
    assert "# Paints 7 pairs. Runs after: preprocess." in texts["synthesize"]
    assert "--keep 0.5 --judge bundled --out" in texts["filter"]
    assert "copypaste_healthy_kept' --out Dataset700_Merged" in texts["merge"]
    cores = {state.job.name: state.job.needs.cores for state in made.jobs}
    assert cores == {"preprocess": 4, "synthesize": 2, "filter": 2, "merge": 1}


def test_time_limits():
    cluster = Cluster(longest_hours=24)
    hours = [time_limit_hours(seconds, cluster) for seconds in (None, 10.0, 3600.0, 3601.0, 1e6)]
    assert hours == [24, 1, 2, 3, 24]


def test_without_slurm_the_same_command_runs_here(place, options):
    folder = fill_in(place)
    made = submit_chain(place, options)
    assert (made.where, all(state.is_done for state in made.jobs)) == ("here", True)
    ran = (folder / "ran").read_text().split("\n")[:-1]
    assert [line.split()[0] for line in ran] == ["preprocess", *["synthesize"] * 3, *["filter"] * 3, "merge"]
    assert states(place)["job filter"][0] == "done"
    submit_chain(place)  # nothing is left
    (folder / "synthesize.sh").touch()  # as an editor does: this job and those after it run again
    submit_chain(place)
    again = (folder / "ran").read_text().split("\n")[len(ran) : -1]
    assert [line.split()[0] for line in again] == [*["synthesize"] * 3, *["filter"] * 3, "merge"]


def test_several_tasks_at_once_share_the_cores(place, options, monkeypatch):
    monkeypatch.setattr("tumorgen_cli.system.devices.usable_cores", lambda: 7)
    folder = fill_in(place)
    setup = f'tumorgen() {{ echo "${{OMP_NUM_THREADS:-}}" >> "{folder}/ran"; }}'
    fill_in(place, setup=setup)
    submit_chain(place, options, at_once=3)
    assert {*(folder / "ran").read_text().split()} == {"2"}
    assert len((folder / "ran").read_text().split()) == 8


def test_a_failed_task_is_told_and_the_same_command_goes_on(place, options):
    folder = fill_in(place)
    submit_chain(place, options, write_only=True)
    script = folder / "synthesize.sh"
    good = script.read_text()
    script.write_text(good.replace("tumorgen synthesize", 'echo no scans; test "$task" != 2 && tumorgen synthesize'))
    with pytest.raises(StateError, match="synthesize failed in 1 of 3 tasks") as error:
        submit_chain(place)
    (fault,) = error.value.faults
    assert fault.where == str(folder / "logs" / "synthesize_2.log")
    assert fault.found == "no scans (exit code 1)"
    assert fault.remedy == "correct what the log says, then run the same command again; what was finished is kept"
    assert states(place)["job synthesize"] == ("partly", "2 done, 1 not submitted, of 3 tasks")
    assert next_step(workspace_status(place)).command.startswith("tumorgen submit")
    script.write_text(script.read_text().replace('test "$task" != 2 && ', ""))
    assert all(state.is_done for state in submit_chain(place).jobs)


def test_a_stop_ends_the_tasks_here(place, options):
    """As Ctrl-C or a kill: the command of a task is asked to end, and its mark does not appear."""
    folder = fill_in(place)
    child = f"import signal, time; signal.signal(15, lambda *_: [open('{folder}/ended', 'w').write('x'), exit()]); "
    child += f"open('{folder}/began', 'w'); time.sleep(60)"
    fill_in(place, setup=f'tumorgen() {{ exec {sys.executable} -c "{child}"; }}')
    begun = threading.Thread(target=stop_when, args=(folder / "began",))
    begun.start()
    with pytest.raises(Terminated), stop_cleanly():
        submit_chain(place, options)
    begun.join()
    assert (folder / "ended").exists()
    assert [*(folder / "done").iterdir()] == []


def stop_when(path):
    wait_for(path.exists, 30)
    os.kill(os.getpid(), signal.SIGTERM)


def test_jobs_wait_for_the_jobs_that_they_need(place, options, slurm):
    fill_in(place)
    assert submit_chain(place, options).where == "slurm"
    needs = "--kill-on-invalid-dep=yes"
    assert slurm.calls() == [
        "preprocess.sh",
        f"--dependency=afterok:101 {needs} --array=1,2,3 synthesize.sh",
        f"--dependency=afterok:102 {needs} --array=1,2,3 filter.sh",
        f"--dependency=afterok:103 {needs} merge.sh",
    ]


def finish(place, *tasks):
    for task in tasks:
        (submit_folder(place) / "done" / task).touch()


def test_only_what_is_neither_done_nor_in_the_queue_is_submitted(place, options, slurm):
    folder = fill_in(place)
    submit_chain(place, options)
    slurm.calls()
    finish(place, "preprocess_1", "synthesize_1")
    log = folder / "logs" / "synthesize_102_2.log"
    log.write_text("painting\nslurmstepd: error: JOB 102 ENDED DUE TO TIME LIMIT\n")
    slurm.queue("102_3|RUNNING|None", "7_1|RUNNING|None")  # the jobs after it were canceled with task 2
    told = states(place)
    assert told["job preprocess"][0] == "done"
    assert told["job synthesize"] == (
        "running",
        f"1 done, 1 running, 1 stopped, of 3 tasks; {log}: slurmstepd: error: JOB 102 ENDED DUE TO TIME LIMIT",
    )
    submit_chain(place)
    needs = "--kill-on-invalid-dep=yes"
    assert slurm.calls() == [
        "--array=2 synthesize.sh",
        f"--dependency=afterok:102_3:105 {needs} --array=1,2,3 filter.sh",
        f"--dependency=afterok:106 {needs} merge.sh",
    ]
    slurm.queue("105_2|PENDING|Priority", "106_1|PENDING|Dependency", "106_2|PENDING|Dependency")
    finish(place, "synthesize_3")
    told = states(place)
    assert told["job synthesize"] == ("running", "2 done, 1 waiting (Priority), of 3 tasks")
    assert told["job filter"][1].startswith("2 waiting (Dependency), 1 stopped, of 3 tasks")
    assert next_step(workspace_status(place)).name == "job synthesize"


def test_a_refusal_of_slurm_leaves_what_was_submitted(place, options, slurm):
    folder = fill_in(place)
    (folder / "cluster.yaml").write_text('{"sbatch": ["--partition=nowhere"]}')
    (slurm.folder / "refuse").write_text("sbatch: error: invalid partition specified: nowhere\n")
    with pytest.raises(StateError, match="invalid partition specified") as error:
        submit_chain(place, options)
    assert error.value.faults[0].remedy.endswith(
        " or cluster.yaml, or wait until SLURM answers; "
        "then run the same command again; with --here it runs without SLURM"
    )
    (folder / "cluster.yaml").write_text('{"sbatch": ["--partition=here"]}')
    (slurm.folder / "refuse").unlink()
    submit_chain(place, options)
    assert len(slurm.calls()) == 4
    assert "#SBATCH --partition=here" in (folder / "filter.sh").read_text()


def test_a_queue_that_does_not_answer(place, options, slurm):
    fill_in(place)
    submit_chain(place, options)
    (slurm.folder / "down").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    with pytest.raises(StateError, match="Unable to contact") as error:
        submit_chain(place)
    assert error.value.faults[0].remedy == "wait until SLURM answers, then run the same command again"
    assert states(place) == {
        "job queue": ("running", "not known: slurm_load_jobs error: Unable to contact slurm controller")
    }
    (slurm.folder / "down").unlink()
    slurm.calls()
    slurm.queue(*(f"{task}|PENDING|Priority" for task in ("101", "102_1", "102_2", "102_3", "103_1", "103_2", "103_3")))
    submit_chain(place)
    assert slurm.calls() == ["--dependency=afterok:103_1:103_2:103_3 --kill-on-invalid-dep=yes merge.sh"]


def test_other_options_while_jobs_are_in_the_queue(place, options, phantoms, slurm):
    fill_in(place)
    submit_chain(place, options)
    slurm.queue("102_3|RUNNING|None", "103_1|PENDING|Dependency")
    other = ChainOptions(("synthesize",), options.hosts, "copypaste", 8)
    with pytest.raises(StateError, match="Jobs are in the queue") as error:
        submit_chain(place, other)
    remedy = "wait for them, or end them with `scancel 102 103`, then run the same command again"
    assert error.value.faults[0].remedy == remedy
    slurm.queue()
    slurm.calls()
    submit_chain(place, other)
    assert slurm.calls() == ["--array=1,2,3,4,5,6,7,8 synthesize.sh"]
    assert sorted(path.name for path in submit_folder(place).glob("*.sh")) == ["synthesize.sh"]


def test_edited_scripts_are_not_overwritten(place, options, phantoms):
    folder = fill_in(place)
    submit_chain(place, options, write_only=True)
    script = folder / "filter.sh"
    script.write_text(script.read_text().replace("--keep 0.5", "--keep 0.6"))
    other = ChainOptions(WHOLE, options.hosts, "copypaste", 9, quality=options.quality, merged="Dataset700_Merged")
    with pytest.raises(StateError, match="Edited scripts would be lost") as error:
        submit_chain(place, other)
    (fault,) = error.value.faults
    assert fault.where == str(script)
    assert fault.remedy == (
        "delete it to have it written anew; to submit it as it is, keep to the earlier options and cluster.yaml"
    )
    submit_chain(place, options)  # as it is
    assert "--keep 0.6" in script.read_text()
    script.unlink()
    submit_chain(place, other, write_only=True)
    assert "-n 9" in (folder / "synthesize.sh").read_text()
    assert "--keep 0.5" in script.read_text()


def test_the_time_limit_ends_the_command_and_queues_the_task_again(place, options, tmp_path):
    folder = fill_in(place, setup="tumorgen() { exec sleep 60; }")
    submit_chain(place, options, write_only=True)
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" >> "{tmp_path}/again"\n')
    (tmp_path / "scontrol").chmod(0o755)
    environment = {**os.environ, "SLURM_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "2"}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    for restarts in ("3", "50"):
        own = {**environment, "SLURM_RESTART_COUNT": restarts}
        script = subprocess.Popen(["bash", folder / "synthesize.sh"], env=own, process_group=0)
        wait_for(lambda: "sleep" in children(script.pid), 10)  # noqa: B023
        script.send_signal(signal.SIGUSR1)
        assert script.wait(10) != 0
        assert children(script.pid) == ""
        assert not (folder / "done" / "synthesize_2").exists()
    assert (tmp_path / "again").read_text() == "requeue 77\n"  # once: after 50 times it is no longer queued again


def children(process):
    listed = subprocess.run(["ps", "-o", "comm=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return listed.stdout


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sbatch: [", "YAML"),
        ("- a\n- b\n", "fields with values"),
        ("partition: gpu\n", "an unknown name"),
        ("sbatch: [account=lab]\n", "no option of sbatch"),
        ("longest_hours: 0\n", "above 0"),
    ],
)
def test_a_file_of_the_cluster_that_cannot_be_read(place, options, text, found):
    folder = fill_in(place)
    (folder / "cluster.yaml").write_text(text)
    with pytest.raises(PlanError, match=found) as error:
        submit_chain(place, options)
    remedy = "correct it, or delete it for a new one: the command writes cluster.yaml"
    assert error.value.faults[0].remedy in (remedy, "choose one of these, or leave it out")
    (folder / "cluster.yaml").unlink()
    submit_chain(place, options, write_only=True)
    assert (folder / "cluster.yaml").read_text().startswith("# What `tumorgen submit` should know")


def test_a_file_of_the_cluster_that_is_not_there(place, options, tmp_path):
    with pytest.raises(PlanError, match="no such file") as error:
        submit_chain(place, options, tmp_path / "lab.yaml")
    own = submit_folder(place) / "cluster.yaml"
    remedy = f"correct the path, or give --cluster {own}, which is written to be filled in"
    assert error.value.faults[0].remedy == remedy
    (tmp_path / "lab.yaml").write_text('{"sbatch": ["--account=lab"]}')
    submit_chain(place, options, tmp_path / "lab.yaml", write_only=True)
    submit_chain(place, write_only=True)  # remembers it
    assert "--account=lab" in (submit_folder(place) / "merge.sh").read_text()
    (tmp_path / "lab.yaml").unlink()
    with pytest.raises(PlanError, match="no such file"):
        submit_chain(place, write_only=True)
    submit_chain(place, None, own, write_only=True)
    assert "--account=lab" not in (submit_folder(place) / "merge.sh").read_text()


def test_nothing_to_submit(place, options):
    with pytest.raises(StateError, match="There is nothing to submit") as error:
        submit_chain(place)
    assert error.value.faults[0].remedy == "give --healthy DIR, and -n with the number of pairs"
    assert not submit_folder(place).exists()
    submit_chain(place, options, write_only=True)


def test_options_that_do_not_fit_together(place, phantoms, tmp_path):
    hosts = HostOptions(phantoms.healthy)

    def remedy(stages, own=hosts, merged=None):
        with pytest.raises(PlanError) as error:
            submit_chain(place, ChainOptions(stages, own, "copypaste", merged=merged), write_only=True)
        return error.value.faults[0].remedy

    assert remedy(("preprocess", "filters")) == "did you mean filter?"
    assert remedy(("synthesize", "merge")) == "for example --merged Dataset601_Merged"
    assert remedy(("synthesize",), merged="Dataset601_A") == "add merge to --stages, or leave it out"
    cases = HostOptions(cases="test")
    assert remedy(("downstream",), cases) == "give --cases train or --healthy DIR, or leave downstream out"
    regions = HostOptions(phantoms.healthy, roi=tmp_path)
    assert remedy(("downstream",), regions) == "leave them out, or leave downstream out of --stages"
    assert remedy(("preprocess",)) == "add synthesize to --stages, or leave the options of hosts out"
    submit_chain(place, ChainOptions(("preprocess",)), write_only=True)
    submit_chain(place, ChainOptions(("synthesize", "downstream"), hosts, "copypaste"), write_only=True)
    assert "--arms real,empty,copypaste" in (submit_folder(place) / "downstream.sh").read_text()


def test_a_filter_without_a_judge_is_refused_before_hours_are_spent(place, options, monkeypatch):
    monkeypatch.setattr(submit_jobs, "choose_judge", lambda *_: Choice(None, "tumor", reason="no judge knows CT"))
    wanted = ChainOptions(("synthesize", "filter"), options.hosts, "copypaste", 7)
    with pytest.raises(PlanError, match="no judge knows CT") as error:
        submit_chain(place, wanted, write_only=True)
    remedy = "add judge to --stages, which trains one; give --judge; or leave filter out of --stages"
    assert error.value.faults[0].remedy == remedy
    own = ChainOptions(("synthesize", "judge", "filter"), options.hosts, "copypaste", 7)
    made = submit_chain(place, own, write_only=True)
    assert {state.job.name: state.job.after for state in made.jobs} == {
        "judge": (),
        "synthesize": (),
        "filter": ("synthesize", "judge"),
    }
    submit_chain(place, ChainOptions(("synthesize",), options.hosts, "copypaste", 7), write_only=True)


def test_a_damaged_record_of_the_jobs(place, options):
    folder = fill_in(place)
    submit_chain(place, options, write_only=True)
    (folder / "chain.json").write_text("{}")
    with pytest.raises(StateError, match="jobs of this version") as error:
        submit_chain(place)
    remedy = error.value.faults[0].remedy
    assert re.fullmatch(r"delete .* once its jobs have ended, and run `tumorgen submit` with its options again", remedy)
    shutil.rmtree(folder)
    submit_chain(place, options, write_only=True)
    assert read_chain(folder).options == options


def test_a_workspace_that_was_moved(place, options, tmp_path):
    submit_chain(place, options, write_only=True)
    moved = Workspace(tmp_path / "moved")
    place.root.rename(moved.root)
    submit_chain(moved, write_only=True)
    assert f"-w {moved.root} " in (submit_folder(moved) / "synthesize.sh").read_text()


def test_another_plan_or_place_makes_other_jobs(place, options, phantoms, tmp_path, monkeypatch):
    """Scripts of the same text would otherwise seem done, and a path would mean another folder."""
    folder = fill_in(place)
    submit_chain(place, options)
    plan = json.loads(place.plan_file.read_text())
    place.plan_file.write_text(json.dumps({**plan, "seed": 99}))
    assert not any(state.done for state in submit_chain(place, options, write_only=True).jobs)
    for name in ("a", "b"):
        shutil.copytree(phantoms.healthy, tmp_path / name / "hosts")
        monkeypatch.chdir(tmp_path / name)
        submit_chain(place, ChainOptions(("synthesize",), HostOptions(Path("hosts")), "copypaste", 7), write_only=True)
        assert f"--healthy {tmp_path / name / 'hosts'} " in (folder / "synthesize.sh").read_text()
    monkeypatch.chdir(tmp_path)
    submit_chain(place, write_only=True)
    assert f"--healthy {tmp_path / 'b' / 'hosts'} " in (folder / "synthesize.sh").read_text()


def test_the_last_line_of_a_log(tmp_path):
    log = tmp_path / "a.log"
    assert last_line(log) == "no log"
    log.write_text("\n\n")
    assert last_line(log) == "an empty log"
    log.write_text("x" * 9000 + "\nlast \xe4\n\n", encoding="latin-1")
    assert last_line(log) == "last \ufffd"


def test_a_training_is_forecast_where_its_device_is_here(place, phantoms, monkeypatch):
    monkeypatch.setattr("tumorgen_cli.methods.tumorgen.timing.rough_training_seconds", lambda plan: 4000.0)
    wanted = ChainOptions(hosts=HostOptions(phantoms.healthy), quality=QualityOptions(judge=Path("bundled")))
    made = submit_chain(place, wanted, write_only=True)
    train = made.jobs[1].job
    assert (train.name, train.after, train.needs.seconds) == ("train", ("preprocess",), 4000.0)
    text = (submit_folder(place) / "train.sh").read_text()
    assert "#SBATCH --time=3:00:00" in text
    assert "# A task takes about 67 min; the limit is twice that, an hour at least." in text
    assert made.jobs[2].job.after == ("train",)
    assert time_limit_hours(made.jobs[2].job.needs.seconds, Cluster()) == 12
