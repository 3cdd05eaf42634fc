"""What happens in a student's notebook after its stubs, read from the syntax trees without running anything.

A call of a stub raises ``NotImplementedError``, the only error a student may meet. It also leaves undefined whatever
the rest of its cell would have defined; a later cell that needs one of these names would fail with a ``NameError``.
"""

from __future__ import annotations

import ast

Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
RAISES = ast.dump(ast.parse("NotImplementedError", mode="eval").body)


def needed_but_undefined(cells: list[tuple[str, str]]) -> list[str]:
    """For (source, source in the student's version) of every cell: "name: statement" where a name would be missing."""
    stubs, missing, problems = set(), set(), []
    for whole, source in cells:
        stopped = False
        for statement in in_order(ast.parse(source).body):
            used, defined = loaded(statement), bound(statement)
            if stopped:
                missing |= defined
                continue
            problems += [f"{name}: {ast.unparse(statement)[:80]}" for name in sorted(used & missing)]
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                inside = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
                is_stub = has_stub(statement) or bool(inside & stubs)
                stubs = stubs | defined if is_stub else stubs - defined
            elif has_stub(statement) or calls(statement, stubs):
                stopped = True
                missing |= defined
                continue
            elif used & stubs:  # another name for the same function
                stubs |= defined
            else:
                stubs -= defined
            missing -= defined
        defined_in_solution = set().union(*map(bound, ast.parse(whole).body), set())
        defined_in_version = set().union(*map(bound, ast.parse(source).body), set())
        missing |= defined_in_solution - defined_in_version
    return problems


def in_order(body: list[ast.stmt]):
    """The statements as they run, those inside ``with`` one by one."""
    for statement in body:
        if isinstance(statement, ast.With):
            yield from in_order(statement.body)
        else:
            yield statement


def has_stub(statement: ast.stmt) -> bool:
    """Whether ``raise NotImplementedError(...)`` is anywhere in it."""
    raised = [node.exc for node in ast.walk(statement) if isinstance(node, ast.Raise)]
    return any(isinstance(exc, ast.Call) and ast.dump(exc.func) == RAISES for exc in raised)


def calls(statement: ast.stmt, stubs: set[str]) -> bool:
    """Whether the statement calls a stub, or passes one on to something that will."""
    for node in now(statement):
        if isinstance(node, ast.Call):
            given = [node.func, *node.args, *(keyword.value for keyword in node.keywords)]
            if any(isinstance(part, ast.Name) and part.id in stubs for part in given):
                return True
    return False


def loaded(statement: ast.stmt) -> set[str]:
    """The names that running the statement reads from before; the bodies of the functions it defines are not run."""
    names = {node.id for node in now(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    simple = isinstance(statement, ast.Assign | ast.AugAssign)  # reads first, then defines; a loop defines first
    return names - loop_names(statement) - (set() if simple else bound(statement))


def bound(statement: ast.stmt) -> set[str]:
    """The names that running the statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.split(".")[0] for alias in statement.names}
    stored = {node.id for node in now(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored - loop_names(statement)


def loop_names(statement: ast.stmt) -> set[str]:
    """The variables of its comprehensions."""
    targets = [node.target for node in now(statement) if isinstance(node, ast.comprehension)]
    return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}


def now(node: ast.AST):
    """The nodes of a statement that run with it: all but the bodies of functions."""
    yield node
    children = ast.iter_child_nodes(node)
    if isinstance(node, Scope):
        children = [*getattr(node, "decorator_list", []), *filter(None, [*node.args.defaults, *node.args.kw_defaults])]
    for child in children:
        yield from now(child)
