"""Pictures: masks, reconstructions, attention, curves, and one self-contained report per run."""
