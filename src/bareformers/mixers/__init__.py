"""How positions exchange information: one file a mixer, one contract (`base`)."""
