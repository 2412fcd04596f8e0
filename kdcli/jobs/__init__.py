"""Whole jobs as functions: what the command line calls, and what a notebook imports.

    from kdcli.jobs import distill
    result = distill(teacher="runs/resnet56-cifar100-1", method="skd", epochs=3)

Each takes a recipe, or the keyword arguments that the command line has as flags, and returns a
frozen result of `kdcli.results`. Errors are those of `kdcli.errors`.
"""

from __future__ import annotations

from kdcli.jobs.build.datasets import download
from kdcli.jobs.build.networks import build_network
from kdcli.jobs.check_data import check_data
from kdcli.jobs.doctor import Check, doctor, tuning_checks
from kdcli.jobs.fill_cache import fill_cache
from kdcli.jobs.import_weights.run import import_weights
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
from kdcli.jobs.search.students import search
from kdcli.jobs.search.teachers import find_teacher
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
