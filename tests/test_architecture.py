"""docs/architecture.md is true: each room imports only what the table allows, and no imports run in a circle."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "quantreg"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def allowed():
    """Room -> the rooms that it may import, from the table on the page."""
    table = re.search(r"<!-- rooms: begin -->(.*?)<!-- rooms: end -->", PAGE, re.DOTALL)[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    return {room: {name.strip() for name in names.split(",") if name.strip()} for room, _, names in rows}


ROOMS = allowed()


@cache
def modules():
    """Dotted name -> path of every module of quantreg; templates are a user's files, not quantreg's."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if "_templates" not in parts:
            found[".".join(("quantreg", *(part for part in parts if part != "__init__")))] = path
    return found


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "quantreg"


def is_for_type_checkers(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def import_nodes(node):
    """Every import statement, those in functions included; what only type checkers read never runs."""
    for child in ast.iter_child_nodes(node):
        if is_for_type_checkers(child):
            continue
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        yield from import_nodes(child)


@cache
def imports_of(module):
    """The modules of quantreg that a module imports."""
    found = set()
    for node in import_nodes(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "quantreg"}
        elif node.level:
            raise AssertionError(f"{module}: relative import, write it in full")
        elif node.module and node.module.split(".")[0] == "quantreg":
            found |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in modules() else node.module
                for alias in node.names
            }
    return found & set(modules())


def test_the_table_names_every_room_there_is():
    rooms = {room_of(module) for module in modules()} - {"quantreg", "__main__"}
    assert rooms == set(ROOMS)
    assert set().union(*ROOMS.values()) <= {*ROOMS, "quantreg"}


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_what_the_table_allows(room):
    for module in modules():
        if room_of(module) == room:
            used = {room_of(other) for other in imports_of(module)} - {room}
            assert used <= ROOMS[room], f"{module} imports {sorted(used - ROOMS[room])}: see docs/architecture.md"


def test_no_imports_run_in_a_circle():
    done, path = set(), []

    def visit(module):
        assert module not in path, "a circle: " + " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for other in sorted(imports_of(module)):
            if other != "quantreg":  # the public face imports lazily, and only commands, tests and scaffolds use it
                visit(other)
        path.pop()
        done.add(module)

    for module in sorted(modules()):
        visit(module)


def test_kernels_and_codecs_import_nothing_of_quantreg_but_what_declares_a_type():
    for path in (ROOT / "quantreg_kernels").rglob("*.py*"):
        assert not re.search(r"^\s*(from|import|cimport) quantreg\b(?!_)", path.read_text(encoding="utf-8"), re.M), path
    for path in (ROOT / "plugins").rglob("*.pyx"):
        assert not re.search(r"^\s*(from|import|cimport) quantreg\b(?!_)", path.read_text(encoding="utf-8"), re.M), path


def test_no_file_is_longer_than_one_person_reads_in_one_sitting():
    for folder in ("quantreg", "quantreg_kernels", "plugins", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".pyi", ".pyx", ".pxd", ".h") and "golden" not in path.parts:
                lines = len(path.read_text(encoding="utf-8").splitlines())
                assert lines <= 405, f"{path} has {lines} lines: about 400 are enough"
