"""What every test rests on: which ones are skipped and why, few threads, and no writing outside the
test's own folder.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# set before torch is imported: pytest-xdist's processes share the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
# tests start a hundred processes: none of them compiles kdcli again
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# for fixtures of all scopes: stored teacher logits of tests are nobody else's
os.environ["KD_CACHE_DIR"] = tempfile.mkdtemp(prefix="kd-cache-")
atexit.register(shutil.rmtree, os.environ["KD_CACHE_DIR"], ignore_errors=True)

_SWITCHES = {"slow": "KD_SLOW", "download": "KD_DOWNLOAD", "paper": "KD_PAPER"}
_DEVICES = {"gpu": 1, "multigpu": 2}
_OURS = (
    "KD_RUNS_DIR",
    "KD_DEBUG",
    "NO_COLOR",
    "FORCE_COLOR",
    "CI",
    "GITHUB_ACTIONS",
    "GITHUB_STEP_SUMMARY",
    "COLUMNS",
    "LINES",
)


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker, variable in _SWITCHES.items():
            if item.get_closest_marker(marker) and os.environ.get(variable) != "1":
                item.add_marker(pytest.mark.skip(reason=f"{marker}: set {variable}=1 to run it"))
        for marker, least in _DEVICES.items():
            if item.get_closest_marker(marker) and _cuda_devices() < least:
                item.add_marker(
                    pytest.mark.skip(
                        reason=f"{marker}: needs {least} CUDA device{'s' * (least > 1)}"
                    )
                )


def pytest_collection_finish() -> None:
    """What is there by now stays until the end: Python need not look for garbage among it again and
    again.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_disks() -> Iterator[None]:
    """Files of tests need not survive a loss of power: a run syncs twenty of them, and waits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _short_latencies() -> None:
    """How long networks take is no business of tests that train them: a few passes will do. Nor is
    how well a map of t-SNE has settled, and where on a figure its parts stand (tests/unit/report
    looks at that): both took longer than the runs that made them.
    """
    from kdcli.analysis import geometry
    from kdcli.jobs.measure import costs
    from kdcli.report.figures import svg

    costs.SECONDS = 0.02
    geometry.TSNE_STEPS = 250
    svg.LAYOUT = None


@pytest.fixture(autouse=True)
def _own_environment(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> None:
    """No variable of the developer's shell changes a result; datasets come from an empty folder
    unless a test downloads.
    """
    for name in _OURS:
        monkeypatch.delenv(name, raising=False)
    if not any(request.node.get_closest_marker(name) for name in ("download", "paper")):
        monkeypatch.setenv("KD_DATA_DIR", str(tmp_path_factory.getbasetemp() / "no-datasets"))


@pytest.fixture
def made_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    """Makes "pretrained" weights of a torchvision network, where torchvision looks for those that
    it has fetched before; gives their tensors. Nothing is downloaded.
    """
    home = tmp_path_factory.mktemp("torch-home")
    monkeypatch.setenv("TORCH_HOME", str(home))

    def make(name: str) -> dict[str, Any]:
        import torch
        from torchvision import models

        tensors = models.get_model(name).state_dict()
        url = models.get_model_weights(name)["DEFAULT"].url
        path = home / "hub" / "checkpoints" / url.rpartition("/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tensors, path)
        return tensors

    return make


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root folder."""
    return Path(__file__).parent.parent
