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
    """Give the pixels of an image file, float32 (H, W, 3) RGB, and what is wrong with it or None."""
    data = Path(path).read_bytes() if Path(path).is_file() else b""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if data else None
    if image is None:
        return None, "unreadable"
    if data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data[-64:]:  # OpenCV fills up what a cut JPEG lacks
        return None, "truncated"
    wanted, white = ABOUT["input"], 65535 if image.dtype == np.uint16 else 255
    if list(image.shape) != wanted["shape"] or white != wanted["white"]:
        found = f"{image.shape[1]} x {image.shape[0]} px up to {white}"
        return None, f"{found}; exported for {wanted['shape'][1]} x {wanted['shape'][0]} px up to {wanted['white']}"
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.float32), None


if __name__ == "__main__":
    judge = load()
    for name in sys.argv[1:]:
        pixels, fault = read(name)
        if fault is not None:
            print(f"{name}: unusable ({fault})")
            continue
        verdict, raw, normalised, p_value, heat_map = judge(pixels)
        word = ABOUT["verdicts"][int(verdict)]
        word = word if verdict < 2 else f"unusable ({word})"
        print(f"{name}: {word} raw {float(raw):.4f} normalised {float(normalised):.4f} p {float(p_value):.4f}")
