"""`mrun queue` loses its server when it has asked for the study: it says whether it is there, or that none can tell."""

from __future__ import annotations

import asyncio

import pytest

from mrun.engine.store.library import library
from tests.chaos.proxy import Proxy
from tests.cli.homes import Home, ended
from tests.conftest import wait_until

COMMIT = library().function("commit")
SPEC = """
    description: {name: one, description: a step}
    study:
    - {name: a, description: nothing, run: {cmd: "true"}}
    """


class CountingProxy(Proxy):
    """Knows how many connections were made since the loss."""

    later = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.later += bool(self.lost)
        await super()._serve(reader, writer)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("is_done", "comes_back"), [(True, True), (False, True), (True, False)])
def test_queue_that_lost_its_server_tells_whether_the_study_is_there(
    home: Home, is_done: bool, comes_back: bool
) -> None:
    # Given a server that has the scripts, and is lost with the commit's request, or with its answer
    spec = str(home.write("one.yaml", SPEC))
    home.ok("queue", spec)
    socket = next((home.directory / "run").rglob("*.sock"))
    with CountingProxy(home.directory / "p", socket) as proxy:
        proxy.becomes_hole = True
        (proxy.lose_reply if is_done else proxy.lose_request)(COMMIT)
        queue = home.start("--broker", proxy.url, "queue", spec)
        if comes_back:
            # The first connection since is for the commit once more, the second for a look whether it was done.
            wait_until(lambda: proxy.later >= 2, "it looks for the study", timeout_s=60)
            proxy.is_hole = False
        done = ended(queue)
    known = home.json("status")
    # I expect the truth
    if is_done and comes_back:
        assert done.returncode == 0, done.stderr
        assert len(known) == 2
        assert known[1]["study"] in done.stdout
    elif comes_back:
        assert (done.returncode, len(known)) == (5, 1)
        assert "was not queued" in done.stderr
    else:
        assert (done.returncode, len(known)) == (5, 2)
        assert f"mrun status {known[1]['study']}" in done.stderr
        assert "not known" in done.stderr
