"""One self-contained HTML page per run: ``python -m jaxvid.viz.report WORKDIR``."""

import argparse
import base64
import json
import re
import shlex
import sys
from pathlib import Path

from jaxvid.viz import canvas, confusion, curves, html, inspection, reconstruction
from jaxvid.viz.runs import RunError, RunFiles, read_run

HEADLINE = ("test", "linear", "attentive", "knn")  # evaluations by name, the most telling first


def write_report(workdir: str | Path) -> Path:
    """Write ``report.html`` from what a run has stored so far.

    The page holds all its pictures and needs no network: result, evaluations with chance levels,
    reconstructions, curves, confusion, config, banner, versions, and the command to run again.

    Args:
      workdir: of the run.

    Returns:
      Path of the page.

    Raises:
      RunError: the folder is no workdir, or a file in it can't be parsed.
    """
    run = read_run(workdir)
    sections = (
        _headline(run),
        _evaluations(run),
        _inspections(run),
        _training(run),
        _confusions(run),
        _setup(run),
    )
    path = run.path / "report.html"
    partial = path.with_suffix(".partial")
    partial.write_text(html.page(f"{_title(run)} – jaxvid", [s for s in sections if s]))
    partial.replace(path)
    return path


def headline(run: RunFiles) -> tuple[str, float, float | None] | None:
    """The figure on top: name, value and chance level, by protocol and not by value.

    Top-1 of the first evaluation of ``HEADLINE`` that ran, raw weights first; else any top-1, else
    the first metric of the first evaluation; None without evaluations.
    """
    rows = list(run.latest().values())
    scored = [r for r in rows if r["metrics"].get("top1") is not None]
    if scored:
        order = {name: i for i, name in enumerate(HEADLINE)}
        row = min(scored, key=lambda r: (order.get(r["eval"], len(order)), r["weights"] != "raw"))
        name = f"top-1 %, {row['eval']}" + (", EMA" if row["weights"] == "ema" else "")
        return name, row["metrics"]["top1"], row["metrics"].get("chance")
    for row in rows:
        for metric, value in row["metrics"].items():
            return f"{metric}, {row['eval']}", value, None
    return None


def reproduce_command(run: RunFiles) -> str:
    """Command line that ran this, from the banner, else the general form."""
    found = re.search(
        r"^\s+command\s+(python -m jaxvid\.main .*--config=.*)$", run.banner, re.MULTILINE
    )
    if found:
        return found.group(1)
    return f"python -m jaxvid.main --config=<config file> --workdir={shlex.quote(run.path.name)}"


def _title(run: RunFiles) -> str:
    data = str(run.flat.get("data.manifest") or run.flat.get("data.source", ""))
    mixture = run.flat.get("data.mixture", "")
    paths = [entry.rpartition("=")[0] for entry in mixture.split(",")] if mixture else [data]
    names = [_data_name(Path(path)) for path in paths]
    return f"{run.flat.get('method.name', 'run')} on {' + '.join(names)}"


def _data_name(path: Path) -> str:
    return path.parent.name if path.stem == "manifest" and path.parent.name else path.stem


def _headline(run: RunFiles) -> str:
    items = []
    best = headline(run)
    if best:
        name, value, chance = best
        note = f" · chance {html.number(chance)}" if chance is not None else ""
        items.append((html.number(value), name + note))
    # The loss of a method with several objectives is their sum, which says little.
    loss = next((k for k in ("reconstruction", "loss") if k in run.scalars()), None)
    if loss:
        value = html.number(float(run.series(loss)[1][-1]))
        items.append((value, f"{curves.title_of(loss)}, last logged"))
    items.append((f"{run.steps:,}", "steps"))
    batch = run.flat.get("batch_size")
    if batch:
        items.append((f"{run.steps * batch:,}", "clips seen"))
    seconds = run.metrics[-1].get("train_seconds") if run.metrics else None
    if seconds:
        items.append((_duration(seconds), "training time"))
    if "devices" in run.versions:
        items.append((str(run.versions["devices"]), "device"))
    skipped = run.metrics[-1].get("skipped") if run.metrics else 0
    warning = ""
    if skipped:
        warning = (
            f'<p class="warn">{int(skipped)} update(s) were skipped because the loss or a gradient '
            "was not finite.</p>"
        )
    where = f'<p class="soft">run {html.escape(run.name)}, seed {run.flat.get("seed", "?")}</p>'
    return f"<h1>{html.escape(_title(run))}</h1>{where}{html.tiles(items)}{warning}"


