"""Key maps of public checkpoints of contrastive and predictive pretraining: encoder and heads."""

from jaxvid.interop.conv_families import CONV_FAMILIES
from jaxvid.interop.rules import Rule, dense_rules, under


def coclr_rules(backbone: str, net: str = "encoder_q") -> list[Rule]:
    """InfoNCE, UberNCE, CoCLR: a sequence of network, pool, layer, ReLU, layer.

    Args:
      backbone: family of the network.
      net: "encoder_q", "encoder_k" or "sampler".
    """
    heads = [*dense_rules("2", "head/hidden"), *dense_rules("4", "head/out")]
    return under([*under(CONV_FAMILIES[backbone], "0.", ""), *heads], f"{net}.", "")


def tubelet_rules(backbone: str, net: str = "backbone.", head: str = "fc.") -> list[Rule]:
    """Tubelet contrast: a network and a projection beside it, both for queries and keys."""
    heads = [*dense_rules("0", "head/hidden"), *dense_rules("2", "head/out")]
    return under(CONV_FAMILIES[backbone], net, "") + under(heads, head, "")


def _conv(torch: str, path: str) -> list[Rule]:
    return [
        Rule(f"{torch}.weight", f"{path}/kernel", "conv"),
        Rule(f"{torch}.bias", f"{path}/bias"),
    ]


def gru_rules(torch: str, path: str) -> list[Rule]:
    """Cells of a convolutional GRU."""
    gates = {"update": "update_gate", "reset": "reset_gate", "candidate": "out_gate"}
    return [
        rule
        for i in range(2)
        for ours, theirs in gates.items()
        for rule in _conv(f"{torch}ConvGRUCell_0{i}.{theirs}", f"{path}cells_{i}/{ours}")
    ]


_PREDICTIVE = [
    *under(CONV_FAMILIES["resnet2d3d"], "backbone.", ""),
    *_conv("network_pred.0", "predictor/hidden"),
    *_conv("network_pred.2", "predictor/out"),
    Rule("final_bn.weight", "norm/scale"),
    Rule("final_bn.bias", "norm/bias"),
    Rule("final_bn.running_mean", "norm/mean", "statistic"),
    Rule("final_bn.running_var", "norm/var", "statistic"),
    *dense_rules("final_fc.1", "head"),
]
METHOD_FAMILIES: dict[str, list[Rule]] = {
    "coclr_s3d": coclr_rules("s3d"),
    "tubelet_contrast_r2plus1d": tubelet_rules("tubelet_r2plus1d"),
    "tubelet_contrast_r3d": tubelet_rules("tubelet_r3d"),
    "dpc": [*gru_rules("agg.", "aggregator/"), *_PREDICTIVE],
    "memdpc": [
        *gru_rules("agg_f.", "aggregator/"),
        *gru_rules("agg_b.", "aggregator_back/"),
        Rule("mb", "memory/slots"),
        *_PREDICTIVE,
    ],
}
METHOD_MARKS = {
    "coclr_s3d": "encoder_q.0.Conv_1a.conv1.weight",
    "tubelet_contrast_r2plus1d": "backbone.stem.conv_s.weight",
    "tubelet_contrast_r3d": "backbone.stem.conv.weight",
    "dpc": "agg.ConvGRUCell_00.update_gate.weight",
    "memdpc": "agg_f.ConvGRUCell_00.update_gate.weight",
}
"""A name that every checkpoint of a family has."""
BESIDE = ("encoder_k.", "sampler.", "key_encoder.", "key_fc.", "queue")
"""Prefixes of what such checkpoints keep for training alone."""
