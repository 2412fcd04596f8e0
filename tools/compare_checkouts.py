"""Golden check of a refactoring: records what one checkout of kd writes and says, and compares two.

    python -m tools.compare_checkouts record TREE FOLDER
    python -m tools.compare_checkouts compare FOLDER OTHER

`record` trains every method on a few digits and calls every command, once with and once without
`--json`, with the code of TREE. What must differ between two recordings of one tree (times, places,
versions, memory) is replaced by a mark; everything else is kept as it is, screens too,
model.safetensors by the digest of its bytes. `compare` exits with 1 if anything differs.

Not recorded: what `kd doctor` and `kd plan` say of the machine, stored logits, log.txt, and runs
that were killed, which tests/faults compares byte for byte.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# numbers and texts that time, the machine or the place decide
VOLATILE_KEYS = {
    "wall_seconds",
    "seconds",
    "images_per_second",
    "peak_memory_mib",
    "time",
    "started",
    "git",
    "platform",
    "latency",
    "latency_ratio",
    "free",
    "rss",
}
# docstrings are shown as they are wrapped in the source: their words count, not their lines
WRAPPED_KEYS = {"doc", "description"}
VOLATILE_TEXT = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "TIME"),
    (re.compile(r"img_s=\d+"), "img_s=N"),
    (re.compile(r"\d[\d,\s]* images(/s| a second)"), "N images/s"),
    (re.compile(r"\b\d+(\.\d+)?\s(m?s|seconds|minutes|min|h|GB|MB|MiB)\b"), "N UNIT"),
    (re.compile(r"(?m)^.*(latency|wall time|images/s).*$"), "A LINE OF TIMES"),
    (re.compile(r"\d+:\d\d:\d\d"), "H:MM:SS"),
    (re.compile(r"\b[0-9a-f]{40}\b"), "COMMIT"),
)
# answered by the machine and by nothing that a refactoring touches
MACHINE = {"doctor", "plan"}
# print docstrings, whose words count and whose lines do not
DOCSTRINGS = {"methods", "models", "datasets", "schema"}

SHORT = [
    "train.epochs=2",
    "train.batch_size=32",
    "data.train_limit=100",
    "runtime.threads=1",
    "runtime.device=cpu",
]
GROUPS = "[[0, 6, 8, 9], [1, 4, 7], [2, 3, 5]]"
NEEDS = {
    "fsp": ["student.name=cnn-large"],  # equal channels
    "kd_rel": [f"method.superclasses={GROUPS}"],
    "kd_pt_rel": [f"method.superclasses={GROUPS}"],
}
FILES = {
    "wrong.toml": '[data]\nname = "cifar-100"\n[train]\nepoch = 2\n[optim]\nlr = -1\n'
    '[method]\nname = "skd"\ntemprature = 2\n',
    "torn.toml": "[data\nname = 1\n",
    "sweep.toml": """title = "Golden"
base = "student.toml"
paper = [{ row = "kd", column = "4", metric = "test.accuracy", value = 0.9, source = "nowhere" }]

[axes]
"method.name" = ["kd", "skd"]

[[axes.temperature]]
label = "4"
set = { "method.temperature" = 4.0 }

[table]
rows = ["method.name"]
columns = ["temperature"]
""",
    "student.toml": """[data]
name = "digits"
train_limit = 100
[student]
name = "cnn-small"
[teacher]
checkpoint = "runs/teacher"
[method]
name = "kd"
[train]
epochs = 2
[runtime]
threads = 1
device = "cpu"
[report]
html = false
""",
}
# a command in a process that prepares it in the same way in both trees
DRIVER = """
import contextlib, io, json, sys
from kdcli.__main__ import main
for number, argv in enumerate(json.load(open(sys.argv[1]))):
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["kd", *argv]
    code = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    with open("answers.jsonl", "a", encoding="utf-8") as handle:
        answer = {"argv": argv, "code": code, "out": out.getvalue(), "err": err.getvalue()}
        handle.write(json.dumps(answer) + "\\n")
