// Run the model once on files of raw numbers, one for each input in its order, and write each output to
// NAME.bin; then say how long a run takes. Without files the inputs are zeros: ./run [INPUT.bin ...]
#include <algorithm>
#include <chrono>
#include <fstream>
#include <iostream>
#include <numeric>

#include "signature.h"
#include "tuned_model.h"

static size_t Bytes(const tuned::Described& tensor) {
  size_t size = (tvm::ffi::StringToDLDataType(tensor.dtype).bits + 7) / 8;
  for (int64_t extent : tensor.shape) size *= static_cast<size_t>(extent);
  return size;
}

static std::vector<char> Read(const std::string& path, size_t size) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::vector<char> data{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (data.size() != size) {
    throw std::runtime_error(path + " has " + std::to_string(data.size()) + " bytes, not " +
                             std::to_string(size));
  }
  return data;
}

static int Run(int count, char** paths) {
  if (count > 0 && static_cast<size_t>(count) != kInputs.size()) {
    throw std::runtime_error("give " + std::to_string(kInputs.size()) + " files, or none");
  }
  tuned::Model model(tuned::Folder(), kInputs, kThreads);
  std::vector<std::vector<char>> memory;
  for (size_t i = 0; i < kInputs.size(); ++i) {
    size_t size = Bytes(kInputs[i]);
    memory.push_back(count > 0 ? Read(paths[i], size) : std::vector<char>(size));
  }
  std::vector<tuned::Input> inputs;
  for (size_t i = 0; i < kInputs.size(); ++i) inputs.push_back({memory[i].data(), kInputs[i].shape});

  std::vector<tvm::ffi::Tensor> outputs = model.Run(inputs);
  for (size_t i = 0; i < outputs.size(); ++i) {
    std::string path = "output" + std::to_string(i) + ".bin";
    std::ofstream file(path, std::ios::binary);
    file.write(static_cast<const char*>(outputs[i].data_ptr()),
               static_cast<std::streamsize>(Bytes(kOutputs[i])));
    if (!file.flush()) throw std::runtime_error("cannot write " + path);
    std::cout << kOutputs[i].name << " -> " << path << "\n";
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
