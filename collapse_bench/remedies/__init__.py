"""The remedies: one file each, named like its remedy, found by being in this folder."""
