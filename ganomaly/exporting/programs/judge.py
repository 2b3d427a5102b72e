"""Judge camera images with the exported detector of this folder: python judge.py IMAGE...

Needs numpy, opencv-python-headless and onnxruntime (model.onnx) or openvino (model.xml); nothing else.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np

FOLDER = Path(__file__).resolve().parent
ABOUT = json.loads((FOLDER / "export.json").read_text(encoding="utf-8"))


def load():
    """Give the function that takes pixels (H, W, 3) RGB and gives verdict, raw, normalised, p_value, heat_map."""
    if (FOLDER / "model.onnx").exists():
        import onnxruntime

        session = onnxruntime.InferenceSession(str(FOLDER / "model.onnx"), providers=["CPUExecutionProvider"])
        return lambda pixels: session.run(None, {"pixels": pixels})
    import openvino

    model = openvino.compile_model(str(FOLDER / "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: model([pixels]).to_tuple()


def read(path):
    """Give the pixels of an image file, float32 (H, W, 3) RGB; None if it is no image."""
    image = cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    return None if image is None else image[:, :, ::-1].astype(np.float32)


if __name__ == "__main__":
    judge = load()
    for name in sys.argv[1:]:
        pixels = read(name)
        if pixels is None:
            print(f"{name}: unusable (unreadable)")
            continue
        if list(pixels.shape) != ABOUT["input"]["shape"]:
            print(f"{name}: unusable ({pixels.shape[1]} x {pixels.shape[0]} px, exported for another size)")
            continue
        verdict, raw, normalised, p_value, heat_map = judge(np.ascontiguousarray(pixels))
        word = ABOUT["verdicts"][int(verdict)]
        word = word if verdict < 2 else f"unusable ({word})"
        print(f"{name}: {word} raw {float(raw):.4f} normalised {float(normalised):.4f} p {float(p_value):.4f}")
