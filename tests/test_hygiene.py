"""What must not lie in the repository, and what every public name must have."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_BYTES = 5_500_000

# Put together here, so that this file does not find itself.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:" + "wo" + "rk|ro" + "ot)/")
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME)\b")
EM_DASH = chr(0x2014)
EM_DASH_ESCAPED = "\\u" + "2014"  # how JSON may write it

NETWORK = {"aiohttp", "ftplib", "httpx", "huggingface_hub", "requests", "smtplib", "urllib.request", "urllib3"}


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files git tracks, those deleted and not yet committed left out."""
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name.decode() for name in done.stdout.split(b"\0") if name]
    return [path for path in paths if path.is_file()]


def texts(paths: list[Path]):
    """(name, text) of the files that hold no zero byte."""
    for path in paths:
        data = path.read_bytes()
        if b"\0" not in data:
            yield path.relative_to(ROOT).as_posix(), data.decode("utf-8")


def places(paths: list[Path], pattern: re.Pattern) -> list[str]:
    """``file:line`` of every match of ``pattern``."""
    return [
        f"{name}:{number}: {line.strip()[:80]}"
        for name, text in texts(paths)
        if pattern.search(text)  # the whole file at once first: notebooks and pages have many lines
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_tracked_file_is_big(tracked):
    assert [(p.name, p.stat().st_size) for p in tracked if p.stat().st_size > MAX_BYTES] == []


def test_no_genuine_sample_is_tracked(tracked, shared_dir):
    """Pictures and annotations of the benchmarks belong to others: tests read them where they lie."""
    foreign = {hashlib.sha256(p.read_bytes()).hexdigest() for p in shared_dir.rglob("*") if p.is_file()}
    foreign.discard(hashlib.sha256(b"").hexdigest())
    assert foreign, f"{shared_dir} holds no file"
    assert [p for p in tracked if hashlib.sha256(p.read_bytes()).hexdigest() in foreign] == []


def test_no_path_of_one_machine(tracked):
    assert places(tracked, MACHINE_PATH) == []


def test_nothing_is_left_for_later(tracked):
    assert places(tracked, UNFINISHED) == []


def test_no_em_dash(tracked):
    assert places(tracked, re.compile(EM_DASH)) == []
    notebooks = [path for path in tracked if path.suffix == ".ipynb"]
    assert places(notebooks, re.compile(re.escape(EM_DASH_ESCAPED), re.IGNORECASE)) == []


def test_names_of_files_are_plain(tracked):
    names = [path.relative_to(ROOT).as_posix() for path in tracked]
    assert [name for name in names if not re.fullmatch(r"[A-Za-z0-9._/+-]+", name)] == []
    assert len({name.lower() for name in names}) == len(names), "two names differ in upper and lower case only"


@pytest.mark.parametrize(
    "pattern, found, passed",
    [
        (MACHINE_PATH, "open('/wo" + "rk/main/x')", "https://host/wo" + "rk/x and home/ro" + "ot/x"),
        (UNFINISHED, "# TO" + "DO: later", "TO" + "DOS and METHO" + "DO"),
    ],
)
def test_the_patterns_tell_bad_from_good(pattern, found, passed):
    assert pattern.search(found) and not pattern.search(passed)


def undocumented(source: str) -> list[str]:
    """Public classes, functions and methods of ``source`` without a docstring; ``<module>`` for the module's own.

    A name with a leading underscore is private. An overload and the setter of a property need no text of their own.
    """

    def exempt(node: ast.AST) -> bool:
        marks = {ast.unparse(mark).split(".")[-1] for mark in getattr(node, "decorator_list", [])}
        return bool(marks & {"setter", "deleter", "overload"})

    def walk(body: list[ast.stmt], prefix: str):
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_") or exempt(node):
                continue
            if not ast.get_docstring(node):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from walk(node.body, f"{prefix}{node.name}.")

    tree = ast.parse(source)
    return ([] if ast.get_docstring(tree) else ["<module>"]) + list(walk(tree.body, ""))


@pytest.mark.parametrize("path", sorted((ROOT / "refseg").rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_everything_public_is_documented(path):
    assert undocumented(path.read_text(encoding="utf-8")) == []


def test_the_walk_finds_what_is_not_documented():
    source = "class A:\n    '''A.'''\n    def b(self): ...\n    def _c(self): ...\n"
    source += "    @b.setter\n    def b(self, x): ...\ndef d(): ..."
    assert undocumented(source) == ["<module>", "A.b", "d"]


def imports(source: str) -> set[str]:
    """The absolute modules that ``source`` imports, ``from a import b`` as both ``a`` and ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_tests_leave_the_network_alone():
    """After the installation everything runs offline."""
    assert imports("from urllib import request\nimport os.path") == {"urllib", "urllib.request", "os.path"}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        named = imports(path.read_text(encoding="utf-8"))
        assert not {n for n in named if n in NETWORK or n.split(".")[0] in NETWORK}, path
