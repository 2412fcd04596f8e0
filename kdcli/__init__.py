"""kdcli: teacher-student distillation, and why the student is or is not as good as its teacher.

The command line is `kd`; the importable API is `kdcli.jobs` (whole jobs) and `kdcli.losses` (pure
functions).
"""

__version__ = "0.1.0"
