"""What is installed: cli.py, pipeline and models, and both commands, from any folder."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from pipeline import shipped

ROOT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
# Parts of what is declared, made by the same people for its users
PARTS = {"llvmlite": "numba", "markupsafe": "jinja2", "onnx_ir": "onnxscript"}
UNREACHED = re.compile(r"connection|timed out|name resolution|proxy", re.I)

IMPORT_ALL = """
import importlib, pkgutil, cli, models, pipeline
for package in (models, pipeline):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
"""
STORMS = """
from pathlib import Path
from pipeline.sources.synthetic import Storm, write_tree
write_tree(Path("WP"), [Storm("202101", hours=5), Storm("202102", hours=5)], size=64)
"""
TWO_STEPS = [
    word
    for setting in (
        "model.n_residual_blocks=1",
        "model.width=8",
        "training.patch_size=32",
        "training.batch_size=3",
        "training.crops_per_window=2",
        "training.epochs=1",
        "training.validation_crops=2",
    )
    for word in ("--set", setting)
]


def copied(to: Path) -> Path:
    """What is built from. Not in place: the build/ of an earlier one brings back what is gone."""
    for name in ("pipeline", "models", "configs"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cli.py", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, to)
    return to


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("wheel")
    source = copied(tmp_path_factory.mktemp("source"))
    subprocess.run([*PIP, "wheel", "--no-deps", "-q", "-w", made, source], check=True, cwd=made)
    (file,) = made.glob("eddy-*.whl")
    return file


@dataclass(frozen=True)
class Installed:
    """A folder of commands, and an empty one to run them in."""

    bin: Path
    home: Path

    def run(self, program: str, *words: str | Path, fails: int = 0) -> str:
        """What it prints. The environment has nothing of this checkout's."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        done = subprocess.run(
            [self.bin / program, *words],
            cwd=self.home,
            env={**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == fails, f"{program} {words}: {done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """A new environment with the wheel and what it says that it needs, of 2 GB: some minutes."""
    venv = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "python", *PIP[1:], "install", "-q", "--no-compile"]
    done = subprocess.run(
        [*pip, "-c", ROOT / "constraints.txt", wheel], capture_output=True, text=True
    )
    if done.returncode and UNREACHED.search(done.stderr):
        pytest.skip(f"no package index to install from: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    yield Installed(venv / "bin", tmp_path_factory.mktemp("empty"))
    shutil.rmtree(venv)


@pytest.mark.slow
def test_the_wheel_holds_the_program_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    tops = ("pipeline", "models")
    sources = {str(file.relative_to(ROOT)) for top in tops for file in (ROOT / top).rglob("*.py")}
    templates = {f"pipeline/templates/{f.name}" for f in (ROOT / "pipeline/templates").iterdir()}
    configs = {f"pipeline/configs/{file.name}" for file in (ROOT / "configs").iterdir()}
    assert f"pipeline/configs/{shipped.SCHEMA}" in configs
    assert names == {"cli.py", *sources, *templates, *configs}


@pytest.mark.slow
def test_everything_runs_where_nothing_else_is_installed(clean: Installed) -> None:
    """The whole walk, from an empty folder, without the repository or what its tests need."""
    for foreign in ("pytest", "jsonschema", "hypothesis", "distributed", "rasterio"):
        clean.run("python", "-c", f"import {foreign}", fails=1)
    clean.run("python", "-c", IMPORT_ALL)
    for command in ("cli", "eddy"):
        assert "convert" in clean.run(command, "--help")

    listed = clean.run("cli", "settings", "list")
    assert all(name in listed for name in shipped.names())
    shown = clean.run("cli", "train", "configs/tempogan_cpu.yaml", "--show")
    assert "crops_per_window: 32" in shown
    assert "did you mean tempogan" in clean.run("cli", "train", "tempgan", fails=2)

    clean.run("python", "-c", STORMS)
    clean.run("cli", "convert", "WP", "WP.zarr", "--workers", "1")
    clean.run("cli", "split", "WP.zarr", "--eval-ids", "202102")
    told = clean.run(
        "cli", "train", "tempogan_cpu", "--store", "WP.zarr", "--run", "run", *TWO_STEPS
    )
    assert "2 steps" in told
    clean.run("cli", "evaluate", "run")
    clean.run("cli", "report", "run")
    clean.run("cli", "infer", "run", "WP/image/202102", "--out", "fine.nc")
    assert (clean.home / "fine.nc").stat().st_size > 10_000
    assert (clean.home / "run" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_installed_for_development_the_configs_are_found_too(tmp_path: Path) -> None:
    """Of a copy: this checkout's own installation stays as it is."""
    copy, packages = copied(tmp_path / "copy"), tmp_path / "packages"
    install = [*PIP, "install", "-q", "--no-deps", "--target", packages, "-e", copy]
    subprocess.run(install, check=True, cwd=tmp_path)
    code = (
        "import site, sys; site.addsitedir(sys.argv[1]); from pathlib import Path\n"
        "from pipeline import shipped; print(shipped.find(Path('simvp_typhoon')))"
    )
    done = subprocess.run(  # -S: without this environment's own packages
        [sys.executable, "-S", "-c", code, packages], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(copy / "configs" / "simvp_typhoon.yaml"), done.stderr


def test_what_is_imported_is_declared() -> None:
    """Not by luck there, as something that another package needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    users = [line for extra, lines in extras.items() if extra != "dev" for line in lines]
    declared = named([*project["dependencies"], *users])
    imported = set()
    for file in [ROOT / "cli.py", *ROOT.glob("pipeline/**/*.py"), *ROOT.glob("models/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"cli", "pipeline", "models"}
    known = packages_distributions()
    lost = {
        name
        for name in foreign
        if not named([PARTS.get(name, "")]) & declared and not named(known.get(name, ())) & declared
    }
    assert len(foreign) > 20
    assert not lost, f"imported, and not among the dependencies: {lost}"


def named(requirements: Sequence[str]) -> set[str]:
    """Distributions, spelt the one way that PyPI compares them by."""
    names = (re.match(r"[\w.-]+", each) for each in requirements)
    return {re.sub(r"[-_.]+", "-", name[0]).lower() for name in names if name}


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