"""


# ---- recording -----------------------------------------------------------------------------------


class Recording:
    """A recording of what one tree says and writes, in a folder of its own that is thrown away at
    the end.
    """

    def __init__(self, tree: Path, work: Path) -> None:
        self.tree = tree
        self.work = work
        self.answers: list[dict[str, Any]] = []

    def call(self, *calls: Sequence[str]) -> list[dict[str, Any]]:
        """Call kd in one process, one command after the other."""
        (self.work / "calls.json").write_text(json.dumps(calls), encoding="utf-8")
        (self.work / "answers.jsonl").unlink(missing_ok=True)
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.tree),
            "KD_CACHE_DIR": str(self.work / "cache"),
            "KD_DATA_DIR": str(self.work / "data"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "100",
            "CI": "true",
        }
        command = [sys.executable, "-c", DRIVER, "calls.json"]
        subprocess.run(command, cwd=self.work, env=environment, check=True, timeout=3000)
        lines = (self.work / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines]
        self.answers += found
        return found

    def both(self, *calls: Sequence[str]) -> None:
        """Call each as it is, and with --json."""
        self.call(*(form for call in calls for form in (call, [*call, "--json"])))


def sets(*values: str) -> list[str]:
    """Values as options -s."""
    return [part for value in values for part in ("-s", value)]


def train_everything(recording: Recording) -> list[str]:
    """A teacher, and a student by every method; returns the methods' names."""
    (listed,) = recording.call(["methods", "--json", "-q"])
    names = [item["name"] for item in json.loads(listed["out"])["data"]]
    quick = [*sets(*SHORT), "-q"]
    teacher = ["train-teacher", "--model", "cnn-large", "-d", "digits", "--name", "teacher"]
    recording.call([*teacher, *quick, *sets("train.keep_every=1"), "--json"])
    cards = recording.call(*(["methods", name, "--json", "-q"] for name in names))
    calls = []
    for name, card in zip(names, cards, strict=True):
        facts = json.loads(card["out"])["data"]
        options = [item["name"] for item in facts["options"]]
        extra = [
            f"method.{key}=1"
            for key in options
            if key.endswith("_epochs") and key != "kd_stop_epoch"
        ]
        given = [*extra, *NEEDS.get(name, ["student.name=cnn-small"])]
        call = ["distill", "-m", name, "-d", "digits", "--name", name, "--json"]
        if facts["teachers"][1] == 0:
            given.append("report.reference=runs/teacher")
        else:
            call += ["-t", "runs/teacher"]
        # one page in all its parts; the others are made of the same sections
        html = "true" if name in {"skd", "kd", "none", "crd"} else "false"
        calls.append([*call, *quick, *sets(*given, f"report.html={html}")])
    recording.call(*calls)
    return names


