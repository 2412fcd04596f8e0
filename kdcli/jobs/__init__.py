"""Whole jobs as functions: what the command line calls, and what a notebook imports.

    from kdcli.jobs import distill
    result = distill(teacher="runs/resnet56-cifar100-1", method="skd", epochs=3)

Each takes a recipe, or the keyword arguments that the command line has as flags, and returns a
frozen result of `kdcli.results`. Errors are those of `kdcli.errors`.

A function is imported when it is asked for: to train a network nobody waits for what exports one.
So none may have the name of a module beside this file, which Python would set in its place.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcli.jobs.build.datasets import download
    from kdcli.jobs.build.networks import build_network
    from kdcli.jobs.data_checks import check_data
    from kdcli.jobs.fill_logits import fill_cache
    from kdcli.jobs.foreign_weights.run import import_weights
    from kdcli.jobs.machine_checks import Check, doctor, tuning_checks
    from kdcli.jobs.measure.analyze_gap import analyze_gap
    from kdcli.jobs.measure.evaluate import evaluate
    from kdcli.jobs.model_info import (
        ModelCard,
        ModuleCard,
        Proposal,
        describe_model,
        describe_modules,
        download_model,
        missing_weights,
        model_members,
        propose_students,
        usual_classes,
    )
    from kdcli.jobs.model_sizes import describe_models
    from kdcli.jobs.plan.forecast import forecast
    from kdcli.jobs.searching.students import search
    from kdcli.jobs.searching.teachers import find_teacher
    from kdcli.jobs.sweep.forecast import forecast_sweep
    from kdcli.jobs.sweep.run import run_sweep
    from kdcli.jobs.train.run import distill, resume, train_teacher
    from kdcli.jobs.train.train_longer import train_longer
    from kdcli.jobs.tuning import busy, tune
    from kdcli.jobs.use.export import export
    from kdcli.jobs.use.network import load_network
    from kdcli.jobs.use.predict import predict

__all__ = [
    "Check",
    "ModelCard",
    "ModuleCard",
    "Proposal",
    "analyze_gap",
    "build_network",
    "busy",
    "check_data",
    "describe_model",
    "describe_models",
    "describe_modules",
    "distill",
    "doctor",
    "download",
    "download_model",
    "evaluate",
    "export",
    "fill_cache",
    "find_teacher",
    "forecast",
    "forecast_sweep",
    "import_weights",
    "load_network",
    "missing_weights",
    "model_members",
    "predict",
    "propose_students",
    "resume",
    "run_sweep",
    "search",
    "train_longer",
    "train_teacher",
    "tune",
    "tuning_checks",
    "usual_classes",
]

_HOMES = {
    "kdcli.jobs.build.datasets": ("download",),
    "kdcli.jobs.build.networks": ("build_network",),
    "kdcli.jobs.data_checks": ("check_data",),
    "kdcli.jobs.fill_logits": ("fill_cache",),
    "kdcli.jobs.foreign_weights.run": ("import_weights",),
    "kdcli.jobs.machine_checks": ("Check", "doctor", "tuning_checks"),
    "kdcli.jobs.measure.analyze_gap": ("analyze_gap",),
    "kdcli.jobs.measure.evaluate": ("evaluate",),
    "kdcli.jobs.model_info": (
        "ModelCard",
        "ModuleCard",
        "Proposal",
        "describe_model",
        "describe_modules",
        "download_model",
        "missing_weights",
        "model_members",
        "propose_students",
        "usual_classes",
    ),
    "kdcli.jobs.model_sizes": ("describe_models",),
    "kdcli.jobs.plan.forecast": ("forecast",),
    "kdcli.jobs.searching.students": ("search",),
    "kdcli.jobs.searching.teachers": ("find_teacher",),
    "kdcli.jobs.sweep.forecast": ("forecast_sweep",),
    "kdcli.jobs.sweep.run": ("run_sweep",),
    "kdcli.jobs.train.run": ("distill", "resume", "train_teacher"),
    "kdcli.jobs.train.train_longer": ("train_longer",),
    "kdcli.jobs.tuning": ("busy", "tune"),
    "kdcli.jobs.use.export": ("export",),
    "kdcli.jobs.use.network": ("load_network",),
    "kdcli.jobs.use.predict": ("predict",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_HOME[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
