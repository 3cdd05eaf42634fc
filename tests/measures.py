"""How large the library is: ``python tests/measures.py`` prints it, ``test_measures.py`` holds the limits.

A line of code is any line but a blank one, a comment and a docstring. The course is not part of the library, nor is
``refshapes/``, the generator of its data sets: its lines are printed, but the limit omits them.
"""

from __future__ import annotations

import ast
import io
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "refseg"
GENERATOR = PACKAGE.with_name("refshapes")
LONG_FILE, LONG_FUNCTION = 300, 40  # lines in all; lines of code of a body

_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_WITH_DOCSTRING = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Measures:
    """What was counted; long files and functions with their lengths."""

    code_lines: int = 0
    root_modules: list[str] = field(default_factory=list)
    long_files: dict[str, int] = field(default_factory=dict)
    long_functions: dict[str, int] = field(default_factory=dict)
    by_folder: dict[str, int] = field(default_factory=dict)


def code_lines(source: str) -> set[int]:
    """The numbers of the lines of code in ``source``."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _LAYOUT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def body_lengths(source: str) -> dict[str, int]:
    """Function -> lines of code of its body."""
    code = code_lines(source)
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = len(code & set(range(node.body[0].lineno, node.end_lineno + 1)))
    return found


def measure(package: Path = PACKAGE) -> Measures:
    """Count all of ``package``."""
    found = Measures(root_modules=sorted(path.stem for path in package.glob("*.py") if path.stem != "__init__"))
    for path in sorted(package.rglob("*.py")):
        source, name = path.read_text(encoding="utf-8"), path.relative_to(package).as_posix()
        count, folder = len(code_lines(source)), path.parent.relative_to(package).as_posix()
        found.code_lines += count
        found.by_folder[folder] = found.by_folder.get(folder, 0) + count
        if (length := len(source.splitlines())) > LONG_FILE:
            found.long_files[name] = length
        found.long_functions |= {
            f"{name}:{function}": length for function, length in body_lengths(source).items() if length > LONG_FUNCTION
        }
    return found


def main() -> None:
    """Print the measures as a table."""
    found = measure()
    for folder, count in sorted(found.by_folder.items()):
        print(f"{count:7,}  refseg/{'' if folder == '.' else folder}")
    print(f"{found.code_lines:7,}  lines of code in the library")
    print(f"{measure(GENERATOR).code_lines:7,}  more in refshapes/, the generator (no part of the limit)")
    print(f"{len(found.root_modules):7}  modules at its root: {' '.join(found.root_modules)}")
    for what, long in (("files", found.long_files), ("functions", found.long_functions)):
        limit = LONG_FILE if what == "files" else LONG_FUNCTION
        named = ", ".join(f"{name} ({length})" for name, length in long.items())
        print(f"{len(long):7}  {what} above {limit} lines{': ' + named if named else ''}")


if __name__ == "__main__":
    main()
