"""Review links: nothing of one can be edited, nothing of the run is disclosed before its batch is done, and a batch is the same anywhere."""

from __future__ import annotations

import base64
import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from icr_platform.core.errors import InputError
from icr_platform.tracking.tracker import Tracker
from tests.support import synthetic_runs
from ui.pages import review, spot_check
from ui.pages.inspector import Inspector
from ui.pages.review import Asked
from ui.review import batches, links, recording
from ui.review.counted import counted
from ui.review.items import Item
from ui.review.links import GoldPair, ReviewLink, id_in, new_link, signed_id
from ui.review.making_links import AskedLink, asked_link, make_link
from ui.review.secret import KEY_BYTES, Secret
from ui.server.app import open_inspector
from ui.server.options import InspectOptions
from ui.tables.view import parse_view

SECRET = Secret(bytes(range(KEY_BYTES)))
GOLD = GoldPair("es", "g1", "¿Qué es?", "Una respuesta buena.", "Mala.", "What is it?", (("system", "S"),))


def link_of(**changes: object) -> ReviewLink:
    made = new_link("run", "es", "random", 2, None, items=20, overlap=25, gold=[GOLD] * 4)
    return replace(made, **changes)  # type: ignore[arg-type]


# --- the address ----------------------------------------------------------------------------------------------------

GOOD = signed_id(link_of(id="0123456789ab"), SECRET)


@pytest.mark.parametrize(
    "typed",
    [GOOD, f" {GOOD}", f"{GOOD}\n", f"{GOOD}.", f"{GOOD},", f"{GOOD})", f"<{GOOD}>"[1:], f"{GOOD}»", f'{GOOD}"', GOOD.upper(), f"\ufeff{GOOD}",
     f"{GOOD}\u200b", f"{GOOD}!?"],
)  # fmt: skip
def test_what_mail_adds_to_an_address_does_no_harm(typed: str) -> None:
    assert id_in(typed, SECRET) == "0123456789ab"


@pytest.mark.parametrize(
    "typed",
    ["", ".", GOOD[:-1], GOOD[1:], GOOD + "0", GOOD.replace("0123", "0124"), GOOD[:13] + "0" * 20, GOOD.partition(".")[0], GOOD.replace(".", ""),
     GOOD.replace(".", "/"), signed_id(link_of(id="0123456789ab"), Secret(bytes(KEY_BYTES))), f"{GOOD}&overlap=100", f"{GOOD} {GOOD}", "ö" * 33,
     "\x00" * 33, "x" * 100_000, GOOD.replace("1", "１", 1), "0123456789ab.", "../../etc/passwd"],
)  # fmt: skip
def test_an_address_that_was_changed_or_cut_is_refused(typed: str) -> None:
    with pytest.raises(InputError, match=r"not complete, or was changed.*Copy it again"):
        id_in(typed, SECRET)


