"""The types that users see."""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
CLIENT = HERE.parents[2] / "clients" / "python"


def test_user_code(tmp_path):
    # The client's own settings: strict, and quiet about generated code.
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", f"--config-file={CLIENT / 'pyproject.toml'}", "user_code.py"],
        cwd=HERE,
        env={**os.environ, "MYPYPATH": str(CLIENT), "MYPY_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
