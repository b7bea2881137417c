"""Manifests: one row per clip in csv or parquet.

Columns: ``path`` and, optionally, ``label`` (class name or number), ``label_id``, ``split``,
``start`` and ``end`` (seconds, for clips inside a longer video), ``group`` (clips of one recording
stay on one side when probes hold examples out), ``flow`` (the optical flow of ``path``),
``masks`` (a folder with the true segments of its frames) and ``text`` or ``caption`` (a sentence);
any others are kept by the file and ignored here. Relative paths start from ``root`` or from the
folder of the manifest. All of them may be URLs such as ``gs://bucket/videos``.
"""

import csv
import io
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from etils import epath

from jaxvid.core.config import ConfigError, suggest
from jaxvid.data.remote import check_scheme, is_url, join, parent, read_bytes


@dataclass(frozen=True, slots=True)
class Row:
    """One clip: resolved ``path``, seconds ``start`` to ``end`` (None = whole file), ``label``.

    Clips of one ``group`` come from one recording; without such a column, from one file. ``flow``
    is the resolved path of the optical flow, ``masks`` that of the true segments, ``text`` a
    sentence about the clip; "" = none.
    """

    key: str
    path: str
    label: int
    start: float | None = None
    end: float | None = None
    group: str = ""
    flow: str = ""
    text: str = ""
    masks: str = ""


@dataclass(frozen=True)
class Manifest:
    """The rows of one split.

    Attributes:
      origin: the file it was read from.
      rows: clips in the order of the file.
      class_names: names by label, over all splits; empty when the file has no labels.
    """

    origin: str
    rows: tuple[Row, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)


def read_table(path: str | os.PathLike) -> list[dict[str, str]]:
    """Rows of a csv or parquet file as text by column name.

    Raises:
      ConfigError: no such file, no library for its URL, unknown kind, damaged, no ``path`` column,
        no rows, ragged line.
    """
    suffix = os.path.splitext(path)[1]
    if suffix not in (".csv", ".parquet"):
        hint = ""
        if not is_url(path) and os.path.exists(os.path.join(path, "dataset_info.json")):
            hint = "; a folder of pack_videos needs --config.data.source=tfds"
        elif not is_url(path) and os.path.exists(os.path.join(path, "manifest.csv")):
            hint = f", as {os.path.join(path, 'manifest.csv')} does"
        raise ConfigError(f"manifest '{path}': must end in .csv or .parquet{hint}")
    file = io.BytesIO(read_bytes(path, f"manifest '{path}'"))
    try:
        columns, rows = (_read_csv if suffix == ".csv" else _read_parquet)(path, file)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 ({error.reason}); save it as 'CSV UTF-8'") from error
    if "path" not in columns:
        raise ConfigError(f"{path} line 1: no column 'path'; it has: {', '.join(columns)}")
    if not rows:
        raise ConfigError(f"{path}: no rows")
    return rows


def _read_parquet(path, file: io.BytesIO) -> tuple[list[str], list[dict[str, str]]]:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except pyarrow.ArrowException as error:
        raise ConfigError(f"{path}: can't be read ({error})") from error
    rows = [{k: "" if v is None else str(v) for k, v in row.items()} for row in table.to_pylist()]
    return table.column_names, rows


def _read_csv(path, file: io.BytesIO) -> tuple[list[str], list[dict[str, str]]]:
    reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
    columns, rows = [name.strip() for name in reader.fieldnames or []], []
    reader.fieldnames = columns
    for row in reader:
        if None in row or None in row.values():
            raise ConfigError(
                f"{path} line {reader.line_num}: expected {len(columns)} values "
                f"({','.join(columns)})"
            )
        rows.append(row)
    return columns, rows


def load_manifest(
    path: str | os.PathLike, split: str = "train", root: str = "", label_map: str = ""
) -> Manifest:
    """Rows of ``split``; without a ``split`` column every row belongs to "train".

    A split has labels in all rows or in none (-1). They are numbered over all splits: by
    ``label_id`` if there is such a column, else by the line of ``label_map``, else as they stand
    if all are whole numbers, else in the order of the names.

    Args:
      path: csv or parquet file, or its URL.
      split: value of the column ``split``.
      root: folder of relative paths; "" = the folder of ``path``.
      label_map: file with one class name per line, or "".

    Raises:
      ConfigError: with file and line, for a missing column, a bad label or a duplicate row; for an
        unknown split, with the splits there are.
    """
    table = read_table(path)
    labels, names = _labels(path, table, label_map)
    folder = root or parent(path)
    splits = sorted({row.get("split", "train") for row in table})
    if split not in splits:
        note = "" if "split" in table[0] else " (it has no column 'split')"
        raise ConfigError(
            f"{path}: no split '{split}'{note}; {suggest(split, splits)} "
            "(config.data.train_split and config.data.eval_split name them)"
        )
    rows, lines = [], {}
    for line, (row, label) in enumerate(zip(table, labels), start=2):
        if row.get("split", "train") != split:
            continue
        if not row["path"]:
            raise ConfigError(f"{path} line {line}: empty path")
        start, end = (_seconds(path, line, row, name) for name in ("start", "end"))
        if start is not None and end is not None and end <= start:
            raise ConfigError(f"{path} line {line}: end {end} is not after start {start}")
        key = row["path"] if start is end is None else f"{row['path']}@{start}-{end}"
        if key in lines:
            raise ConfigError(f"{path} line {line}: '{key}' is on line {lines[key]} already")
        lines[key] = line
        file = join(folder, row["path"])
        flow, masks = (join(folder, row[k]) if row.get(k) else "" for k in ("flow", "masks"))
        for url in filter(is_url, (file, flow)):
            check_scheme(url, f"{path} line {line}: ")
        text = row.get("text", "") or row.get("caption", "")
        group = row.get("group", "") or file
        rows.append(Row(key, file, label, start, end, group, flow, text, masks))
    return Manifest(str(path), tuple(rows), names)


