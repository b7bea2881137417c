"""Fill in ``launch/gke_jobset.yaml`` and print it; nothing is sent to a cluster.

    python -m launch.gke_jobset NAME CONFIG --image=IMAGE --workdir=FOLDER -- FLAGS > run.yaml
    kubectl apply -f run.yaml

IMAGE holds this checkout as its working directory, installed with the extra "tpu". FOLDER is seen
by every host: a bucket (gs://...), for which the service account needs access. FLAGS go to
jaxvid.main.
"""

import argparse
import json
import math
import re
import string
import sys
from collections.abc import Sequence
from pathlib import Path

TEMPLATE = Path(__file__).with_name("gke_jobset.yaml")
NAME = r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"  # pods are called NAME-slice-0-0-xxxxx, at most 63


def make_jobset(
    name: str,
    config: str,
    flags: Sequence[str] = (),
    *,
    image: str,
    workdir: str,
    accelerator: str = "tpu-v5-lite-podslice",
    topology: str = "4x4",
    slices: int = 1,
    chips_per_host: int = 4,
    service_account: str = "default",
    spot: bool = True,
) -> str:
    """Manifest of one run.

    Args:
      name: of the JobSet.
      config: config file with its variant.
      flags: further flags of ``jaxvid.main``.
      image: container image.
      workdir: folder that every host sees.
      accelerator, topology: labels of the node pool, which is one slice.
      slices: node pools that work together; "config.mesh.data" must be a multiple of them.
      chips_per_host: 4 on most machines; one process runs per host.
      service_account: of the pods.
      spot: on preemptible nodes.

    Raises:
      ValueError: a value can't work.
    """
    if not re.fullmatch(NAME, name):
        raise ValueError(f"NAME {name!r}: up to 40 of a-z, 0-9 and -, starting with a letter")
    if not re.fullmatch(r"\d+(x\d+){1,2}", topology):
        raise ValueError(f"--topology={topology}: expected 4x4 or 2x2x4")
    chips = math.prod(map(int, topology.split("x")))
    if chips_per_host < 1 or chips % chips_per_host or not chips:
        raise ValueError(
            f"--topology={topology} has {chips} chips, no multiple of "
            f"--chips_per_host={chips_per_host}"
        )
    if slices < 1:
        raise ValueError(f"--slices={slices}: at least 1 is needed")
    if "://" not in workdir and not workdir.startswith("/"):
        raise ValueError(f"--workdir={workdir}: gs://... or an absolute path, as every host has it")
    for flag in flags:
        if not flag.startswith("--") or flag.startswith(("--distributed", "--workdir")):
            raise ValueError(f"flag {flag!r}: expected --config.field=value and the like")
    args = [f"--config={config}", f"--workdir={workdir}", "--distributed=auto",
            "--stopped_status=75", *flags]  # fmt: skip
    return string.Template(TEMPLATE.read_text()).substitute(
        name=name,
        slices=slices,
        hosts=chips // chips_per_host,
        chips=chips_per_host,
        spot='cloud.google.com/gke-spot: "true"' if spot else "# on demand",
        # JSON strings are YAML strings, whatever is in them; "$(" starts a variable of Kubernetes.
        args=json.dumps([arg.replace("$(", "$$(") for arg in args]),
        **{
            key: json.dumps(value)
            for key, value in {
                "image": image,
                "accelerator": accelerator,
                "topology": topology,
                "service_account": service_account,
            }.items()
        },
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.gke_jobset",
        usage="%(prog)s NAME CONFIG --image=IMAGE --workdir=FOLDER [OPTIONS] [-- FLAGS]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("config", metavar="CONFIG", help="config file inside the image")
    parser.add_argument("--image", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--accelerator", default="tpu-v5-lite-podslice")
    parser.add_argument("--topology", default="4x4")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--chips_per_host", type=int, default=4)
    parser.add_argument("--service_account", default="default")
    parser.add_argument("--on_demand", dest="spot", action="store_false", help="no spot nodes")
    given = list(sys.argv[1:] if argv is None else argv)
    cut = given.index("--") if "--" in given else len(given)
    fields = vars(parser.parse_args(given[:cut]))
    try:
        sys.stdout.write(make_jobset(**fields, flags=given[cut + 1 :]))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