def call_everything(recording: Recording, names: Sequence[str]) -> None:
    """Every command with its options, and what a person does wrong."""
    quick = [*sets(*SHORT), "-q"]
    recording.both(*([name, "--help"] for name in commands(recording)), ["--help"], ["--version"])
    recording.both(
        ["methods"],
        *(["methods", name] for name in names),
        ["models"],
        ["models", "resnet*"],
        ["models", "resnet20"],
        ["models", "torchvision/resnet18"],
        ["datasets"],
        *(["datasets", name] for name in ("digits", "mnist", "cifar10", "synthetic", "npz")),
        ["recipes", "ls"],
        ["recipes", "show", "quickstart"],
        ["check", "quickstart"],
        ["check", "tables/energy-table7"],
        ["check", "wrong.toml"],
        ["check", "torn.toml"],
        ["check", "nowhere.toml"],
        ["schema"],
    )
    recording.both(
        ["evaluate", "runs/teacher", "runs/kd", "runs/skd", "--per-class"],
        ["evaluate", "runs/skd", "--min-accuracy", "0.9999"],
        ["evaluate", "runs/skd", "--split", "val"],
        ["analyze-gap", "-t", "runs/teacher", "--student", "runs/skd", "--bootstrap", "50"],
        ["analyze-gap", "-t", "runs/teacher", "--bootstrap", "50", "--deep"],
        [
            *("analyze-gap", "-t", "runs/teacher", "-t", "runs/none", "--student", "runs/kd"),
            *("--student", "runs/skd", "--deep", "--bootstrap", "50", "-v"),
            *("--csv", "gap.csv", "--html", "gap.html", "--plot", "plots"),
        ],
        ["analyze-gap", "-t", "runs/teacher", "--student", "runs/kd", "--max-entropy-gap", "0"],
        ["compare", "runs/kd", "runs/skd", "runs/teacher"],
        ["report", "runs/skd"],
        ["resume", "runs/skd"],
        ["doctor"],
        ["plan", "student.toml", *quick],
        ["cache", "-t", "runs/teacher", "-d", "digits", *sets("data.train_limit=100"), "--size"],
        ["table", "sweep.toml"],
        ["sweep", "sweep.toml", "-q"],
        ["sweep", "sweep.toml", "--out", "beside", "--jobs", "2", "-q"],
        *(["table", "sweep.toml", "--format", name] for name in ("md", "csv", "latex", "html")),
    )
    recording.both(
        ["distill", "-t", "runs/nowhere"],
        ["distill", "-t", "runs/teacher", "-m", "skdd"],
        ["distill", "-t", "runs/teacher", "-s", "method.temprature=2"],
        ["distill", "-t", "runs/teacher", "-s", "train.epochs=x"],
        ["distill", "-t", "runs/teacher", "--epochs", "3", "-s", "train.epochs=2"],
        ["distill", "-t", "runs/teacher", "-d", "synthetic"],
        ["distill", "-t", "runs/teacher", "--nonsense"],
        ["distill", "-t", "runs/teacher", "--dry-run", *quick],
        ["distill", "-t", "runs/teacher", "--name", "skd", *quick],
        ["distill", "-t", "runs/teacher", "--device", "cuda:7"],
        ["distill", "wrong.toml"],
        ["train-teacher", "torn.toml"],
        ["evaluate", "runs/nowhere"],
        ["evaluate", "wrong.toml"],
        ["methods", "skdd"],
        ["models", "resnet21"],
        ["sweep", "nowhere"],
        ["nonsense"],
    )
    recording.call(
        [
            *("distill", "-t", "runs/teacher", "-t", "runs/none", "-m", "kd", "--name", "two"),
            *("--student", "cnn-small", "--min-accuracy", "0.9999", "--json", *quick),
        ],
        [
            *("distill", "-t", "runs/teacher", "-m", "kd", "--name", "ranks", "--devices", "2"),
            *("--student", "cnn-small", "--json", *quick),
        ],
    )


def commands(recording: Recording) -> list[str]:
    """Every command, as the files of the tree name them."""
    (told,) = recording.call(["--help"])
    return re.findall(r"^  ([a-z][a-z-]+)  ", told["out"], re.MULTILINE)


def record(tree: Path, folder: Path) -> None:
    """Write the recording of a tree into a folder, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name).resolve()
        for file, text in FILES.items():
            (work / file).write_text(text, encoding="utf-8")
        recording = Recording(tree.resolve(), work)
        call_everything(recording, train_everything(recording))
        places = {str(work): "WORK", str(tree.resolve()): "TREE"}
        for number, answer in enumerate(recording.answers):
            text = json.dumps(normalised_answer(answer, places), indent=1, ensure_ascii=False)
            call = re.sub(r"[^A-Za-z0-9.=-]+", "_", " ".join(answer["argv"]))[:80]
            (folder / f"{number:03d}-{call}.json").write_text(text, encoding="utf-8")
        for path, text in written(work, places):
            target = folder / "files" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    print(f"{sum(1 for path in folder.rglob('*') if path.is_file())} files in {folder}")


# ---- what must differ is marked ------------------------------------------------------------------


def normalised_answer(answer: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """A command's answer; what only the machine decides is reduced to its shape."""
    call = answer["argv"][0]
    out = answer["out"]
    with_json = "--json" in answer["argv"]
    try:
        out = normalised(json.loads(out), places) if with_json else plain(out, places)
    except ValueError:
        out = plain(out, places)
    # the width of a time moves the columns beside it
    err = re.sub(r" {2,}", "  ", plain(answer["err"], places))
    if call in MACHINE and "--help" not in answer["argv"]:
        out, err = sorted(out) if isinstance(out, dict) else "...", "..."
    if call in DOCSTRINGS and isinstance(out, str):
        out = " ".join(out.replace("\\n", " ").split())
    return {"argv": answer["argv"], "code": answer["code"], "out": out, "err": err}


