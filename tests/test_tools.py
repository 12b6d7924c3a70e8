"""The tools beside the package: what an audit says, and what counts as a difference."""

from __future__ import annotations

import pytest
from audit_packages import verdict
from same_results import differences


def test_an_audit_that_reached_nothing_says_so() -> None:
    skipped = {"dependencies": [{"name": "a", "skip_reason": "not found"}]}
    assert verdict(skipped, 7) == (0, "not audited: no vulnerability index answers for any of the 7 pinned packages")


def test_a_vulnerable_package_is_named_with_its_mend() -> None:
    found = {
        "dependencies": [
            {"name": "good", "version": "1", "vulns": []},
            {"name": "bad", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]},
        ]
    }
    code, words = verdict(found, 2)
    assert code == 1 and "bad 2: CVE-1, mended in 3" in words and "2 of 2" in words


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"a": [1.0]}, {"a": [1.00001]}, []),
        ({"a": [1.0]}, {"a": [1.1]}, [" a[0]: 1.0 before, 1.1 after"]),
        ({"a": ["x"]}, {"a": ["x", "y"]}, [" a: 1 values before, 2 after"]),
        ({"a": 1.0}, {}, [" a: only before"]),
    ],
)
def test_differences_of_results(before: dict, after: dict, said: list[str]) -> None:
    assert list(differences(before, after)) == said
