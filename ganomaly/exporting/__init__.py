"""A detector as a graph that runs without torch and this package: in ONNX Runtime, in OpenVINO, from C++."""
