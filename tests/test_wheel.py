"""What is installed: cli.py, pipeline and models, and both commands, from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_holds_the_program_and_nothing_else(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "-q", "-w", tmp_path, ROOT], check=True, cwd=tmp_path
    )
    (wheel,) = tmp_path.glob("eddy-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"cli.py", "pipeline", "models"}
    assert {"pipeline/sources/netcdf.py", "pipeline/templates/report.html"} <= set(names)

    site = tmp_path / "site"
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", site, wheel], check=True)
    elsewhere = {**os.environ, "PYTHONPATH": str(site)}
    for command in ("cli", "eddy"):
        done = subprocess.run(
            [sys.executable, site / "bin" / command, "--help"],
            cwd=tmp_path,
            env=elsewhere,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "convert" in done.stdout


@pytest.mark.slow
def test_another_package_of_the_same_name_is_told_of(tmp_path: Path) -> None:
    """`models` and `pipeline` are names that others use too."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-c", "import cli"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "'models' was imported from" in done.stderr
    assert "Traceback" not in done.stderr
