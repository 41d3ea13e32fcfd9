"""What is said of one argument: in the log, in the FormatState (through the reporter), in metrics and /healthz."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from format_operator.runtime.log import Log
from format_operator.series import DatabaseSeries
from format_operator.settings import DatabaseArgument, SidecarSettings
from format_operator.sidecar import status
from format_operator.sidecar.databases import Databases
from format_operator.sidecar.decide import Action
from format_operator.sidecar.knowledge import Knowledge
from format_operator.sidecar.report import Reporter
from format_operator.sidecar.wish import Wish
from format_operator.sidecar.work import Work


class Announcer:
    """``action`` is the last one that was told."""

    def __init__(
        self,
        argument: DatabaseArgument,
        settings: SidecarSettings,
        databases: Databases,
        work: Work,
        knowledge: Knowledge,
        reporter: Reporter,
        series: DatabaseSeries,
        log: Log,
    ) -> None:
        self.action: Action | None = None
        self._argument = argument
        self._settings = settings
        self._databases = databases
        self._work = work
        self._knowledge = knowledge
        self._reporter = reporter
        self._series = series
        self._log = log
        self._said = ""

    def tell(self, action: Action, *, gate_open: bool) -> None:
        self.action = action
        text = f"{action.phase} {action.reason} {action.message}"
        if text != self._said:
            self._said = text
            self._log.info(
                "state", phase=action.phase, reason=action.reason, message=action.message
            )
        self._series.gate_open = gate_open
        self._series.restart_required = action.restart_required
        self._series.state = (str(action.phase), action.reason)
        files = self._databases.files()
        failing = Counter(str(file.failure.kind) for file in files if file.failure is not None)
        self._series.failing = failing
        body = self._knowledge.storageformat_body or {}
        facts = status.Facts(
            argument=self._argument,
            files=files,
            backups=self._databases.backups(),
            histories=self._databases.histories,
            refusal=self._work.refusal,
            progress=self._work.progress(),
            gate_open=gate_open,
            observed_generation=(body.get("metadata") or {}).get("generation"),
        )
        self._reporter.say(status.build(self._settings, action, facts))

    def measure(self, wish: Wish | None) -> None:
        """Bring the metrics to what was seen of the databases last. ``wish`` has the formats' names."""
        series, histories = self._series, self._databases.histories
        series.paths = self._databases.paths
        series.backups = {backup.conversion_id: backup for backup in self._databases.backups()}
        series.totals = {path: dict(history.totals) for path, history in histories.items()}
        series.last_recovery_at = _latest(one.last_recovery_at for one in histories.values())
        series.last_success_at = _latest(one.last_success_at for one in histories.values())
        series.formats = status.format_infos(wish, self._databases.files())

    def health(self, *, gate_open: bool) -> dict[str, object]:
        """For /healthz."""
        action = self.action
        return {
            "storageformat": self._argument.name,
            "path": self._argument.path,
            "phase": str(action.phase) if action is not None else "Starting",
            "reason": action.reason if action is not None else "Starting",
            "message": action.message if action is not None else "",
            "gate": "open" if gate_open else "closed",
            "api": str(self._knowledge.storageformat.asked),
        }


def _latest(times: Iterable[str | None]) -> str | None:
    return max((one for one in times if one is not None), default=None)
