"""What specs of Merlin and Maestro say, and the options of theirs that go with them, through the installed `mrun`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.homes import Home, ended
from tests.conftest import wait_until

LAUNCHED = """
    description: {name: launched, description: x}
    env: {variables: {OUTPUT_PATH: ./studies}}
    batch: {type: slurm, shell: /bin/bash}
    study:
      - name: sim
        description: x
        run: {cmd: '$(LAUNCHER)[2p] echo ran', nodes: 1, procs: 4, walltime: '1:00:00', slurm: --mpi=none}
      - name: var
        description: x
        run: {cmd: 'MERLIN_PROCS=3\n$(VLAUNCHER) echo ran', depends: [sim]}
      - name: own
        description: x
        run: {cmd: 'exit $(MERLIN_RESTART)', restart: '$(LAUNCHER) echo again', retry_delay: 0, batch: {type: flux}}
      - name: here
        description: x
        run: {cmd: '$(LAUNCHER) echo ran', batch: {type: local}}
"""
TABLED = """
    description: {name: tabled, description: x}
    env: {variables: {OUTPUT_PATH: ./studies, N: 2}}
    study:
      - {name: sim, description: x, run: {cmd: echo $(X) $(SIZE), task_queue: sims}}
      - {name: sum, description: x, run: {cmd: echo $(N), depends: [sim_*], task_queue: sums}}
    global.parameters: {SIZE: {values: [1], label: SIZE.%%}}
    merlin:
      samples: {column_labels: [X], file: $(MERLIN_INFO)/s.npy, generate: {cmd: exit 9}}
"""
WORKERS = """
    description: {name: staffed, description: x}
    env: {variables: {OUTPUT_PATH: ./studies, Q: sims}}
    study:
      - {name: sim, description: x, run: {cmd: 'until [ -e $(SPECROOT)/gate ]; do sleep 0.02; done', task_queue: $(Q)}}
      - {name: train, description: x, run: {cmd: 'true', task_queue: trains, depends: [sim]}}
      - {name: rest, description: x, run: {cmd: 'true', task_queue: rests, depends: [train]}}
    merlin:
      resources:
        task_server: celery
        workers:
          simworkers: {args: -c 2 -O fair --prefetch-multiplier 1, steps: [sim]}
          trainers: {args: '--autoscale 3,1 -l INFO', steps: [train], nodes: 4}
          others: {steps: [sim], machines: [no-such-host]}
