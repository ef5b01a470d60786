"""What the fake LSF and PBS share: jobs in FAKE_DIR, a directory each, run at once in process groups of their own.

What stands in a job's directory: `pid`, `cancelled`, and `end` with the exit code (negative: a signal), or `limit`.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

HOME = Path(os.environ["FAKE_DIR"])


def new_job(kind):
    number = 1 + len(list(HOME.glob(f"{kind}.*")))
    job = HOME / f"{kind}.{number}"
    job.mkdir()
    return number, job


def start(job, command, directory, out, err, limit_s=None):
    """Run a command in the background, as a scheduler's daemon would."""
    if os.fork():
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
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


def end_of(job):
    path = job / "end"
    return path.read_text() if path.exists() else None


def stop(job):
    """Cancel a job that runs; False if it has ended."""
    if end_of(job) is not None:
        return False
    (job / "cancelled").touch()
    os.killpg(int((job / "pid").read_text()), signal.SIGTERM)
    return True


def options_of(words, with_value):
    """Options, a list of values each, and what comes after them."""
    options = {}
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
