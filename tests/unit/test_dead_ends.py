"""Addresses of runs that are gone and filters that no longer exist: the page says so, offers what is there, and keeps nothing dead in its links."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from html import unescape
from urllib.parse import unquote_plus

import mlflow
import pytest

from icr_platform.core.errors import TrackingError
from tests.support import synthetic_runs
from ui.pages import spot_check
from ui.pages.inspector import Content, Focus, Inspector
from ui.pages.shell import ASKS_AGAIN, render_page
from ui.pages.table_of_pages import PAGES
from ui.server.app import open_inspector
from ui.server.options import InspectOptions

BY_RUN = [page for page in PAGES if page.show is not None]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Inspector, dict[str, str]]]:
    """An inspector over two arms, one more that was deleted, and the ids of an iteration and of a stage."""
    folder = tmp_path_factory.mktemp("dead-ends")
    before = os.environ.get("MLFLOW_TRACKING_URI")
    tracker = synthetic_runs.open_tracker(folder)
    arms = [
        synthetic_runs.small_run(tracker, folder / f"artifacts-{n}", per_language=3).run_id
        for n in ("first", "second", "deleted")
    ]
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    experiment = client.get_run(arms[0]).info.experiment_id
    (iteration, *_) = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{arms[0]}'")
    (stage, *_) = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{iteration.info.run_id}'")
    client.delete_run(arms[2])
    found = open_inspector(InspectOptions(tracking_uri=uri, verdicts=str(folder / "verdicts.db")))
    ids = dict(zip(("first", "second", "deleted"), arms, strict=True))
    yield found, {**ids, "iteration": iteration.info.run_id, "stage": stage.info.run_id}
    found.catalogue.close()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


def of_reviewer(inspector: Inspector, focus: Focus) -> Content:
    return spot_check.offer(inspector, focus, "ana").content


def shown(inspector: Inspector, address: str, params: Mapping[str, str]) -> str:
    (page,) = (page for page in PAGES if page.address == address)
    html = render_page(inspector, page, params, of_reviewer if address == "spot-check" else None)
    assert "Something went wrong" not in html
    return html


def links(html: str) -> str:
    """All addresses of a page, and the values of its form."""
    return " ".join(re.findall(r'(?:href|data-url|value|action)="([^"]*)"', html))


def values(html: str) -> set[str]:
    """What these addresses name."""
    return {unquote_plus(value) for value in re.split(r"[\s?=]|&amp;", unescape(links(html)).replace("&", " "))}


# What people paste for a run: `first` stands for the arm that it should lead to.
DEAD = {
    "deleted": lambda ids: ids["deleted"],
    "unknown": lambda ids: "0" * 32,
    "one character missing": lambda ids: ids["first"][:-1],
    "two characters swapped": lambda ids: re.sub(r"(.)(?!\1)(.)", r"\2\1", ids["first"], count=1),
    "cut in the middle": lambda ids: ids["first"][:20],
    "an iteration": lambda ids: ids["iteration"],
    "a stage": lambda ids: ids["stage"],
    "a name": lambda ids: "synthetic",
    "not an id": lambda ids: "x' OR 1=1",
    "markup": lambda ids: "<script>alert(1)</script>",
    "very long": lambda ids: "f" * 5000,
    "an emoji": lambda ids: "🙂",
}


@pytest.mark.parametrize("case", DEAD)
def test_a_run_that_is_gone_offers_the_others(place: tuple[Inspector, dict[str, str]], case: str) -> None:
    inspector, ids = place
    dead = DEAD[case](ids)
    for page in BY_RUN:
        html = shown(inspector, page.address, {"run": dead, "iteration": "1", "id": "p0", "base_run": dead})
        assert 'role="alert"' in html
        offers = re.findall(r'<li><a href="([^"]*)"', html)
        assert len(offers) == 2
        assert all(offer.startswith(f"/{page.address}?run=") for offer in offers)
        assert dead not in values(html)
        if case not in ("deleted", "unknown", "a name", "not an id", "markup", "very long", "an emoji"):
            assert ids["first"] in offers[0], "what was meant comes first"
        if case == "deleted":
            assert "was deleted from MLflow" in html


@pytest.mark.parametrize("around", [" {} ", "runs:/{}", "runs:/{}/preferences", "{}\n", "{}/"])
def test_an_id_as_it_is_pasted(place: tuple[Inspector, dict[str, str]], around: str) -> None:
    inspector, ids = place
    html = shown(inspector, "", {"run": around.format(ids["first"])})
    assert 'role="alert"' not in html
    assert f"run={ids['first']}" in links(html)


# Filters that the run does not have: the sentence, and what must be in no link afterwards.
GONE = {
    "iteration": ({"iteration": "77"}, "has no iteration 77", "77"),
    "language": ({"language": "xx"}, "has nothing in xx", "xx"),
    "known language": ({"language": "fi"}, "has nothing in Finnish", "fi"),
    "experiment": ({"experiment": "gone"}, "no experiment &#39;gone&#39;", "gone"),
    "two at once": ({"iteration": "77", "language": "xx"}, "has nothing in xx", "77"),
}


@pytest.mark.parametrize("case", GONE)
def test_filters_that_are_gone_are_left_out(place: tuple[Inspector, dict[str, str]], case: str) -> None:
    inspector, ids = place
    params, said, dead = GONE[case]
    for page in BY_RUN:
        html = shown(inspector, page.address, {**({} if case == "experiment" else {"run": ids["first"]}), **params})
        assert said in html, page.title
        assert 'role="alert"' not in html, page.title
        assert dead not in values(html), page.title


@pytest.mark.parametrize(
    ("address", "params", "said"),
    [
        ("pairs", {"dropped": "gone reason"}, "no reason for drops &#39;gone reason&#39;"),
        ("regressions", {"source": "gone set"}, "no data set &#39;gone set&#39;"),
        ("compare", {"source": "gone set"}, "no data set &#39;gone set&#39;"),
        ("compare", {"kind": "gone kind"}, "no kind of instruction &#39;gone kind&#39;"),
        ("compare", {"language": "xx"}, "no language &#39;xx&#39;"),
        ("compare", {"language": "xx", "source": "gone set"}, "no data set &#39;gone set&#39;"),
    ],
)
def test_choices_of_one_page_that_are_gone(
    place: tuple[Inspector, dict[str, str]], address: str, params: dict[str, str], said: str
) -> None:
    inspector, ids = place
    sides = {"left": ids["first"], "left_at": "1", "right": ids["second"], "right_at": "1"}
    run = sides if address == "compare" else {"run": ids["first"]}
    html = shown(inspector, address, {**run, **params})
    assert said in html
    assert 'role="alert"' not in html
    assert not set(params.values()) & values(html)


def test_a_second_run_that_is_gone(place: tuple[Inspector, dict[str, str]]) -> None:
    inspector, ids = place
    for dead in (ids["deleted"], "0" * 32):
        html = shown(inspector, "regressions", {"run": ids["first"], "base_run": dead, "base": "1"})
        assert "compares with iterations of the same run" in html
        assert dead not in values(html)
        for side in ("left", "right"):
            other = "right" if side == "left" else "left"
            html = shown(inspector, "compare", {side: dead, f"{side}_at": "1", other: ids["first"]})
            assert 'role="alert"' in html
            assert dead not in values(html)
            assert ids["first"] in links(html)


def test_what_exists_is_shown_without_a_word(place: tuple[Inspector, dict[str, str]]) -> None:
    inspector, ids = place
    for page in BY_RUN:
        html = shown(inspector, page.address, {"run": ids["first"], "iteration": "2", "language": "es"})
        assert "has no iteration" not in html
        assert "has nothing in" not in html
        assert "data-asks-again" not in html


def test_a_store_that_is_away_is_asked_again(
    place: tuple[Inspector, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever store it is; and when it is back the same address shows the page."""
    inspector, ids = place

    def away(*arguments: object, **named: object) -> object:
        raise TrackingError("sqlite:///x: the tracking store does not answer; is it running?")

    for owner, name in (
        (inspector.catalogue, "experiments"),
        (inspector.catalogue, "arm"),
        (inspector.catalogue, "artifact"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, away)
            for page in BY_RUN:
                if name == "artifact" and page.address not in ("pairs", "margins", "spot-check"):
                    continue
                html = shown(inspector, page.address, {"run": ids["first"]})
                assert "data-asks-again" in html, (page.title, name)
                assert ASKS_AGAIN in html
                assert f"run={ids['first']}" in links(html), "the run is not gone, its store is"
        assert "data-asks-again" not in shown(inspector, "pairs", {"run": ids["first"]})
