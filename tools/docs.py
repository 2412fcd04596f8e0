"""Writes the pages of docs/reference that repeat what the code says, so that they cannot say
something else.

`make docs` writes them; a test holds them to what this module would write.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kdcli import catalog
from kdcli.cli.commands.schema import envelope_schemas
from kdcli.errors import Exit
from kdcli.recipe import schema

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
NOTE = "<!-- written by `make docs`: change the code, not this page -->\n"

RECIPE_INTRODUCTION = """# Recipes

A recipe is a TOML file. `kd check FILE` validates one and prints every resolved value with its
origin; unknown keys are errors. A `train-teacher` recipe names its network under `[model]`; a
`distill` recipe has `[student]` and `[teacher]` (or several `[[teacher]]`). What a recipe leaves
out has the default given here.

`extends = "base.toml"` takes another file, relative to this one, as the base. Precedence, from low
to high: defaults, the file that is extended, the file, the variables `KD_DATA_DIR`
and `KD_RUNS_DIR`, `--set`, named flags.
"""

_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


# ---- types and defaults, in words ----------------------------------------------------------------


def type_in_words(field: Mapping[str, Any]) -> str:
    """What a JSON Schema node admits: `integer ≥ 1`, `"last" or "best"`, `list of number > 0`."""
    if "$ref" in field:
        return "section"
    if "anyOf" in field:
        return " or ".join(
            type_in_words(option) for option in field["anyOf"] if option.get("type") != "null"
        )
    if "enum" in field or "const" in field:
        return " or ".join(f"`{_toml(value)}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        items = field.get("items") or (field.get("prefixItems") or [{}])[0]
        count = (
            f"{field['maxItems']} × "
            if field.get("minItems") == field.get("maxItems") and "maxItems" in field
            else "list of "
        )
        return count + type_in_words(items)
    bounds = " ".join(
        f"{sign} {_number(field[key])}" for key, sign in _BOUNDS.items() if key in field
    )
    return f"{field.get('type', 'any')} {bounds}".strip()


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e6 else f"2^{int(value).bit_length() - 1}"


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple() | list():
            return f"[{', '.join(_toml(item) for item in value)}]"
        case float():
            return f"{value:.4g}" if value != int(value) else f"{value:.1f}"
        case _:
            return str(value)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    return "" if value is None else f"`{_toml(value)}`"


def option_table(model: type[BaseModel], keys: frozenset[str] | None = None) -> str:
    """A Markdown table of a model's fields: key, type, default, description."""
    properties = model.model_json_schema().get("properties", {})
    rows = [
        (
            f"| `{key}` | {type_in_words(properties[key])} | {_default(info)} | "
            f"{_cell(info.description)} |"
        )
        for key, info in model.model_fields.items()
        if keys is None or key in keys
    ]
    return "\n".join(["| key | type | default | |", "| --- | --- | --- | --- |", *rows]) + "\n"


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")


# ---- pages ---------------------------------------------------------------------------------------


def recipe_page() -> str:
    """docs/reference/recipe.md: every section and key of a recipe."""
    top = frozenset({"seed", "name"})
    parts = [RECIPE_INTRODUCTION, "## Top level\n\n" + option_table(schema.Recipe, top)]
    sections: list[tuple[str, type[schema.Section]]] = [
        ("[data]", schema.DataSection),
        ("[data.augment]", schema.Augment),
        ("[model] and [student]", schema.NetworkSection),
        ("[teacher]", schema.TeacherSection),
        ("[method]", schema.MethodSection),
        ("[train]", schema.TrainSection),
        *((f'[optim] name = "{name}"', section) for name, section in schema.OPTIMISERS.items()),
        *((f'[schedule] name = "{name}"', section) for name, section in schema.SCHEDULES.items()),
        ("[runtime]", schema.RuntimeSection),
        ("[gates]", schema.GatesSection),
        ("[report]", schema.ReportSection),
    ]
    parts += [
        f"## {title}\n\n{inspect.getdoc(section)}\n\n{_section_table(section)}"
        for title, section in sections
    ]
    return "\n".join(parts)


