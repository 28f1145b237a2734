"""All checks are made, whatever one of them meets."""

from collections.abc import Iterator

import pytest
from conftest import REPO, Process

from llm_from_scratch.doctor import examination
from llm_from_scratch.doctor.examination import examine
from llm_from_scratch.doctor.findings import Finding


def test_a_check_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Finding]:
        raise RuntimeError("a driver\nthat lies")
        yield

    monkeypatch.setattr(examination, "processors", broken)
    found = list(examine())
    (bad,) = (finding for finding in found if "driver" in finding.what)
    assert bad.mark == "fault"
    assert bad.what == "devices: RuntimeError: a driver that lies"
    assert any(finding.what.startswith("outputs/") for finding in found)


def test_it_runs_on_this_project(command: Process) -> None:
    done = command("doctor", cwd=REPO)
    assert done.returncode in (0, 1), done.stderr
    assert "data=oz" in done.stdout
