// Run a tuned model from C++17. Needs the headers and libraries beside it: see Makefile and main.cc.
#pragma once

#include <dlfcn.h>
#include <stdlib.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace tuned {

// One input or output, as signature.h lists them.
struct Described {
  std::string name;
  std::vector<int64_t> shape;
  std::string dtype;
};

// The memory of one input: row after row, without gaps.
struct Input {
  const void* data;
  std::vector<int64_t> shape;
};

// Where the program or library lies that this is compiled into.
inline std::string Folder() {
  Dl_info found;
  std::string path = dladdr(reinterpret_cast<void*>(&Folder), &found) ? found.dli_fname : "";
  size_t end = path.rfind('/');
  return end == std::string::npos ? "." : path.substr(0, end);
}

// A model that is loaded, and runs as often as it is asked to. Calls from several threads take turns.
class Model {
 public:
  // folder holds model.so. threads: that it may use, unless TVM_NUM_THREADS says otherwise.
  Model(const std::string& folder, std::vector<Described> inputs, int threads)
      : inputs_(std::move(inputs)), copies_(inputs_.size()) {
    if (threads > 1) {
      setenv("TVM_NUM_THREADS", std::to_string(threads).c_str(), 0);
      setenv("TVM_BIND_THREADS", "0", 0);  // where it may run is for others to say
    }
    using tvm::ffi::Module;
    Module library = Module::LoadFromFile(folder + "/model.so");
    Module machine = library->GetFunction("vm_load_executable").value()().cast<Module>();
    constexpr int kPooledAllocator = 2;
    machine->GetFunction("vm_initialization").value()(static_cast<int>(kDLCPU), 0, kPooledAllocator);
    main_ = machine->GetFunction("main").value();
  }

  // The outputs for these inputs, in the order of the signature. An input that begins at a multiple of 64
  // bytes is used in place, any other is copied. An output may share its memory with an input, where the model
  // only reshapes it. Throws std::invalid_argument when a shape does not fit, tvm::ffi::Error when it fails.
  std::vector<tvm::ffi::Tensor> Run(const std::vector<Input>& inputs) {
    std::lock_guard<std::mutex> turn(mutex_);
    if (inputs.size() != inputs_.size()) {
      throw std::invalid_argument("the model takes " + std::to_string(inputs_.size()) + " inputs, not " +
                                  std::to_string(inputs.size()));
    }
    std::vector<tvm::ffi::Tensor> tensors;
    std::vector<tvm::ffi::AnyView> arguments;
    for (size_t i = 0; i < inputs.size(); ++i) tensors.push_back(Tensor(i, inputs[i]));
    for (const tvm::ffi::Tensor& tensor : tensors) arguments.emplace_back(tensor);
    tvm::ffi::Any result;
    main_.CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &result);
    std::vector<tvm::ffi::Tensor> outputs;
    Flatten(result, &outputs);
    return outputs;
  }

 private:
  // Kernels load whole vectors: from memory that begins anywhere else they crash.
  static constexpr size_t kAlignment = 64;

  struct Freed {
    void operator()(void* memory) const { free(memory); }
  };
  using Memory = std::unique_ptr<void, Freed>;

  // Memory that belongs to somebody else.
  struct Borrowed {
    void* data;
    void AllocData(DLTensor* tensor) { tensor->data = data; }
    void FreeData(DLTensor*) {}
  };

  tvm::ffi::Tensor Tensor(size_t index, const Input& input) {
    const Described& wanted = inputs_[index];
    if (input.shape != wanted.shape) {
      throw std::invalid_argument("input '" + wanted.name + "' is " + Show(input.shape) +
                                  ", the model takes " + Show(wanted.shape));
    }
    DLDataType dtype = tvm::ffi::StringToDLDataType(wanted.dtype);
    void* data = const_cast<void*>(input.data);
    if (reinterpret_cast<uintptr_t>(data) % kAlignment != 0) {
      size_t size = (dtype.bits + 7) / 8;
      for (int64_t extent : input.shape) size *= static_cast<size_t>(extent);
      if (!copies_[index]) {
        copies_[index].reset(aligned_alloc(kAlignment, (size + kAlignment) / kAlignment * kAlignment));
        if (!copies_[index]) throw std::bad_alloc();
      }
      data = memcpy(copies_[index].get(), data, size);
    }
    tvm::ffi::ShapeView shape(input.shape.data(), input.shape.size());
    return tvm::ffi::Tensor::FromNDAlloc(Borrowed{data}, shape, dtype, DLDevice{kDLCPU, 0});
  }

  static void Flatten(const tvm::ffi::Any& result, std::vector<tvm::ffi::Tensor>* outputs) {
    if (auto tensor = result.as<tvm::ffi::Tensor>()) {
      outputs->push_back(*tensor);
      return;
    }
    for (const tvm::ffi::Any& field : result.cast<tvm::ffi::Array<tvm::ffi::Any>>()) Flatten(field, outputs);
  }

  static std::string Show(const std::vector<int64_t>& shape) {
    std::ostringstream text;
    for (size_t i = 0; i < shape.size(); ++i) text << (i ? ", " : "[") << shape[i];
    return (shape.empty() ? "[" : "") + text.str() + "]";
  }

  std::vector<Described> inputs_;
  std::vector<Memory> copies_;
  tvm::ffi::Function main_{nullptr};
  std::mutex mutex_;
};

}  // namespace tuned