def _section_table(section: type[schema.Section]) -> str:
    own = {
        schema.DataSection: (
            "\nOptions of the dataset stand in the same section: `kd datasets NAME` lists them.\n"
        ),
        schema.NetworkSection: (
            "\nArguments of the network stand in the same section: `kd models NAME` lists them.\n"
        ),
        schema.MethodSection: (
            "\nOptions of the method stand in the same section: see [methods](methods.md).\n"
        ),
    }
    return option_table(section) + own.get(section, "")


METHODS_INTRODUCTION = """# Methods

What each method reads, what it trains besides, and whether stored teacher logits serve it: then the
teacher's network need not run. `kd methods NAME` prints the same as the page that a name leads to;
options go under `[method]` in a recipe.
"""


# One sentence each, from runs of kd itself: whoever changes one names the page that shows it.
FAMILIES_IN_WORDS = """
`kd methods --like NAME` names the relatives of a method: those of its family, those that read the
same of a network, and those that its page names or that name it.

## Which family when

From our own runs, and from nothing else: small networks, few pictures.
[Every method on digits](../results/methods-on-digits.md) cannot tell apart what ends within about a
point, and nearly all methods do; "level" means that.

- **logit**: to try first, since stored answers serve most of them; what matches the teacher's
  probabilities as they are (kd, dkd, kd_pt, kd_topk) ends within 0.01 nats of its entropy on
  [digits](../results/methods-on-digits.md), and on [Fashion-MNIST](../results/fashion-mnist.md) kd
  gained 1.5 points over labels alone in one pair of networks and lost 0.8 in the other.
- **feature**: where the teacher's probabilities are not to be had or not to be copied; level with
  labels alone on [digits](../results/methods-on-digits.md), and slower, but for weights that are
  published for larger pictures and have to be lowered for such small ones (at, ft, nst).
- **relation**: as feature methods, where networks are of unequal width and nothing is to be trained
  between them; level with labels alone on [digits](../results/methods-on-digits.md), rkd at eight
  times the time of sp.
- **contrastive**: where memory for a vector of each picture is there; level with labels alone on
  [digits](../results/methods-on-digits.md), at twice the time of kd.
- **online**: where there is no teacher and the time for further networks is there; level with
  labels alone on [digits](../results/methods-on-digits.md).
- **chain**: where the teacher is far larger than the student; on
  [digits](../results/methods-on-digits.md), where it is 31 times as large, ta, dgkd and residual_kd
  end where kd does, at twice its time.
- **self**: where nothing can teach; 0.4 to 0.7 points above labels alone on
  [digits](../results/methods-on-digits.md), which is level too, with a wider gap in entropy.
- **baseline**: what all others are held against: label_smoothing ends 0.8 points above labels alone
  on [digits](../results/methods-on-digits.md), and changed nothing on
  [Fashion-MNIST](../results/fashion-mnist.md).
"""


def methods_page() -> str:
    """docs/reference/methods.md: a row a method, by family."""
    found = sorted(
        (catalog.entry("method", name) for name in catalog.names("method")),
        key=lambda entry: (entry.family, entry.name),
    )
    rows = [
        f"| [{entry.name}](methods/{entry.name}.md) | {entry.family} | "
        f"{_cell(entry.summary.partition(': ')[2] or entry.summary)} "
        f"| {_teachers(entry)} | {entry.facts.get('consumes', '')} | "
        f"{entry.facts.get('trains', 'student')} "
        f"| {'yes' if entry.facts.get('cacheable') else ''} |"
        for entry in found
    ]
    head = [
        "| method | family | idea | teachers | reads | trains | stored logits |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([METHODS_INTRODUCTION, *head, *rows, FAMILIES_IN_WORDS])


def method_page(name: str) -> str:
    """docs/reference/methods/NAME.md: a method in full, from its docstring and options."""
    entry = catalog.entry("method", name)
    options = catalog.options_class(entry)
    body = entry.doc.partition("\n")[2].strip()
    facts = [
        ("family", entry.family),
        ("teachers", _teachers(entry)),
        ("reads", entry.facts.get("consumes", "")),
        ("trains", entry.facts.get("trains", "student")),
        ("stored teacher logits serve", "yes" if entry.facts.get("cacheable") else "no"),
        ("recipes", ", ".join(f"`{recipe}`" for recipe in _recipes(name))),
    ]
    if entry.facts.get("scale_free"):
        said = "divided by a temperature where images are held out (`train.calibrate`)"
        facts.insert(-1, ("logits", said))
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts)
    table = option_table(options) if options.model_fields else "No options.\n"
    command = f"```text\nkd distill --method {name}\n```"
    return (
        f"# {name}\n\n**{entry.summary}**\n\n| | |\n| --- | --- "
        f"|\n{rows}\n\n```text\n{body}\n```\n\n## Options\n\n{table}\n{command}\n\n[All "
        "methods](../methods.md)"
    )


