"""Results as small tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from refseg.evaluation.metrics import AP_COLUMNS, COLUMNS


def format_results(results: dict[str, Any]) -> str:
    """What ``evaluate`` returns: a row for all samples, and one per kind of expression that the data set knows."""
    parts = {name: results[name] for name in ("motion", "static") if name in results}
    lines = list(_rows({"all": results, **parts, **results.get("by_kind", {})}, COLUMNS))
    if "mAP" in results:
        found = ", ".join(f"{name} {results[name]:.3f}" for name in AP_COLUMNS if results[name] is not None)
        lines.append(f"{found}, of {results['n_predictions']} predictions.")
    lines.append(f"P@K counts IoU {results['at_threshold']} K (protocol {results['protocol']}).")
    if "protocols" in results:
        lines += ["", *protocol_table(results["protocols"])]
    return "\n".join(lines)


def format_scores(results: dict[str, Any]) -> str:
    """What ``score_files`` returns: one or two tables, and a sentence on what was counted."""
    counted = f"{results['predictions']} predictions for {results['N']} samples"
    if "protocols" in results:
        lines = [*protocol_table(results["protocols"]), "", f"{counted}."]
    else:
        lines = list(_rows({"": results}, COLUMNS))
        if "mAP" in results:
            lines += ["", *_rows({"": results}, AP_COLUMNS)]
        lines += ["", f"{counted}; P@K counts IoU {results['at_threshold']} K (protocol {results['protocol']})."]
    if results["missing"]:
        ranked = ", but mAP does not rank them" if "mAP" in results else ""
        lines.append(f"{results['missing']} samples have no prediction: they count as empty masks{ranked}.")
    return "\n".join(lines)


def protocol_table(scores: dict[str, dict[str, Any]]) -> list[str]:
    """The same answers by several protocols: a row of scores for each, and what each protocol does."""
    columns = [*COLUMNS, *(["mAP"] if any("mAP" in row for row in scores.values()) else [])]
    width = max(map(len, scores))
    said = [f"{name:<{width}}  {row['says']}; P@K counts IoU {row['at_threshold']} K" for name, row in scores.items()]
    return [*_rows(scores, columns), "", *said]


def _rows(rows: dict[str, dict[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """A head and one line per row, columns under each other."""
    width, widths = max(map(len, rows)), [max(8, len(name) + 2) for name in columns]
    yield " " * width + "".join(f"{name:>{wide}}" for name, wide in zip(columns, widths))
    for name, row in rows.items():
        cells = ("-" if row.get(c) is None else row[c] if isinstance(row[c], int) else f"{row[c]:.3f}" for c in columns)
        yield f"{name:<{width}}" + "".join(f"{cell:>{wide}}" for cell, wide in zip(cells, widths))
