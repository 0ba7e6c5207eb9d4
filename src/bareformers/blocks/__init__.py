"""How a layer is wired: one file a layout, one contract (`base`)."""