"""


def fake(home: Home, *names: str) -> dict[str, str]:
    """Launchers that say how they were called and run their last two words; the environment that finds them."""
    folder = home.directory / "bin"
    folder.mkdir()
    for name in names:
        program = folder / name
        program.write_text('#!/bin/sh\necho "$(basename "$0") $*"\n')
        program.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{home.environ['PATH']}"}


def test_scripts_of_schedulers_run_inside_the_worker_by_their_launchers(home: Home) -> None:
    spec = home.write("spec.yaml", LAUNCHED.replace("\n$(VLAUNCHER)", "; $(VLAUNCHER)"))
    done = home.run("run", str(spec), environ=fake(home, "srun", "flux"))
    assert done.returncode == 0, done.stdout + done.stderr
    (workspace,) = home.study_dirs()
    outputs = {path.stem: path.read_text() for path in workspace.rglob("*.out")}
    assert outputs["sim"] == "srun -N 1 -n 2 -t 01:00:00 --mpi=none echo ran\n"
    assert outputs["var"] == "srun -N 1 -n 3 -c 1 echo ran\n"
    assert outputs["own"] == "flux run -N 1 -n 1 echo again\n"
    assert outputs["here"] == "ran\n"
    scripts = sorted(path.name for path in workspace.rglob("*.sh"))
    assert scripts == ["here.sh", "own.restart.slurm.sh", "own.slurm.sh", "sim.slurm.sh", "var.slurm.sh"]


@pytest.mark.slow
def test_a_dry_run_makes_workspace_and_scripts_and_needs_no_server(home: Home) -> None:
    home.write("spec.yaml", TABLED.replace("exit 9", "$MRUN_PYTHON $(SPECROOT)/make.py $(MERLIN_INFO)/s.npy"))
    home.write("make.py", "import sys, numpy\nnumpy.save(sys.argv[1], numpy.arange(1200))\n")
    for verb in ("queue", "run"):
        done = home.run(verb, "spec.yaml", "--dry")
        assert done.returncode == 0, done.stderr
        workspace = home.study_dirs()[-1]
        assert f"workspace  {workspace}\n" in done.stdout
        assert "1,001 scripts written, nothing was queued or run" in done.stdout
        assert "200 scripts left out: a dry run writes those of the first 1,000 instances of each step" in done.stderr
        assert len(list(workspace.rglob("sim_SIZE.1.sh"))) == 1000
        assert (workspace / "sum/sum.sh").read_text() == "#!/bin/bash\n\necho 2\n"
        assert list(workspace.glob("s*/**/*.out")) == []
    assert home.processes() == {}, "no server was started"
    told = json.loads(home.run("queue", "spec.yaml", "--dry", "--json").stdout)
    assert (told["written"], told["left_out"], told["workspace"]) == (1001, 200, str(home.study_dirs()[-1]))


@pytest.mark.slow
def test_lenient_reads_specs_that_have_unknown_keys_and_other_columns(home: Home) -> None:
    home.write("two.csv", "1,2\n3,4\n")
    text = TABLED.replace("file: $(MERLIN_INFO)/s.npy, generate: {cmd: exit 9}", "file: two.csv, shape: round")
    home.write("spec.yaml", text)
    refused = home.run("queue", "spec.yaml")
    assert refused.returncode == 3
    assert "'shape' is no key" in refused.stderr
    done = home.run("run", "spec.yaml", "--lenient")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("'shape' is no key") == 1
    assert done.stderr.count("The sample file has 2 columns, and column_labels names 1") == 1
    (workspace,) = home.study_dirs()
    assert (workspace / "sim/SIZE.1/01/sim_SIZE.1.out").read_text() == "3 1\n"


@pytest.mark.slow
def test_samplesfile_replaces_file_and_generate(home: Home) -> None:
    home.write("given.csv", "a\nb\nc\n")
    for name, text in (
        ("full", TABLED),
        ("bare", TABLED.replace("file: $(MERLIN_INFO)/s.npy, generate: {cmd: exit 9}", "")),
    ):
        home.write(f"{name}.yaml", text)
        done = home.run("run", f"{name}.yaml", "--samplesfile", "given.csv")
        assert done.returncode == 0, done.stderr
        workspace = home.study_dirs()[-1]
        assert (workspace / "sim/SIZE.1/02/sim_SIZE.1.out").read_text() == "c 1\n"
        assert (workspace / "merlin_info/given.csv").read_text() == "a\nb\nc\n"
        # The copy of the spec is a study of its own, with the same samples.
        again = home.run("run", str(workspace / f"merlin_info/{name}.expanded.yaml"))
        assert again.returncode == 0, again.stderr
        assert len(list(home.study_dirs()[-1].rglob("sim_SIZE.1.out"))) == 3


@pytest.mark.parametrize(
    ("spec", "words", "code", "expected"),
    [
        ("plain.yaml", ["--samplesfile", "given.csv"], 3, "--samplesfile was given, and the spec has no samples."),
        ("spec.yaml", ["--samplesfile", "no.csv"], 3, "There is no sample file; looked for '"),
        ("spec.yaml", ["--samplesfile", "given.txt"], 3, "'given.txt' is neither .npy nor .csv nor .tab."),
        ("spec.yaml", ["--pargs", "A:1"], 2, "--pargs was given without --pgen."),
        ("spec.yaml", ["--pgen", "p.py", "--pargs", "A=1"], 2, "--pargs takes KEY:VALUE, not 'A=1'."),
        ("spec.yaml", ["--pgen", "no.py"], 3, "can't be read: No such file or directory."),
        ("git.yaml", [], 3, "The dependency 'CODE' can't be cloned from '/no/such/repository':"),
    ],
)
def test_what_these_options_refuse(shared_home: Home, spec: str, words: list[str], code: int, expected: str) -> None:
    shared_home.write("spec.yaml", TABLED)
    study = "study: [{name: s, description: x, run: {cmd: echo}}]\n"
    head = "description: {name: n, description: x}\nenv: {variables: {OUTPUT_PATH: ./studies}"
    shared_home.write("plain.yaml", f"{head}}}\n{study}")
    git = "{git: [{name: CODE, path: ., url: /no/such/repository}]}"
    shared_home.write("git.yaml", f"{head}, dependencies: {git}}}\n{study}")
    done = shared_home.run("queue", spec, *words)
    assert done.returncode == code, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert shared_home.study_dirs() == []


@pytest.mark.slow
def test_pgen_gives_the_parameters_and_gets_words_and_variables(home: Home) -> None:
    home.write("given.csv", "a\n")
    home.write("spec.yaml", TABLED)
    home.write(
        "pgen.py",
        """
        from maestrowf.datastructures.core import ParameterGenerator

        def get_custom_generator(env, **kwargs):
            made = ParameterGenerator()
            made.add_parameter("SIZE", [kwargs["FIRST"], env.find("N").value], "SIZE.%%")
            print("made", len(made.parameters["SIZE"]))
            return made
        """,
    )
    words = ["--pgen", "pgen.py", "--pargs", "FIRST:5", "OTHER:x", "--vars", "N=7", "--samplesfile", "given.csv"]
    done = home.run("run", *words, "spec.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["studies"][0]["state"] == "finished"
    (workspace,) = home.study_dirs()
    assert {path.name for path in (workspace / "sim").iterdir()} == {"SIZE.5", "SIZE.7"}
    again = home.run("run", str(workspace / "merlin_info/spec.expanded.yaml"))
    assert again.returncode == 0, again.stderr
    assert {path.name for path in (home.study_dirs()[-1] / "sim").iterdir()} == {"SIZE.5", "SIZE.7"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_repositories_are_cloned_while_a_study_is_queued(home: Home) -> None:
    code = home.work / "code"
    code.mkdir()
    home.write("code/run.sh", "echo cloned\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=code, check=True)
    home.write(
        "spec.yaml",
        """
        description: {name: cloning, description: x}
        env:
          variables: {OUTPUT_PATH: ./studies}
          dependencies: {git: [{name: CODE, path: $(MERLIN_WORKSPACE)/deps, url: $(SPECROOT)/code}]}
        study:
          - {name: sim, description: x, run: {cmd: sh $(CODE)/run.sh}}
        """,
    )
    done = home.run("run", "spec.yaml")
    assert done.returncode == 0, done.stderr
    (workspace,) = home.study_dirs()
    assert (workspace / "sim/sim.out").read_text() == "cloned\n"
    assert (workspace / "deps/CODE/.git").is_dir()


@pytest.mark.slow
def test_workers_of_a_spec_run_it_under_their_names(home: Home) -> None:
    home.write("spec.yaml", WORKERS)
    study = home.queue("spec.yaml")
    crew = home.start("work", "spec.yaml", "--exit-when-done")
    found = wait_until(lambda: len(ws := home.json("inspect")["workers"]) == 3 and ws, "three workers are known")
    assert isinstance(found, list)
    names = {one["name"]: (one["queues"], one["slots"]) for one in found}
    assert names["simworkers"] == (["sims"], 2)
    assert names["trainers"] == (["trains"], 3)
    assert names["default_worker"] == (["rests"], len(os.sched_getaffinity(0)))
    assert len({one["pid"] for one in found}) == 3
    assert "simworkers" in home.ok("inspect")
    Path(home.work / "gate").touch()
    done = ended(crew)
    assert done.returncode == 0, done.stderr
    assert "'-l' among the args of worker 'trainers' has no effect in mrun." in done.stderr
    assert "'nodes' of worker 'trainers' has no effect with batch type 'local'" in done.stderr
    assert "not for this machine: others" in done.stderr
    assert home.json("status", study)[0]["state"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_all_workers_of_a_spec_end_with_the_command_that_started_them(home: Home, how: signal.Signals) -> None:
    home.write("spec.yaml", WORKERS)
    home.queue("spec.yaml")
    crew = home.start("work", "spec.yaml")
    wait_until(lambda: len(home.worker_names()) == 3, "three workers are known")
    Path(home.work / "gate").touch()
    crew.send_signal(how)
    assert ended(crew).returncode == (0 if how == signal.SIGTERM else -how)
    wait_until(lambda: not home.workers_and_steps(), "all are gone")
    wait_until(lambda: not home.worker_names(), "all have said good-bye")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--steps", "sim"], ["mrun work --queues sims --slots 2 --name simworkers"]),
        (["--steps", "sim", "train", "--vars", "Q=other"],
         ["mrun work --queues other --slots 2 --name simworkers",
          "mrun work --queues trains --slots 3 --name trainers"]),
        (["--steps", "rest"], ["mrun work --queues rests --name default_worker"]),
        (["--steps", "sim", "--slots", "9", "--lease", "5", "--exit-when-done"],
         ["mrun work --queues sims --slots 9 --name simworkers --lease 5 --exit-when-done"]),
        (["--queues", "q1,q2"], ["mrun work --queues q1,q2"]),
        (["--queues", "q", "--walltime", "1h30m"], ["mrun work --queues q --walltime 5400"]),
        (["--queues", "q", "--walltime", "0:00:30", "--nodes", "here"], ["mrun work --queues q --walltime 30"]),
    ],
)  # fmt: skip
def test_echo_prints_the_commands_and_starts_nothing(shared_home: Home, words: list[str], expected: list[str]) -> None:
    shared_home.write("spec.yaml", WORKERS)
    assert shared_home.ok("work", "spec.yaml", *words, "--echo").splitlines() == expected
    told = shared_home.json("work", "spec.yaml", *words, "--echo")
    assert [" ".join(one["command"]) for one in told] == expected
    assert shared_home.worker_names() == []


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["spec.yaml", "--steps", "smi"], 2, "The spec has no step 'smi'."),
        (["--queues", "q", "--steps", "sim"], 2, "--steps and --vars belong to a spec, and none was given."),
        (["bad.yaml"], 3, "-c of worker 'simworkers' must be a number of processes, and 'x' is not."),
        (["far.yaml"], 2, "None of the spec's workers may start on '"),
        (["--queues", "q", "--walltime", "-3"], 2, "'-3' is no duration: write 1:30:00, 90m, 1h30m, or seconds"),
        (["--queues", "q", "--nodes", "0"], 2, "'0' is no number of nodes, nor all or here."),
        (["--queues", "q", "--nodes", "all"], 6, "'--nodes all' needs an allocation, and here is none."),
    ],
)
def test_what_workers_of_a_spec_refuse(shared_home: Home, words: list[str], code: int, expected: str) -> None:
    shared_home.write("spec.yaml", WORKERS)
    shared_home.write("bad.yaml", WORKERS.replace("-c 2", "-c x"))
    far = "resources: {workers: {w: {machines: [no-such-host]}}}\n"
    shared_home.write("far.yaml", WORKERS[: WORKERS.index("resources:")] + far)
    done = shared_home.run("work", *words)
    assert done.returncode == code, done.stderr
    assert expected in done.stderr
