"""What of the cluster's objects and logs may leave it in a support bundle. Pure.

**Nothing is removed here: what is known to be harmless is copied, and everything else is left out.** A refusal names
keys, SQLite's errors quote SQL, an annotation holds the whole of what was applied, an environment variable holds a
password: of a text that is not known by its reason to be made of names and numbers only its length is told. Names of
tables, and of the files that a glob matches, are replaced by numbers, the same one each time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from format_operator.kubectl.redact_pods import copied, identity, withheld

Object = Mapping[str, Any]

#: FormatStates' reasons whose messages are made of names of formats, pods and paths.
_SAFE_REASONS: Final = frozenset(
    {
        *("InTargetFormat", "NoDatabase", "NoPermit", "PermitExpired", "PermitForAnotherTarget"),
        *("Suspended", "NoStorageFormat", "AppRunning", "Permitted", "Converting"),
        *("RecoveryPending", "Conflict", "PathNotServed", "StorageFormatDeleted"),
        # of a StorageFormat's conditions
        *("Converted", "Complete", "NoPods", "SidecarMissing", "NoOldFormatLeft", "NotAllReported"),
        *("PartitionHeld", "Partitioned", "UnsupportedStrategy", "UnsupportedReplicas"),
        # of its rollout
        *("Restarting", "Arming", "Soaking", "WaitingForWorkload", "WaitingForRestart"),
    }
)
#: What our processes log, without the fields; a line that begins otherwise is somebody else's.
EVENTS: Final = frozenset(
    {
        *("API server answers", "API server gives no answer", "backup created", "backup deleted"),
        *("a conversion did not stop in time; the next start recovers it",),
        *("a part of the controller died", "a part of the worker died", "cannot delete backups"),
        *("cannot go on, trying again", "cannot list", "cannot look at the database"),
        *("cannot read the history", "cannot read what was stored", "cannot report"),
        *("cannot renew or get the lease", "cannot serve metrics", "cannot start"),
        *("conversion needed", "conversion ended", "phase ended", "gate closed", "gate open"),
        *("cannot store the API's word", "event lost", "eviction waits", "gate connected"),
        *("formatstate changed meanwhile", "formatstate deleted: its volume is gone"),
        *("gate gone", "gate not understood", "gate opened", "gate waits", "leading"),
        *("internal error, trying again", "lease not given back: it runs out"),
        *("traces are not sent", "traces are sent again"),
        *("permit given", "permit withdrawn", "pod evicted", "recovered", "recovered all"),
        *("recovery failed", "reporting again", "serving metrics", "standing by", "state"),
        *("stopping", "synced", "the API server did not list everything"),
        *("the supervisor is gone", "waiting for the gate", "watch ended"),
        # of the webhook
        *("certificate made", "certificate shown", "CA bundle written", "certificate", "no review"),
        *("serving the webhook", "cannot answer", "a part of the webhook died"),
        *("asked in vain: the path is the last one known",),
        # of the supervisor
        *("cannot start the worker", "worker started", "worker ended", "worker hangs"),
        *("worker restarts",),
    }
)
#: Fields of a log line whose values are names, numbers and times.
_FIELDS: Final = frozenset(
    {
        *("address", "again_in", "bytes", "bytes_after", "bytes_before", "code", "conversion"),
        *("count", "database", "databases", "duration", "exit", "expires", "formatstate", "in"),
        *("kind", "lease", "level", "namespace", "node", "outcome", "path", "phase", "pid"),
        *("pod", "port", "reason", "rows", "seconds", "signal", "socket", "status"),
        *(
            "storageformat",
            "result",
            "role",
            "told",
            "ts",
            "time",
            "trace",
            "conversion_id",
            "gate",
        ),
        *("valid_until", "configuration", "part"),
        # how many of each kind the controller has listed
        *("storageformats", "formatstates", "pods", "statefulsets", "deployments", "daemonsets"),
        *("replicasets", "persistentvolumeclaims"),
    }
)
_ROLE: Final = "supervisor "
_PLAIN: Final = re.compile(r"[\w./:@+,*<>-]{1,300}")
_LINE: Final = re.compile(r"(?P<at>\d{4}-\d\d-\d\dT[\d:.]+Z) (?P<level>[a-z]{4,8}) (?P<rest>.*)")
_GATE_LINE: Final = re.compile(r"(?P<at>\d{4}-\d\d-\d\dT[\d:.]+Z) (?P<rest>.*)")
_FIRST_FIELD: Final = re.compile(r" [a-z_]+=")
_FIELD: Final = re.compile(r'(?P<key>[a-z_]+)=(?P<value>"(?:[^"\\]|\\.)*"|\S*)')
_FRAME: Final = re.compile(r'  File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>[\w<>.]+)')
_MODULES: Final = re.compile(r".*?((?:format_operator|format_store|site-packages|python3\.\d+)/.*)")
_SAMPLE: Final = re.compile(
    r"(?P<name>[a-z_:][a-z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>[-+.\deEINaf]+)"
)
_LABEL: Final = re.compile(r'(?P<key>[a-z_]+)="(?P<value>(?:[^"\\]|\\.)*)"')
_SAFE_LABELS: Final = frozenset(
    {
        *("storageformat", "storageformat_namespace", "database", "phase", "outcome", "result"),
        *("state", "le", "role", "version", "name", "engine", "key_encoding", "value_codec"),
        *("compression", "verb", "resource", "code", "quantile", "implementation", "major"),
        *("minor", "patchlevel", "generation", "reason", "kind", "pinned", "condition", "status"),
    }
)


class Redactor:
    """Redacts everything of one StorageFormat, so that the same table or file gets the same number throughout."""

    def __init__(self, path: str, formats: Iterable[str]) -> None:
        self._formats = frozenset(formats)
        self._numbers: dict[tuple[str, str], int] = {}
        folder, _, last = path.rpartition("/")
        self._is_glob = any(sign in last for sign in "*?[")
        self._files = re.compile(re.escape(folder) + r"/\.?([^/\s\"',;]+)") if folder else None
        self._pattern = path

    # --- objects ----------------------------------------------------------------------------------------------

    def storageformat(self, body: Object) -> dict[str, Any]:
        """A StorageFormat without SQL, names of tables and free text."""
        spec, status = body.get("spec") or {}, body.get("status") or {}
        kept = {key: spec[key] for key in ("selector", "database", "backup") if key in spec}
        kept |= {key: spec[key] for key in ("target", "unmarked", "onFailure") if key in spec}
        kept |= {"rollout": spec["rollout"]} if "rollout" in spec else {}
        kept["formats"] = [self.format(one) for one in spec.get("formats") or ()]
        rollout = status.get("rollout") or {}
        told = copied(
            status,
            *("observedGeneration", "targetHash", "pods", "converted", "pending", "failed"),
            *("blocked", "backups"),
        )
        told["conditions"] = [self._condition(one) for one in status.get("conditions") or ()]
        told["persistedFormats"] = [
            {"name": self._format_name(one.get("name")), "count": one.get("count")}
            for one in status.get("persistedFormats") or ()
        ]
        if rollout:
            phase = str(rollout.get("phase", ""))
            told["rollout"] = {
                "phase": phase,
                "message": self._message(phase, rollout.get("message")),
            }
        return {**identity(body), "spec": kept, "status": told}

    def formatstate(self, body: Object) -> dict[str, Any]:
        """A FormatState without free text."""
        status = body.get("status") or {}
        told = copied(
            status,
            *("podName", "podUID", "nodeName", "observedGeneration", "targetHash", "phase"),
            *("reason", "progress", "backup", "armedFor", "gate", "restartRequired"),
            *("sidecarVersion", "apiVersion", "updatedAt"),
        )
        told["path"] = self.path(str(status.get("path", "")))
        for key in ("targetFormat", "currentFormat"):
            told[key] = self._format_name(status.get(key))
        if "message" in status:
            told["message"] = self._message(status.get("reason"), status["message"])
        databases = status.get("databases")
        if databases:
            told["databases"] = copied(databases, "total", "converted", "pending", "failed")
            told["databases"]["firstFailures"] = [
                {
                    "database": self.path(str(one.get("database", ""))),
                    "reason": one.get("reason"),
                    "message": withheld(one.get("message", "")),
                }
                for one in databases.get("firstFailures") or ()
            ]
        recovery, conversion = status.get("lastRecovery"), status.get("lastConversion")
        if recovery:
            told["lastRecovery"] = copied(recovery, "at", "outcome", "conversionID")
        if conversion:
            told["lastConversion"] = copied(
                conversion,
                *("at", "result", "rows", "bytesBefore", "bytesAfter", "durationSeconds"),
                "conversionID",
            ) | {key: self._format_name(conversion.get(key)) for key in ("from", "to")}
        told["conditions"] = [self._condition(one) for one in status.get("conditions") or ()]
        return {**identity(body), "spec": body.get("spec") or {}, "status": told}

    def format(self, body: Object) -> dict[str, Any]:
        """A format's parts: parameters, the numbers of migrations, no SQL."""
        kept = copied(body, "name")
        rows, file = body.get("sqlitedict"), body.get("sqlite")
        if isinstance(rows, Mapping):
            kept["sqlitedict"] = copied(
                rows, "keyEncoding", "valueCodec", "compression", "sharedReferences"
            )
            if rows.get("tables"):
                kept["sqlitedict"]["tables"] = [self.table(str(one)) for one in rows["tables"]]
        if isinstance(file, Mapping):
            kept["sqlite"] = copied(file, "pageSize", "autoVacuum", "journalMode", "migrationsFrom")
            kept["sqlite"]["migrations"] = [
                copied(one, "number", "name")
                | {key: withheld(one[key]) for key in ("sql", "down", "checks") if one.get(key)}
                for one in file.get("migrations") or ()
            ]
        return kept

    def inspection(self, body: Object) -> dict[str, Any]:
        """What ``storageformat inspect -o json`` tells of a database."""
        if "error" in body:
            error = body["error"]
            return {"error": copied(error, "reason", "exitCode")}
        marker = body.get("marker")
        return {
            **copied(body, "state", "size", "journalMode", "pageSize", "pending"),
            "path": self.path(str(body.get("path", ""))),
            "tables": [
                {"name": self.table(str(one.get("name"))), "rows": one.get("rows")}
                for one in body.get("tables") or ()
            ],
            "format": self.format(body["format"]) if body.get("format") else None,
            "marker": (
                copied(marker, "markerVersion", "conversion", "convertedAt", "tool")
                if isinstance(marker, Mapping)
                else None
            ),
            "backups": [
                copied(
                    one,
                    *(
                        "conversionID",
                        "size",
                        "createdAt",
                        "retainUntil",
                        "pinned",
                        "rows",
                        "sound",
                    ),
                )
                for one in body.get("backups") or ()
            ],
        }

    # --- texts ------------------------------------------------------------------------------------------------

    def log(self, text: str) -> str:
        """Lines of our processes; of other text only that it was there."""
        return "\n".join(self._log_line(line) for line in text.splitlines())

    def metrics(self, text: str) -> str:
        """A scrape, with the labels that are known to be harmless."""
        lines = []
        for line in text.splitlines():
            found = _SAMPLE.fullmatch(line)
            if found is None:
                continue  # a comment
            labels = [
                f'{key}="{self.path(value) if key == "database" else value}"'
                if key in _SAFE_LABELS and _PLAIN.fullmatch(value)
                else f'{key}="(withheld)"'
                for key, value in _LABEL.findall(found["labels"] or "")
            ]
            lines.append(f"{found['name']}{{{','.join(labels)}}} {found['value']}")
        return "\n".join(lines)

    def table(self, name: str) -> str:
        return f"table-{self._number('table', name)}"

    def path(self, path: str) -> str:
        """A path; a file that a glob matches by its number."""
        if not self._is_glob or self._files is None:
            return path
        return self._files.sub(
            lambda found: (
                found[0]
                if found[0] == self._pattern
                else found[0][: found.start(1) - found.start()]
                + f"database-{self._number('file', found[1])}"
            ),
            path,
        )

    def _number(self, kind: str, name: str) -> int:
        own = [key for key in self._numbers if key[0] == kind]
        return self._numbers.setdefault((kind, name), len(own) + 1)

    def _condition(self, body: Object) -> dict[str, Any]:
        kept = copied(body, "type", "status", "reason", "lastTransitionTime", "observedGeneration")
        return kept | {"message": self._message(body.get("reason"), body.get("message"))}

    def _format_name(self, name: object) -> str | None:
        """By its name in the StorageFormat; a description could hold names of tables."""
        if name is None or name in self._formats or name == "several":
            return str(name) if name is not None else None
        return withheld(name)

    def _message(self, reason: object, text: object) -> str:
        said = str(text or "")
        # A format without a name is described in parentheses, with its tables.
        if not said or (str(reason) in _SAFE_REASONS and "(" not in said):
            return self.path(said)
        return withheld(said)

    def _log_line(self, line: str) -> str:
        if line.startswith("{"):
            return self._json_line(line)
        found = _LINE.fullmatch(line)
        if found is None:
            return self._gate_line(line) or _traceback_line(line)
        rest = found["rest"]
        lead = f"{found['at']} {found['level']}"
        if rest.startswith(_ROLE):
            rest, lead = rest.removeprefix(_ROLE), f"{lead} {_ROLE.strip()}"
        first = _FIRST_FIELD.search(rest)
        event = rest[: first.start()] if first else rest
        if event not in EVENTS:
            return f"{lead} {withheld(rest)}"
        fields = dict(_FIELD.findall(rest[first.start() :])) if first else {}
        return " ".join([lead, event, *self._said(fields)])

    def _said(self, fields: Mapping[str, str]) -> list[str]:
        """A line's fields; a message goes by the reason beside it."""
        said = []
        for key, value in fields.items():
            text = self._value(key, value)
            if key == "message" and value.startswith('"') and fields.get("reason"):
                text = json.dumps(self._message(fields["reason"], json.loads(value)))
            said.append(f"{key}={text}")
        return said

    def _gate_line(self, line: str) -> str:
        found = _GATE_LINE.fullmatch(line)
        if found is None:
            return ""
        fields = dict(_FIELD.findall(found["rest"]))
        if fields.get("gate") not in {"open", "closed"}:
            return f"{found['at']} {withheld(found['rest'])}"
        return " ".join([found["at"], *self._said(fields)])

    def _json_line(self, line: str) -> str:
        try:
            body = json.loads(line)
        except ValueError:
            return withheld(line)
        kept = {}
        for key, value in body.items():
            if key in {"event", "msg", "message"} and value in EVENTS:
                kept[key] = value
            elif isinstance(value, bool | int | float) or value is None:
                kept[key] = value if key in _FIELDS else withheld(value)
            else:
                kept[key] = self._value(key, str(value))
        return json.dumps(kept)

    def _value(self, key: str, value: str) -> str:
        if key in _FIELDS and _PLAIN.fullmatch(value):
            return self.path(value)
        if key in {"target", "from", "to", "format"} and value in self._formats:
            return value
        return withheld(value)


def _traceback_line(line: str) -> str:
    """Where an error was raised; what it says is not told, and the code is in the release."""
    if line == "Traceback (most recent call last):" or not line.strip():
        return line
    frame = _FRAME.fullmatch(line)
    if frame is not None:
        module = _MODULES.fullmatch(frame["file"])
        return f'  File "{module[1] if module else "(elsewhere)"}", line {frame["line"]}, in {frame["name"]}'
    return withheld(line)
