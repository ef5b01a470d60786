"""What a valid spec becomes: every key, its default, and the forms that users of Merlin and Maestro write today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mrun.engine.errors import SpecError
from mrun.engine.spec.keys import RUN_KEYS
from mrun.engine.spec.load import load_spec
from mrun.engine.spec.model import Batch, Run, Text

SMALLEST = """\
description: {name: study, description: a study}
study:
  - {name: sim, description: simulates, run: {cmd: echo}}
"""

FULL = """\
description:
  name: $(NAME)_$(N)
  description: everything at once
env:
  variables:
    NAME: full
    N: 010
    REAL: 1.50
    LIST: [a, 2, c d]
    OUTPUT_PATH: ./studies
  labels:
    LABEL: $(NAME)_$(X.label)
  sources: [a.sh, b.sh]
  dependencies:
    paths:
      - {name: CODE, path: /opt/code}
    git:
      - {name: REPO, path: repos, url: "https://example.org/repo.git", branch: main}
batch:
  type: slurm
  shell: /bin/csh
  bank: wbronze
  queue: pbatch
  walltime: 1:10:30:00
  nodes: all
  dry_run: No
  launch_pre: pre
  launch_args: --mpi=none
  worker_launch: srun
  flux_path: /usr/bin
  flux_start_opts: -o,-S
  flux_exec: flux exec
  flux_exec_workers: False
  reservation: monday
  qos: standby
user:
  anything: [1, {at: all}, null]
study:
  - name: first step
    description: has it all
    run:
      cmd: |
        echo $(X)
        exit $(MERLIN_RETRY)
      restart: echo again
      task_queue: $(NAME)_queue
      shell: /usr/bin/env python3
      max_retries: 1_000
      retry_delay: 2.5
      batch: {type: flux}
      walltime: 10:30:00
      nodes: "2"
      procs: 0x10
      cores per task: $(N)
      gpus_per_task: 0
      exclusive: YES
      nested: off
      slurm: --mem=1G
      flux: -o x
      bind: rs
      launch_distribution: plane:2
      exit_on_error: 1
      priority: high
      qos: normal
      on_failure: skip
      max_fails: 5 %
      max_losses: 0
      chunk: 100
      mode: step
      resources: {licenses/foo: 2}
      warm: on
  - name: post
    description: defaults
    run:
      cmd: echo
      depends: [first step_*]
      chunk: auto
global.parameters:
  X:
    values: [.75, 1.50, "1.50"]
    label: X.%%
  Y:
    name: why
    values: [a, 0x10, 1_000]
    label: [one, 2, three]
merlin:
  resources:
    task_server: celery
    overlap: false
    workers:
      simworkers:
        args: -c 4 -O fair
        steps: [first step]
        nodes: 2
        batch: {type: local, queue: debug, walltime: 60}
        machines: [host1, host2]
      rest:
  samples:
    file: $(MERLIN_INFO)/samples.npy
    column_labels: [A, $(NAME)]
    generate:
      cmd: make
    level_max_dirs: 10
    files: lean
