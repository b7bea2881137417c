"""From files to uint8 batches on the host: manifests, decoding, plans, crops, batches."""
