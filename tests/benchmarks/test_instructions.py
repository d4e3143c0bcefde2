from __future__ import annotations

import pytest

from benchmarks import instructions


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--fast", 2)])
def test_nothing_is_counted_unasked(argument: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["instructions", argument])
    monkeypatch.setattr(instructions, "count", lambda tree: pytest.fail("counting takes a minute"))
    with pytest.raises(SystemExit) as ended:
        instructions.main()
    assert ended.value.code == code
