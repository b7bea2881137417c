"""Features of clips by an exported encoder; needs jax, numpy and flatbuffers, not jaxvid.

python use_exported.py encoder.stablehlo clips.npy features.npz
"""

import struct
import sys

import numpy as np
from jax import export

if len(sys.argv) != 4:
    sys.exit(__doc__)
encoder_file, clips_file, out_file = sys.argv[1:]
try:
    with open(encoder_file, "rb") as file:
        encoder = export.deserialize(bytearray(file.read()))
    clips = np.load(clips_file)
except (OSError, ValueError) as error:
    sys.exit(str(error))
except struct.error:
    sys.exit(f"{encoder_file}: is no exported encoder")
wanted = encoder.in_avals[0]  # uint8 (n, frames, size, size, 3)
if clips.dtype != wanted.dtype or clips.shape[1:] != wanted.shape[1:]:
    sys.exit(f"{clips_file}: {clips.dtype} {clips.shape}, expected {wanted.str_short()}")
features = encoder.call(clips)
np.savez(out_file, **{name: np.asarray(value) for name, value in features.items()})
