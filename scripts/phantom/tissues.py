"""Scanner-like signal of tissues on T2w, b1600 and ADC (1e-6 mm²/s)."""

from __future__ import annotations

from scripts.phantom.canvas import Signal

TISSUE: dict[str, Signal] = {
    "air": (12, 1, 20),
    "fat": (430, 7, 150),
    "muscle": (125, 16, 1150),
    "marrow": (360, 6, 250),
    "cortex": (40, 2, 150),
    "urine": (880, 8, 2850),
    "wall": (170, 18, 1200),
    "gas": (10, 1, 30),
    "stool": (230, 12, 900),
    "veins": (540, 14, 1750),
    "vesicle": (760, 18, 1900),
    "peripheral": (700, 27, 1700),
    "transition": (360, 30, 1330),
    "stroma": (270, 26, 1150),
    "capsule": (150, 20, 1150),
    "fascia": (110, 12, 900),
    "urethra": (560, 22, 1650),
    "ducts": (640, 22, 1700),
}
# Lesions of PI-RADS 3, 4, 5: as easy as they get, whatever their zone, and as hard, in the zone of the key.
EASY = {3: (165, 62, 900), 4: (125, 80, 740), 5: (105, 94, 620)}
HARD = {
    ("PZ", 3): (275, 44, 1080),
    ("PZ", 4): (230, 58, 900),
    ("PZ", 5): (190, 72, 780),
    ("TZ", 3): (200, 44, 1000),
    ("TZ", 4): (175, 58, 860),
    ("TZ", 5): (155, 72, 740),
}
# Benign changes at their darkest. Blood shortens T2 and hardly touches diffusion; inflammation restricts it a little.
BENIGN = {
    "wedge": (430, 31, 1400),
    "diffuse": (490, 30, 1500),
    "haemorrhage": (400, 25, 1600),
    "stromal": (262, 33, 1180),
    "central": (410, 30, 1300),
}


def between(one: Signal, other: Signal, part: float) -> Signal:
    """The signal that lies `part` (0..1) of the way from one to another."""
    return tuple(a + part * (b - a) for a, b in zip(one, other, strict=True))


def lesion_signal(zone: str, pirads: int, difficulty: float) -> Signal:
    """Signal of a lesion of PI-RADS 3..5 in a zone, `difficulty` 0..1."""
    return between(EASY[pirads], HARD[zone, pirads], difficulty)


def benign_signal(kind: str, difficulty: float) -> Signal:
    """Signal of a benign change: 0.65 of how dark it may be at difficulty 0, 0.85 at 1."""
    normal = TISSUE["transition" if kind == "stromal" else "peripheral"]
    return between(normal, BENIGN[kind], 0.65 + 0.2 * difficulty)
