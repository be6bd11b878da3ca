"""What lies on disk reads as what it was: token ids, by themselves and as rows of a training, and values of prompts; and no kill leaves a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from icr_platform.core.disk_rows import OfPrompts
from icr_platform.training.preference_parts import TrainingRows
from icr_platform.training.token_rows import TokenRows

ANY_CHARACTER = st.characters(codec=None)  # half a surrogate pair among them, as a damaged file may have
IDS = st.lists(st.integers(0, 2**31 - 1), max_size=5)


@given(st.lists(IDS, min_size=1), st.data())
def test_rows_on_disk_are_the_lists_that_they_were(lists: list[list[int]], data: st.DataObject) -> None:
    half = data.draw(st.integers(0, len(lists)))
    rows = TokenRows(lists[:half])
    assert rows == lists[:half]  # what is read in between does not move where the next are written
    for ids in lists[half:]:
        rows.append(ids)
    assert rows == lists
    places = data.draw(st.lists(st.integers(-len(lists), len(lists) - 1)))
    assert [rows[place] for place in places] == [lists[place] for place in places]
    part = data.draw(st.slices(len(lists)))
    assert rows[part] == lists[part]


@given(st.lists(IDS, min_size=1), st.data())
def test_a_trainers_data_set_reads_a_row_as_it_reads_many(lists: list[list[int]], data: st.DataObject) -> None:
    rows = TrainingRows({"prompt_ids": TokenRows(lists), "chosen_ids": lists}, {"language": list(range(len(lists)))})
    expected = [{"language": row, "prompt_ids": ids, "chosen_ids": ids} for row, ids in enumerate(lists)]
    assert list(rows) == expected
    places = data.draw(st.lists(st.integers(0, len(lists) - 1), min_size=1))
    assert [rows[place] for place in places] == rows.__getitems__(places) == [expected[place] for place in places]


@given(st.lists(st.tuples(st.sampled_from(["en", "es"]), st.sampled_from("abc"), st.lists(st.text(ANY_CHARACTER)))))
def test_values_of_prompts_are_those_of_a_dictionary(given_values: list[tuple[str, str, list[str]]]) -> None:
    found: OfPrompts[list[str]] = OfPrompts()
    expected = {}
    for language, prompt_id, value in given_values:
        found[language, prompt_id] = value
        expected[language, prompt_id] = value
        assert found == expected
    assert [key for code in ("en", "es") for key in found if key[0] == code] == [
        key for code in ("en", "es") for key in expected if key[0] == code
    ]


def test_a_kill_leaves_no_file(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal, sys; from icr_platform.training.token_rows import TokenRows\n"
        "rows = TokenRows([[1, 2]] * 100_000, pathlib.Path(sys.argv[1])); assert rows[-1] == [1, 2]\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == []
