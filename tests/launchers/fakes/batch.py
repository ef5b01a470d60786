"""What the fakes share: jobs in FAKE_DIR, a directory each, run at once in process groups of their own.

What stands in a job's directory: `name`, `pid`, `cancelled`, and `end` with the exit code (negative: a signal), or
`limit`. With a file `full` in FAKE_DIR the user has as many jobs as allowed; with `slow` submitting
takes seconds.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ["FAKE_DIR"])


def new_job(kind, name):
    if "FAKE_SERVE" in os.environ:
        job = Path(os.environ["FAKE_SERVE"])
        return int(job.suffix[1:]), job
    number = 1000 + len(list(HOME.glob(f"{kind}.*")))
    job = HOME / f"{kind}.{number}"
    job.mkdir()
    (job / "name").write_text(name)
    if (HOME / "slow").exists():
        time.sleep(3)
    return number, job


def named(kind, name):
    """Numbers of the jobs of that name."""
    found = [job for job in HOME.glob(f"{kind}.*") if (job / "name").read_text() == name]
    return sorted(int(job.name.rpartition(".")[2]) for job in found)


def is_to_run(job):
    """True in a process that is to run the job: one of the daemon's, where there is one, or a fork of this one."""
    if "FAKE_SERVE" not in os.environ and (HOME / "daemon").exists():
        (job / "request.new").write_text(json.dumps([sys.argv, dict(os.environ)]))
        (job / "request.new").rename(job / "request")
        return False
    return "FAKE_SERVE" in os.environ or os.fork() == 0


def hold(job):
    """The job waits until somebody releases it, which nobody does."""
    (job / "held").touch()


def start(job, command, directory, out, err, limit_s=None):
    """Run a command in the background, as a scheduler's daemon would."""
    if not is_to_run(job):
        return
    detach()
    with open(out, "ab") as out_file, open(err, "ab") as err_file:
        process = subprocess.Popen(command, cwd=directory, stdout=out_file, stderr=err_file, start_new_session=True)
        (job / "pid").write_text(str(process.pid))
        try:
            end = str(process.wait(limit_s))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            end = "limit"
    (job / "end.new").write_text(end)
    (job / "end.new").rename(job / "end")
    os._exit(0)


def detach():
    """Nothing of whoever called is kept."""
    if "FAKE_SERVE" not in os.environ:
        os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def end_of(job):
    path = job / "end"
    return path.read_text() if path.exists() else None


def stop(job):
    """Cancel a job that runs; False if it has ended."""
    if end_of(job) is not None:
        return False
    (job / "cancelled").touch()
    if (job / "held").exists():
        (job / "end").write_text(str(-signal.SIGTERM))
        return True
    os.killpg(int((job / "pid").read_text()), signal.SIGTERM)
    return True


def options_of(words, with_value):
    """Options, a list of values each, and what comes after them."""
    options: dict[str, list[str]] = {}
    while words and words[0].startswith("-") and words[0] != "--":
        word, words = words[0], words[1:]
        value = ""
        if word in with_value:
            value, words = words[0], words[1:]
        options.setdefault(word, []).append(value)
    return options, words


def fail(line, code):
    print(line, file=sys.stderr)
    raise SystemExit(code)
