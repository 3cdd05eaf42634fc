"""The explorer in a real JupyterLab: a kernel, a notebook, a browser that reaches nothing but this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120_000  # ms; the start of a kernel that imports torch is most of it

CELLS = """
import torch
from refseg.datasets import build_dataset
from refseg.explorer import Explorer
torch.set_num_threads(1)
explorer = Explorer(CHECKPOINT, build_dataset("refshapes", "val", ROOT_KEYWORD, objects=True)[0])
explorer
""".strip()


@pytest.fixture
def server(tmp_path, tiny_checkpoint, tiny_refshapes):
    """The address of a JupyterLab with one notebook, explorer.ipynb, in its folder."""
    call = f'build_dataset("refshapes", "val", root={str(tiny_refshapes / "refshapes")!r}, objects=True)'
    source = CELLS.replace("CHECKPOINT", repr(str(tiny_checkpoint)))
    source = source.replace('build_dataset("refshapes", "val", ROOT_KEYWORD, objects=True)', call)
    cells = [new_code_cell(source), new_code_cell("explorer"), new_code_cell("explorer.plain()")]
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}  # else Lab asks which
    folder = tmp_path / "notebooks"
    folder.mkdir()
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "explorer.ipynb")
    homes = {name: str(tmp_path / name.lower()) for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")}
    homes |= {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "s"), "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "w")}
    environment = {**os.environ, **homes, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = ["--no-browser", "--port=0", "--IdentityProvider.token=", "--ServerApp.password=", "--allow-root"]
    options += [f"--ServerApp.root_dir={folder}", "--LabApp.news_url="]
    options += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=log, stderr=log)
    try:
        yield _address(Path(homes["JUPYTER_RUNTIME_DIR"]), process, tmp_path / "log")
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def _address(runtime: Path, process: subprocess.Popen, log: Path) -> str:
    for _ in range(600):
        for path in runtime.glob("jpserver-*.json"):
            try:
                return json.loads(path.read_text())["url"]
            except ValueError:  # half written
                pass
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start: {log.read_text()}")


@pytest.fixture
def lab(server, browser):
    """The notebook in JupyterLab, all of its cells run."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.asked = []

    def here_only(route):
        if route.request.url.startswith((server, "data:", "blob:")):
            route.continue_()
        else:
            page.asked.append(route.request.url)
            route.abort()

    page.route("**/*", here_only)
    page.goto(f"{server}lab/tree/explorer.ipynb?reset")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # in the status bar: there is a kernel to run them
    page.locator(".lm-MenuBar-item", has_text="Run").click()
    page.locator("[data-command='runmenu:run-all']").click()
    page.locator(".rx-stage").nth(3).wait_for()  # two cells show the explorer, with two stages each
    yield page
    context.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_explorer_in_a_notebook(lab):
    """Hover, keys, striking out, typing, comparing, what is read aloud; both views of one explorer agree."""
    first, second = lab.locator(".rx").all()
    assert lab.asked == []
    stage = first.locator(".rx-stage").first
    stage.scroll_into_view_if_needed()
    stage.hover(position={"x": 10, "y": 10})
    assert first.locator(".rx-reading").inner_text().startswith("Row 1, column 1 of 4 × 4: ")

    stage.focus()
    cells = lab.locator(".jp-Notebook .jp-Cell").count()
    for key in ("ArrowRight", "ArrowDown", "Enter", "]", "a"):
        lab.keyboard.press(key)
    lab.wait_for_function("() => document.querySelector('.rx figcaption strong').textContent.includes('→')")
    heard = first.locator("[aria-live=polite]").inner_text()
    assert "Row 2, column 2 of 4 × 4, held" in heard and "level c4" in heard and "Struck out" in heard
    assert lab.locator(".jp-Notebook .jp-Cell").count() == cells, "JupyterLab took the keys for its own"
    second.locator(".rx-struck").first.wait_for()
    assert second.get_by_role("radio", name="c4").is_checked(), "the other view follows"

    field = first.locator("input[type=text]")
    field.fill("the purple elephant star")
    field.press("Enter")
    first.get_by_text("Not in the vocabulary: “elephant”. Answered in ").wait_for()
    assert field.input_value() == "the purple elephant star"
    words = [word.inner_text() for word in first.locator(".rx-words label").all()]
    assert words == ["the", "purple", "elephant\nnot in the vocabulary", "star"]
    assert first.locator("figcaption strong").first.inner_text() == "Truth not known"
    assert second.locator("input[type=text]").input_value() == "the purple elephant star"

    first.get_by_role("button", name="Compare").click()
    first.locator(".rx-stage").nth(3).wait_for()  # the picture, a map of each, their difference
    assert "Difference, A minus B" in first.inner_text()
    assert lab.asked == []
