"""docs/install.md: its commands are ones that work."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import yaml

from format_operator import render
from tests.chart.helm import NAMESPACE, ROOT, Helm

PAGE = (ROOT / "docs" / "install.md").read_text()


HELMS_OWN = {"--set", "--reuse-values", "--reset-then-reuse-values", "--take-ownership"}


def commands() -> list[list[str]]:
    text = "".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line.removeprefix("$ ")) for line in text.splitlines()]


def test_the_chart_is_installed_as_the_page_says(helm: Helm) -> None:
    """`helm install` as printed renders, in the namespace that the later commands name."""
    (command,) = (one for one in commands() if one[:2] == ["helm", "install"])
    assert NAMESPACE in command
    done = helm.run("template", *command[2:4], "--namespace", NAMESPACE)
    assert "name: storageformat-operator\n" in done.stdout
    (execute,) = (one for one in commands() if one[:2] == ["kubectl", "exec"])
    assert execute[2:5] == ["--namespace", NAMESPACE, "deploy/storageformat-operator"]


def test_the_snippet_is_printed_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    """`storageformat render sidecar` takes the options that the page shows."""
    (command,) = (one for one in commands() if one[:2] == ["kubectl", "exec"])
    words = command[command.index("storageformat") :]
    assert words[:2] == ["storageformat", "render"]
    assert render.main(words[2:]) == 0
    printed: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    assert set(printed) == {"initContainers", "volumes"}


def test_every_option_of_render_that_is_named_exists(capsys: pytest.CaptureFixture[str]) -> None:
    """An option in the page's prose is one of `render sidecar`, or a Helm one."""
    with pytest.raises(SystemExit):
        render.main(["sidecar", "--help"])
    known = capsys.readouterr().out
    for option in re.findall(r"`(?:render sidecar )?(--[a-z-]+)", PAGE):
        assert option in known or option in HELMS_OWN, option


def test_the_values_that_are_named_exist(helm: Helm) -> None:
    """A value that the page sets is in the chart's schema."""
    for setting in re.findall(r"--set ('?[a-zA-Z.]+=[^`]+)`", PAGE):
        words = shlex.split(setting.replace("…", "x"))
        helm.run("template", "x", str(ROOT / "charts/storageformat-operator"), "--set", words[0])
