"""Run the benchmarks that are named, or all of them, and write a summary."""

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.settings import RESULTS, Settings
from benchmarks.summary import write_summary
from pipeline.cli.memory import keep_freed_memory

NAMES = ("extract", "reading", "step", "predict", "rounding", "memory", "many", "repro", "gpu")


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}, summary")
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument("--quick", action="store_true", help="small sizes, a few minutes in all")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--work", type=Path, help="folder on the disk to measure; it is emptied")
    parser.add_argument(
        "--opponents-python",
        default=sys.executable,
        help="interpreter of an environment that has the packages of the extra 'bench'",
    )
    options = parser.parse_args()
    if unknown := set(options.names) - {*NAMES, "summary"}:
        parser.error(f"no benchmark {min(unknown)}; there are {', '.join(NAMES)}, summary")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    keep_freed_memory()  # as every command does; the opponents gain from it as well
    settings = Settings(
        scale="quick" if options.quick else "full",
        rounds=options.rounds,
        results=options.results,
        opponents_python=options.opponents_python,
        **({"work": options.work} if options.work else {}),
    )
    for name in [name for name in options.names if name != "summary"] or (
        [] if options.names else NAMES
    ):
        result = importlib.import_module(f"benchmarks.{name}").run(settings)
        result.write(settings.results)
        print(result.table(), flush=True)
    print(f"{write_summary(settings.results)} has the summary")


if __name__ == "__main__":
    main()
