// Judge camera images with the exported detector of this folder, with OpenVINO's C++ interface alone:
//
//     g++ -std=c++17 judge.cpp -o judge -I $OPENVINO/include $OPENVINO/libs/libopenvino.so.* -Wl,-rpath,$OPENVINO/libs
//     ./judge model.onnx image.ppm ...        (or model.xml)
//
// OPENVINO is the folder of an installed `openvino` package of PyPI, or of Intel's own archive. Images are binary PPM
// (P6), which is what most camera libraries hand out but for three words in front: replace `read` with your camera.

#include <fstream>
#include <iostream>
#include <openvino/openvino.hpp>

const size_t WHITE = 255;  // highest value of the images that this export is for: 255 or 65535
const char* VERDICTS[] = {"ok", "flagged", "underexposed", "overexposed", "blank", "blurred"};

// Pixels of a PPM file as the graph takes them: float32 (height, width, 3), red, green, blue.
ov::Tensor read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    size_t width = 0, height = 0, white = 0;
    file >> kind >> width >> height >> white;
    file.get();
    if (!file || kind != "P6") throw std::runtime_error("is no binary PPM (P6)");
    if ((white > 255) != (WHITE > 255)) throw std::runtime_error("has another depth than this export is for");
    ov::Tensor pixels(ov::element::f32, {height, width, 3});
    float* to = pixels.data<float>();
    for (size_t at = 0; at < pixels.get_size(); ++at) {
        int value = file.get();
        if (white > 255) value = value * 256 + file.get();
        to[at] = static_cast<float>(value);
    }
    if (!file) throw std::runtime_error("ends before its last pixel");
    return pixels;
}

int main(int count, char** words) {
    ov::Core core;
    auto model = core.compile_model(words[1], "CPU", ov::hint::inference_precision(ov::element::f32));
    auto request = model.create_infer_request();
    for (int at = 2; at < count; ++at) {
        std::cout << words[at] << ": ";
        try {
            request.set_input_tensor(read(words[at]));
            request.infer();
            auto number = [&](size_t output) { return request.get_output_tensor(output).data<float>()[0]; };
            auto verdict = request.get_output_tensor(0).data<int64_t>()[0];
            std::cout << (verdict < 2 ? VERDICTS[verdict] : std::string("unusable (") + VERDICTS[verdict] + ")")
                      << " raw " << number(1) << " normalised " << number(2) << " p " << number(3) << "\n";
        } catch (const std::exception& error) {
            std::cout << "unusable (" << error.what() << ")\n";
        }
    }
}
