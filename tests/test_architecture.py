"""The arrows: cli -> commands -> verbs -> nouns -> models, and nothing else."""

import ast
from pathlib import Path

import pytest

import models

ROOT = Path(__file__).parents[1]
VERBS = {
    "convert",
    "verify",
    "split",
    "train",
    "rehearse",
    "export",
    "infer",
    "inspection",
    "evaluate",
    "report",
    "compare",
    "upstream",
}
COMMANDS = "pipeline.commands"
FILES = sorted([*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("models/*.py")])
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in [*FILES, ROOT / "cli.py"]}


def module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> set[str]:
    """Every module imported anywhere, `from pipeline import x` as pipeline.x."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def verbs(found: set[str]) -> set[str]:
    return {name for name in found if name.split(".")[0] == "pipeline"} & {
        f"pipeline.{verb}" for verb in VERBS
    }


@pytest.mark.parametrize("file", FILES, ids=module)
def test_imports_follow_the_arrows(file):
    here, found = module(file), imports(TREES[file])
    assert "cli" not in found, f"{here} imports cli"
    if here.startswith(COMMANDS):
        return
    assert not {name for name in found if name.startswith(COMMANDS)}, f"{here} imports a command"
    assert not verbs(found) - {here}, f"{here} imports a verb: {verbs(found)}"
    if here.startswith("models"):
        assert not {n for n in found if n.split(".")[0] == "pipeline"}, f"{here} imports pipeline"
        own = {n.split(".")[1] for n in found if n.startswith("models.")}
        contract = {n for n in vars(models) if n[0] != "_"}
        assert own <= {n for n in own if n[0] == "_"} | contract, f"{here} imports {own}"
        assert not own & set(models.names()), f"{here} imports a model: {own}"
    else:
        named = {f"models.{name}" for name in models.names()}
        assert not found & named, f"{here} imports a model by name"


def test_the_verbs_are_what_the_commands_run_as_a_stage():
    """A stage that a command gains must be in VERBS, or nothing above would look at it."""
    stages = {
        name.name
        for file in FILES
        if module(file).startswith(COMMANDS)
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.ImportFrom) and node.module == "pipeline"
        for name in node.names
        if name.asname == "stage"
    }
    assert stages == VERBS & {file.stem for file in ROOT.glob("pipeline/*.py")}


@pytest.mark.parametrize("file", FILES, ids=module)
def test_nothing_prints_but_the_commands(file):
    calls = [n for n in ast.walk(TREES[file]) if isinstance(n, ast.Call)]
    assert not [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    shared = "pipeline.commands.screen"  # the consoles; progress.py has its own, on standard error
    assert module(file).startswith(COMMANDS) or shared not in imports(TREES[file])


@pytest.mark.parametrize("file", [f for f in FILES if "pipeline" in f.parts], ids=module)
def test_no_decision_names_a_model(file):
    """`if name == "tempogan"` and isinstance are how a model leaks out of its file."""
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Compare):
            constants = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
            assert not constants & set(models.names()), f"{file}:{node.lineno}"
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            names |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
            assert not names & {"Model", *models.names()}, f"{file}:{node.lineno}"