"""


@pytest.fixture
def load(tmp_path):
    def load_text(text: str):
        path = tmp_path / "spec.yaml"
        path.write_text(text, encoding="utf-8")
        spec, warnings = load_spec(path)
        assert warnings == ()
        return spec

    return load_text


@pytest.fixture
def full(load):
    return load(FULL)


def value_of(text: Text | None) -> str | None:
    return None if text is None else text.value


def values_of(texts) -> object:
    return (
        {key: text.value for key, text in texts.items()} if isinstance(texts, dict) else [text.value for text in texts]
    )


def settings_of(run: Run, *names: str) -> tuple[Any, ...]:
    """What these keys say, or what they are without being given."""
    return tuple(
        RUN_KEYS[name].parse(run.settings[name].value) if name in run.settings else RUN_KEYS[name].default
        for name in names
    )


def test_the_smallest_spec_has_every_default(load):
    spec = load(SMALLEST)
    run = spec.steps[0].run

    assert (spec.name.value, spec.description.value) == ("study", "a study")
    assert (spec.variables, spec.labels, spec.sources) == ({}, {}, ())
    assert (spec.parameters, spec.workers, spec.samples) == ((), (), None)
    assert spec.batch == Batch()
    assert (run.task_queue.value, run.shell, run.depends, run.restart) == ("merlin", None, (), None)
    assert settings_of(run, "max_retries", "retry_delay", "max_losses", "chunk") == (30, 1.0, 3, None)
    assert settings_of(run, "on_failure", "max_fails", "mode", "warm") == ("continue", None, "inside", False)
    assert (run.resources, run.launcher_texts, run.named_resources, run.batch_type) == ({}, {}, {}, None)


def test_the_environment_keeps_the_texts_of_the_file(full):
    assert values_of(full.variables) == {
        "NAME": "full",
        "N": "010",
        "REAL": "1.50",
        "LIST": "a 2 c d",
        "OUTPUT_PATH": "./studies",
    }
    assert values_of(full.labels) == {"LABEL": "$(NAME)_$(X.label)"}
    assert values_of(full.sources) == ["a.sh", "b.sh"]
    assert [(path.name.value, path.path.value) for path in full.path_dependencies] == [("CODE", "/opt/code")]
    git = full.git_dependencies[0]
    assert (git.name.value, git.path.value, git.url.value) == ("REPO", "repos", "https://example.org/repo.git")
    assert (value_of(git.tag), value_of(git.branch), value_of(git.hash)) == (None, "main", None)


def test_the_batch_block_is_read(full):
    batch = full.batch

    assert (batch.type.value, batch.shell.value) == ("slurm", "/bin/csh")
    assert (value_of(batch.bank), value_of(batch.queue)) == ("wbronze", "pbatch")
    assert (value_of(batch.walltime), value_of(batch.nodes), batch.is_dry_run) == ("1:10:30:00", "all", False)
    assert (value_of(batch.launch_pre), value_of(batch.launch_args)) == ("pre", "--mpi=none")
    assert (value_of(batch.worker_launch), value_of(batch.flux_path)) == ("srun", "/usr/bin")
    assert (value_of(batch.flux_start_opts), value_of(batch.flux_exec)) == ("-o,-S", "flux exec")
    assert (value_of(batch.flux_exec_workers), value_of(batch.reservation)) == ("False", "monday")
    assert value_of(batch.qos) == "standby"


def test_a_step_is_read(full):
    step = full.steps[0]
    run = step.run

    assert (step.name.value, step.description.value) == ("first step", "has it all")
    assert run.cmd.value == "echo $(X)\nexit $(MERLIN_RETRY)\n"
    assert (value_of(run.restart), run.task_queue.value) == ("echo again", "$(NAME)_queue")
    assert (value_of(run.shell), *settings_of(run, "max_retries", "retry_delay")) == ("/usr/bin/env python3", 1000, 2.5)
    assert (value_of(run.batch_type), value_of(run.walltime)) == ("flux", "10:30:00")
    assert settings_of(run, "on_failure", "max_fails", "max_losses") == ("skip", "5%", 0)
    assert settings_of(run, "chunk", "mode", "warm") == (100, "step", True)
    assert values_of(run.named_resources) == {"licenses/foo": "2"}
    assert values_of(run.launcher_texts) == {"slurm": "--mem=1G", "flux": "-o x"}


def test_resources_have_one_spelling_of_their_keys(full):
    assert values_of(full.steps[0].run.resources) == {
        "nodes": "2",
        "procs": "0x10",
        "cores per task": "$(N)",
        "gpus per task": "0",
        "exit_on_error": "1",
        "exclusive": "YES",
        "nested": "off",
        "bind": "rs",
        "launch distribution": "plane:2",
        "priority": "high",
        "qos": "normal",
    }


def test_a_funnel_is_a_dependency_as_it_is_written(full):
    assert values_of(full.steps[1].run.depends) == ["first step_*"]
    assert settings_of(full.steps[1].run, "chunk") == (None,)


def test_parameters_are_read_and_their_unquoted_numbers_normalised(full):
    x, y = full.parameters

    assert (x.name.value, values_of(x.values), value_of(x.label)) == ("X", ["0.75", "1.5", "1.50"], "X.%%")
    assert (y.name.value, values_of(y.values), value_of(y.shown_name)) == ("Y", ["a", "16", "1000"], "why")
    assert values_of(y.label) == ["one", "2", "three"]


def test_workers_are_read(full):
    first, rest = full.workers

    assert (first.name.value, first.args.value, values_of(first.steps)) == (
        "simworkers",
        "-c 4 -O fair",
        ["first step"],
    )
    assert (value_of(first.nodes), values_of(first.machines)) == ("2", ["host1", "host2"])
    assert values_of(first.batch) == {"type": "local", "queue": "debug", "walltime": "60"}
    assert (rest.name.value, rest.args.value, values_of(rest.steps), rest.batch) == ("rest", "", ["all"], {})


def test_samples_are_read(full):
    samples = full.samples

    assert samples.file.value == "$(MERLIN_INFO)/samples.npy"
    assert values_of(samples.column_labels) == ["A", "$(NAME)"]
    assert (value_of(samples.generate), values_of(samples.settings)) == (
        "make",
        {"level_max_dirs": "10", "files": "lean"},
    )


def test_the_block_may_be_called_mrun(load):
    spec = load(SMALLEST + "mrun: {samples: {file: a.csv, files: packed}}\n")

    assert (spec.samples.file.value, values_of(spec.samples.settings)) == ("a.csv", {"files": "packed"})


def test_the_tree_holds_the_normalised_numbers_and_an_empty_text_for_null(full):
    assert values_of(full.tree["global.parameters"]["X"]["values"]) == ["0.75", "1.5", "1.50"]
    assert full.tree["merlin"]["resources"]["workers"]["rest"].value == ""
    assert full.tree["env"]["variables"]["N"].value == "010"


def test_the_path_is_absolute_and_the_bytes_are_kept(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    (tmp_path / "spec.yaml").write_bytes(b"\xef\xbb\xbf" + SMALLEST.encode().replace(b"\n", b"\r\n"))
    monkeypatch.chdir(tmp_path / "below")

    spec, _ = load_spec("../spec.yaml")

    assert spec.path == str(tmp_path / "spec.yaml")
    assert spec.original == (tmp_path / "spec.yaml").read_bytes()
    assert spec.name.value == "study"


EMPTY_BLOCKS = [
    "env:",
    "env: {}",
    "env: {variables: , labels: {}, sources: , dependencies: {paths: [], git: }}",
    "batch:",
    "batch: {type: , bank: '', nodes: , walltime: , dry_run: }",
    "global.parameters:",
    "global.parameters: {}",
    "merlin:",
    "merlin: {resources: , samples: }",
    "merlin: {resources: {workers: , task_server: celery, overlap: }, samples: {}}",
    "mrun: {resources: {workers: {}}}",
    "user:",
    "user: 1",
    "user: [x, {y: z}]",
]


@pytest.mark.parametrize("block", EMPTY_BLOCKS)
def test_an_empty_block_is_an_absent_one(load, block):
    spec = load(SMALLEST + block + "\n")

    assert (spec.variables, spec.sources, spec.parameters, spec.workers) == ({}, (), (), ())
    assert (spec.samples, spec.batch) == (None, Batch())


ACCEPTED_RUN_KEYS = [
    "depends:",
    "depends: []",
    "depends: ''",
    "restart: ''",
    "task_queue: none",
    "task_queue:",
    "walltime: 3600",
    "walltime: '0:30'",
    "walltime: $(WALLTIME)",
    "nodes: $(NODES)",
    "procs: '4'",
    "procs: 0b11",
    "gpus: 0",
    "exclusive: $(EXCLUSIVE)",
    "nested: Off",
    "max_retries: 0",
    "max_retries: '3'",
    "retry_delay: 0",
    "retry_delay: 1_0",
    "max_losses: 0",
    "max_fails: 0",
    "max_fails: 2.5%",
    "max_fails: $(FAILS)",
    "chunk: 1",
    "priority: 0.5",
    "tasks per rs: 1",
    "rs_per_node: 2",
    "cpus per rs: 3",
    "bind gpus: packed",
    "bind_gpus: packed",
    "num resource set: 2",
    "reservation: monday",
    "pbs: -l place=excl",
    "lsf: -x",
    "batch: {type: lsf-srun}",
    "batch: {type: $(TYPE)}",
    "batch: {}",
    "resources: {}",
    "resources: {licenses/foo: $(N)}",
    "warm: false",
]


@pytest.mark.parametrize("line", ACCEPTED_RUN_KEYS)
def test_a_run_key_is_accepted(load, line):
    spec = load(SMALLEST.replace("cmd: echo}", f"cmd: echo, {line} }}"))

    assert spec.steps[0].run.task_queue.value == "merlin"


@pytest.mark.parametrize(
    ("word", "flag"),
    [(word, flag) for words, flag in (("yes on true", True), ("no off false", False)) for word in words.split()],
)
@pytest.mark.parametrize("spell", [str.lower, str.upper, str.capitalize, '"{}"'.format])
def test_a_flag_is_yes_or_no_in_any_case(load, word, flag, spell):
    assert load(SMALLEST + f"batch: {{dry_run: {spell(word)}}}\n").batch.is_dry_run is flag


@pytest.mark.parametrize("batch_type", ["local", "slurm", "flux", "lsf", "lsf-srun", "pbs", "$(TYPE)"])
def test_a_batch_type_is_known_or_a_token(load, batch_type):
    assert load(SMALLEST + f"batch: {{type: {batch_type}}}\n").batch.type.value == batch_type


@pytest.mark.parametrize("file", ["a.npy", "a.csv", "a.tab", "$(FILE)", "a.$(EXT)", "$(DIR)/a.npy"])
def test_a_sample_file_has_a_known_ending_or_a_token_there(load, file):
    assert load(SMALLEST + f"merlin: {{samples: {{file: {file}}}}}\n").samples.file.value == file


def test_column_labels_may_be_a_variable(load):
    samples = load(SMALLEST + "merlin: {samples: {file: a.npy, column_labels: $(LABELS)}}\n").samples

    assert values_of(samples.column_labels) == ["$(LABELS)"]


def test_steps_stand_in_any_order(load):
    steps = (
        "  - {name: b, description: d, run: {cmd: a, depends: [a*]}}\n  - {name: a, description: d, run: {cmd: a}}\n"
    )
    spec = load(SMALLEST.split("study:")[0] + "study:\n" + steps)

    assert [step.name.value for step in spec.steps] == ["b", "a"]


def test_one_value_needs_no_percent_signs(load):
    parameters = load(SMALLEST + "global.parameters: {A: {values: [7, 7], label: seven}}\n").parameters

    assert value_of(parameters[0].label) == "seven"


def test_a_list_of_parameters_need_not_be_numbers(load):
    values = '[yes, 1e-3, 10:30, "010", 2020-01-01, .5e-3, -0, +7, .inf, a b]'

    assert values_of(
        load(SMALLEST + f"global.parameters: {{A: {{values: {values}, label: A.%%}}}}\n").parameters[0].values
    ) == [
        "yes",
        "1e-3",
        "10:30",
        "010",
        "2020-01-01",
        "0.0005",
        "0",
        "7",
        "inf",
        "a b",
    ]


PLACES = [
    ("cmd: echo", "cmd: echo $(X)", (1, 6), (1, 11)),
    ("cmd: echo", "cmd: 'echo $(X)'", (1, 7), (1, 12)),
    ("cmd: echo", 'cmd: "echo $(X)"', (1, 7), (1, 12)),
    ("cmd: echo", "cmd: &c !!str echo $(X)", (1, 15), (1, 20)),
    ("cmd: echo", "cmd: |\n  ls\n  echo $(X)", (2, 3), (3, 8)),
    ("cmd: echo", "cmd: |  # two\n\n\n  ls\n  echo $(X)", (2, 3), (5, 8)),
    ("cmd: echo", "cmd: |2\n    ls\n  echo $(X)", (2, 3), (3, 8)),
    ("cmd: echo", "cmd: |-\n     echo $(X)\n", (2, 6), (2, 11)),
    ("cmd: echo", "cmd: &a |\n  echo $(X)\n", (2, 3), (2, 8)),
]


@pytest.mark.parametrize(("_old", "line", "start", "token"), PLACES)
def test_every_text_knows_where_it_stands(load, _old, line, start, token):
    body = "".join(f"      {part}\n" if part else "\n" for part in line.split("\n"))
    spec = load(SMALLEST.split("study:")[0] + "study:\n- name: sim\n  description: d\n  run:\n" + body)
    cmd = spec.steps[0].run.cmd

    line_before, indent = 5, 6
    assert (cmd.line, cmd.column) == (line_before + start[0], indent + start[1])
    assert cmd.locate(cmd.value.index("$(X)")) == (line_before + token[0], indent + token[1])
    assert cmd.is_block == (start[0] == 2)


def test_a_problem_names_the_path_as_the_user_gave_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text("study: 1\n")

    with pytest.raises(SpecError) as caught:
        load_spec("./spec.yaml")

    assert {problem.path for problem in caught.value.problems} == {"./spec.yaml"}
    assert caught.value.where == "./spec.yaml:1:1"
