"""The hidden word and its guesses: in Python, and in a real Chromium on a page from a file; absent without heads."""

from __future__ import annotations

import json

import pytest
from axe_playwright_python.sync_playwright import Axe

from refseg.errors import RefsegError
from refseg.evaluation.hidden_words import WAYS
from refseg.explorer import Explorer
from refseg.explorer.reading import Reading
from refseg.explorer.state import ExplorerState


@pytest.fixture
def grounded(tiny_grounded, sample):
    return Explorer(tiny_grounded, sample)


def hideable(explorer) -> list[int]:
    words = explorer.reading.words
    return [n for n, word in enumerate(words) if word not in ("the", "of", "to", "that", "is", "which", "with", "on")]


def test_every_telling_word_is_guessed_in_three_ways(grounded):
    guesses = grounded.reading.guesses
    assert set(guesses) >= set(hideable(grounded)) and 0 < len(guesses) <= len(grounded.reading.words)
    for by_way in guesses.values():
        assert list(by_way) == list(WAYS)
        for best in by_way.values():
            shares = [share for _, share in best]
            assert len(best) == 5 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1.00001


def test_text_and_back(grounded):
    wire = json.loads(json.dumps(grounded.reading.to_wire()))
    back = Reading.from_wire(wire).guesses
    assert back.keys() == grounded.reading.guesses.keys()
    for place, by_way in grounded.reading.guesses.items():
        for way, best in by_way.items():
            assert back[place][way] == [(word, round(share, 4)) for word, share in best]


def test_a_sentence_that_was_typed_is_guessed_with_the_mask_that_was_found(grounded, monkeypatch):
    reader = grounded._reader(0)
    asked, guess = [], reader.guesser.guess
    monkeypatch.setattr(reader.guesser, "guess", lambda batch, hidden: asked.append(batch) or guess(batch, hidden))
    reading = grounded.read("the red zebra")
    assert reading.truth is None and set(reading.guesses) == {1, 2}  # a word that it does not know is a hidden one
    found = reader.model(asked[0]).mask_logits
    assert asked[0].mask.any() == (found > 0).any() and len(asked[0]) == 2
    assert grounded.read("the of").guesses == {}


def test_without_heads_there_is_no_trace(explorer):
    assert explorer.reading.guesses == {} and "guesses" not in explorer.reading.to_wire()


def test_the_chosen_word_is_hidden_in_words(grounded):
    place = hideable(grounded)[0]
    grounded.show(word=place, guessing=True)
    (first, share), *_ = grounded.reading.guesses[place]["picture and mask"]
    assert f"is hidden; guessed in its place: “{first}” {share:.0%} (picture and mask)" in grounded.sentence()
    assert "is hidden" not in grounded.show(guessing=False).sentence()


def test_the_state():
    hidden = ExplorerState().hide()
    assert hidden.guessing and not hidden.hide().guessing and not hidden.clear().guessing
    older = {name: value for name, value in hidden.to_dict().items() if name != "guessing"}
    assert not ExplorerState.from_dict(older).guessing
    with pytest.raises(RefsegError, match="wrong 'guessing'"):
        ExplorerState.from_dict(older | {"guessing": 1})


def show(explorer, tmp_path, open_page):
    return open_page(explorer.export_html(tmp_path / "page.html"))


def test_a_word_is_hidden_with_a_key_or_a_button(grounded, tmp_path, open_page):
    place = hideable(grounded)[-1]
    grounded.show(word=place)
    opened, word = show(grounded, tmp_path, open_page), grounded.reading.words[place]
    assert opened.asked == [] and opened.locator(".rx-guesses ol").count() == 0
    opened.locator(".rx-words input:checked").focus()
    opened.keyboard.press("h")
    heard = opened.locator("[aria-live=polite]").inner_text()
    for way, best in grounded.reading.guesses[place].items():
        name = {"picture and mask": "Words, picture and mask", "picture": "Words and picture"}.get(way, "Words alone")
        listed = opened.get_by_role("list", name=name).get_by_role("listitem")
        assert [text.split()[0] for text in listed.all_inner_texts()] == [word for word, _ in best]
        assert f"{name}: “{best[0][0]}”" in heard
    sentence = " ".join("____" if n == place else one for n, one in enumerate(grounded.reading.words))
    assert sentence in opened.locator(".rx-guesses").inner_text()
    opened.keyboard.press("Escape")
    assert opened.locator(".rx-guesses ol").count() == 0
    opened.get_by_role("button", name=f"Hide “{word}” and guess it").click()
    assert opened.locator(".rx-guesses ol").count() == 3
    button = opened.get_by_role("button", name=f"Show “{word}” again")
    assert button.get_attribute("aria-pressed") == "true" and button.evaluate("b => b === document.activeElement")
    serious = [v["id"] for v in Axe().run(opened).response["violations"] if v["impact"] in ("serious", "critical")]
    assert serious == []


def test_the_guesses_go_with_the_chosen_word(grounded, tmp_path, open_page):
    grounded.show(word=hideable(grounded)[0], guessing=True)
    opened, words = show(grounded, tmp_path, open_page), grounded.reading.words
    for place in range(len(words)):
        opened.locator(".rx-words input").nth(place).check(force=True)
        text = opened.locator(".rx-guesses").inner_text()
        if place in grounded.reading.guesses:
            assert grounded.reading.guesses[place]["words alone"][0][0] in text
        else:
            assert f"“{words[place]}” is never hidden" in text


def test_a_page_without_heads_has_nothing_of_it(explorer, tmp_path, open_page):
    opened = show(explorer, tmp_path, open_page)
    opened.locator(".rx-words input:checked").focus()
    opened.keyboard.press("h")
    assert opened.locator(".rx-guesses").count() == 0
    opened.get_by_text("Keys", exact=True).click()
    assert "hide" not in opened.locator(".rx-foot").inner_text().lower()
