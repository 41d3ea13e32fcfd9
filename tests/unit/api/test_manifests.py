"""The committed manifests are those that the code makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from format_operator import manifests

DEPLOY = Path(__file__).parents[3] / "deploy"


def test_committed_manifests_are_current() -> None:
    """`deploy/` holds what `python -m format_operator.manifests` writes, and nothing else."""
    assert manifests.stale(DEPLOY) == []
    files = {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*.yaml")}
    assert files == set(manifests.manifests())


def test_stale_manifests_are_noticed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` fails on a file that is missing or changed; `--write` mends just that file."""
    assert manifests.main(["--write", str(tmp_path)]) == 0
    assert manifests.main(["--check", str(tmp_path)]) == 0
    (tmp_path / "rbac.yaml").write_text("changed")
    assert manifests.main(["--check", str(tmp_path)]) == 1
    assert "rbac.yaml is stale" in capsys.readouterr().err
    assert manifests.main(["--write", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'rbac.yaml'}\n"


def test_printed_manifests_can_be_applied(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed without arguments they are one stream of YAML documents."""
    assert manifests.main([]) == 0
    kinds = [document["kind"] for document in yaml.safe_load_all(capsys.readouterr().out)]
    assert kinds.count("CustomResourceDefinition") == 2
    assert "ValidatingAdmissionPolicyBinding" in kinds


def test_every_verb_has_its_reason() -> None:
    """No verb is given to the sidecar without a word on what it is for."""
    text = manifests.manifests()["rbac.yaml"]
    role = next(yaml.safe_load_all(text))
    verbs = sum(len(rule["verbs"]) for rule in role["rules"])
    lines = [line for line in text.splitlines() if line.startswith("  - ")]
    assert len(lines) == verbs
    assert all(" # " in line for line in lines)
