"""Recipes of a teacher and of a student whose training is long enough to be stopped."""

from __future__ import annotations

EPOCHS = 12
TEACHER = """
[data]
name = "digits"
[model]
name = "mlp"
[train]
epochs = 1
[report]
html = false
latency = false
"""
STUDENT = f"""
[data]
name = "digits"
[student]
name = "cnn-small"
[teacher]
recipe = "teacher.toml"
[method]
name = "kd"
[train]
epochs = {EPOCHS}
state_seconds = 1000
[runtime]
threads = 1
[report]
html = false
latency = false
"""
