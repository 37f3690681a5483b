"""The fixture of the chaos tests, and a table of what they measured."""

import pytest

pytest.register_assert_rewrite("trial")
from trial import Trial  # noqa: E402


@pytest.fixture
def chaos(start_stack, request):
    run = Trial(start_stack, request.node.user_properties)
    yield run
    run.close()


def pytest_terminal_summary(terminalreporter):
    rows = [
        (report.nodeid.partition("::")[2].removeprefix("test_"), dict(report.user_properties))
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
    ]
    rows = [(name, properties["chaos"]) for name, properties in rows if "chaos" in properties]
    if not rows:
        return
    terminalreporter.section("chaos")
    columns = list(rows[0][1])
    width = max(len(name) for name, _ in rows)
    for name, told in [("", {column: column for column in columns}), *rows]:
        cells = (f"{told[column]!s:>11}" for column in columns)
        terminalreporter.write_line(f"{name:{width}}" + "".join(cells))
