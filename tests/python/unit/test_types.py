"""The types that users see."""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def test_user_code(tmp_path):
    checked = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--follow-imports=silent",
            "--config-file=",
            "user_code.py",
        ],
        cwd=HERE,
        env={
            **os.environ,
            "MYPYPATH": str(HERE.parents[2] / "clients" / "python"),
            "MYPY_CACHE_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
