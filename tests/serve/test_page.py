"""The page, by clicking in a real browser: nothing made is lost, and everything it shows is what the API says."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import urllib.request
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genlib.sharing.held_out import write_held_out
from serve.backend import ModelCard, RunFacts
from serve.models.pool import ModelPool
from serve.models.sources import ModelSource
from tests.models.stages import train_stages
from tests.serve.chromium import BINARY, Chromium, Page
from tests.serve.models import KEY, Walker, listening, opened, picture, png, pool_over, shown, uri
from tests.serve.toy import toy_runner

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BINARY is None, reason="Chromium is not installed")]
VIEWS = ("create", "gallery", "search", "classify", "latent", "map", "act", "models")
KEPT = """(async () => {
  const open = indexedDB.open("genlib");
  const database = await new Promise((resolve) => (open.onsuccess = () => resolve(open.result)));
  const all = database.transaction("pictures").objectStore("pictures").getAll();
  const rows = (await new Promise((resolve) => (all.onsuccess = () => resolve(all.result)))).filter((one) => !one.gone);
  rows.sort((a, b) => a.created - b.created);
  database.close();
  return Promise.all(rows.map(async ({ blob, ...rest }) => ({ ...rest, file: [...new Uint8Array(await blob.arrayBuffer())] })));
})()"""


@pytest.fixture(scope="module")
def served(local: ModelPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An address with models of all kinds that the page has a view for."""
    more = []
    for name in ("som", "dcgan", "resampling", "stylegan2"):
        stages = train_stages(name, tmp_path_factory.mktemp(name))
        more.append(ModelSource(name, str(list(stages.values())[-1].parents[1])))
    pool = opened([*local.sources.values(), *more])
    with listening(pool) as address:
        yield address
    pool.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Chromium) -> Iterator[Page]:
    """A new visitor's page, on which nothing may go wrong unseen."""
    page = browser.page()
    yield page
    page.script("0")
    assert page.complaints == []
    hosts = {address.split("/")[2] for address in page.requested if address.startswith("http")}
    assert len(hosts) <= 1, f"the page asks others than its server: {hosts}"


