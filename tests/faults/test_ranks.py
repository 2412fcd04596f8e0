"""Two processes train together and something happens to one of them, or to both: who says what,
what is left, and how it goes on.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdcli.files import read_json, sha256_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores"),
]

# batch norms and sums of losses differ between ranks in the middle of an epoch, dropout at any time
RECIPE = """
seed = 3
[data]
name = "digits"
val_fraction = 0.1
[data.augment]
crop = 1
[model]
name = "cnn-small"
[train]
epochs = 14
accumulate = 2
ema = 0.9
select = "best"
state_seconds = 0.02
[runtime]
compile = "off"
"""
METHOD = '''
"""Goes wrong on rank 1 at its fifth step."""
import os
from torch import nn
from kdcli.core.method import Method, MethodOptions
from kdcli.core.types import Arity, Step

class Options(MethodOptions):
    raises: bool = False

class Odd(Method):
    options: Options
    teachers = Arity(0, 0)
    def loss(self, batch, at):
        logits = self.student(batch.x).logits
        loss = nn.functional.cross_entropy(logits, batch.y)
        if os.environ.get("RANK") == "1" and at.step == 4:
            if self.options.raises:
                raise ValueError("something odd")
            loss = loss * float("nan")
        return Step({"ce": loss}, logits)
'''
MARK = "KD_TEST_OF_RANKS"


def kd(*arguments: str, cwd: Path, launcher: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", *(launcher or ("kdcli",)), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", MARK: str(cwd)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, start_new_session=True
    )


def processes(cwd: Path) -> list[int]:
    """Everything that `kd` here has started and that is still there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={cwd}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def ranks(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes of the ranks, in their order."""
    own = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return sorted(
        int(pid) for pid in own if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def finish(process: subprocess.Popen[bytes], code: int = 0) -> tuple[str, str]:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors.decode()
    return out.decode(), errors.decode()


def wait_for(condition, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def begin(cwd: Path) -> subprocess.Popen[bytes]:
    """A run of two ranks that has saved a state."""
    (cwd / "recipe.toml").write_text(RECIPE)
    process = kd("train-teacher", "recipe.toml", "--name", "run", "--devices", "2", "-q", cwd=cwd)
    wait_for(
        lambda: any(cwd.glob("runs/run/state/state-*.safetensors")) or process.poll() is not None
    )
    return process


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path):
    """A test that fails halfway leaves nothing that would go on training."""
    yield
    for pid in processes(tmp_path):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> str:
    """The checksum that every run of the recipe must end with."""
    folder = tmp_path_factory.mktemp("untouched")
    process = begin(folder)
    finish(process)
    assert not processes(folder)
    return sha256_file(folder / "runs" / "run" / "model.safetensors")


def goes_on(cwd: Path, untouched: str) -> None:
    assert not processes(cwd)
    finish(kd("resume", "runs/run", "-q", cwd=cwd))
    run = cwd / "runs" / "run"
    assert sha256_file(run / "model.safetensors") == untouched
    assert (
        sum('"event": "epoch"' in line for line in (run / "metrics.jsonl").read_text().splitlines())
        == 14
    )
    assert not processes(cwd)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("everyone", [True, False])
def test_stopped_two_ranks_save_one_state_say_so_once_and_go_on(
    untouched, tmp_path, number, code, everyone
):
    process = begin(tmp_path)
    if everyone:  # as a terminal does it, and some schedulers
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, errors = finish(process, code)
    assert not out
    assert errors.count("kd resume runs/run") == 1
    assert len(errors.splitlines()) == 2, errors
    goes_on(tmp_path, untouched)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_named_and_the_run_goes_on_from_its_last_state(untouched, tmp_path, rank):
    process = begin(tmp_path)
    os.kill(ranks(process)[rank], signal.SIGKILL)
    _, errors = finish(process, 1)
    assert errors.splitlines() == [
        f"error: rank {rank} of 2 was killed by SIGKILL",
        "  try:  kd resume runs/run",
    ]
    goes_on(tmp_path, untouched)


def test_ranks_whose_launcher_is_killed_save_their_state_and_end(untouched, tmp_path):
    process = begin(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    wait_for(lambda: not processes(tmp_path), 60)
    goes_on(tmp_path, untouched)


@pytest.mark.parametrize(
    ("raises", "said"),
    [
        ("true", "error: rank 1 of 2: ValueError: something odd"),
        (
            "false",
            (
                "error: loss term 'ce' is not finite on rank 1 at stage train, epoch 1, step 5; "
                "no state had been saved"
            ),
        ),
    ],
)
def test_what_goes_wrong_on_one_rank_ends_all_with_its_name(tmp_path, raises, said):
    (tmp_path / "odd.py").write_text(METHOD)
    given = (
        "quickstart",
        "-s",
        "teacher=[]",
        "-m",
        "./odd.py",
        "-s",
        f"method.raises={raises}",
        "-s",
        "train.epochs=2",
    )
    process = kd("distill", *given, "--name", "run", "--devices", "2", "-q", cwd=tmp_path)
    _, errors = finish(process, 1)
    assert errors.splitlines()[0] == said
    assert errors.count("error:") == 1
    assert "runs/run/crash.txt" in errors
    assert not processes(tmp_path)


def test_torchrun_does_the_same_teacher_first_and_only_the_first_rank_speaks(tmp_path):
    """A student whose teacher is trained on the way, with its logits stored."""
    (tmp_path / "teacher.toml").write_text('[model]\nname = "cnn-small"\n[train]\nepochs = 2\n')
    (tmp_path / "student.toml").write_text(
        '[data]\nname = "digits"\n[student]\nname = "mlp"\n[teacher]\nrecipe = '
        '"teacher.toml"\ncache = "exact"\n'
        '[method]\nname = "kd"\n[train]\nepochs = 2\n'
    )
    found = {}
    for who, launcher, option in (
        ("kd", (), ("--devices", "2")),
        ("torchrun", ("torch.distributed.run", "--nproc-per-node", "2", "-m", "kdcli"), ()),
    ):
        process = kd(
            "distill",
            "student.toml",
            "-o",
            who,
            "--name",
            "student",
            "--json",
            *option,
            cwd=tmp_path,
            launcher=launcher,
        )
        out, errors = finish(process)
        found[who] = json.loads(out)["data"]
        assert errors.count("kd 0") == 2  # the teacher's first screen and the student's, once
        assert "2 ranks" in errors
        # of two runs, and of the link to the latest
        assert len(list((tmp_path / who).glob("*/summary.json"))) == 3
        environment = read_json(tmp_path / who / "student" / "environment.json")
        assert (environment["devices"], environment["teacher_logits"][0]["stored"]) == (2, "exact")
        assert not processes(tmp_path)
    assert found["kd"]["test"] == found["torchrun"]["test"]
    sums = {sha256_file(tmp_path / who / "student" / "model.safetensors") for who in found}
    assert len(sums) == 1


def test_two_launchers_are_two_machines_and_need_a_folder_that_both_see(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def launched(*folders: Path, code: int) -> list[str]:
        given = ("quickstart", "-s", "teacher=[]", "-m", "none", "-s", "train.epochs=2", "--json")
        started = [
            kd(
                "distill",
                *given,
                *("-o", "runs", "--name", "two"),
                cwd=folder,
                launcher=(
                    "torch.distributed.run",
                    *("--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1"),
                    *("--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "kdcli"),
                ),
            )
            for rank, folder in enumerate(folders)
        ]
        return [
            finish(process, code)[rank == 0 and bool(code)] for rank, process in enumerate(started)
        ]

    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    errors, _ = launched(one, other, code=1)
    assert "rank 1 of 2 cannot see runs/two" in errors
    assert not list(tmp_path.glob("*/runs/two"))
    out, silent = launched(one, one, code=0)
    assert silent == ""
    assert json.loads(out)["data"]["name"] == "two"
    assert read_json(one / "runs" / "two" / "environment.json")["devices"] == 2


def test_torchrun_names_what_one_rank_says_and_is_silent_on_what_all_say(tmp_path):
    (tmp_path / "odd.py").write_text(METHOD)
    launcher = ("torch.distributed.run", "--nproc-per-node", "2", "-m", "kdcli")
    given = ("quickstart", "-s", "teacher=[]", "-m", "./odd.py", "-s", "train.epochs=2", "-q")
    _, errors = finish(
        kd("distill", *given, "-s", "method.raises=true", cwd=tmp_path, launcher=launcher), 1
    )
    said = [line for line in errors.splitlines() if line.startswith("error:")]
    assert "error: rank 1: ValueError: something odd" in said
    assert set(said) <= {
        "error: rank 1: ValueError: something odd",
        "error: rank 0 waited for another one that ended",
    }
    _, errors = finish(kd("distill", "nothing.toml", cwd=tmp_path, launcher=launcher), 1)
    assert errors.count("error: no recipe at nothing.toml") == 1
    assert not processes(tmp_path)


# ---- a teacher of which each rank holds a part ---------------------------------------------------


def begin_divided(cwd: Path, name: str, cache: str, *, divided: bool) -> subprocess.Popen[bytes]:
    sets = [
        f"runtime.shard_teacher={str(divided).lower()}",
        f"teacher.cache={cache}",
        "data.val_fraction=0.1",
        "train.patience=5",
        "train.state_seconds=0.02",
        "runtime.compile=off",
        "report.html=false",
    ]
    return kd(
        *("distill", "-t", "runs/teacher", "--student", "mlp", "--data", "digits"),
        *("--epochs", "3", "--devices", "2", "--name", name, "-q"),
        *(part for each in sets for part in ("-s", each)),
        cwd=cwd,
    )


@pytest.mark.parametrize("cache", ["off", "exact"])
def test_a_divided_teacher_teaches_to_the_bit_what_a_whole_one_does(tmp_path, monkeypatch, cache):
    """And a rank that dies, asking or following, takes the other along; the run goes on."""
    given = ("--data", "digits", "--model", "resnet8", "--epochs", "1", "--name", "teacher", "-q")
    finish(kd("train-teacher", *given, cwd=tmp_path))
    digests = {}
    for divided in (False, True):
        monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / f"cache-{divided}"))
        name = f"divided-{divided}"
        finish(begin_divided(tmp_path, name, cache, divided=divided))
        digests[name] = sha256_file(tmp_path / "runs" / name / "model.safetensors")
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache-killed"))
    process = begin_divided(tmp_path, "killed", cache, divided=True)
    wait_for(lambda: any(tmp_path.glob("runs/killed/state/state-*.safetensors")))
    os.kill(ranks(process)[1], signal.SIGKILL)
    _, errors = finish(process, 1)
    assert errors.splitlines()[0] == "error: rank 1 of 2 was killed by SIGKILL"
    assert not processes(tmp_path)
    finish(kd("resume", "runs/killed", "-q", cwd=tmp_path))
    digests["killed"] = sha256_file(tmp_path / "runs" / "killed" / "model.safetensors")
    assert len(set(digests.values())) == 1, digests
