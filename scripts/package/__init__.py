"""Bundles that can be given away: a folder that stands alone, its card, its zip, and its way to a hub."""
