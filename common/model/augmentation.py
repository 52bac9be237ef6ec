"""Random changes of training crops, by the names that --aug takes.

Each is an albumentations transform of (height, width, 3) uint8 RGB. A task's own one is in its
folder.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from common.base.quiet import quietly

with quietly():
    import albumentations as A

if TYPE_CHECKING:
    from PIL import Image

Transform = A.BasicTransform | A.BaseCompose


class Policy(A.ImageOnlyTransform):
    """A torchvision policy, which applies random operations to a PIL image."""

    def __init__(self, policy: Callable[["Image.Image"], "Image.Image"]) -> None:
        super().__init__(p=1)
        self.policy = policy

    def get_params(self) -> dict[str, Any]:
        return {"seed": self.py_random.getrandbits(63)}

    def apply(self, img: np.ndarray, seed: int, **_: object) -> np.ndarray:
        import torch
        from PIL import Image

        # torchvision draws from torch's global generator. torch.manual_seed would also seed every
        # GPU and take longer than the policy.
        generator = torch.default_generator
        state = generator.get_state()
        generator.manual_seed(seed)
        try:
            return np.asarray(self.policy(Image.fromarray(img)))
        finally:
            generator.set_state(state)


def autoaugment() -> Policy:
    """AutoAugment (Cubuk et al. 2018) with its policy for CIFAR10."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    return Policy(AutoAugment(AutoAugmentPolicy.CIFAR10))


def randaugment(magnitude: int) -> Policy:
    """RandAugment (Cubuk et al. 2019): two of 14 operations, each of `magnitude`, 0 to 30."""
    from torchvision.transforms import RandAugment

    return Policy(RandAugment(num_ops=2, magnitude=magnitude, num_magnitude_bins=31))


class Erasing(A.Erasing):
    """Random erasing (Zhong et al. 2017) within the upper `share` of the height."""

    def __init__(self, share: float, p: float) -> None:
        super().__init__(fill="random_uniform", p=p)
        self.share = share

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        height, *others = params["shape"]
        part = params | {"shape": (round(height * self.share), *others)}
        return super().get_params_dependent_on_data(part, data)


def rotation(p: float = 0.5) -> A.Rotate:
    """Rotation by up to 20 degrees, of a fraction `p` of the photos; corners are reflected."""
    return A.Rotate(limit=20, border_mode=cv2.BORDER_REFLECT_101, p=p)


def noise() -> A.GaussNoise:
    """Gaussian noise on half of the photos, with S2's variance of 10 to 50 on 0 to 255.

    Albumentations' present default would be strong enough to hide the face.
    """
    return A.GaussNoise(std_range=(0.0124, 0.0277), p=0.5)


def affine() -> A.Affine:
    """Rotation by up to 10 degrees, scaling by up to 10% and a shift of up to 4% of the crop."""
    return A.Affine(
        scale=(0.9, 1.1),
        translate_percent=(-0.04, 0.04),
        rotate=(-10, 10),
        border_mode=cv2.BORDER_REPLICATE,
        p=0.9,
    )


def framing() -> A.Affine:
    """Larger scaling and shifts, to imitate the boxes of other detectors and of annotators.

    Shifts go further up than down: annotators' boxes, from the forehead to the chin, lie lower than
    MTCNN's by a tenth of the crop or more.
    """
    return A.Affine(
        scale=(0.75, 1.2),
        translate_percent={"x": (-0.1, 0.1), "y": (-0.16, 0.08)},
        rotate=(-15, 15),
        border_mode=cv2.BORDER_REPLICATE,
        p=0.9,
    )


def exposure() -> A.Compose:
    """Brightness and contrast changed by up to 25%, each channel by up to 7.5%."""
    levels = A.ColorJitter(
        brightness=(0.75, 1.25), contrast=(0.75, 1.25), saturation=(1, 1), hue=(0, 0), p=1
    )
    return A.Compose(
        [levels, A.MultiplicativeNoise(multiplier=(0.925, 1.075), per_channel=True, p=1)]
    )


def degrade() -> A.Compose:
    """What distance, bad light and compression do to a face: each on a part of the photos.

    Fewer pixels, down to a sixth of each side; darker or brighter by gamma; blur of lens or motion;
    grain; no colour; JPEG.
    """
    area, linear = cv2.INTER_AREA, cv2.INTER_LINEAR
    blur = [A.GaussianBlur(sigma_limit=(0.3, 1.5), p=1), A.MotionBlur(blur_limit=(3, 7), p=1)]
    return A.Compose(
        [
            A.RandomGamma(gamma_limit=(60, 250), p=0.5),
            A.OneOf(blur, p=0.2),
            A.Downscale(
                scale_range=(0.16, 0.6),
                interpolation_pair={"downscale": area, "upscale": linear},
                p=0.5,
            ),
            A.GaussNoise(std_range=(0.01, 0.05), p=0.2),
            A.ToGray(p=0.05),
            A.ImageCompression(quality_range=(30, 90), p=0.5),
        ]
    )


def block(name: str, *, own: Callable[[], Transform], magnitude: int) -> Transform:
    """Make the transform of --aug `name`; `own` makes the task's, `magnitude` is RandAugment's."""
    blocks: dict[str, Callable[[], Transform]] = {
        "own": own,
        "light": lambda: A.HorizontalFlip(p=0.5),
        "rotate": rotation,
        "jitter": lambda: A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.1, p=1),
        # On luma, and on half of the photos only: prediction gets photos that aren't equalized.
        "equalize": lambda: A.Equalize(by_channels=False, p=0.5),
        "clahe": lambda: A.CLAHE(clip_limit=(1, 4), p=0.5),
        "affine": affine,
        "framing": framing,
        "colour": lambda: A.RandomBrightnessContrast(
            brightness_limit=0.15, contrast_limit=0.15, p=0.9
        ),
        "exposure": exposure,
        "degrade": degrade,
        "randaugment": lambda: randaugment(magnitude),
        "autoaugment": autoaugment,
    }
    return blocks[name]()


def compose(
    names: Sequence[str],
    *,
    own: Callable[[], Transform],
    magnitude: int = 9,
    erasing: Erasing | None = None,
    crop_to: tuple[int, int] | None = None,
) -> A.Compose:
    """Chain the transforms of --aug `names`, in their order.

    `own` makes the task's transform, `magnitude` is RandAugment's. `crop_to`, (height, width) in
    pixels, adds a random crop before the others; `erasing` comes after them.
    """
    steps = [block(name, own=own, magnitude=magnitude) for name in names if name != "none"]
    if crop_to is not None:
        steps.insert(0, A.RandomResizedCrop(crop_to, scale=(0.6, 1), ratio=(0.9, 1.1)))
    return A.Compose(steps + ([erasing] if erasing is not None else []))
