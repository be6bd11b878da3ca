"""The inspector on a synthetic run of a million samples: first page, filter and sort, memory; and Compare on two arms of the published size.

    python tests/benchmarks/bench_inspector.py [--folder DIR] [--samples N] [--requests N]

Every time is that of a whole page as the server makes it (store, tables, query, HTML), in a process that has Gradio loaded. With
--folder the run is kept there and used again. The texts are put together from 1,994 sentences, so they compress better than real ones.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.support import compared_runs, synthetic_runs
from ui.pages.inspector import Inspector
from ui.pages.shell import render_page
from ui.pages.table_of_pages import PAGES
from ui.server.app import open_inspector
from ui.server.options import InspectOptions

LANGUAGES = ("en", "bn", "de", "es", "fr", "ru", "sw", "th", "zh")


def prepared(folder: Path, samples: int) -> str:
    """Run id of the synthetic run, made when the folder has none."""
    known = folder / f"run-{samples}.txt"
    tracker = synthetic_runs.open_tracker(folder)
    if not known.exists():
        print(f"writing {samples:,} samples to {folder} ...", flush=True)
        known.write_text(synthetic_runs.million_run(tracker, folder / "artifacts", samples).run_id)
    return known.read_text()


def timed(action: Callable[[], str]) -> tuple[float, str]:
    start = time.perf_counter()
    html = action()
    return 1000 * (time.perf_counter() - start), html


def page(inspector: Inspector, address: str, run: str, **params: object) -> tuple[float, str]:
    named = {"run": run, "iteration": "1", **{key: str(value) for key, value in params.items()}}
    (wanted,) = (page for page in PAGES if page.address == address)
    taken, html = timed(lambda: render_page(inspector, wanted, named))
    assert "message error" not in html, html[html.index("message error") :][:400]
    return taken, html


def requests(count: int) -> list[dict[str, object]]:
    """Filters and sorts as a person combines them; seeded."""
    rng = random.Random(7)
    made: list[dict[str, object]] = []
    for _ in range(count):
        params: dict[str, object] = {
            "sort": rng.choice(("margin", "chosen_reward", "rejected_reward", "chosen_characters", "prompt_id"))
        }
        params["order"] = rng.choice(("asc", "desc"))
        if rng.random() < 0.6:
            params["language"] = rng.choice(LANGUAGES)
        if rng.random() < 0.5:
            params["margin_min"] = round(rng.uniform(1, 4), 2)
        if rng.random() < 0.3:
            params["length_max"] = rng.randrange(400, 1500)
        if rng.random() < 0.2:
            params["dropped"] = "truncated"
        if rng.random() < 0.4:
            params["start"] = 50 * rng.randrange(1, 20)
        made.append(params)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=60)
    given = parser.parse_args()
    import ui.server.gradio_app  # noqa: F401 - Gradio's memory counts

    with tempfile.TemporaryDirectory(prefix="icr-bench-") as temporary:
        folder = given.folder or Path(temporary)
        run = prepared(folder, given.samples)
        process = psutil.Process()
        idle = process.memory_info().rss
        options = InspectOptions(
            tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", verdicts=str(Path(temporary) / "verdicts.db")
        )
        inspector = open_inspector(options)
        first, _ = page(inspector, "pairs", run)
        once, _ = page(inspector, "pairs", run, sort="margin")
        times = [page(inspector, "pairs", run, **params)[0] for params in requests(given.requests)]
        rows = [
            ("first page of pairs, nothing cached", first),
            ("first sort, which waits for the index", once),
            (f"filter and sort, median of {len(times)}", statistics.median(times)),
            (f"filter and sort, 95% of {len(times)}", statistics.quantiles(times, n=20)[-1]),
            (
                "one pair with its samples",
                page(inspector, "pairs", run, id="prompt-000777", id_language="es")[0],
            ),
            ("search in one language", page(inspector, "pairs", run, q="number 999", language="th")[0]),
            ("Margins, all languages, first time", page(inspector, "margins", run)[0]),
            ("Margins, again", page(inspector, "margins", run)[0]),
            ("Regressions, first time", page(inspector, "regressions", run, base=0)[0]),
            ("Regressions, again", page(inspector, "regressions", run, base=0)[0]),
        ]
        left, right = compared_runs.wide_runs(synthetic_runs.open_tracker(folder), Path(temporary) / "wide")
        sides: dict[str, object] = {"left": left, "right": right}
        rows += [
            ("Compare, 13 languages x 805 x 2, first time", page(inspector, "compare", run, **sides)[0]),
            ("Compare, again", page(inspector, "compare", run, **sides)[0]),
            ("Compare, one language", page(inspector, "compare", run, language="sw", **sides)[0]),
            ("Compare, one prompt", page(inspector, "compare", run, id="eval-00007", id_language="sw", **sides)[0]),
        ]
        for name, milliseconds in rows:
            print(f"{name:<45}{milliseconds:>8.0f} ms")
        print(f"{'resident memory, idle with Gradio loaded':<45}{idle / 2**20:>8.0f} MiB")
        print(f"{'resident memory, most':<45}{_peak() / 2**20:>8.0f} MiB")


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
