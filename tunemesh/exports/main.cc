// Run the model once on files of raw numbers, one for each input in its order, and write each output to
// outputN.bin; then say how long a run takes. Without files the inputs are zeros: ./run [INPUT.bin ...]
#include <algorithm>
#include <chrono>
#include <fstream>
#include <iostream>

#include "signature.h"
#include "tuned_model.h"

static size_t Bytes(const tuned::Described& tensor) {
  size_t size = (tvm::ffi::StringToDLDataType(tensor.dtype).bits + 7) / 8;
  for (int64_t extent : tensor.shape) size *= static_cast<size_t>(extent);
  return size;
}

static std::vector<char> Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The variant whose inputs have so many bytes.
static const tuned::Variant& Fitting(const std::vector<std::vector<char>>& memory) {
  std::string sizes;
  for (const tuned::Variant& variant : kVariants) {
    bool fits = memory.size() == variant.inputs.size();
    for (size_t i = 0; fits && i < memory.size(); ++i) fits = memory[i].size() == Bytes(variant.inputs[i]);
    if (fits) return variant;
    sizes += sizes.empty() ? "" : "; or";
    for (const tuned::Described& input : variant.inputs) {
      sizes += " " + input.name + " " + std::to_string(Bytes(input));
    }
  }
  throw std::runtime_error("the files do not fit the inputs, which have so many bytes:" + sizes);
}

static int Run(int count, char** paths) {
  tuned::Model model(tuned::Folder(), kVariants);
  std::vector<std::vector<char>> memory;
  for (int i = 0; i < count; ++i) memory.push_back(Read(paths[i]));
  if (count == 0) {
    for (const tuned::Described& input : kVariants[0].inputs) memory.emplace_back(Bytes(input));
  }
  const tuned::Variant& variant = Fitting(memory);
  std::vector<tuned::Input> inputs;
  for (size_t i = 0; i < memory.size(); ++i) inputs.push_back({memory[i].data(), variant.inputs[i].shape});

  std::vector<tvm::ffi::Tensor> outputs = model.Run(inputs);
  for (size_t i = 0; i < outputs.size(); ++i) {
    std::string path = "output" + std::to_string(i) + ".bin";
    std::ofstream file(path, std::ios::binary);
    size_t size = tvm::ffi::GetDataSize(static_cast<size_t>(outputs[i].numel()), outputs[i].dtype());
    file.write(static_cast<const char*>(outputs[i].data_ptr()), static_cast<std::streamsize>(size));
    if (!file.flush()) throw std::runtime_error("cannot write " + path);
    std::cout << variant.outputs[i].name << " -> " << path << "\n";
  }

  std::vector<double> times;
  double total = 0;
  while (times.size() < 3 || total < 0.5) {
    auto start = std::chrono::steady_clock::now();
    model.Run(inputs);
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    total += times.back();
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  std::cout << times[times.size() / 2] * 1e6 << " us, the median of " << times.size() << " runs\n";
  return 0;
}

int main(int argc, char** argv) {
  try {
    return Run(argc - 1, argv + 1);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
