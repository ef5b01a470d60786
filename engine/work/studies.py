"""What a worker keeps of a study it works on: plan, node texts, sample table, journal, how often it could not start."""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import Path

from mrun.engine.language.places import JOURNAL_DIR
from mrun.engine.logging import log
from mrun.engine.plan.model import Plan
from mrun.engine.steps.render import NodeText
from mrun.engine.store.questions import state_of
from mrun.engine.store.seal import Seal
from mrun.engine.store.store import Store
from mrun.engine.table.reader import SampleReader
from mrun.engine.workspace.journal import JOURNAL_VERSION, Header, JournalWriter

#: Studies and node texts that stay in memory; the least recently used goes first.
_STUDIES_MOST, _NODES_MOST = 64, 1024


class WorkedStudy:
    """A study as one worker sees it."""

    def __init__(self, study: str, plan: Plan, journal: JournalWriter) -> None:
        self.study = study
        self.plan = plan
        self.edition = plan.samples.edition if plan.samples else 0
        self.journal = journal
        self.samples = SampleReader(plan.samples) if plan.samples else None
        #: Executions in a row that failed before the script's first instruction.
        self.failed_starts = 0
        #: Failed samples that were logged; of many, only the first.
        self.failures_logged = 0
        self._texts: OrderedDict[int, NodeText] = OrderedDict()

    def text(self, node: int) -> NodeText:
        """Names, directories and scripts of a node."""
        text = self._texts.get(node)
        if text is None:
            text = self._texts[node] = NodeText(self.plan, node)
            if len(self._texts) > _NODES_MOST:
                self._texts.popitem(last=False)
        else:
            self._texts.move_to_end(node)
        return text


class Studies:
    """The studies a worker knows, loaded when a claim names them."""

    def __init__(self, store: Store, seal: Seal, worker: str, host: str) -> None:
        self._store, self._seal, self._worker, self._host = store, seal, worker, host
        self._known: OrderedDict[str, WorkedStudy] = OrderedDict()
        #: Studies that the server has forgotten, and for which the log says so.
        self._gone: set[str] = set()

    async def get(self, study: str, edition: int = 0) -> WorkedStudy:
        """The study, from memory or from the server.

        Args:
            edition: of which its plan must be, or of a later one: samples may be added while a study runs.

        Raises:
            NotFoundError: the server does not hold its plan any more.
            SealError: it was queued under another key.
            WorkspaceError: its workspace can't be written.
        """
        known = self._known.get(study)
        if known is None or known.edition < edition:
            plan = await self._store.load_plan(study, self._seal)
            known = self._known.get(study)
            if known is not None and known.edition < edition:
                # Slots that are at work go on with the old object; both write one journal.
                known = self._known[study] = WorkedStudy(study, plan, known.journal)
        if known is None:
            path = Path(plan.workspace, JOURNAL_DIR, "journal", f"{self._worker}.journal")
            header = Header(JOURNAL_VERSION, study, self._worker, self._host, time.time())
            known = self._known[study] = WorkedStudy(study, plan, JournalWriter(path, header))
            log.info("study_begun", study=study, name=plan.name, workspace=plan.workspace)
        self._known.move_to_end(study)
        return known

    def journal_of(self, study: str) -> JournalWriter | None:
        """The journal of a study that is in memory."""
        known = self._known.get(study)
        return known.journal if known else None

    async def is_gone(self, study: str) -> bool:
        """Whether the server has forgotten the study. The log says so once, with the command that brings it back."""
        if await state_of(self._store, study) is not None:
            return False
        if study not in self._gone:
            self._gone.add(study)
            known = self._known.get(study)
            hint = f"Unless it was purged: mrun restart {known.plan.workspace if known else 'WORKSPACE'}"
            log.error("study_gone", study=study, why="The server does not know it any more.", hint=hint)
        return True

    async def look_for_gone(self) -> None:
        """The server has forgotten this worker: has it forgotten the studies, too?"""
        for study in list(self._known):
            await self.is_gone(study)

    def forget_idle(self, in_use: set[str]) -> None:
        """Close studies beyond the number that stays in memory, the longest unused first, but none that is in use."""
        for study in list(self._known):
            if len(self._known) <= _STUDIES_MOST:
                return
            if study not in in_use:
                self._known.pop(study).journal.close()

    def close(self) -> None:
        """Close all journals."""
        for study in self._known.values():
            study.journal.close()
        self._known.clear()
