"""The lessons as files: executing them, measuring them, and building the version that students work in.

    python -m refseg_course.notebooks execute [04 05 ...]   runs lessons top to bottom, stores their outputs and times
    python -m refseg_course.notebooks student [FOLDER]      writes build/student, or FOLDER; edited notebooks stay
    python -m refseg_course.notebooks slow [04 05 ...]      measures lessons on about half of one core, for the teacher

The notebooks with solutions are the only source. In them a code cell tagged ``solution`` holds a line
``# --- solution``: from there to the end of its block the student finds ``raise NotImplementedError``. A Markdown
cell tagged ``hint`` is folded. The output of a cell tagged ``expected`` is shown above the cell, as what to aim at.
"""
