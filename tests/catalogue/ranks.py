"""What one of several processes does in test_training: train every method on its share of each
minibatch.
"""

from __future__ import annotations

import faulthandler
import json
import traceback
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from kdcli.engine.checkpoint import digest
from kdcli.jobs.processes import process_group
from tests.catalogue.conftest import tiny_setup
from tests.catalogue.test_methods import method_class
from tests.catalogue.training import make_trainer


def train_all(rank: int, size: int, folder: str, names: tuple[str, ...]) -> None:
    """Train each method, "kd dot 0.05" with separate momenta, and write the digests of what it ends with to FOLDER/RANK.json,
    and the names of the threads that are left to FOLDER/RANK-threads.json.
    """
    torch.set_num_threads(1)
    faulthandler.enable()  # what aborts a rank is on stderr
    process_group.prepare()
    patience = timedelta(seconds=60)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size, timeout=patience
    )
    found: dict[str, dict[str, str]] = {name: {"error": "not reached"} for name in names}
    for name in names:
        try:
            found[name] = _trained(name)
        except Exception:
            found[name] = {"error": traceback.format_exc()}
            break  # the other rank may be waiting inside this method: there is no way on together
    Path(folder, f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    process_group.leave()
    threads = [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]
    Path(folder, f"{rank}-threads.json").write_text(json.dumps(threads), encoding="utf-8")


def _trained(name: str) -> dict[str, str]:
    method, _, dot = name.partition(" dot ")
    trainer = make_trainer(
        method_class(method), tiny_setup, epochs=1, dot=float(dot) if dot else None
    )
    network = trainer.run()
    return {
        "student": digest(network.state_dict()),
        "method": digest(trainer.method.state_dict()),
    }
