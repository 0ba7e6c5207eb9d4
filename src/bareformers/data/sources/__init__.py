"""Where text comes from: one file per source, found by name through `bareformers.registry.sources`.

A source is a dataclass whose fields are its YAML keys, with `load() -> Corpus`. It imports no torch.
"""
