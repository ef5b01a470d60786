"""The account of a claim: ranges and outcomes, and nothing of processes."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from mrun.engine.records import Claim, OutcomeRun, SampleState
from mrun.engine.work import claim as claim_module
from mrun.engine.work.claim import ClaimAccount
from mrun.engine.work.outcomes import FINISHED, Exit, Outcome

FAILED = Outcome(SampleState.FAILED, reason="exit code 1")


def account(lo: int = 0, hi: int = 10) -> ClaimAccount:
    return ClaimAccount(Claim(7, "s", 0, lo, hi, 0, 0, 0))


def note(account: ClaimAccount, *outcomes: Outcome) -> None:
    for outcome in outcomes:
        account.note(outcome, Exit(0, 2.0))


def test_outcomes_in_a_row_are_one_run_and_reasons_name_their_samples() -> None:
    one = account(5, 15)
    note(one, FINISHED, FINISHED, FAILED, FAILED, FINISHED)
    settlement, reasons = one.settlement()
    assert (settlement.lo, settlement.upto, settlement.elapsed_ms) == (5, 10, 10.0)
    assert settlement.runs == (OutcomeRun(2, "finished"), OutcomeRun(2, "failed"), OutcomeRun(1, "finished"))
    assert reasons == [(7, "exit code 1"), (8, "exit code 1")]


def test_a_settlement_holds_so_many_runs_at_most_and_the_next_one_has_the_rest() -> None:
    one = account(0, 100)
    note(one, *[FINISHED, FAILED] * 50)
    first, _ = one.settlement()
    assert (len(first.runs), first.upto) == (64, 64)
    one.accounted(first.upto)
    second, _ = one.settlement()
    assert (second.lo, second.upto, one.unsettled) == (64, 100, 36)


def test_what_is_given_up_goes_back_from_the_sample_that_was_next() -> None:
    one = account()
    note(one, FINISHED)
    one.give_up(is_started=True)
    assert (one.at, one.limit, one.hi, one.is_limit_started) == (1, 1, 10, True)
    one.accounted(1)
    assert not one.is_settled
    one.handed_back(1)
    assert one.is_settled


def test_it_knows_no_process_and_no_file() -> None:
    tree = ast.parse(Path(str(claim_module.__file__)).read_text(encoding="utf-8"))
    modules = {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names}
    assert ours == {"mrun.engine.records", "mrun.engine.work.outcomes"}
