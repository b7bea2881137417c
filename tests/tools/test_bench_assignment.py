"""The memory benchmark of SIGMA's loss, in a size that compiles at once."""

import re

from jaxvid.tools.bench_assignment import main


def test_a_line_per_chunk(capsys):
    sizes = {"clips": 2, "tokens": 64, "prototypes": 512, "width": 8, "iters": 2}
    main([word for name, n in sizes.items() for word in (f"--{name}", str(n))]
         + ["--chunks", "0", "8"])  # fmt: skip
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("one array of all scores: 0 MiB")
    found = [re.match(r"chunk +(\d+): temporaries +\d+ MiB, [\d.]+ TFLOP$", x) for x in lines]
    assert [m[1] for m in found] == ["0", "8"]