def normalised(value: Any, places: Mapping[str, str], key: str = "") -> Any:
    """JSON without what is volatile in it."""
    if key in VOLATILE_KEYS and value is not None:
        return "VOLATILE"
    if isinstance(value, dict):
        # a row of a table that is about such a number
        path = value.get("path")
        if isinstance(path, str) and path in VOLATILE_KEYS:
            return "VOLATILE"
        return {name: normalised(item, places, name) for name, item in value.items()}
    if isinstance(value, list):
        return [normalised(item, places) for item in value]
    if isinstance(value, str):
        return " ".join(value.split()) if key in WRAPPED_KEYS else plain(value, places)
    return value


def plain(text: str, places: Mapping[str, str]) -> str:
    """Text without what is volatile in it."""
    for place, mark in places.items():
        text = text.replace(place, mark)
    for pattern, mark in VOLATILE_TEXT:
        text = pattern.sub(mark, text)
    return text


def written(work: Path, places: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """Every file that is left, by its place: what can be read as text, else its digest."""
    for path in sorted(work.rglob("*")):
        place = path.relative_to(work)
        if not path.is_file() or path.is_symlink() or place.parts[0] in {"cache", "data"}:
            continue
        if place.name in {"calls.json", "answers.jsonl", "log.txt", *FILES}:
            continue
        data = path.read_bytes()
        if path.suffix == ".json":
            document = normalised(json.loads(data), places)
            yield place, json.dumps(document, indent=1, ensure_ascii=False)
        elif path.suffix == ".jsonl":
            events = [normalised(json.loads(line), places) for line in data.splitlines()]
            yield place, "\n".join(json.dumps(event, ensure_ascii=False) for event in events)
        elif path.suffix in {".toml", ".md", ".txt", ".csv", ".html", ".svg"}:
            yield place, plain(data.decode("utf-8"), places)
        else:
            yield place, hashlib.sha256(data).hexdigest()


# ---- comparing -----------------------------------------------------------------------------------


def compare(folder: Path, other: Path) -> bool:
    """Print what differs between two recordings; whether nothing does."""
    ours, theirs = (
        {path.relative_to(base) for path in base.rglob("*") if path.is_file()}
        for base in (folder, other)
    )
    for path in sorted(ours ^ theirs):
        print(f"only in {folder if path in ours else other}: {path}")
    differ = sorted(
        path
        for path in ours & theirs
        if (folder / path).read_bytes() != (other / path).read_bytes()
    )
    for path in differ:
        print(f"differs: {path}")
        before, after = (
            (base / path).read_text(encoding="utf-8").splitlines() for base in (folder, other)
        )
        found = [
            line
            for line in difflib.unified_diff(before, after, lineterm="", n=0)
            if not line.startswith(("---", "+++", "@@"))
        ]
        print("\n".join(f"    {line[:300]}" for line in found[:12]))
    print(f"{len(ours & theirs) - len(differ)} of {len(ours | theirs)} files are the same")
    return not differ and ours == theirs


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare_checkouts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["record", "compare"])
    parser.add_argument("first", type=Path, metavar="TREE|FOLDER")
    parser.add_argument("second", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    if given.what == "record":
        record(given.first, given.second)
    elif not compare(given.first, given.second):
        sys.exit(1)


if __name__ == "__main__":
    main()
