"""A bench on which warm shells run scripts, warm or cold."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mrun.engine.work.outcomes import Exit
from mrun.engine.work.processes.process import Script
from mrun.engine.work.processes.warm import WarmProcess, WarmShells, is_bash, may_give_up_line

#: `whole`: the subshell is made a shell of its own, whatever the script holds.
SHELLS = ["/bin/bash", "/bin/bash whole", "/bin/sh", "/bin/dash"]


class Watched:
    """Remembers which process groups are said to live."""

    def __init__(self) -> None:
        self.groups: set[int] = set()

    def began(self, group: int) -> None:
        self.groups.add(group)

    def is_client(self, group: int) -> None:
        raise AssertionError(f"{group} is a shell, not the client of a scheduler")

    def ended(self, group: int) -> None:
        self.groups.remove(group)


class Bench:
    """Runs scripts, warm or cold, in a directory."""

    def __init__(self, directory: Path, shell: str, **environment: str) -> None:
        if shutil.which(shell.removesuffix(" whole")) is None:
            pytest.skip(f"there is no {shell}")
        self.directory, self.shell = directory, shell.removesuffix(" whole")
        self.is_whole = shell.endswith(" whole")
        self.environment = {os.fsencode(name): os.fsencode(value) for name, value in os.environ.items()}
        self.environment |= {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
        self.watched = Watched()
        self.warm = WarmShells(self.environment, self.watched)

    def script(self, text: str, name: str = "x") -> str:
        path = self.directory / f"{name}.sh"
        path.write_bytes(f"#!{self.shell}\n\n{text}\n".encode())
        path.chmod(0o755)
        return str(path)

    def warm_script(self, text: str, name: str = "x", **options: Any) -> Script:
        stem = f"{self.directory}/{name}"
        is_whole = is_bash(self.shell) and may_give_up_line(text)
        script = Script(
            *(self.shell, self.script(text, name), str(self.directory), self.environment, f"{stem}.out", f"{stem}.err"),
            is_whole=self.is_whole or is_whole,
        )
        return msgspec.structs.replace(script, **options)

    def begin(self, script: Script) -> WarmProcess:
        process = self.start_if_fit(script)
        assert process is not None
        return process

    def start_if_fit(self, script: Script) -> WarmProcess | None:
        order = self.warm.order(script)
        return None if order is None else self.warm.start(order)

    def start(self, text: str, **environment: str) -> WarmProcess:
        own = {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
        return self.begin(self.warm_script(text, environment=self.environment | own))

    async def run(self, text: str, **environment: str) -> int:
        process = self.start(text, **environment)
        try:
            return (await end_of(process)).code
        finally:
            process.close()

    def run_cold(self, text: str, **environment: str) -> int:
        own = {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
        with (self.directory / "x.out").open("ab") as out, (self.directory / "x.err").open("ab") as err:
            return subprocess.run(
                [self.script(text)], cwd=self.directory, env=self.environment | own, stdin=subprocess.DEVNULL,
                stdout=out, stderr=err, process_group=0, check=False,
            ).returncode  # fmt: skip

    @property
    def out(self) -> str:
        return (self.directory / "x.out").read_text()

    @property
    def err(self) -> str:
        return (self.directory / "x.err").read_text()

    def shells(self) -> set[int]:
        return set(self.watched.groups)

    async def until(self, is_so: object, what: str) -> None:
        assert callable(is_so)
        for _ in range(2000):
            if is_so():
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"never: {what}")

    def has(self, name: str) -> bool:
        return (self.directory / name).exists()

    def number(self, name: str) -> int:
        return int((self.directory / name).read_text())


async def end_of(process: WarmProcess) -> Exit:
    end = await process.wait_within(30)
    assert end is not None
    return end


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False