def post(address: str, path: str, **body: Any) -> Any:
    request = urllib.request.Request(address + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def kept(page: Page) -> list[dict[str, Any]]:
    """What the gallery has, oldest first, with its pixels."""
    found = page.script(KEPT)
    return [{**one, "pixels": shown(bytes(one["file"]))} for one in found]


def drawn(page: Page, **fields: str) -> None:
    """Fills the form and generates, to the end."""
    for name, value in fields.items():
        if name in ("model", "label"):
            page.choose(f"#{name}", value)
        else:
            page.write("#prompt" if name == "prompt" else "#seed" if name == "seed" else f"[data-slider={name}] input[type=number]", value)
    page.click("#go")
    page.until("document.querySelector('.run.over button.frame img')?.naturalWidth")


def from_api(address: str, **body: Any) -> list[np.ndarray]:
    rows = post(address, "/v1/images/generations", **body)["data"]
    return [shown(b64decode(row["b64_json"])) for row in rows]


def test_pictures_are_those_of_the_api_and_stay_after_a_refresh(page: Page, served: str) -> None:
    page.open(served)
    page.click("#lock")
    drawn(page, model="ldm_tiny", prompt="an arrow", seed="77", count="3", steps="4")
    expected = from_api(served, model="ldm_tiny", prompt="an arrow", seed=77, n=3, num_inference_steps=4)
    page.open(served)
    found = kept(page)
    assert [one["seed"] for one in found] == [77, 78, 79]
    for one, wanted in zip(found, expected, strict=True):
        assert np.abs(one["pixels"] - wanted).max() <= 1
    assert page.script("[document.querySelector('#seed').value, document.querySelector('#prompt').value]") == ["77", "an arrow"]


def test_another_browser_sees_what_the_server_made_and_makes_it_again(page: Page, browser: Chromium, served: str) -> None:
    page.open(served)
    drawn(page, model="ddpm", label="three", seed="5", count="2", steps="3")
    job = kept(page)[-1]["job"]
    other = browser.page()
    other.open(f"{served}/#gallery")
    other.until("document.querySelectorAll('#gallery-grid li').length")
    other.click(f"[data-id='{job}-1'] button")
    other.click("#viewer button", "Use these settings")
    other.until("!document.querySelector('#create').hidden && document.querySelector('#seed').value === '6'")
    other.click("#go")
    other.until("document.querySelector('.run.over button.frame img')?.naturalWidth")
    again, before = kept(other)[-1], next(one for one in kept(other) if one["id"] == f"{job}-1")
    assert again["settings"] == before["settings"] | {"label": "three"}
    assert np.abs(again["pixels"] - before["pixels"]).max() <= 1
    assert other.complaints == []


def test_a_run_is_found_again_after_a_refresh_and_kept_once(page: Page) -> None:
    with listening(Walker(step_seconds=0.05)) as address:
        page.open(address)
        page.click("#go")
        page.until("document.querySelector('.run progress')?.value > 0.1")
        page.do("Page.reload")
        page.until("document.querySelector('.run progress')?.value > 0.2")
        page.until("document.querySelectorAll('.run.over button.frame').length === 4")
        assert len(kept(page)) == 4


def test_more_runs_than_a_browser_has_connections_all_end(page: Page) -> None:
    with listening(Walker(step_seconds=0.01)) as address:
        page.open(address)
        for _ in range(8):
            page.click("#go")
        page.until("document.querySelectorAll('#recent li').length === 24")
        page.click("#views a", "Gallery")
        page.until("document.querySelector('#gallery-count').textContent === '32 pictures'")
        # what is still asked for when the server ends would be a complaint
        page.until("((all) => all.length && all.every((one) => one.naturalWidth))([...document.querySelectorAll('#gallery-grid img')])")


def test_cancelling_stops_the_server(page: Page) -> None:
    walker = Walker(step_seconds=0.05)
    with listening(walker) as address:
        page.open(address)
        page.click("#go")
        page.until("document.querySelector('.run progress')?.value > 0")
        page.click(".run .cancel")
        page.until("document.querySelectorAll('.run').length === 0")
        page.until("document.querySelector('.notice')?.textContent.includes('Cancelled')")
        assert walker.inside == 0
        page.open(address)
        assert (kept(page), page.script("document.querySelectorAll('.run').length")) == ([], 0)


def test_what_fails_says_why_and_can_be_tried_again(page: Page, served: str) -> None:
    page.open(served)
    page.choose("#model", "ldm_tiny")
    page.script("document.querySelector('#prompt').value = 'x'.repeat(5000)")
    page.click("#go")
    page.until("document.querySelector('.run [role=alert]')?.textContent.includes('prompt')")
    page.until("[...document.querySelectorAll('.run button')].some((one) => one.textContent.includes('Try again'))")
    assert [one for one in page.complaints if "400" not in one] == []
    page.complaints.clear()


def test_the_seed_changes_unless_it_is_held(page: Page, served: str) -> None:
    page.open(served)
    page.choose("#model", "ddpm")
    seed = "document.querySelector('#seed').value"
    drawn(page, seed="9", steps="2")
    assert page.script(seed) != "9"
    page.click("#lock")
    page.write("#seed", "9")
    page.click("#go")
    page.until("document.querySelector('.run progress') === null && document.querySelectorAll('#recent li').length >= 8")
    assert page.script(seed) == "9"
    page.click("#dice")
    assert page.script(seed) != "9"


def started_from(page: Page, address: str, tmp_path: Path, model: str, pixels: np.ndarray) -> None:
    """The form with a file to start from."""
    (tmp_path / "source.png").write_bytes(png(pixels))
    page.open(address)
    page.choose("#model", model)
    page.click("#source-pick")
    page.give_files(tmp_path / "source.png")
    page.until("!document.querySelector('#source-there').hidden && document.querySelector('#painter canvas').width > 300")


def test_only_what_is_painted_changes(page: Page, served: str, tmp_path: Path) -> None:
    source = picture(8, 1)
    started_from(page, served, tmp_path, "inpainting", source)
    page.click("#mode [role=radio]", "Fill in")
    page.write("#painter .slider:not([hidden]) input[type=number]", "12")
    page.drag("#painter canvas", [(0.7, 0.7), (0.9, 0.7), (0.9, 0.9)])
    drawn(page, count="2", steps="3", seed="3")
    filled = [one for one in kept(page) if one["model"] == "inpainting"]  # others may have been made in the same second
    assert len(filled) == 2
    for one in filled:
        changed = np.abs(one["pixels"] - source[:, :, 0].astype(int)) > 1
        assert changed[5:, 5:].any()
        assert not changed[:4].any()
        assert not changed[:, :4].any()


def test_nothing_painted_is_refused_before_anything_is_sent(page: Page, served: str, tmp_path: Path) -> None:
    started_from(page, served, tmp_path, "inpainting", picture(8, 1))
    page.click("#mode [role=radio]", "Fill in")
    page.click("#go")
    page.until("document.querySelector('.notice.bad')?.textContent.includes('Nothing is painted')")
    assert not any("edits" in address for address in page.requested)


def test_a_model_that_only_changes_pictures_asks_for_one_before_anything_is_sent(page: Page, served: str) -> None:
    page.open(served)
    page.choose("#model", "resampling")
    page.click("#go")
    page.until("document.querySelector('.notice.bad')?.textContent.includes('resampling starts from a picture')")
    assert page.script("document.activeElement.id") == "source-pick"
    assert not any("generations" in address for address in page.requested)


def test_a_new_visitor_starts_with_a_model_that_draws_after_words_and_each_model_with_its_own_size(page: Page, served: str) -> None:
    page.open(served)
    assert page.script("document.querySelector('#model').value") == "ldm_tiny"
    last = page.script("[...document.querySelector('#model').options].at(-1).value")
    assert last == "resampling"
    trained = {card["id"]: card["image_size"] for card in json.loads(urllib.request.urlopen(f"{served}/v1/models", timeout=30).read())["data"]}
    for model in ("ddpm", "ldm_tiny"):
        page.choose("#model", model)
        assert int(page.script("document.querySelector('#width').value")) == trained[model]


def test_a_picture_is_extended_where_it_was_placed(page: Page, served: str, tmp_path: Path) -> None:
    started_from(page, served, tmp_path, "ldm_tiny", np.full((32, 32, 1), 200, np.uint8))
    page.click("#mode [role=radio]", "Extend")
    page.write("#painter > div:not([hidden]).slider input[type=number]", "50")
    page.script("document.querySelector('#painter canvas').focus()")
    for _ in range(40):
        page.key("ArrowLeft")
        page.key("ArrowUp")
    drawn(page, prompt="a star", count="1", steps="3")
    made = kept(page)[-1]
    side = made["width"] // 2
    assert np.abs(made["pixels"][: side - 1, : side - 1] - 200).max() <= 1
    assert np.abs(made["pixels"][side:] - 200).max() > 1


def test_a_png_that_says_how_it_was_made_fills_the_form(page: Page, served: str, tmp_path: Path) -> None:
    body = {"model": "ldm_tiny", "prompt": "two, arrows: left", "negative_prompt": "red", "seed": 41, "n": 2, "num_inference_steps": 3}
    row = post(served, "/v1/images/generations", **body)["data"][1]
    (tmp_path / "made.png").write_bytes(b64decode(row["b64_json"]))
    page.open(served)
    page.choose("#model", "ldm_tiny")
    page.click("#source-pick")
    page.give_files(tmp_path / "made.png")
    page.click(".notice button", "Use these settings")
    page.until("document.querySelector('#seed').value === '42'")
    fields = "['prompt', 'negative', 'model'].map((id) => document.querySelector('#' + id).value)"
    assert page.script(fields) == ["two, arrows: left", "red", "ldm_tiny"]
    assert page.script("document.querySelector('[data-slider=steps] input').value") == "3"


def files(tmp_path: Path, count: int) -> list[Path]:
    paths = [tmp_path / f"picture {number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(png(np.roll(picture(32, 3, seed=number), 3 * number, 1)))
    return paths


def test_search_orders_files_as_their_embeddings_say(page: Page, served: str, tmp_path: Path) -> None:
    paths = files(tmp_path, 5)
    page.open(f"{served}/#search")
    page.click("#search-add")
    page.give_files(*paths)
    page.until("document.querySelector('#search-state').textContent.endsWith('newest first')")
    page.write("#search-text", "an arrow to the left")
    page.until("document.querySelector('#search-state').textContent.endsWith('best match first')")
    ids = page.script("[...document.querySelectorAll('#search-grid img')].map((one) => one.alt)")
    vectors = post(served, "/v1/embeddings", model="clip_tiny", input=["an arrow to the left", *(uri(path.read_bytes()) for path in paths)])["data"]
    text, *images = (np.array(row["embedding"]) for row in vectors)
    order = np.argsort([-(text @ one) / np.linalg.norm(one) for one in images])
    wanted = [paths[at].stem for at in order]
    assert [one for one in ids if one in wanted] == wanted
    page.open(f"{served}/#search")
    assert page.until("document.querySelectorAll('#search-grid li').length") >= 5, "files that were added are gone after a refresh"
    assert "added" not in page.script("document.querySelector('#gallery-grid').innerHTML")


def test_own_labels_get_the_shares_that_the_api_gives(page: Page, served: str, tmp_path: Path) -> None:
    (path,) = files(tmp_path, 1)
    page.open(f"{served}/#classify")
    page.choose("#classify-model", "clip_tiny")
    page.write("#classify-labels", "a house\na boat\na boat\n\na tree")
    page.click("#classify-pick")
    page.give_files(path)
    page.until("document.querySelectorAll('.guess li').length === 3")
    seen = page.script(
        "[...document.querySelectorAll('.guess li')].map((one) => [one.firstChild.textContent, Number(one.querySelector('.meter').ariaValueNow)])"
    )
    labels = ["a house", "a boat", "a tree"]
    answer = post(served, "/v1/classifications", model="clip_tiny", image=[uri(path.read_bytes())], labels=labels)["data"][0]["labels"]
    assert [label for label, _ in seen] == [one["label"] for one in answer]
    assert np.allclose([share for _, share in seen], [one["score"] for one in answer], atol=1e-4)


def test_a_search_opens_on_the_held_out_pictures_of_the_run_with_words_to_try(page: Page, local: ModelPool, tmp_path: Path) -> None:
    names = ["an arrow", "a house", "a tree", "a boat"]
    write_held_out(tmp_path, [(name, picture(8, 3, seed)) for seed, name in enumerate(names)])
    telling = png(picture(40, 3))
    (tmp_path / "sheet.png").write_bytes(telling)
    card = next(card for card in local.models() if card.name == "clip_tiny")
    facts = RunFacts(data="icons", scores={"icons/R@10": 0.35}, picture=tmp_path / "sheet.png", held_out=tmp_path)
    with listening(Shown(local, replace(card, run=facts))) as address:
        page.open(address)
        page.until("document.querySelectorAll('#search-grid li').length === 4")
        assert page.script("document.querySelector('#search-state').textContent") == "4 pictures that training did not see"
        assert page.script("[...document.querySelectorAll('#search-ideas button')].map((one) => one.textContent)") == names
        page.click("#search-ideas button", "a tree")
        page.until("document.querySelector('#search-state').textContent.endsWith('best match first')")
        assert page.script("document.querySelector('#search-text').value") == "a tree"
        page.click("#search-grid li button")
        page.click("#viewer button", "Find similar")
        page.until("document.querySelector('#search-state').textContent.endsWith('most similar first')")
        page.click("#views a", "Models")
        page.until("document.querySelector('.telling img')?.naturalWidth === 40")
        assert "trained on icons" in page.script("document.querySelector('.model').textContent")
        assert page.script("document.querySelector('.model tr').textContent") == "icons/R@100.35"
        asked = from_examples(page, tmp_path)
    vectors = [[row["embedding"] for row in answer["data"]] for answer in asked]
    assert len(vectors[0]) == 3
    assert vectors[0] == vectors[1]


@pytest.mark.parametrize("name", ["ldm_tiny", "ddpm", "vae"])
def test_examples_draw_and_read_pictures(page: Page, local: ModelPool, tmp_path: Path, name: str) -> None:
    (tmp_path / "picture.png").write_bytes(png(picture(8)))
    with listening(Shown(local, next(card for card in local.models() if card.name == name))) as address:
        page.open(f"{address}/#models")
        from_examples(page, tmp_path, pictures=True)


def from_examples(page: Page, folder: Path, *, pictures: bool = False) -> list[Any]:
    """What the examples on the page give where they are run as they stand: for a shell, and in Python."""
    found = []
    for name, program in (("curl", ["bash", "-c"]), ("Python", [sys.executable, "-c"])):
        page.click(".example [role=radio]", name)
        code = page.script("document.querySelector('.example code').textContent")
        made = folder / "made.png"
        made.unlink(missing_ok=True)
        said = subprocess.run([*program, code], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        assert said.returncode == 0, said.stdout + said.stderr
        found.append(shown(made.read_bytes()) if pictures else json.loads(said.stdout.replace("'", '"')))
    if pictures:
        assert np.array_equal(*found)
    return found


class Shown:
    """A backend that shows but one of another's models."""

    def __init__(self, backend: ModelPool, card: ModelCard) -> None:
        self.backend, self.card = backend, card

    def models(self) -> list[ModelCard]:
        return [self.card]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)


def newly_kept(page: Page) -> dict[str, Any]:
    """What the button of the latent space puts into the gallery."""
    before = len(kept(page))
    page.click("#latent-controls button", "Keep")
    page.until(f"{KEPT}.then((all) => all.length > {before})")
    return kept(page)[-1]


def test_a_latent_slider_draws_its_code(page: Page, served: str) -> None:
    page.open(f"{served}/#latent")
    page.click("#latent-controls button", "All to 0")
    first = page.until("document.querySelector('#latent-controls .sliders label')?.textContent")
    page.write("#latent-controls .sliders input[type=number]", "2.5")
    made = newly_kept(page)
    sides = post(served, "/v1/models/vae/actions/embed", image=[uri(png(picture(made["width"], 1)))])["shape"][1]
    code = np.zeros(sides)
    code[int(first.removeprefix("Number ")) - 1] = 2.5
    answer = post(served, "/v1/models/vae/actions/decode", code=[code.tolist()])["data"][0]["b64_json"]
    assert np.abs(made["pixels"] - shown(b64decode(answer))).max() <= 1


def test_a_way_between_seeds_ends_at_their_pictures(page: Page, served: str) -> None:
    page.open(f"{served}/#latent")
    page.choose("#latent-model", "dcgan")
    page.until("document.querySelectorAll('.strip img').length === 9")
    page.script("for (const [id, value] of [['From seed', 3], ['To seed', 4]]) document.getElementById('latent-' + id).value = value")
    page.script("document.getElementById('latent-From seed').dispatchEvent(new Event('change'))")
    page.write("#latent-controls .slider input[type=number]", "100")
    assert np.abs(newly_kept(page)["pixels"] - from_api(served, model="dcgan", seed=4)[0]).max() <= 1


def test_truncation_is_that_of_the_api_and_only_where_a_model_has_styles(page: Page, served: str, tmp_path: Path) -> None:
    page.open(served)
    page.choose("#model", "ddpm")
    assert not page.script("document.querySelector('[data-slider=truncation]').getClientRects().length")
    page.choose("#model", "stylegan2")
    page.click("#lock")
    drawn(page, seed="3", count="2", truncation="0.5")
    page.screenshot(tmp_path / "truncation.png")
    for one, wanted in zip(kept(page)[-2:], from_api(served, model="stylegan2", seed=3, n=2, truncation=0.5), strict=True):
        assert one["settings"]["truncation"] == 0.5
        assert np.abs(one["pixels"] - wanted).max() <= 1
    whole = from_api(served, model="stylegan2", seed=3, n=2)
    assert any(np.abs(one["pixels"] - picture).max() > 1 for one, picture in zip(kept(page)[-2:], whole, strict=True))


def test_the_map_shows_every_unit_and_finds_a_pictures_own(page: Page, served: str, tmp_path: Path) -> None:
    pixels = picture(8, 1, seed=2)
    (tmp_path / "one.png").write_bytes(png(pixels))
    page.open(f"{served}/#map")
    count = page.until("document.querySelectorAll('.map [role=option]').length")
    assert count == 30
    page.click("#map-pick")
    page.give_files(tmp_path / "one.png")
    page.until("document.querySelector('.marks image')")
    unit = post(served, "/v1/models/som/actions/assign", image=[uri(png(pixels))])["numbers"][0]
    page.until("document.querySelector('.map [aria-selected=true]')")
    assert page.script("[...document.querySelectorAll('.map [role=option]')].findIndex((one) => one.ariaSelected === 'true')") == unit
    page.choose("#map-colour", "class")
    page.until("document.querySelectorAll('.legend li').length >= 1 && !document.querySelector('.legend .ramp')")


def test_a_deleted_picture_stays_away_and_comes_back_when_asked(page: Page, served: str) -> None:
    page.open(served)
    drawn(page, model="ddpm", count="2", steps="2")
    before = len(kept(page))
    page.click(".run.over button.frame")
    page.click("#viewer button", "Delete")
    page.until("document.querySelector('.notice')?.textContent.includes('Deleted')")
    page.open(served)
    assert len(kept(page)) == before - 1
    page.click("#recent button")
    page.click("#viewer button", "Delete")
    page.click(".notice button", "Undo")
    page.until(f"{KEPT}.then((all) => all.length === {before - 1})")


def test_all_works_by_keyboard(page: Page, served: str, tmp_path: Path) -> None:
    started_from(page, served, tmp_path, "ldm_tiny", picture(32, 1))
    page.script("document.querySelector('#mode [aria-checked=true]').focus()")
    page.key("ArrowRight")
    assert page.script("document.activeElement.textContent") == "Fill in"
    page.script("document.querySelector('#painter canvas').focus()")
    for name in ("ArrowLeft", "ArrowUp", " "):
        page.key(name)
    page.write("[data-slider=steps] input[type=number]", "2")
    page.key("Enter", control=True)
    page.until("document.querySelectorAll('.run.over button.frame').length === 4")
    page.script("document.querySelector('#recent button').focus()")
    page.key("ArrowRight")
    page.key("Enter")
    page.until("document.querySelector('#viewer').open")
    second = page.script("document.querySelector('#viewer img').src")
    page.key("ArrowLeft")
    page.until(f"document.querySelector('#viewer img').src !== {json.dumps(second)}")
    page.key("Escape")
    page.until("!document.querySelector('#viewer').open")


def test_a_key_is_asked_for_and_kept(page: Page) -> None:
    with listening(Walker(step_seconds=0.0), keys=(KEY,)) as address:
        page.do("Page.navigate", url=address)
        for key in ("not-the-key-of-this-server", KEY):
            page.until("document.querySelector('#key-dialog').open")
            page.write("#key-value", key)
            page.click("#key-dialog button.primary")
        page.until("document.documentElement.dataset.ready === 'yes'")
        page.click("#go")
        page.until("document.querySelectorAll('.run.over button.frame').length === 4")
        page.complaints.clear()
        page.open(address)
        assert not page.script("document.querySelector('#key-dialog').open")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_fits_narrow_and_wide_and_can_be_read(page: Page, served: str, tmp_path: Path, theme: str) -> None:
    page.open(served)
    for width in (360, 1440):
        page.look(width, 900, theme)
        for view in VIEWS:
            page.script(f"location.hash = '{view}'")
            page.until(f"!document.querySelector('#{view}').hidden")
            page.script("new Promise((resolve) => setTimeout(resolve, 300))")
            assert page.script("document.documentElement.scrollWidth") <= width, view
            page.screenshot(tmp_path / f"{view}.png")
            assert len(np.unique(np.asarray(Image.open(io.BytesIO((tmp_path / f"{view}.png").read_bytes())).convert("L")))) > 20
            assert nameless(page) == []
    names = json.dumps(["--paper", "--sheet", "--ink", "--soft", "--accent", "--bad"])
    colours = page.script(f"{names}.map((one) => getComputedStyle(document.documentElement).getPropertyValue(one))")
    paper, sheet, *inks = (luminance(one) for one in colours)
    assert (paper < 0.1) == (theme == "dark")
    for ink in inks:
        for ground in (paper, sheet):
            assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5


def nameless(page: Page) -> list[str]:
    """Roles of what one can use and a screen reader has no name for."""
    roles = {"button", "link", "textbox", "searchbox", "slider", "spinbutton", "combobox", "radio", "option", "img", "application"}
    nodes = page.do("Accessibility.getFullAXTree")["nodes"]
    used = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    return [node["role"]["value"] for node in used if not node.get("name", {}).get("value")]


def luminance(colour: str) -> float:
    """Relative, of #rrggbb (WCAG 2.2)."""
    parts = [int(colour.strip()[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_any_action_has_a_form_of_its_ports(page: Page, tmp_path: Path) -> None:
    """A family that the page has never heard of: words, seeds, a choice and numbers go in, pictures or numbers come out."""
    runner = toy_runner()
    try:
        with listening(pool_over(runner)) as address:
            page.open(f"{address}/#act")
            page.until("document.querySelector('#act-action').options.length")
            page.choose("#act-action", "paint")
            assert page.script("[...document.querySelectorAll('#act-fields [data-port]')].map((one) => one.dataset.port)") == [
                "texts", "seeds", "steps", "sampler", "width", "height",
            ]  # fmt: skip
            page.write("#act-words", "hello\nworld")
            page.write("#act-chosen", "1, 2")
            page.choose("#act-kind", "heun")
            page.click("#act-go")
            page.until("document.querySelectorAll('#act-result img').length === 2")
            page.choose("#act-action", "twist")
            page.write("#act-points", "[[0.1, 0.2], [0.5, 1.5]]")
            page.click("#act-go")
            page.until("document.querySelector('#act-result table')")
            assert page.script("document.querySelector('#act-result td').textContent") == "[0.1, 0.2]"
            page.choose("#act-action", "press")
            page.until("document.querySelector('#act-fields [data-port=sample] button')")
            path = tmp_path / "given.png"
            path.write_bytes(png(picture()))
            page.click("#act-image")
            page.give_files(path)
            page.until("document.querySelector('#act-fields img')")
            page.click("#act-go")
            page.until("document.querySelectorAll('#act-result td').length === 4")
    finally:
        runner.close()
