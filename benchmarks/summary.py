"""All goals in one table, made from the JSON files of the benchmarks."""

from pathlib import Path

from benchmarks.machine import in_a_line
from benchmarks.results import Result

_ORDER = ("extract", "reading", "step", "predict", "rounding", "memory", "many", "repro", "gpu")


def write_summary(folder: Path) -> Path:
    """Write ``README.md`` beside the results, and give its path."""
    found = [Result.read(path) for name in _ORDER if (path := folder / f"{name}.json").is_file()]
    path = folder / "README.md"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(summary(found))
    return path


def summary(results: list[Result]) -> str:
    """Put every figure that has a goal into one table."""
    lines = [
        "# What was to be reached, and what was",
        "",
        "Made by `python -m benchmarks summary` from the JSON files beside it; `make bench` "
        "measures everything again. A figure is a median with its quartiles.",
        "",
        "| what | goal | reached | | by |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        for row in result.rows:
            if row.goal is None:
                continue
            figure = row.text if row.value is not None else row.note
            link = f"[{result.name}]({result.name}.md)"
            lines.append(f"| {row.what} | {row.goal} | {figure} | {row.reached} | {link} |")
    lines += ["", "Measured on:", ""]
    for result in results:
        scale = result.settings.get("scale", "full")
        doubt = "" if scale == "full" else f" ({scale}: sizes too small for figures to report)"
        lines.append(f"* {result.name}: {in_a_line(result.machine)}{doubt}")
    return "\n".join(lines) + "\n"