def _teachers(entry: catalog.Entry) -> str:
    return (
        catalog.teachers_in_words(*(entry.facts.get("teachers") or (1, 1)))
        .removesuffix(" teachers")
        .removesuffix(" teacher")
    )


def _recipes(method: str) -> list[str]:
    """Shipped recipes that are named after a method."""
    folder = REFERENCE.parent.parent / "recipes"
    return sorted(
        str(path.relative_to(folder).with_suffix("")) for path in folder.glob(f"*/{method}-*.toml")
    )


_MEANING = {
    Exit.OK: ("done, and every gate passed", "green"),
    Exit.FAILURE: (
        (
            "it ran and broke: out of memory, a loss that is not a number, a file that "
            "turned out damaged while it trained"
        ),
        "look at the log",
    ),
    Exit.USAGE: (
        (
            "the call is wrong: a flag, a recipe, a missing or damaged file, data that cannot be "
            "used, a teacher that does not fit; nothing was started"
        ),
        "fix the call",
    ),
    Exit.GATE: (
        "everything worked and a gate was missed; checkpoint and report are complete",
        "the model is worse than you allow",
    ),
    Exit.INCOMPLETE: (
        "`kd sweep`: some cells failed; those that are done are kept",
        "look at the failed cells, run it again",
    ),
    Exit.INTERRUPTED: ("Ctrl-C: the state is saved, and `kd resume RUN` goes on", "run again"),
    Exit.TERMINATED: (
        "SIGTERM, SIGUSR1: the state is saved, and `kd resume RUN` goes on",
        "run again",
    ),
}


def exit_codes_page() -> str:
    """docs/reference/exit-codes.md: the closed table of exit codes."""
    rows = [
        f"| {code.value} | `{code.name}` | {_MEANING[code][0]} | {_MEANING[code][1]} |"
        for code in Exit
    ]
    return "\n".join(
        [
            "# Exit codes\n",
            (
                "The table is closed: scripts may rely on it. Finer causes are strings in the "
                "`code` of each entry of `errors` in `--json`.\n"
            ),
            "| code | name | meaning | in CI |",
            "| ---: | --- | --- | --- |",
            *rows,
            (
                "\nOnly gates that you asked for, by `[gates]` in the recipe or by a flag such "
                "as `--min-accuracy`, can give 3.\n"
            ),
        ]
    )


def cli_page() -> str:
    """docs/reference/cli.md: every command's help, as `kd COMMAND --help` says it."""
    from tools.cli_help import command_sections

    return "\n".join(
        ["# Command line\n", "Every command prints the same with `--help`.\n", *command_sections()]
    )


def python_page() -> str:
    """docs/reference/python.md: the Python API."""
    from tools.python_api import python_page

    return python_page()


PAGES: Mapping[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "exit-codes.md": exit_codes_page,
    "methods.md": methods_page,
    "python.md": python_page,
    "recipe.md": recipe_page,
    **{
        f"methods/{name}.md": functools.partial(method_page, name)
        for name in catalog.names("method")
    },
}


def page(name: str) -> str:
    """The text of one generated page."""
    return NOTE + "\n" + PAGES[name]().rstrip() + "\n"


def main() -> None:
    """Write all generated pages."""
    (REFERENCE / "methods").mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        (REFERENCE / name).write_text(page(name), encoding="utf-8")
        print(f"docs/reference/{name}")  # noqa: T201  a script's answer

    (REFERENCE / "json").mkdir(exist_ok=True)
    for name, text in envelope_schemas().items():
        (REFERENCE / "json" / name).write_text(text, encoding="utf-8")
        print(f"docs/reference/json/{name}")  # noqa: T201


if __name__ == "__main__":
    main()
