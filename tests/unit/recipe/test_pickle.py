"""Recipes go to other processes whole: classes that were made for their names are made again
there.
"""

from __future__ import annotations

import pickle

from kdcli.recipe.resolve import resolve
from kdcli.recipe.schema import DataSection, branch


def test_a_resolved_recipe_survives_pickling_with_its_origins(tmp_path):
    own = tmp_path / "mine.py"
    own.write_text('"""Mine."""\nfrom kdcli.methods.kd import KD\n\nclass Mine(KD):\n    pass\n')
    for values in ({"method.name": "skd", "method.temperature": 2.0}, {"method.name": str(own)}):
        resolved = resolve("distill", file="quickstart", values=values, environ={})
        again = pickle.loads(pickle.dumps(resolved))
        assert again == resolved
        assert type(again.recipe.method) is type(resolved.recipe.method)


def test_a_section_of_no_branch_too():
    for section in (DataSection(), branch(DataSection, "digits")()):
        assert pickle.loads(pickle.dumps(section)) == section
