"""Work items, each of which writes one file, in a local pool or as an Apache Beam pipeline.

An item is a pure function of its fields and its file appears only when it is whole. So items need
nothing from each other, a job that was killed goes on with those whose file is missing, and it
doesn't matter when a runner tries one twice.
"""

import pickle
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from etils import epath

from jaxvid.core.config import ConfigError, UserError
from jaxvid.data.remote import is_url

Item = TypeVar("Item")


def run_items(
    work: Callable[[Item], dict[str, int]],
    items: Sequence[Item],
    jobs: int,
    beam_flags: Sequence[str],
    scratch: epath.Path,
) -> Counter[str]:
    """``work`` for every item, in any order.

    Args:
      work: writes the file of an item and returns what it counted. For Beam it must be importable
        by its workers, or a ``partial`` of such a function.
      items: picklable.
      jobs: threads of the local pool; videos are decoded outside Python's lock.
      beam_flags: Beam's own flags, such as "--runner=DirectRunner"; empty = the local pool.
      scratch: folder that all workers see.

    Returns:
      The sums of what the items counted.

    Raises:
      UserError: the Beam job didn't finish; or what ``work`` raises.
    """
    if not items:
        return Counter()
    if beam_flags:
        return _run_beam(work, items, beam_flags, scratch)
    with ThreadPoolExecutor(jobs) as pool:
        return sum(map(Counter, pool.map(work, items)), Counter())


def import_beam():
    """The module ``apache_beam``.

    Raises:
      ConfigError: it isn't installed.
    """
    try:
        import apache_beam  # slow, and only jobs with a runner need it
    except ImportError as error:
        raise ConfigError(
            f"--runner needs Apache Beam: pip install -e '.[beam]' (apache-beam; {error})"
        ) from error
    return apache_beam


def _run_beam(work, items: Sequence, flags: Sequence[str], scratch: epath.Path) -> Counter[str]:
    beam = import_beam()
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import PipelineState

    try:
        pipeline = beam.Pipeline(options=PipelineOptions(list(flags)))
    except ValueError as error:  # an unknown runner, or flags that it can't do with
        raise ConfigError(f"Beam refuses {' '.join(flags)}: {error}") from error
    # A service takes the pipeline as one message, which a long list would make too large.
    listed = scratch / "items.pickle"
    with whole_file(listed, scratch) as file:
        file.write_bytes(pickle.dumps(list(items)))
    read = pipeline | beam.Create([str(listed)]) | beam.FlatMap(_read_items)
    # Without the reshuffle all items would stay on the worker that read the list.
    counts = read | beam.Reshuffle() | "Work" >> beam.Map(work)
    _ = counts | "Count" >> beam.Map(_count)
    result = pipeline.run()
    state = result.wait_until_finish()
    if state != PipelineState.DONE:
        raise UserError(f"the Beam job ended as {state}; start it again to go on")
    counters = result.metrics().query()["counters"]
    names = {c.key.metric.name: c.result for c in counters if c.key.metric.namespace == __name__}
    return Counter(names)


def _read_items(listed: str) -> list:
    return pickle.loads(epath.Path(listed).read_bytes())


def _count(counts: dict[str, int]) -> None:
    from apache_beam.metrics import Metrics

    for name, number in counts.items():
        Metrics.counter(__name__, name).inc(number)


@contextmanager
def whole_file(target: epath.Path, scratch: epath.Path) -> Iterator[Path]:
    """A local file to write, which becomes ``target`` if the block ends without an error.

    Args:
      target: file of a folder or of a bucket; objects of buckets appear when they are whole.
      scratch: existing folder on the file system of ``target``; not used for buckets.
    """
    bucket = is_url(target)
    with tempfile.TemporaryDirectory(dir=None if bucket else scratch) as folder:
        file = Path(folder, target.name)
        yield file
        if bucket:
            epath.Path(file).copy(target, overwrite=True)
        else:
            file.replace(target)
