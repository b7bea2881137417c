"""Adapters for clip sampling and crops."""

import numpy as np

from jaxvid.data import sampling, views
from tests.golden_fixture import Fixture


def clip_sampling(fixture: Fixture) -> None:
    for case, config in fixture.config["cases"].items():
        kind, frames, stride = config["kind"], config["clip_len"], config.get("stride", 1)
        lengths = fixture.arrays[f"in/{case}/num_frames"].tolist()
        draws = fixture.arrays.get(f"in/{case}/draw", lengths)
        if kind == "pretrain_train":
            ids = [sampling.dense_ids(n, frames, stride, max(d, 0)) for n, d in zip(lengths, draws)]
        elif kind == "dense_train":
            ids = [sampling.dense_train_ids(n, frames, stride, d) for n, d in zip(lengths, draws)]
        elif kind == "tsn_train":
            ids = [sampling.segment_ids(n, frames, d) for n, d in zip(lengths, draws)]
        else:
            plan = {"dense_test": "dense_train", "tsn_test": "segments"}[kind]
            clips, crops = config["test_num_segment"], config["test_num_crop"]
            ids = [sampling.fixed_ids(plan, n, frames, stride, clips) for n in lengths]
            size = config["short_side"]
            corners = [views.crop_corners(*hw, size, crops) for hw in config["test_hw"]]
            fixture.check(f"out/{case}/crop_yx", np.array([[c] * clips for c in corners], np.int32))
        fixture.check(f"out/{case}/frame_ids", np.array(ids))


def multi_scale_crop(fixture: Fixture) -> None:
    pairs, offsets, crops = [], [], []
    size = fixture.config["input_size"]
    choices = zip(*(fixture.arrays[f"in/{k}"] for k in ("im_size", "pair_index", "offset_index")))
    for (width, height), pair, offset in choices:
        pairs.append(views.multi_scale_pairs(width, height, size))
        w, h = pairs[-1][pair]
        offsets.append(views.multi_scale_offsets(width, height, w, h))
        crops.append((w, h, *offsets[-1][offset]))
    fixture.check("out/pairs", np.array(pairs))
    fixture.check("out/offsets", np.array(offsets))
    fixture.check("out/crop", np.array(crops))


ADAPTERS = {"clip_sampling": clip_sampling, "multi_scale_crop": multi_scale_crop}
