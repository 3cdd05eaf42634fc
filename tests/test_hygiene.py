"""What must not lie in the repository, and what every public name must have."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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


def test_the_patterns_tell_bad_from_good():
    for pattern, found, passed in (
        (MACHINE_PATH, "open('/wo" + "rk/main/x')", "https://host/wo" + "rk/x and home/ro" + "ot/x"),
        (UNFINISHED, "# TO" + "DO: later", "TO" + "DOS and METHO" + "DO"),
    ):
        assert pattern.search(found) and not pattern.search(passed)


def test_clones_have_the_same_bytes_everywhere(tracked):
    """The sums of the shipped checkpoints hold in a clone on Windows only if git leaves line ends alone."""
    done = subprocess.run(["git", "ls-files", "--eol"], cwd=ROOT, capture_output=True, text=True, check=True)
    entries = [line.split("\t") for line in done.stdout.splitlines()]
    endings = {name: attributes.split() for attributes, name in entries if (ROOT / name).is_file()}
    assert [name for name, (index, *_) in endings.items() if index in ("i/crlf", "i/mixed")] == []
    assert [name for name, (index, _, how, *_) in endings.items() if how != "attr/-text" and index == "i/-text"] == []
    text = {name: how for name, (index, _, *how) in endings.items() if index == "i/lf"}
    assert [name for name, how in text.items() if "eol=lf" not in how] == []


def test_workflows_and_templates_are_yaml():
    """They run elsewhere only; that they parse and call the same commands as a person is all that is tested here."""
    files = sorted(path for path in ROOT.rglob(".*/**/*.yml") if ".venv" not in path.parts)
    files += [ROOT / ".pre-commit-config.yaml", ROOT / "environment.yml", ROOT / "CITATION.cff"]
    parsed = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files}
    assert {"ci.yml", "nightly.yml", "release.yml", "bug.yml", "idea.yml"} <= set(parsed)
    jobs = parsed["ci.yml"]["jobs"]
    steps = {name: " ".join(str(step.get("run", "")) for step in job["steps"]) for name, job in jobs.items()}
    assert ".ci/run" in steps["everything"] and "make test-floor" in steps["floor"] and "-m pytest" in steps["quick"]
    matrix = jobs["quick"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"] and len(matrix["os"]) == 3
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    used = {word for path in files for word in re.findall(r"run: make ([a-z-]+)", path.read_text(encoding="utf-8"))}
    assert used <= targets | {"test", "test-quick", "test-slow", "test-floor"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_types_hold():
    """pyright in basic mode, with the settings in pyproject.toml."""
    pytest.importorskip("basedpyright")
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:]


def undocumented(sources: dict[str, str]) -> list[str]:
    """Public classes, functions and methods of the files in ``sources`` without a docstring, as ``file: Class.method``.

    A name with a leading underscore is private. An overload and the setter of a property need no text of their own, nor
    does a method that a base class documents.
    """
    trees = {name: ast.parse(text) for name, text in sources.items()}
    classes = {node.name: node for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef)}

    def inherited(node: ast.ClassDef, method: str) -> bool:
        bases = [classes[name] for base in node.bases if (name := ast.unparse(base).split(".")[-1]) in classes]
        return any(
            any(getattr(part, "name", None) == method and ast.get_docstring(part) for part in base.body)
            or inherited(base, method)
            for base in bases
        )

    def exempt(node: ast.AST) -> bool:
        marks = {ast.unparse(mark).split(".")[-1] for mark in getattr(node, "decorator_list", [])}
        return bool(marks & {"setter", "deleter", "overload"})

    def walk(parent: ast.Module | ast.ClassDef, prefix: str):
        for node in parent.body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_") or exempt(node):
                continue
            if not ast.get_docstring(node) and not (isinstance(parent, ast.ClassDef) and inherited(parent, node.name)):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from walk(node, f"{prefix}{node.name}.")

    found = [f"{name}: the module" for name, tree in trees.items() if not ast.get_docstring(tree)]
    return found + [f"{name}: {thing}" for name, tree in trees.items() for thing in walk(tree, "")]


def test_everything_public_is_documented():
    packages = "refseg", "refseg_course", "refshapes"
    paths = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    assert undocumented({p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in paths}) == []


def test_the_walk_finds_what_is_not_documented():
    source = "class A:\n    '''A.'''\n    def b(self): ...\n    def _c(self): ...\n"
    source += "    @b.setter\n    def b(self, x): ...\ndef d(): ..."
    base = "'''Base.'''\nclass B:\n    '''B.'''\n    def e(self):\n        '''E.'''\n"
    heir = "'''Heir.'''\nclass C(b.B):\n    '''C.'''\n    def e(self): ...\n    def f(self): ...\n"
    expected = ["a: the module", "a: A.b", "a: d", "c: C.f"]
    assert undocumented({"a": source, "b": base, "c": heir}) == expected


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
