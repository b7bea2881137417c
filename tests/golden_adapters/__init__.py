"""One adapter per fixture kind: it builds the model of a fixture and checks every stored value."""