def _evaluations(run: RunFiles) -> str:
    latest = run.latest()
    if not latest:
        return '<h2>Evaluation</h2><p class="soft">No evaluation has run yet.</p>'
    parts = ["<h2>Evaluation</h2>"]
    parts.append('<p class="soft">Last result of each evaluation; accuracies in percent.</p>')
    for name in dict.fromkeys(e for e, _ in latest):
        rows = [r for (e, _), r in latest.items() if e == name]
        metrics = list(dict.fromkeys(m for r in rows for m in r["metrics"]))
        body = [[r["weights"], r["step"], *(r["metrics"].get(m) for m in metrics)] for r in rows]
        header = ["weights", "step", *(m.replace("_", " ") for m in metrics)]
        judged = rows[-1].get("videos")
        soft = f' <span class="soft">{judged:,} videos</span>' if judged else ""
        parts += [f"<h3>{html.escape(name)}{soft}</h3>", html.table(header, body)]
    figures = curves.eval_curves(run)
    if figures:
        parts.append("<h3>During training</h3>")
        note = "A dot is an evaluation, over the optimiser steps until then; dashed: chance."
        parts.append(f'<p class="soft">{note}</p>')
        parts.append(_multiples(figures))
    return "\n".join(parts)


def _inspections(run: RunFiles) -> str:
    folder = run.path / "figures"
    stored = sorted(folder.glob("inspect-*.npz"), key=lambda p: int(p.stem.split("-")[1]))
    others = [p for p in sorted(folder.glob("*.png")) if not p.name.startswith("reconstruction-")]
    if not stored and not others:
        return ""
    parts = ["<h2>Pictures</h2>"]
    if stored:
        data = inspection.load_inspection(stored[-1])
        step = stored[-1].stem.split("-")[1]
        mode = "pixel" if run.flat.get("method.target") == "pixel" else "oracle"
        parts.append(f'<p class="soft">At step {step}.</p>')
        parts.append(f'<p class="soft">{html.escape(reconstruction.caption(data, mode))}</p>')
        clips = range(len(data["video"]))
        parts.append(html.large_multiples(_reconstruction(data, clip, mode) for clip in clips))
        if mode == "oracle":
            body = _reconstruction(data, 0, "normalised")
            parts.append(html.fold("The first clip in normalised patch space", body))
    for path in others:
        code = base64.b64encode(path.read_bytes()).decode()
        image = f'<img alt="{html.escape(path.stem)}" src="data:image/png;base64,{code}">'
        parts.append(html.figure(image, path.stem.replace("_", " "), wide=True))
    return "\n".join(parts)


def _reconstruction(data: dict, clip: int, mode: str) -> str:
    fig = reconstruction.reconstruction_figure(data, clip, mode)
    svg = canvas.to_svg(fig, f"clip{clip}{mode}", f"reconstruction of clip {clip}, {mode}", 110)
    named = {
        "oracle": ", with oracle patch statistics",
        "normalised": f". {reconstruction.MODES[mode]}",
    }
    return html.figure(svg, f"Clip {clip + 1}{named.get(mode, '')}", wide=True)


def _training(run: RunFiles) -> str:
    figures = curves.training_curves(run)
    if not figures:
        return ""
    still = [
        f"{curves.title_of(key)} {html.number(value)}"
        for key, value in curves.constants(run).items()
    ]
    note = f'<p class="soft">Constant: {html.escape(", ".join(still))}.</p>' if still else ""
    legend = f'<p class="soft">Over the optimiser steps. {curves.SMOOTHED}</p>'
    return f"<h2>Training</h2>{legend}{_multiples(figures)}{note}"


def _multiples(figures: dict) -> str:
    return html.small_multiples(
        canvas.to_svg(fig, name, curves.title_of(name)) for name, fig in figures.items()
    )


def _confusions(run: RunFiles) -> str:
    parts = []
    for name, weights in run.latest():
        arrays = run.per_example(name, weights)
        if not arrays or not {"label", "prediction"} <= arrays.keys():
            continue
        counts = confusion.make_confusion(arrays["label"], arrays["prediction"], run.classes)
        title = f"{name}, {weights} weights"
        fig = confusion.confusion_figure(counts, run.classes)
        svg = canvas.to_svg(fig, f"confusion{name}{weights}", f"confusion matrix of {title}")
        header = ["class", "examples", "accuracy %", "most frequent mistake"]
        rows = confusion.class_rows(counts, run.classes)
        body = html.figure(svg, "Rows sum to 100 %.") + html.table(header, rows)
        parts.append(html.fold(title, body, opened=not parts))
    return "<h2>Classes</h2>" + "\n".join(parts) if parts else ""


def _setup(run: RunFiles) -> str:
    flat = [(k, json.dumps(v) if not isinstance(v, str) else v) for k, v in run.flat.items()]
    parts = ["<h2>How to run this again</h2>"]
    parts.append(f'<pre class="wrap">{html.escape(reproduce_command(run))}</pre>')
    parts.append(html.fold("Config", html.table(["field", "value"], flat, wrap=True)))
    if run.banner:
        parts.append(html.fold("Start-up banner", f"<pre>{html.escape(run.banner)}</pre>"))
    if run.versions:
        rows = html.table(["what", "version"], run.versions.items(), wrap=True)
        parts.append(html.fold("Versions and hardware", rows))
    return "\n".join(parts)


def _duration(seconds: float) -> str:
    """Seconds as text.

    >>> _duration(42.1), _duration(600), _duration(90000)
    ('42 s', '10.0 min', '25.0 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m jaxvid.viz.report", description=__doc__)
    parser.add_argument("workdir", help="what --workdir of jaxvid.main named")
    try:
        print(write_report(parser.parse_args(argv).workdir))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
