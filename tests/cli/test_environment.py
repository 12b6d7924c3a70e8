"""What the command line sets before libraries are imported."""

from __future__ import annotations

import pytest

from re_llm.cli.common import SPINS, prepare_environment


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": SPINS}),
        ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": None}),
    ],
)
def test_waiting_threads_sleep_after_a_moment_unless_the_user_says_otherwise(
    given: dict[str, str], found: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = dict(given)
    monkeypatch.setattr("re_llm.cli.common.os.environ", environment)
    prepare_environment()
    assert {name: environment.get(name) for name in found} == found
