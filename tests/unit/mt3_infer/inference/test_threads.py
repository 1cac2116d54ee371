"""A container's share of the machine counts, not the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mt3_infer.inference.threads import available_cpus


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("150000 100000", 1),
        ("199999 100000", 1),
        ("399000 100000", 3),
        ("1600000 100000", 8),
        ("1000 0", 8),
        ("", 8),
    ],
)
def test_the_quota_of_the_control_group_counts(tmp_path: Path, content: str, expected: int) -> None:
    root = write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": content})
    assert available_cpus(root) == expected


@pytest.mark.parametrize("own", ["max 100000", "600000 100000"])
def test_a_quota_further_up_counts_too(tmp_path: Path, own: str) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/kubepods.slice/pod1.slice/container.scope\n",
            "sys/fs/cgroup/kubepods.slice/cpu.max": "700000 100000",
            "sys/fs/cgroup/kubepods.slice/pod1.slice/cpu.max": "150000 100000",
            "sys/fs/cgroup/kubepods.slice/pod1.slice/container.scope/cpu.max": own,
            "sys/fs/cgroup/another.slice/cpu.max": "100000 100000",
        },
    )
    assert available_cpus(root) == 1


def test_the_smallest_quota_counts_wherever_it_is_set(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/cpu.max": "500000 100000",
            "sys/fs/cgroup/a/b/cpu.max": "300000 100000",
        },
    )
    assert available_cpus(root) == 3


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize("group", ["docker/abc", "docker", ""])
@pytest.mark.parametrize(("quota", "expected"), [("200000", 2), ("150000", 1), ("-1", 8)])
def test_version_1_counts(tmp_path: Path, folder: str, group: str, quota: str, expected: int) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n",
            f"sys/fs/cgroup/{folder}/{group}/cpu.cfs_quota_us": quota,
            f"sys/fs/cgroup/{folder}/{group}/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/docker/abc/cpu.cfs_quota_us": "100000",
            "sys/fs/cgroup/memory/docker/abc/cpu.cfs_period_us": "100000",
        },
    )
    assert available_cpus(root) == expected


def test_version_2_beside_version_1_counts(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "1:cpuset:/\n0::/a\n", "sys/fs/cgroup/unified/a/cpu.max": "200000 100000"}
    assert available_cpus(write(tmp_path, files)) == 2


def test_a_group_that_is_not_visible_leaves_that_of_the_container(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/../other/x\n", "sys/fs/cgroup/cpu.max": "200000 100000"}
    assert available_cpus(write(tmp_path, files)) == 2
    (tmp_path / "proc" / "self" / "cgroup").unlink()
    assert available_cpus(tmp_path) == 2


def test_without_a_control_group_the_affinity_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert available_cpus(tmp_path) == 3
