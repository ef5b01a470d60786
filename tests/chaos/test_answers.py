"""Requests and answers that are lost: a move that was done and not answered is not done again."""

from __future__ import annotations

from tests.chaos.arena import Arena, function_of
from tests.chaos.test_commands import lay_out, studies
from tests.conftest import wait_until


def test_every_move_whose_request_or_answer_is_lost_is_done_once(arena: Arena) -> None:
    # Given a study whose queueing is not answered
    spec = lay_out(arena, samples=40)
    for move in ("submit", "commit", "commit"):
        arena.proxy.lose_reply(function_of(move))
    arena.proxy.lose_request(function_of("submit"))
    study = arena.lab.queue(spec)
    assert len(arena.proxy.lost) == 4
    assert studies(arena) == [study]
    # When a worker's requests are lost, and then answers, of each kind
    for move in ("beat", "claim", "settle"):
        arena.proxy.lose_request(function_of(move))
        for _ in range(3):
            arena.proxy.lose_reply(function_of(move))
    arena.work(lease_s=3)
    wait_until(lambda: len(arena.proxy.lost) == 16, "all of them are lost", 60)
    # I expect each sample to have run once, and to be counted once
    arena.assert_whole(study, 40, is_once=True)