def test_tokens_say_nothing_and_cannot_be_changed() -> None:
    values = {"run": "the-run", "queue": "smallest-margin", "left": "chosen", "iteration": 2}
    token = SECRET.seal(values)
    assert SECRET.unseal(token) == values
    seen = token.encode() + base64.urlsafe_b64decode(token + "==")
    assert not [word for word in ("the-run", "margin", "chosen", "iteration") if word.encode() in seen]
    assert SECRET.seal(values) != token, "the same item has another token each time"
    for bad in (token[:-6] + "AAAAA=", "A" + token[1:], token[:40], "", "{}", '{"item": {}}', "ü", token + "x" * 9):
        with pytest.raises(InputError, match="out of date"):
            SECRET.unseal(bad)
    with pytest.raises(InputError):
        Secret(bytes(KEY_BYTES)).unseal(token)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"items": 0}, "items is 0"), ({"items": 10_001}, "items"), ({"overlap": -1}, "overlap"), ({"overlap": 101}, "overlap"), ({"days": 0}, "days"),
     ({"days": -3}, "days"), ({"days": 366}, "days"), ({"gold": [GOLD] * 201}, "gold"), ({"guidelines": "g" * 50_001}, "50,001 characters")],
)  # fmt: skip
def test_bounds_of_a_link(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        new_link("run", "es", "random", 2, None, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no queue"):
        new_link("run", "es", "hardest", 2, None)


@pytest.mark.parametrize("name", ["items", "overlap", "days", "iteration", "base"])
@pytest.mark.parametrize("text", ["many", "1e3x", "3;", "٣ x", "--"])
def test_fields_that_are_no_numbers(name: str, text: str) -> None:
    with pytest.raises(InputError, match=f"{name} is a number"):
        asked_link({name: text})


def test_gold_pairs_are_stored_as_they_were() -> None:
    link = link_of()
    assert links.from_row(links.as_row(link)) == link
    assert links.from_json(links.to_json([GOLD])) == (GOLD,)


def test_places_of_a_batch() -> None:
    """As many shared, own and gold ones as the link says, the gold ones spread; the same when she comes back, others for others."""
    link = link_of()
    batches_of = {name: link.places(SECRET, name) for name in ("Ana", "Ben", "Cleo")}
    for places in batches_of.values():
        assert Counter(places) == {"shared": 5, "own": 15, "gold": 4}
        gold = [number for number, place in enumerate(places) if place == "gold"]
        assert all(later - earlier < 14 for earlier, later in itertools.pairwise(gold))
    assert link.places(SECRET, " ANA ") == batches_of["Ana"]
    assert len(set(map(tuple, batches_of.values()))) == 3
    assert link.places(Secret(bytes(KEY_BYTES)), "Ana") != batches_of["Ana"], "nobody can tell beforehand where gold is"
    assert Counter(replace(link, overlap=100, gold=()).places(SECRET, "Ana")) == {"shared": 20}
    assert Counter(replace(link, overlap=0).places(SECRET, "Ana")) == {"own": 20, "gold": 4}


# --- over a run -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, Tracker]]:
    folder = tmp_path_factory.mktemp("links")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        tracker = synthetic_runs.open_tracker(folder)
        yield folder, synthetic_runs.small_run(tracker, folder / "artifacts", per_language=30).run_id, tracker


@pytest.fixture
def inspector(run: tuple[Path, str, Tracker], tmp_path: Path) -> Inspector:
    uri = f"sqlite:///{run[0] / 'mlflow.db'}"
    return open_inspector(InspectOptions(tracking_uri=uri, verdicts=str(tmp_path / "verdicts.db")))


def made(inspector: Inspector, run_id: str, **asked: object) -> ReviewLink:
    wanted = AskedLink(**{"language": "es", "items": 6, "overlap": 50, **asked})  # type: ignore[arg-type]
    return make_link(inspector, inspector.links, inspector.catalogue.arm(run_id), wanted).link


def page(inspector: Inspector, link: ReviewLink, reviewer: str, goes_on: bool = True) -> review.Offer:
    return review.offer(inspector, Asked(signed_id(link, inspector.links.secret), reviewer, goes_on=goes_on))


def state(offered: review.Offer) -> str:
    found = re.search(r'data-state="(\w+)"', offered.html)
    assert found is not None
    return found[1]


def judge(inspector: Inspector, token: str, reviewer: str, choice: str = "left") -> recording.Reveal:
    return recording.record(inspector, inspector.verdicts, inspector.links, reviewer, choice, token, through_link=True)


def judge_all(inspector: Inspector, link: ReviewLink, reviewer: str) -> list[review.Offer]:
    """The pages of a whole batch, the last one without an item."""
    pages = [page(inspector, link, reviewer)]
    while pages[-1].token:
        judge(inspector, pages[-1].token, reviewer)
        pages.append(page(inspector, link, reviewer))
    return pages


@pytest.mark.parametrize("queue", ["random", "largest-margin", "regressions"])
def test_nothing_is_disclosed_before_the_batch_is_done(
    inspector: Inspector, run: tuple[Path, str, Tracker], queue: str
) -> None:
    """Neither in the text nor in attributes, and the page is the same whether the chosen one stands left or right."""
    link = made(inspector, run[1], queue=queue, gold="2", guidelines="Be *fair*.")
    start = page(inspector, link, "", goes_on=False)
    pages = [start, *judge_all(inspector, link, "Ana")]
    assert [state(offered) for offered in pages] == ["start", *["item"] * 8, "done"]
    hidden = (
        "chosen",
        "rejected",
        "before",
        "after",
        "margin",
        "reward",
        r"judge\b",
        "iteration",
        "score",
        "random",
        "regress",
        "gold",
        "spoilt",
    )
    secrets = (run[1], "pair:", "outputs:", link.queue)
    for offered in pages[:-1]:
        body = re.sub(r"<dialog class=\"keys\".*?</dialog>", "", offered.html, flags=re.S).lower()
        assert not [word for word in hidden if re.search(rf"\b{word}", body)]
        assert not [text for text in secrets if text in offered.html]
        assert set(re.findall(r'(?:href|data-url|action)="([^"]*)"', body)) <= {
            links.address_of(link, inspector.links.secret).lower(),
            f"{links.address_of(link, inspector.links.secret).lower()}&amp;start=1",
        }
    done = pages[-1].html
    assert "What the run preferred" in done
    assert "checked attention" in done
    assert 'href="/pairs?' in done or 'href="/regressions?' in done


def test_batches_of_ten_reviewers(inspector: Inspector, run: tuple[Path, str, Tracker]) -> None:
    """Everybody gets the shared items, nobody another's own, and the sides differ; a batch goes on wherever she writes her name."""
    link = made(inspector, run[1], items=4, overlap=50, gold="1")
    names = [f"reviewer {number}" for number in range(10)]
    for name in names:
        first = page(inspector, link, name)
        assert page(inspector, link, name.upper()).html.count("data-item") == 1
        alias = re.search(r'data-item="(\w+)"', first.html)
        again = re.search(r'data-item="(\w+)"', page(inspector, link, f" {name.upper()} ").html)
        assert alias is not None
        assert again is not None
        assert alias[1] == again[1], "another device, another spelling"
        assert state(judge_all(inspector, link, name)[-1]) == "done"
    given = inspector.verdicts.current(run[1])
    assert len(given) == 50
    by_item = Counter(verdict.item for verdict in given)
    assert sorted(Counter(by_item.values()).items()) == [(1, 20), (10, 3)], "2 shared, 1 gold, 2 of her own each"
    assert {verdict.left for verdict in given} == {"chosen", "rejected"}
    assert {(verdict.link, verdict.blind, verdict.disclosed, verdict.queue) for verdict in given} == {
        (link.id, True, False, "random")
    }
    found = counted(given)
    assert (len(found.blind), len(found.gold), len(found.targeted), len(found.open)) == (40, 10, 0, 0)
    assert {verdict.gold for verdict in found.gold} == {"chosen"}
    section = spot_check_free_agreement(inspector, run[1])
    assert section.count("reviewer 3") == 3, "in the table of reviewers, with what leaves her out, and in that of links"


def spot_check_free_agreement(inspector: Inspector, run_id: str) -> str:
    from ui.pages import agreement

    focus = inspector.focus(parse_view({"run": run_id}).view)
    assert focus is not None
    html = str(agreement.show(inspector, focus).main)
    rows = html[html.index("<h2>Reviewers</h2>") :]
    assert re.search(r"reviewer 3.*?(0|1) of 1</td>", rows, re.S), "gold accuracy is the lead's to see"
    return re.sub(r"reviewer 3</bdi> –|– <bdi>reviewer 3", "", rows)


def test_what_is_changed_after_the_end_is_marked(inspector: Inspector, run: tuple[Path, str, Tracker]) -> None:
    link = made(inspector, run[1], items=3, overlap=100)
    first = page(inspector, link, "Ana")
    judge(inspector, first.token, "Ana", "right")
    second = page(inspector, link, "Ana")
    undone = recording.undo(inspector.verdicts, inspector.links.secret, "Ana", run[1], second.token, link.id)
    assert undone is not None
    judge(inspector, page(inspector, link, "Ana").token, "Ana")
    assert not any(verdict.disclosed for verdict in inspector.verdicts.current(run[1])), "nothing was told yet"
    assert state(judge_all(inspector, link, "Ana")[-1]) == "done"
    assert recording.undo(inspector.verdicts, inspector.links.secret, "Ana", run[1], "", link.id) is not None
    changed = page(inspector, link, "Ana")
    assert state(changed) == "item"
    judge(inspector, changed.token, "Ana", "tie")
    found = counted(inspector.verdicts.current(run[1]))
    assert (len(found.blind), [verdict.choice for verdict in found.open]) == (2, ["tie"])
    other = made(inspector, run[1], items=30, overlap=100)
    offered = batches.batch_of(
        inspector, inspector.verdicts, inspector.catalogue.arm(run[1]), other, inspector.links.secret, "Ana"
    )
    assert offered.progress.total == 27, "what she was told about is not asked again through another link"


def test_each_page_takes_its_own_tokens_only(inspector: Inspector, run: tuple[Path, str, Tracker]) -> None:
    """Spot-check would tell what the run preferred of an item of a link."""
    link = made(inspector, run[1])
    offered = page(inspector, link, "Ana")
    with pytest.raises(InputError, match="out of date"):
        recording.record(inspector, inspector.verdicts, inspector.links, "Ana", "left", offered.token)
    focus = inspector.focus(parse_view({"run": run[1], "language": "es"}).view)
    assert focus is not None
    looked = spot_check.offer(inspector, focus, "Ana")
    with pytest.raises(InputError, match="out of date"):
        judge(inspector, looked.token, "Ana")
    with pytest.raises(InputError, match="name has changed"):
        judge(inspector, offered.token, "Ben")
    recording.record(inspector, inspector.verdicts, inspector.links, "Ana", "left", looked.token)
    assert recording.undo(inspector.verdicts, inspector.links.secret, "Ana", run[1], "", link.id) is None
    assert len(inspector.verdicts.current(run[1])) == 1


def test_links_that_lead_nowhere_say_so(inspector: Inspector, run: tuple[Path, str, Tracker]) -> None:
    link = made(inspector, run[1])
    token = page(inspector, link, "Ana").token
    ended = inspector.links.add(replace(link, id="0" * 12, expires_at="2026-01-01T00:00:00+00:00"))
    old = recording.new_token(
        inspector.links.secret, Item("pair", 2, None, "es", "p1"), run[1], "random", True, "chosen", "Ana", ended.id
    )
    doomed = run[2].start("doomed", {"icr.kind": "arm", "icr.arm": "doomed"})
    deleted = inspector.links.add(replace(link, id="1" * 12, run_id=doomed.run_id))
    mlflow.MlflowClient(f"sqlite:///{run[0] / 'mlflow.db'}").delete_run(doomed.run_id)
    unknown = replace(link, id="2" * 12)
    for bad, said in ((ended, "ended on 2026-01-01"), (deleted, "was deleted"), (unknown, "not known here any more")):
        found = page(inspector, bad, "Ana")
        assert (state(found), found.token) == ("closed", "")
        assert said in found.html
        assert "ask" in found.html.lower() or "tell" in found.html.lower(), "what to do"
        assert bad.run_id not in found.html
    with pytest.raises(InputError, match=r"has ended.*not saved"):
        judge(inspector, old, "Ana")
    changed = review.offer(inspector, Asked(signed_id(link, inspector.links.secret)[:-1] + "x", "Ana"))
    assert "was changed" in changed.html
    judge(inspector, token, "Ana")
    assert len(inspector.verdicts.current(run[1])) == 1


def test_what_a_lead_asks_for_in_vain(inspector: Inspector, run: tuple[Path, str, Tracker]) -> None:
    for asked, said in (
        ({"language": ""}, "Say in which language.*bn, es|Say in which language"), ({"language": "xx"}, "no language 'xx'"),
        ({"queue": "hardest"}, "no queue"), ({"iteration": 9}, "no iteration 9"), ({"iteration": 0}, "Iteration 0"),
        ({"queue": "regressions", "iteration": 0}, "none was evaluated before"), ({"gold": "500"}, "at most 200"),
        ({"gold": "/nowhere.csv"}, "nowhere.csv"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            made(inspector, run[1], **asked)
    assert inspector.links.of_run(run[1]) == []
    notes = make_link(inspector, inspector.links, inspector.catalogue.arm(run[1]), AskedLink("es", items=500)).notes
    assert "a reviewer gets 30 at most, not 500" in notes[0]


def test_gold_pairs_of_a_file(inspector: Inspector, run: tuple[Path, str, Tracker], tmp_path: Path) -> None:
    path = tmp_path / "gold.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "language", "prompt", "chosen", "rejected"])
        rows.writerow(["a", "es", "¿2+2?", "Son 4.", "Son 5."])
        rows.writerow(["b", "en", "2+2?", "4.", "5."])
    link = made(inspector, run[1], gold=str(path))
    assert [(pair.prompt_id, pair.better, pair.worse, pair.made) for pair in link.gold] == [
        ("a", "Son 4.", "Son 5.", "file")
    ]
    pages = judge_all(inspector, link, "Ana")
    assert sum("Son 5." in offered.html for offered in pages) == 1
    (verdict,) = counted(inspector.verdicts.current(run[1])).gold
    assert verdict.prompt_id == f"{link.id}/a"
    path.write_text("id,language,prompt,response_a,response_b,winner\na,es,x,1,2,tie\n")
    with pytest.raises(InputError, match="tie"):
        made(inspector, run[1], gold=str(path))
