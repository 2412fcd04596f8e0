"""The report says what the run measured, in full, and the same way each time."""

from kdcli.report.build import build


def test_two_builds_give_the_same_bytes(run_folder):
    def contents():
        build(run_folder)
        return {path.relative_to(run_folder): path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}

    assert contents() == contents()
