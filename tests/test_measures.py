"""The library stays small. A limit that makes something worse to read may be moved here, with the reason beside it."""

import measures


def test_the_library_is_small():
    found = measures.measure()
    # The aim was 9,500. This is what was reached without dropping a feature or a safeguard: files of at most 300 lines
    # cost 1,300 lines of imports, and what guards the user's files came on top. It may only fall.
    # The generator of RefShapes, refshapes/, is a package of its own and not counted; measures.py prints its lines.
    assert found.code_lines <= 9_820
    assert len(found.root_modules) <= 12, found.root_modules
    assert found.long_files == {}
    assert len(found.long_functions) <= 2, found.long_functions


def test_what_counts_as_a_line_of_code():
    source = '"""A."""\n\n# why\nx = (\n    1,\n)\n\ndef f():\n    """F."""\n    y = """a\n    b"""\n    return y\n'
    assert measures.code_lines(source) == {4, 5, 6, 8, 10, 11, 12}
    assert measures.body_lengths(source) == {"f": 3}
