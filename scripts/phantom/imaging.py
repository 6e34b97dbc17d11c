"""How a phantom patient looks on T2w, high-b DWI and ADC: the gland drawn as soft implicit shapes on any grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np

from scripts.data.grid import Grid, grid_affine
from scripts.phantom.acquisition import acquire
from scripts.phantom.anatomy import DIFFICULTY, Anatomy, Findings, sample_anatomy
from scripts.phantom.benign import Change
from scripts.phantom.canvas import Canvas, Signal
from scripts.phantom.gland import Blob
from scripts.phantom.institutions import protocol
from scripts.phantom.pelvis import draw_pelvis
from scripts.phantom.tissues import TISSUE, benign_signal, lesion_signal

MASKS = ("gland", "zones", "lesions")


@dataclass(frozen=True)
class Phantom:
    """A phantom exam: `volumes` (axt2, b1600, adc) and `masks` (gland, zones, lesions) are (X, Y, Z) arrays.

    zones: 1 peripheral, 2 transition; lesions: n is the n-th lesion of the findings.
    """

    findings: Findings
    volumes: dict[str, np.ndarray]  # int16, scanner-like units
    masks: dict[str, np.ndarray]  # uint8
    affine: np.ndarray


def make_case(seed: int, grid: Grid, difficulty: float = DIFFICULTY, institute: str = "") -> Phantom:
    """Draw the phantom exam of a seed on a grid; the same seed is the same patient on every grid."""
    anatomy = sample_anatomy(seed, difficulty, institute)
    canvas = Canvas.blank(grid, TISSUE["air"])
    draw_pelvis(canvas, anatomy.gland, np.random.default_rng([seed, 1]))
    masks = GlandPainter(canvas, anatomy).paint()
    scanner = protocol(anatomy.findings.institute, difficulty)
    volumes = acquire(canvas, grid.spacing, scanner, np.random.default_rng([seed, 3]))
    return Phantom(anatomy.findings, volumes, masks, grid_affine(grid))


class GlandPainter:
    """Paints the prostate: zones with their texture, nodules, benign changes, lesions, and the fascia around it.

    `detail` is how much of the fine structure there is: none at difficulty 0, all from the default difficulty on.
    """

    def __init__(self, canvas: Canvas, anatomy: Anatomy) -> None:
        self.anatomy, self.gland, self.difficulty = anatomy, anatomy.gland, anatomy.findings.difficulty
        self.shape = canvas.images.shape[1:]
        reach = tuple(1.25 * semi + 5 for semi in self.gland.semi)
        self.canvas, self.box = canvas.around(self.gland.centre, reach)
        self.u, self.v, self.w = self.gland.coordinates(*self.canvas.xyz)
        self.outer = self.gland.distance(self.u, self.v, self.w)
        inner = self.gland.transition_distance(self.u, self.v, self.w)
        # In front of the peripheral zone's horns the rim belongs to the fibromuscular stroma.
        self.inner = np.minimum(inner, (0.45 - self.v) * self.gland.semi[1])
        self.detail = min(1.0, self.difficulty / DIFFICULTY)
        seed = anatomy.findings.seed
        self.coarse = np.random.default_rng([seed, 2])  # what is there at every difficulty
        self.fine = np.random.default_rng([seed, 7])  # what is there above 0

    def paint(self) -> dict[str, np.ndarray]:
        """Paint everything; returns the masks (X, Y, Z) of the whole canvas."""
        canvas, whole = self.canvas, self.canvas.cover(self.outer)
        transition = canvas.cover(np.maximum(self.inner, self.outer))
        self._surroundings()
        mottled = 0.07 if self.anatomy.findings.pirads == 2 else 0.035
        peripheral = canvas.texture(4.0, mottled, self.coarse)
        canvas.paint(whole, TISSUE["peripheral"], peripheral * self._glandular() if self.detail else peripheral)
        if self.difficulty:
            self._central_zone()
        self._transition_zone(transition)
        for change in self.anatomy.findings.changes:
            self._change(change, transition)
        masks = {name: np.zeros(self.shape, np.uint8) for name in MASKS}
        self._lesions(masks["lesions"][self.box])
        canvas.paint(canvas.cover(np.abs(self.outer) - 0.6), TISSUE["capsule"])
        masks["gland"][self.box] = self.outer < 0
        masks["zones"][self.box] = np.where(self.outer < 0, np.where(self.inner < 0, 2, 1), 0)
        return masks

    def _surroundings(self) -> None:
        """The venous plexus around the gland, and the fascia around that, thickest towards the rectum."""
        canvas = self.canvas
        veins = canvas.texture(3.5, 0.22, self.coarse)
        if self.detail:
            # Round vessels, bright where the blood is slow, in a darker bed.
            vessels = canvas.texture(2.2, 1.0, self.fine) - 1
            veins = veins * (1 + self.detail * (0.75 * np.clip(vessels, -0.8, 0.9) - 0.1))
            sheath = canvas.cover(np.abs(self.outer - 4.0) - 0.15 - 0.35 * np.clip(-self.v, 0, 1))
            canvas.paint(self.detail * sheath, TISSUE["fascia"])
        canvas.paint(canvas.cover(self.outer - 3.2), TISSUE["veins"], veins)

    def _glandular(self) -> np.ndarray:
        """Texture of the peripheral zone: ducts that run out to the capsule, between thin dark septa."""
        canvas = self.canvas
        angle = np.arctan2(self.u, -self.v)
        bend = canvas.texture(7.0, 1.0, self.fine) - 1
        spacing = 6.0 / self.gland.semi[0]  # septa 6 mm apart at the capsule
        septa = np.exp(-((np.sin(np.pi * angle / spacing + 3.0 * bend + 2.0 * self.w) / 0.45) ** 2))
        acini = canvas.texture(1.8, 0.10, self.fine)
        return np.maximum(1 - self.detail * (0.24 * septa - 0.06), 0.2) * (1 + self.detail * (acini - 1))

    def _central_zone(self) -> None:
        """Dark tissue around the ejaculatory ducts, a cone behind the transition zone that opens to the base."""
        canvas, gland = self.canvas, self.gland
        across = np.abs(canvas.xyz[0] - gland.centre[0])
        half = 1.5 + 6.0 * np.clip((self.w - 0.2) / 0.7, 0, 1) * (0.6 - 0.8 * self.v)
        cone = reduce(np.maximum, (across - half, (0.2 - self.w) * gland.semi[2], -self.inner, self.outer))
        canvas.paint(canvas.cover(cone, 1.5), benign_signal("central", self.difficulty))
        ducts = np.sqrt((across - 2.0) ** 2 + ((self.v + 0.62 - 0.1 * self.w) * gland.semi[1]) ** 2) - 0.9
        canvas.paint(self.detail * canvas.cover(np.maximum(ducts, cone)), TISSUE["ducts"])

    def _transition_zone(self, transition: np.ndarray) -> None:
        """Organised chaos: nodules in stroma, each with its rim; the fibromuscular stroma, the urethra, the capsule."""
        canvas, gland = self.canvas, self.gland
        texture = canvas.texture(3.0, 0.06, self.coarse)
        nodules = draw_nodules(self.anatomy, self.coarse)
        inside = None
        if self.detail:
            nodules = sorted(nodules + draw_nodules(self.anatomy, self.fine, small=True), key=_volume, reverse=True)
            inside = 1 + self.detail * (canvas.texture(1.8, 0.13, self.fine) - 1)
            texture = texture * inside
        canvas.paint(transition, TISSUE["transition"], texture)
        for nodule, signal in nodules:
            rim = Blob(nodule.centre, tuple(semi + 0.8 for semi in nodule.semi), nodule.turn)
            canvas.ellipsoid(rim, TISSUE["stroma"], within=transition)
            canvas.ellipsoid(nodule, signal, within=transition, texture=inside)
        canvas.paint(transition * canvas.cover((0.78 - self.v + 0.6 * self.u**2) * gland.semi[1]), TISSUE["stroma"])
        tube = np.sqrt((self.u * gland.semi[0]) ** 2 + ((self.v + 0.02) * gland.semi[1]) ** 2)
        canvas.paint(canvas.cover(tube - 2.3) * transition, TISSUE["urethra"])
        canvas.paint(canvas.cover(np.abs(self.inner) - 0.35) * canvas.cover(self.outer), TISSUE["stroma"])

    def _change(self, change: Change, transition: np.ndarray) -> None:
        """One benign change: wedges and blood keep to the peripheral zone, a stromal nodule has a dark capsule."""
        canvas, signal = self.canvas, benign_signal(change.kind, self.difficulty)
        radius = change.size_mm / 2
        if change.kind == "stromal":
            nodule = Blob(change.centre_mm, (radius, 0.9 * radius, radius), 0.4)
            rim = Blob(nodule.centre, tuple(semi + 0.9 for semi in nodule.semi), nodule.turn)
            canvas.ellipsoid(rim, TISSUE["capsule"], within=transition)
            canvas.ellipsoid(nodule, signal, within=transition)
            return
        u, v, w = self.gland.coordinates(*change.centre_mm)
        ragged = canvas.texture(3.0, 1.0, self.fine) - 1
        zone = np.maximum(self.outer, -self.inner)
        height = np.abs(self.w - w) * self.gland.semi[2] - radius
        if change.kind == "wedge":
            # From a point at the transition zone to its full width at the capsule.
            depth = np.clip(self.inner / np.maximum(self.inner - self.outer, 1e-3), 0, 1)
            turn = np.abs(np.arctan2(self.u, -self.v) - np.arctan2(u, -v))
            away = turn * np.hypot(self.u * self.gland.semi[0], self.v * self.gland.semi[1])
            distance = np.maximum(away - radius * (0.15 + 0.85 * depth), height + 0.3 * radius)
            canvas.paint(canvas.cover(np.maximum(distance, zone)), signal)
        elif change.kind == "diffuse":
            sides = {"left": -1, "right": 1}
            half = -sides.get(change.side, 0) * (canvas.xyz[0] - self.gland.centre[0])
            distance = np.maximum(height, half) + 2.0 * ragged
            canvas.paint(canvas.cover(np.maximum(distance, zone), 4.0), signal, 1 + 0.08 * ragged)
        else:
            distance = canvas.blob_distance(Blob(change.centre_mm, (radius,) * 3, 0.0)) + 2.5 * ragged
            canvas.paint(canvas.cover(np.maximum(distance, zone), 2.0), signal, 1 + 0.10 * ragged)

    def _lesions(self, mask: np.ndarray) -> None:
        """Lesions within their zones, the less sharp and regular the harder; numbers them in `mask`."""
        canvas, findings = self.canvas, self.anatomy.findings
        for number, (lesion, blob) in enumerate(zip(findings.lesions, self.anatomy.blobs, strict=True), start=1):
            zone = np.maximum(self.outer, self.inner if lesion.zone == "TZ" else -self.inner)
            surface = canvas.blob_distance(blob)
            if self.difficulty:
                surface = surface + 1.0 * self.difficulty * (canvas.texture(4.0, 1.0, self.fine) - 1)
            reach = np.maximum(surface, zone)
            signal = lesion_signal(lesion.zone, lesion.pirads, self.difficulty)
            canvas.paint(canvas.cover(reach, 1.5 * self.difficulty), signal)
            mask[reach < 0] = number


def draw_nodules(anatomy: Anatomy, rng: np.random.Generator, small: bool = False) -> list[tuple[Blob, Signal]]:
    """Nodules of hyperplasia, more of them in larger glands, glandular (bright) or mixed; none as dark as a lesion."""
    gland, nodules = anatomy.gland, []
    tu, tv = gland.transition
    for _ in range(int(4 + anatomy.findings.gland_ml / 5)):
        u, v, w = rng.uniform(-0.8, 0.8, 3) * (tu, tv, 0.85)
        radius = rng.uniform(1.8, 3.2) if small else rng.uniform(2.5, 3.5 + 0.05 * anatomy.findings.gland_ml)
        semi = tuple(float(value) for value in radius * rng.uniform(0.8, 1.2, 3))
        bright = rng.beta(1.2, 1.6)
        signal = (310 + 290 * bright, 30 - 6 * bright, 1250 + 450 * bright)
        nodules.append((Blob(gland.world(u, v + gland.ANTERIOR - tv, w), semi, float(rng.uniform(0, 3))), signal))
    return nodules


def _volume(nodule: tuple[Blob, Signal]) -> float:
    return float(np.prod(nodule[0].semi))
