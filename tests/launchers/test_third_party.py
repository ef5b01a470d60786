"""A launcher of a third party, as a user has it: installed beside mrun, and named in a spec."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import TestServer, wait_until
from tests.lab import Lab
from tests.launchers.kinds import install

SOURCE = """
import os
from mrun.launchers.base import Allocation, Launcher, ONE_CORE
from mrun.launchers.resources import Prefix

class NiceLauncher(Launcher):
    name = "nice"
    prefix = Prefix(lambda asked: ("nice", "-n", asked.procs), frozenset({"nodes", "procs"}))
    launches_workers = True

    def detect(self, environment):
        return Allocation("nice", "7", nodes=("here",), cores=3) if "NICE_JOB" in environment else None

    def command(self, script_path, needs=ONE_CORE):
        return ("nice", "-n", "7", script_path)

    def worker_command(self, worker, nodes):
        return ("env", f"NICE_NODES={nodes}", *worker)
"""
SPEC = """
    description: {name: nice, description: d}
    batch: {type: nice}
    study:
        - {name: inside, description: d, run: {cmd: '$(LAUNCHER) nice >> $LEDGER/inside', procs: 3}}
        - {name: step, description: d, run: {cmd: 'nice >> $LEDGER/step', mode: step}}
"""


@pytest.fixture
def lab(tmp_path: Path, own_server: TestServer):
    site = tmp_path / "site"
    install(site, "nice", "nice_launcher:NiceLauncher")
    (site / "nice_launcher.py").write_text(SOURCE)
    lab = Lab(tmp_path, own_server)
    lab.environment["PYTHONPATH"] = str(site)
    yield lab
    lab.close()


def test_its_name_is_a_batch_type_like_any_other(lab):
    study = lab.queue(lab.spec(SPEC))
    lab.mrun("work", "--queues", "merlin", "--exit-when-done")
    assert lab.wait_for_end(study)["state"] == "finished"
    # $(LAUNCHER) is made of its words, and `mode: step` starts scripts by them.
    assert lab.ledger("inside") == {"3": 1}
    assert lab.ledger("step") == {"7": 1}


def test_a_slip_in_its_name_is_told_with_it(lab):
    lab.spec(SPEC.replace("type: nice", "type: nise"))
    error = lab.json("check", "spec.yaml", code=3)["error"]
    assert error["problems"][0]["message"] == "'nise' is no batch type that mrun knows."
    assert error["problems"][0]["hint"] == "Did you mean 'nice'?"


def test_it_tells_workers_of_their_allocation_and_starts_them(lab):
    lab.environment["NICE_JOB"] = "7"
    spec = lab.spec(SPEC)
    (told,) = lab.json("work", spec, "--echo")
    assert told["command"][:2] == ["env", "NICE_NODES=1"]
    lab.work("--queues", "merlin", "--exit-when-done")
    wait_until(lambda: '"slots": 3' in lab.logs(), "the worker has the cores of the allocation")


def test_one_that_is_broken_stops_only_who_names_it(lab):
    (lab.directory / "site" / "nice_launcher.py").write_text("1 / 0\n")
    lab.mrun("work", "--queues", "merlin", "--exit-when-done")
    lab.spec(SPEC)
    error = lab.json("check", "spec.yaml", code=3)["error"]
    assert "can't be loaded: ZeroDivisionError" in error["problems"][0]["message"]
