"""CoCLR from nothing: InfoNCE on both views, then two cycles in which the views teach each other.

python -m launch.sweep configs/sweeps/coclr.py:manifest=flow/manifest.csv --out=runs/coclr
Words after the colon: manifest=FILE (of make_flow; needed), k400 (Kinetics-400, one cycle).
Stages, in order (section 4.2 of the chapter): rgb0, flow0; rgb1 mines with flow0; flow1 with rgb1;
rgb2 with flow1; flow2 with rgb2.
"""

from configs.common import base


def get_sweep(arg=""):
    words = base.words(arg, manifest="", k400=False)
    data = {"data.manifest": words["manifest"]} if words["manifest"] else {}
    k400 = ",k400" if words["k400"] else ""
    start, stage = f"configs/infonce_ucf101.py:method=infonce{k400}", "configs/coclr_ucf101.py:"
    runs = [
        {"name": "rgb0", "config": start, "overrides": data},
        {"name": "flow0", "config": f"{start},flow", "overrides": data},
    ]
    for cycle in (1,) if words["k400"] else (1, 2):
        last = cycle - 1
        runs += [
            {"name": f"rgb{cycle}", "overrides": data,
             "config": f"{stage}own={{rgb{last}}},sampler={{flow{last}}}{k400}"},
            {"name": f"flow{cycle}", "overrides": data,
             "config": f"{stage}own={{flow{last}}},sampler={{rgb{cycle}}},flow{k400}"},
        ]  # fmt: skip
    return {"runs": runs, "compare": [run["name"] for run in runs]}