def subset_rows(manifest: Manifest, share: float, seed: int) -> list[str]:
    """Keys of a class-balanced subset: ``max(1, round(share * n_c))`` rows of every class c.

    Drawn by a permutation of the sorted keys of the class, seeded by (seed, class).
    """
    classes = defaultdict(list)
    for row in manifest.rows:
        classes[row.label].append(row.key)
    chosen = []
    for label, keys in sorted(classes.items()):
        order = np.random.default_rng((seed, label + 1)).permutation(len(keys))
        keys = sorted(keys)
        chosen += [keys[i] for i in order[: max(1, round(share * len(keys)))]]
    return sorted(chosen)


def take_subset(manifest: Manifest, share: float, seed: int, list_file: Path) -> Manifest:
    """Subset of ``manifest`` kept by ``list_file`` (one key per line), written on first use.

    Raises:
      ConfigError: the list names rows that the manifest doesn't have.
    """
    if not list_file.is_file():
        if share == 1:
            raise ConfigError(f"config.data.subset_list={list_file}: no such file (subset is 1)")
        write_atomic(list_file, "\n".join(subset_rows(manifest, share, seed)) + "\n")
    keys = list_file.read_text().splitlines()
    strange = sorted(set(keys) - {row.key for row in manifest.rows})
    if strange:
        raise ConfigError(
            f"{list_file}: '{strange[0]}' ({len(strange)} in all) is not a row of "
            f"this split of {manifest.origin}; the list belongs to another manifest"
        )
    keep = set(keys)
    rows = tuple(row for row in manifest.rows if row.key in keep)
    return Manifest(manifest.origin, rows, manifest.class_names)


def write_atomic(path: Path | epath.Path, text: str) -> None:
    """Write ``text`` so that other processes see the whole file or none."""
    if is_url(path):  # objects of buckets appear when they are whole
        path.write_text(text)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def _labels(path, table, label_map: str) -> tuple[list[int], tuple[str, ...]]:
    """Label number of every row and the class names; -1 and () without labels."""
    texts = [row.get("label", "") for row in table]
    ids = [row.get("label_id", "") for row in table]
    column = "label_id" if any(ids) else "label"
    values = ids if any(ids) else texts
    if not any(values):
        return [-1] * len(table), ()
    labelled = {row.get("split", "train") for row, value in zip(table, values) if value}
    for line, (row, value) in enumerate(zip(table, values), start=2):
        if not value and row.get("split", "train") in labelled:
            raise ConfigError(
                f"{path} line {line}: empty {column}, other rows of its split have one"
            )
    if label_map:
        lines = read_bytes(label_map, f"config.data.label_map={label_map}").decode().splitlines()
        names = tuple(name.strip() for name in lines if name.strip())
        numbers = {name: i for i, name in enumerate(names)}
        for line, text in enumerate(texts, start=2):
            if text and text not in numbers:
                raise ConfigError(f"{path} line {line}: label '{text}' is not in {label_map}")
        return [numbers.get(text, -1) for text in texts], names
    if column == "label_id" or all(v.isdigit() for v in values if v):
        return _numbered(path, values, texts)
    names = tuple(sorted({v for v in values if v}))
    numbers = {name: i for i, name in enumerate(names)}
    return [numbers.get(v, -1) for v in values], names


def _numbered(path, values: list[str], texts: list[str]) -> tuple[list[int], tuple[str, ...]]:
    """Labels that are numbers already, with the name that stands beside each."""
    names = {}
    for line, (value, text) in enumerate(zip(values, texts), start=2):
        if not value:
            continue
        if not value.isdigit():
            raise ConfigError(f"{path} line {line}: label '{value}' is not a number from 0 up")
        known = names.setdefault(int(value), text or value)
        if known != (text or value):
            raise ConfigError(
                f"{path} line {line}: label {value} is called '{text}' here and '{known}' before"
            )
    count = max(names) + 1
    return [int(v) if v else -1 for v in values], tuple(names.get(i, str(i)) for i in range(count))


def _seconds(path, line: int, row: dict[str, str], name: str) -> float | None:
    """Value of a column of seconds, None where it is empty."""
    text = row.get(name, "")
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{path} line {line}: {name} '{text}' is not a number") from None
