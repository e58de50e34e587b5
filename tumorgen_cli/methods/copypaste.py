"""Copy-paste: a training tumor with its mask, mirrored and fitted into the place, with a soft edge and its contrast."""

# ruff: noqa: ARG002, ARG003  (the contract gives every method the same arguments; some are not needed here)

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tumorgen_cli.data.labels import fill_sublabels
from tumorgen_cli.data.patients import Patients, patient_of
from tumorgen_cli.geometry import as_triple, shell_mm, tight_box
from tumorgen_cli.methods.base import Method, Request, Sampling, Synthetic
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import Decisions, Plan, WindowPlan
from tumorgen_cli.planning.ranges import Millimeters
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import Case, Component, load_case
from tumorgen_cli.preprocessing.intensity import channel_units
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.errors import DataError, Fault
from tumorgen_cli.system.json_records import hash_value
from tumorgen_cli.tumors.boxes import box_mask

DONORS = "donors"  # stands for weights in the record of a set: the training scans that tumors are cut from


@dataclass(frozen=True)
class CopyPasteConfig:
    """The method's section of the plan.

    Attributes:
        edge_mm: standard deviation of the blur that softens the tumor's edge.
    """

    edge_mm: Millimeters


class CopyPaste(Method):
    """Copy-paste behind the contract; see the module and `SOURCE`."""

    name = "copypaste"
    section = CopyPasteConfig
    SOURCE = (
        "Ghiasi et al., Simple Copy-Paste, CVPR 2021, in 3D: a tumor and its mask are pasted at another place. "
        "Deviations: Donors are drawn among the tumors that fit the given place, in proportion to the volume of their "
        "own boxes; if none fits, the smallest is shrunk. They are mirrored, and their brightness is shifted so that "
        "they keep their contrast to the shell around them."
    )
    keeps_background = True
    needs_scans = True

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        self.config = plan.section(self.name, CopyPasteConfig)
        self.donors: list[tuple[Case, Component]] = []
        self.patients: Patients = {}

    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        """Take every field of `CopyPasteConfig` into `d`."""
        d.take(
            "edge_mm",
            0.5 * max(window.spacing_mm),
            "half of the largest working voxel edge: no visible step, little blur",
        )

    def load(self) -> dict[str, str]:
        """Load the training cases with their tumors."""
        splits = self.workspace.splits()
        self.patients = splits.patients
        cases = [load_case(self.workspace.cases / name) for name in splits.train]
        self.donors = [(case, component) for case in cases for component in case.record.components]
        return {DONORS: hash_value([case.record.inputs_hash for case in cases])}

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Draw a training tumor, mirror it, fit it into the place and blend it in."""
        rng = np.random.default_rng(seed)
        case, component = self._choose(request, rng)
        flips = tuple(a + 1 for a in range(3) if rng.random() < 0.5)
        # the shell to which contrast is measured everywhere
        voxels = np.count_nonzero(case.tumors[component.box.slices] == component.number)
        reach = shell_mm(voxels, request.spacing_mm)
        shell = as_triple(int(np.ceil(reach / s)) for s in request.spacing_mm)
        around = component.box.grown(shell, case.record.shape)
        donor = np.flip(np.asarray(case.image[(slice(None), *around.slices)], np.float32), flips)
        own, hosts = (
            channel_units(self.plan.channels, limits)[..., None, None, None]
            for limits in (case.record.limits, request.limits)
        )
        donor = (donor - own[:, 0]) / own[:, 1] * hosts[:, 1] + hosts[:, 0]
        mask = np.flip(np.asarray(case.tumors[around.slices] == component.number), tuple(a - 1 for a in flips))
        others = np.flip(np.asarray(case.tumors[around.slices] > 0), tuple(a - 1 for a in flips))
        parts = None
        if case.sublabels is not None:  # values of the donor's own tumor
            parts = np.where(mask, np.flip(np.asarray(case.sublabels[around.slices]), tuple(a - 1 for a in flips)), 0)
        donor, mask, others, parts = self._fit(donor, mask, others, parts, request)
        return self._place(request, donor, mask, others, parts, rng, case.record.case)

    def _choose(self, request: Request, rng: np.random.Generator) -> tuple[Case, Component]:
        """A random tumor that fits the place, or the smallest if none fits; never one of the redrawn case's patient.

        Raises:
            DataError: No training case of another patient has a tumor.
        """
        own = None if request.case is None else patient_of(request.case, self.patients)
        donors = [d for d in self.donors if patient_of(d[0].record.case, self.patients) != own]
        fitting = [d for d in donors if all(n <= m for n, m in zip(d[1].box.shape, request.place.shape, strict=True))]
        if not donors:
            found = "no other training case with a tumor" if request.case else "no training case with a tumor"
            remedy = "redraw held-out cases (--cases test), paint into tumor-free scans, or take another --method"
            raise DataError(
                "There is no tumor to paste",
                [Fault(f"{self.name} on {request.case or 'a host'}", found, "one or more", remedy)],
            )
        if fitting:  # with equal weights, small tumors would mostly fill the boxes that were drawn for large ones
            volume = np.array([float(np.prod(c.box.shape)) for _, c in fitting])
            return fitting[rng.choice(len(fitting), p=volume / volume.sum())]
        return min(donors, key=lambda d: float(np.prod(d[1].box.shape)))

    @staticmethod
    def _fit(
        donor: np.ndarray, mask: np.ndarray, others: np.ndarray, parts: np.ndarray | None, request: Request
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Shrink the donor with its shell, along the axes on which its tumor is larger than the place."""
        tight = tight_box(mask)
        assert tight is not None  # a component has voxels
        sizes = [min(n, e) for n, e in zip(request.place.shape, tight.shape, strict=True)]
        if sizes == [*tight.shape]:
            return donor, mask, others, parts
        steps = [e / n for e, n in zip(tight.shape, sizes, strict=True)]  # of the new voxels, in the donor's
        axes = [
            a + (np.arange(-(a * n // e), (size - a) * n // e) + 0.5) * step - 0.5
            for a, n, e, size, step in zip(tight.start, sizes, tight.shape, mask.shape, steps, strict=True)
        ]
        places = np.stack(np.meshgrid(*axes, indexing="ij"))

        def shrunk(array: np.ndarray) -> np.ndarray:
            # without the blur, thin parts can lie between the sampled points
            blurred = ndimage.gaussian_filter(array.astype(np.float32), [(step - 1) / 4 for step in steps])
            return ndimage.map_coordinates(blurred, places, order=1, mode="nearest")

        share = shrunk(mask)
        if parts is not None:
            whole = fill_sublabels(parts, np.ones_like(mask))  # the blur may widen the tumor
            parts = ndimage.map_coordinates(whole, places, order=0, mode="nearest")
        picture = np.stack([shrunk(channel) for channel in donor])
        return picture, share >= min(0.5, share.max()), shrunk(others) >= 0.5, parts

    def _place(
        self,
        request: Request,
        donor: np.ndarray,
        mask: np.ndarray,
        others: np.ndarray,
        parts: np.ndarray | None,
        rng: np.random.Generator,
        case: str,
    ) -> Synthetic:
        """Blend the donor in at a random position of the place, brightened so that its shell matches the host."""
        inside = np.argwhere(mask)
        low, extent = inside.min(0), inside.max(0) - inside.min(0) + 1
        free = [max(0, n - int(e)) for n, e in zip(request.place.shape, extent, strict=True)]
        start = [a + int(rng.integers(f + 1)) for a, f in zip(request.place.start, free, strict=True)]
        shift = np.array(start) - low  # donor voxel -> window voxel
        window = as_triple(request.image.shape[1:])
        share = np.zeros(window, np.float32)
        image = request.image.astype(np.float32, copy=True)
        to, source = [], []
        for s, n, size in zip(shift, mask.shape, window, strict=True):
            a, b = max(0, int(s)), min(size, int(s) + n)
            to.append(slice(a, b))
            source.append(slice(a - int(s), b - int(s)))
        share[tuple(to)] = mask[tuple(source)]
        share *= box_mask(request.place, window)
        sigma = [self.config.edge_mm / s for s in request.spacing_mm]
        soft = ndimage.gaussian_filter(share, sigma) * box_mask(request.box, window)
        shell = ~others[tuple(source)]
        ring = shell & (share[tuple(to)] == 0)
        for channel in range(len(image)):
            host = image[channel][tuple(to)]
            offset = float(host[ring].mean() - donor[channel][tuple(source)][ring].mean()) if ring.any() else 0.0
            pasted = donor[channel][tuple(source)] + offset
            weight = soft[tuple(to)]
            image[channel][tuple(to)] = (1 - weight) * host + weight * pasted
        sublabels = None
        if parts is not None:
            sublabels = np.zeros(window, parts.dtype)
            sublabels[tuple(to)] = np.where(mask, parts, 0)[tuple(source)]
            sublabels[share == 0] = 0
        return Synthetic(image, share, {"donor": case}, sublabels=sublabels)
