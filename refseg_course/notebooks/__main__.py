"""``python -m refseg_course.notebooks execute | student | slow``: see the package's docstring."""

from __future__ import annotations

import sys
from pathlib import Path

from refseg_course import notebooks
from refseg_course.notebooks.execute import draw_data, execute
from refseg_course.notebooks.lessons import STUDENT, lesson_paths
from refseg_course.notebooks.slow import DRAWING, half_a_core, measure_slow, record_slow, write_slow_page
from refseg_course.notebooks.student import build_student
from refseg_course.notebooks.times import record_time


def main(arguments: list[str]) -> None:
    """Do what the first argument says."""
    match arguments:
        case ["execute", *numbers]:
            draw_data()  # else the first lesson would show how RefShapes is drawn, and be the only one that does
            for path in lesson_paths(numbers):
                print(f"{path.name} ...", end=" ", flush=True)
                seconds = execute(path)
                record_time(path, seconds)
                write_slow_page()  # it shows these seconds beside the slow ones
                print(f"{seconds:.0f} s")
        case ["student", *folder]:
            built = build_student(*map(Path, folder))
            print(f"{len(built)} notebooks without solutions are in {built[0].parent if built else STUDENT}.")
        case ["slow", *numbers]:
            draw_data()
            with half_a_core():
                for name in [DRAWING, *(path.stem for path in lesson_paths(numbers))]:
                    print(f"{name} ...", end=" ", flush=True)
                    measured = measure_slow(name)
                    record_slow(name, measured)
                    print(f"{measured['seconds']} s with {measured['share']} of a core")
        case _:
            raise SystemExit(notebooks.__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
